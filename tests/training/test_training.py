"""The training loop: purity, exact resume, bad numbers, episode accounting."""

import dataclasses
import json
import threading

import numpy as np
import pytest
from helpers import TIMES

from experiments import batch
from trpo_repro import presets, runs, training
from trpo_repro.analysis import curves
from trpo_repro.config import Config
from trpo_repro.environments import cartpole
from trpo_repro.runs import checkpoint, metrics
from trpo_repro.sampling import single_path, vine

TINY = Config(
    task="cartpole",
    iterations=4,
    steps_per_iteration=400,
    path_length=100,
    hidden_sizes=(4,),
    seed=1,
)
# Everything that a state can hold: carried environments, value network, normalizer.
FULL = dataclasses.replace(
    TINY,
    fresh_paths=False,
    baseline="network",
    gae_lambda=0.95,
    normalize_observations=True,
    baseline_epochs=2,
    baseline_minibatch=64,
)


VINE = dataclasses.replace(
    TINY,
    sampler="vine",
    trunks=3,
    rollout_states=20,
    rollouts_per_state=3,
    rollout_length=15,
    normalize_observations=True,
)


CEM = dataclasses.replace(TINY, algorithm="cem", population=6, episodes_per_candidate=2)
CMA = dataclasses.replace(TINY, algorithm="cma", population=6)
PENALTY = dataclasses.replace(TINY, algorithm="adaptive_penalty", ascent_steps=5)
ADAPTING = dataclasses.replace(TINY, adapt_kl_limit=True, preconditioner="kfac", cg_iterations=2)
RWR = dataclasses.replace(TINY, algorithm="rwr", regression_steps=5)


def _rows(directory):
    table = curves.read(directory / "metrics.csv")
    return {name: column for name, column in table.items() if name not in TIMES}


def _assert_same_run(first, second):
    for name, column in _rows(first).items():
        np.testing.assert_array_equal(column, _rows(second)[name], err_msg=name)
    ours, theirs = (runs.load_state(path) for path in (first, second))
    for name, array in ours.to_arrays().items():
        np.testing.assert_array_equal(array, theirs.to_arrays()[name], err_msg=name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run of FULL."""
    directory = tmp_path_factory.mktemp("whole")
    runs.run(FULL, directory)
    return directory


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(TINY, id="paper", marks=pytest.mark.slow),  # the last saves the same
        pytest.param(FULL, id="gae"),
        pytest.param(VINE, id="vine"),
        pytest.param(CEM, id="cem"),
        pytest.param(CMA, id="cma"),
        pytest.param(RWR, id="rwr"),
        pytest.param(PENALTY, id="penalty"),
        pytest.param(ADAPTING, id="adapting and kfac"),
    ],
)
def test_resumed_run_is_bit_identical_to_the_uninterrupted_one(
    tmp_path, config, request, new_trainers
):
    directory = tmp_path / "whole"
    if config is FULL:
        directory = request.getfixturevalue("whole")
    else:
        runs.run(config, directory, resume=False)
    shorter = dataclasses.replace(config, iterations=2)
    runs.run(shorter, tmp_path / "parts", resume=False)
    new_trainers()
    runs.run(config, tmp_path / "parts", resume=True)
    _assert_same_run(directory, tmp_path / "parts")
    assert len(_rows(directory)["iteration"]) == 4


@pytest.mark.parametrize("moment", ["sampling", "writing metrics", "saving"])
def test_ctrl_c_anywhere_loses_nothing(tmp_path, monkeypatch, moment, whole):
    """An interrupt in the third iteration, wherever it strikes; then --resume."""
    owner, name = {
        "sampling": (single_path, "sample_trajectories"),
        "writing metrics": (metrics.Writer, "write"),
        "saving": (checkpoint, "save"),
    }[moment]
    original = getattr(owner, name)
    strike = 4 if moment == "saving" else 3  # the first save is of the initial state
    calls = []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == strike:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, interrupted)
    stopped = runs.run(FULL, tmp_path / "stopped", resume=False)
    monkeypatch.undo()
    assert stopped.iteration == (3 if moment == "saving" else 2)
    runs.run(FULL, tmp_path / "stopped", resume=True)
    _assert_same_run(whole, tmp_path / "stopped")


def test_rows_written_after_the_last_checkpoint_are_made_again(tmp_path, whole):
    """As after SIGKILL between the row and the checkpoint, in the middle of a row too."""
    runs.run(dataclasses.replace(FULL, iterations=2), tmp_path / "killed", resume=False)
    with (tmp_path / "killed" / "metrics.csv").open("a") as file:
        file.write("3,1200,50" + ",0" * (len(metrics.COLUMNS) - 3) + "\n4,16")
    runs.run(FULL, tmp_path / "killed", resume=True)
    _assert_same_run(whole, tmp_path / "killed")


def test_lost_rows_of_metrics_are_an_error(tmp_path):
    runs.run(dataclasses.replace(TINY, iterations=2), tmp_path, resume=False)
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    (tmp_path / "metrics.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(ValueError, match=r"metrics\.csv lacks rows of the 2 iterations"):
        runs.run(TINY, tmp_path, resume=True)


def test_a_finished_run_has_nothing_to_resume(tmp_path, capsys):
    config = dataclasses.replace(TINY, iterations=1)
    runs.run(config, tmp_path, resume=False)
    before = (tmp_path / "config.json").read_text()
    assert runs.run(config, tmp_path, resume=True).iteration == 1
    assert "ended after 1 iterations; raise --iterations" in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == before


def test_a_run_ends_once_its_last_hundred_episodes_are_good_enough(tmp_path):
    """400 steps of an untrained cart-pole are more than 20 episodes: 100 take some iterations."""
    config = dataclasses.replace(TINY, iterations=30, target_return=5.0)
    state = runs.run(config, tmp_path, resume=False)
    rows = _rows(tmp_path)
    passed = (rows["episodes"] >= 100) & (rows["return_recent"] > 5.0)
    assert passed.tolist() == [False] * (state.iteration - 1) + [True]
    assert 1 < state.iteration < 30
    run = batch.Run("cartpole", "trpo", "trpo", config, tmp_path)
    assert run.done
    assert not dataclasses.replace(run, config=dataclasses.replace(config, target_return=1e9)).done
    assert (tmp_path / "policy.npz").exists()
    harder = dataclasses.replace(config, target_return=1e9, iterations=state.iteration + 1)
    assert runs.run(harder, tmp_path, resume=True).iteration == state.iteration + 1


def test_every_session_of_a_run_is_recorded(tmp_path):
    for iterations in (1, 2):
        config = dataclasses.replace(TINY, iterations=iterations)
        runs.run(config, tmp_path, resume=iterations > 1)
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["config"]["iterations"] == 2
    assert [session["completed_iterations"] for session in record["sessions"]] == [0, 1]


def test_runs_in_other_threads_work_too(tmp_path):
    config = dataclasses.replace(TINY, iterations=1)
    thread = threading.Thread(target=runs.run, args=(config, tmp_path), kwargs={"resume": False})
    thread.start()
    thread.join()
    assert runs.load_state(tmp_path).iteration == 1


def test_vine_where_states_cannot_be_restored_writes_nothing(tmp_path, monkeypatch, new_trainers):
    monkeypatch.setattr(cartpole.CartPole, "can_restore", False)
    new_trainers()
    with pytest.raises(ValueError, match="vine needs to restore states, which cartpole cannot do"):
        runs.run(VINE, tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kl_states", ["trunk", "rollout"])
def test_kl_states_decide_which_states_the_update_sees(kl_states, monkeypatch):
    """Moving all trunk states changes the step with `trunk`, and nothing with `rollout`."""
    trainer = training.Trainer(dataclasses.replace(VINE, kl_states=kl_states))
    state = trainer.initial_state()
    plain, _ = trainer.iterate(state)
    original = vine.sample_vine

    def moved(*args, **kwargs):
        sample = original(*args, **kwargs)
        sample.trajectories.observations[...] *= 3.0
        return sample

    monkeypatch.setattr(vine, "sample_vine", moved)
    other, _ = trainer.iterate(state)
    assert (plain.theta == other.theta).all() == (kl_states == "rollout")


def test_resume_of_another_configuration_says_which_field_differs(tmp_path):
    runs.run(dataclasses.replace(TINY, iterations=1), tmp_path, resume=False)
    with pytest.raises(ValueError, match=r"discount is 0\.99 there and 0\.9 here"):
        runs.run(dataclasses.replace(TINY, discount=0.9), tmp_path, resume=True)
    with pytest.raises(ValueError, match="already holds a run"):
        runs.run(TINY, tmp_path, resume=False)
    with pytest.raises(ValueError, match="holds no run to resume"):
        runs.run(TINY, tmp_path / "elsewhere", resume=True)


def test_unwritable_directory_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        runs.run(TINY, tmp_path / "file" / "run", resume=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "hoper"}, "unknown task 'hoper'; known: cartpole"),
        ({"algorithm": "sac"}, "unknown algorithm 'sac'; known: trpo"),
        ({"steps_per_iteration": 0}, "steps_per_iteration=0 is not allowed: must be at least 1"),
        ({"iterations": -1}, "iterations=-1 is not allowed: must be at least 1"),
        ({"path_length": 401}, "steps_per_iteration=400 is not allowed: must be at least one path"),
        ({"path_length": 300}, "must be a multiple of path_length=300"),
        ({"discount": 1.0}, "discount=1.0 is not allowed: must be between 0 and 1"),
        ({"kl_limit": 0.0}, r"kl_limit=0.0 is not allowed: must be in \(0, 10\]"),
        ({"kl_limit": float("nan")}, "kl_limit=nan is not allowed"),
        ({"fisher_fraction": 1.5}, r"fisher_fraction=1.5 is not allowed: must be in \(0, 1\]"),
        ({"hidden_sizes": (0,)}, "hidden_sizes"),
        ({"damping": -1.0}, "damping=-1.0 is not allowed: must be at least 0"),
        ({"damping": float("inf")}, "damping=inf is not allowed: must be finite"),
        ({"initial_log_std": float("nan")}, "initial_log_std=nan is not allowed"),
        ({"activation": "sine"}, "unknown activation 'sine'; known: softplus, tanh, relu"),
        ({"skip_inputs": 4}, "skip_inputs=4"),
        ({"proposal": "best"}, "unknown proposal 'best'; known: policy, uniform"),
        ({"rollout_length": 0}, "rollout_length=0 is not allowed"),
        (
            {"sampler": "vine", "rollout_states": 1601},
            "rollout_states=1601 is not allowed: must be at most the 1600 states of the trunks",
        ),
        ({"sampler": "vine", "baseline": "linear"}, "baseline=linear is not allowed"),
        (
            {"sampler": "vine", "algorithm": "empirical_fim", "proposal": "uniform"},
            "proposal=uniform is not allowed: must be policy with algorithm=empirical_fim",
        ),
    ],
)
def test_impossible_values_are_refused(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        runs.run(dataclasses.replace(TINY, **change), tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()


class _Broken(cartpole.CartPole):
    """Returns another number in one row at one time of the second iteration."""

    def __init__(self, field, number=np.nan):
        super().__init__()
        self._field = field
        self._number = number
        self._calls = 0

    def step(self, states, actions):
        step = super().step(states, actions)
        self._calls += 1
        if self._calls == 150:
            if self._field == "reward":
                step.rewards[1] = self._number
            else:
                step.states.simulator[1, 2] = self._number
        return step


@pytest.mark.parametrize("field", ["reward", "observation"])
def test_not_finite_numbers_reject_the_step_and_training_goes_on(field, caplog):
    trainer = training.Trainer(FULL, _Broken(field))
    states = [trainer.initial_state()]
    rows = []
    for state, row in training.iterations(trainer, states[0]):
        states.append(state)
        rows.append(row)
    assert [row["outcome"] for row in rows] == ["accepted", "not_finite", "accepted", "accepted"]
    np.testing.assert_array_equal(states[2].theta, states[1].theta)
    for name in ("normalizer", "baseline"):
        assert getattr(states[2], name) is getattr(states[1], name)
    assert "task cartpole, iteration 2" in caplog.text
    assert all(np.isfinite(row["return_recent"]) for row in rows)


@pytest.mark.parametrize("number", [1e30, 1e300])
def test_a_huge_reward_does_not_end_learning(number, caplog):
    """A reward that float64 squares, or does not: the value function and its statistics stay
    finite, by keeping the old ones where need be, and the next updates are accepted."""
    trainer = training.Trainer(FULL, _Broken("reward", number))
    rows = []
    for state, row in training.iterations(trainer, trainer.initial_state()):
        rows.append(row)
        assert all(np.isfinite(array).all() for array in state.baseline.values())
    assert [row["outcome"] for row in rows][2:] == ["accepted", "accepted"]
    assert ("the value function's fit is not finite" in caplog.text) == (number > 1e150)


def test_trpo_balances_the_pole():
    """A learning test: 8 iterations of 5K steps more than double the mean return.

    Over seeds 0 to 4 the ratio was at least 6.3 when this was written; 2 is a wide margin. Episodes
    end with their paths, at 200 steps: shorter paths are fewer calls of the policy.
    """
    config = Config(
        task="cartpole",
        iterations=8,
        steps_per_iteration=5000,
        path_length=200,
        hidden_sizes=(),
        seed=0,
    )
    trainer = training.Trainer(config, cartpole.CartPole(max_episode_steps=200))
    rows = [row for _, row in training.iterations(trainer, trainer.initial_state())]
    assert rows[-1]["return_mean"] > 2 * rows[0]["return_mean"]
    assert all(row["mean_kl"] <= 0.01 for row in rows if row["accepted"])


def test_metrics_columns_are_all_filled():
    trainer = training.Trainer(FULL)
    _, row = trainer.iterate(trainer.initial_state())
    other_runs = {"kl_limit", "multiplier", "informative_states", "merged_steps"}
    assert set(row) == set(metrics.COLUMNS) - other_runs
    for name, value in row.items():
        assert isinstance(value, str) or np.isfinite(value), name
    assert row["env_steps"] == 400
    assert row["mean_kl"] <= 0.01


@pytest.mark.parametrize("kl_states", ["trunk", "rollout"])
@pytest.mark.parametrize("state_weighting", ["equal", "discounted"])
def test_vine_counts_every_step_and_keeps_the_constraint(kl_states, state_weighting):
    config = dataclasses.replace(
        VINE, kl_states=kl_states, state_weighting=state_weighting, fisher_fraction=1.0
    )
    trainer = training.Trainer(config)
    state, row = trainer.iterate(trainer.initial_state())
    assert 300 + 60 < row["env_steps"] <= 300 + 20 * 3 * 15
    assert row["env_steps"] == state.env_steps
    assert row["accepted"]
    assert row["mean_kl"] <= 0.01


@pytest.mark.slow
def test_gae_preset_learns_to_hop():
    """300K steps of Hopper-v5 reach 1500; three seeds reached 2300 to 3100 by then."""
    config = dataclasses.replace(presets.GAE, iterations=146, seed=1)
    trainer = training.Trainer(config)
    *_, (_, row) = training.iterations(trainer, trainer.initial_state())
    assert row["return_recent"] > 1500


@pytest.mark.parametrize("sampler", [TINY, VINE], ids=["single path", "vine"])
def test_clipped_rewards_change_learning_and_no_score(sampler):
    rows = {}
    for clip in (False, True):
        trainer = training.Trainer(dataclasses.replace(sampler, clip_rewards=clip))
        state, rows[clip] = trainer.iterate(trainer.initial_state())
        rows[clip]["theta"] = state.theta
    for name in ("return_mean", "reward_mean", "episodes"):
        assert rows[False][name] == rows[True][name]
    assert (rows[False]["theta"] != rows[True]["theta"]).any()


def test_no_cluster_at_the_address_is_one_line(tmp_path):
    absent = dataclasses.replace(TINY, workers=1, ray_address="127.0.0.1:1")
    with pytest.raises(ValueError, match=r"ray_address=127\.0\.0\.1:1: no Ray cluster"):
        runs.run(absent, tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()
