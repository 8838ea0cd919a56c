"""Training by black-box search: accounting, bad numbers, and what it refuses."""

import dataclasses

import numpy as np
import pytest

from trpo_repro import training
from trpo_repro.config import Config
from trpo_repro.environments import base, cartpole
from trpo_repro.randomness import Key
from trpo_repro.sampling import population

TINY = Config(task="cartpole", algorithm="cem", iterations=2, hidden_sizes=(), population=5, seed=3)


def test_the_row_is_of_the_candidates_episodes(monkeypatch):
    """Every step that was simulated counts, and a candidate's value is its episodes' mean."""
    evaluations, told = [], []
    evaluate = population.evaluate_population
    monkeypatch.setattr(
        population,
        "evaluate_population",
        lambda *args: evaluations.append(evaluate(*args)) or evaluations[-1],
    )
    trainer = training.BlackBoxTrainer(dataclasses.replace(TINY, episodes_per_candidate=3))
    tell = type(trainer._search).tell
    monkeypatch.setattr(
        type(trainer._search), "tell", lambda *args: told.append(args[-1]) or tell(*args)
    )
    state = trainer.initial_state()
    state, row = trainer.iterate(state)
    (evaluation,) = evaluations
    assert len(evaluation.returns) == 15
    np.testing.assert_allclose(told[0], evaluation.returns.reshape(5, 3).mean(axis=1))
    assert row["env_steps"] == evaluation.lengths.sum() == state.env_steps
    assert row["episodes"] == 15
    assert row["return_mean"] == evaluation.returns.mean()
    assert row["reward_per_step"] == evaluation.returns.mean() / 1000
    assert row["reward_mean"] == pytest.approx(evaluation.returns.sum() / evaluation.lengths.sum())
    assert "mean_kl" not in row


class _Broken(cartpole.CartPole):
    """Some rows, or all, diverge in their first step."""

    rows: slice

    def step(self, states, actions):
        step = super().step(states, actions)
        rewards = step.rewards.copy()
        if (states.elapsed == 0).all():
            rewards[self.rows] = np.nan
        return base.Step(step.states, rewards, step.terminated, step.truncated)


def test_a_diverged_candidate_is_the_worst(monkeypatch):
    environment, told = _Broken(), []
    environment.rows = slice(0, 1)
    trainer = training.BlackBoxTrainer(TINY, environment)
    tell = type(trainer._search).tell
    monkeypatch.setattr(
        type(trainer._search), "tell", lambda *args: told.append(args[-1]) or tell(*args)
    )
    state, row = trainer.iterate(trainer.initial_state())
    assert row["outcome"] == "accepted"
    assert np.isfinite(state.theta).all()
    assert told[0][0] == told[0].min() == row["return_min"]
    assert row["return_mean"] == pytest.approx(told[0][1:].mean())


def test_nothing_is_learned_where_all_diverge():
    environment = _Broken()
    environment.rows = slice(None)
    trainer = training.BlackBoxTrainer(TINY, environment)
    before = trainer.initial_state()
    after, row = trainer.iterate(before)
    assert row["outcome"] == "not_finite"
    np.testing.assert_array_equal(after.theta, before.theta)
    np.testing.assert_array_equal(after.search["deviation"], before.search["deviation"])


@pytest.mark.parametrize("algorithm", ["cem", "cma"])
def test_the_middle_of_the_search_gets_better(algorithm):
    config = dataclasses.replace(TINY, algorithm=algorithm, population=20, iterations=10)
    trainer = training.BlackBoxTrainer(config)
    state = trainer.initial_state()
    for _ in range(config.iterations):
        state, _ = trainer.iterate(state)
    ends = np.stack([trainer.initial_state().theta, state.theta]).repeat(20, axis=0)
    evaluation = population.evaluate_population(trainer.environment, trainer.policy, ends, Key(99))
    before, after = evaluation.returns.reshape(2, 20)
    assert after.mean() > before.mean() + 3 * (before.std() + after.std()) / np.sqrt(20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "vine"}, "single_path with algorithm=cem"),
        ({"baseline": "linear"}, "none with algorithm=cem"),
        ({"normalize_observations": True}, "False with algorithm=cem"),
        ({"population": 1}, "population=1 is not allowed: must be at least 2"),
        ({"elite_fraction": 0.0}, "elite_fraction"),
        ({"search_deviation": 0.0}, "search_deviation"),
        ({"algorithm": "rwr", "sampler": "vine"}, "single_path with algorithm=rwr"),
        ({"algorithm": "rwr", "temperature": -1.0}, "temperature"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)


def test_the_search_is_told_what_it_asked_for(monkeypatch):
    """Not float32 copies, which CMA-ES would take for somebody else's candidates."""
    trainer = training.BlackBoxTrainer(dataclasses.replace(TINY, algorithm="cma"))
    search, seen = type(trainer._search), []
    ask, tell = search.ask, search.tell
    monkeypatch.setattr(search, "ask", lambda *a: seen.append(ask(*a)) or seen[-1])
    monkeypatch.setattr(search, "tell", lambda *a: seen.append(a[2]) or tell(*a))
    trainer.iterate(trainer.initial_state())
    assert seen[1] is seen[0][0]
