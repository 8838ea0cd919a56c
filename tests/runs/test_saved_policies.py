"""Saved policies: what is written acts as the trainer's policy did."""

import dataclasses
import pathlib
import shutil

import keras
import numpy as np
import pytest

import trpo_repro
from trpo_repro import presets, runs, training
from trpo_repro.randomness import Key, Purpose

RESULTS = pathlib.Path(__file__).parent.parent.parent / "results"

GAE = dataclasses.replace(presets.preset("gae", "Hopper-v5"), iterations=1, seed=1, threads=1)


def _policies():
    for task in ("cartpole", "swimmer"):
        config = presets.preset("paper", task)
        yield training.make_policy(config, training.make_environment(config))


def test_a_policy_file_of_another_network_is_refused(tmp_path):
    small, other = _policies()
    state = training.Trainer(presets.preset("paper", "cartpole")).initial_state()
    path = tmp_path / "policy.npz"
    runs.save_policy(path, small, dataclasses.replace(state, iteration=7))
    saved = runs.load_policy(path, small, normalized=False)
    np.testing.assert_array_equal(saved.theta, state.theta)
    assert (saved.iteration, runs.saved_iteration(path)) == (7, 7)
    assert saved.normalizer is None
    with pytest.raises(ValueError, match="another network"):
        runs.load_policy(path, other, normalized=False)


def test_a_normalized_runs_policy_holds_its_normalizer(tmp_path):
    """Without it the same parameters act otherwise: an old file of such a run is an error."""
    state = runs.run(GAE, tmp_path, resume=False)
    policy = training.make_policy(GAE, training.make_environment(GAE))
    saved = runs.load_policy(tmp_path / "policy.npz", policy, normalized=True)
    observations = np.random.default_rng(0).standard_normal((5, 11)).astype(np.float32)
    np.testing.assert_array_equal(saved.normalizer(observations), state.normalizer(observations))
    acted = policy.mode(saved.theta, saved.normalizer(observations))
    assert (acted != policy.mode(saved.theta, observations)).any()
    runs.save_policy(tmp_path / "old.npz", policy, dataclasses.replace(state, normalizer=None))
    with pytest.raises(ValueError, match="lacks the observations' normalizer"):
        runs.load_policy(tmp_path / "old.npz", policy, normalized=True)


def _runs_of_results():
    """One run directory of each task and algorithm."""
    found = {}
    for path in sorted(RESULTS.rglob("config.json")):
        if (path.parent / "policy.npz").exists():
            config = runs.load_config(path.parent)
            found.setdefault((config.task, config.algorithm, config.sampler), path.parent)
    return found.values()


def test_every_committed_run_reads():
    paths = list(RESULTS.rglob("config.json"))
    assert len(paths) > 100
    for path in paths:
        runs.load_config(path.parent)


@pytest.mark.parametrize(
    "directory", _runs_of_results(), ids=lambda path: "/".join(path.parts[-3:])
)
def test_a_committed_run_is_loaded_by_one_call(directory):
    config, environment, policy = trpo_repro.load(directory)
    assert policy.iteration > 0
    states = environment.initial(3, np.random.default_rng(0))
    observations = environment.observe(states)
    actions = policy.act(observations, generator=np.random.default_rng(1))
    assert len(actions) == 3
    # The distribution's own most probable action, and the action of one observation alone.
    modes = policy.act(observations, deterministic=True)
    distribution = policy.distribution(observations)
    likelihoods = [distribution.log_prob(these).numpy() for these in (modes, actions)]
    assert (likelihoods[0] >= likelihoods[1]).all()
    alone = policy.act(observations[0], deterministic=True)
    np.testing.assert_allclose(alone, modes[0], rtol=1e-5, atol=1e-6)  # another batch size
    with pytest.raises(ValueError, match="are not allowed"):
        policy.act(observations[:, :-1])
    assert config.task == environment.name


@pytest.mark.parametrize(
    "name", ["Swimmer-v5/gae/seed_1", "swimmer/vine/seed_1", "atari/pong/single_path/seed_1"]
)
def test_the_keras_model_survives_its_file(name, tmp_path):
    """Its outputs are the parameters of the distribution, to rounding, after loading too."""
    _, environment, policy = trpo_repro.load(RESULTS / name)
    observations = environment.observe(environment.initial(4, np.random.default_rng(0)))
    model = policy.keras_model()
    model.save(tmp_path / "policy.keras")
    again = keras.models.load_model(tmp_path / "policy.keras")
    expected = policy.distribution(observations)
    inputs = policy.policy.cast(observations)
    for one in (model, again):
        found = policy.policy.family.distribution(one(inputs))
        np.testing.assert_allclose(
            found.entropy().numpy(), expected.entropy().numpy(), rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(
            policy.policy.family.mode(one(inputs)).numpy(),
            policy.act(observations, deterministic=True),
            rtol=1e-4,
            atol=1e-5,
        )


def test_play_is_the_loop_by_hand():
    _, environment, policy = trpo_repro.load(RESULTS / "Swimmer-v5/gae/seed_1")
    played = policy.play(environment, 2, seed=3, deterministic=True)
    generator = Key(3).generator(Purpose.INITIAL_STATES)
    states = environment.initial(2, generator)
    total, live = np.zeros(2), np.ones(2, bool)
    while live.any():
        step = environment.step(states, policy.act(environment.observe(states), deterministic=True))
        states = step.states
        total += step.rewards * live
        live &= ~(step.terminated | step.truncated)
    np.testing.assert_allclose(played.returns, total, rtol=1e-3)  # batch sizes differ


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "is damaged"),
        (lambda path: path.unlink(), "No such file"),
    ],
)
def test_a_damaged_policy_is_named(tmp_path, damage, message):
    shutil.copytree(RESULTS / "swimmer/vine/seed_1", tmp_path / "run")
    damage(tmp_path / "run" / "policy.npz")
    with pytest.raises((ValueError, OSError), match=message):
        trpo_repro.load(tmp_path / "run")
    with pytest.raises(ValueError, match="holds no run"):
        trpo_repro.load(tmp_path)
    record = tmp_path / "run" / "config.json"
    record.write_text(record.read_text().replace('"seed"', '"sede"'))
    with pytest.raises(ValueError, match=r"does not know: \['sede'\]"):
        trpo_repro.load(tmp_path / "run")
