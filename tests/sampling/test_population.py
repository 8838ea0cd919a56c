"""A population's episodes equal those run one policy at a time."""

import numpy as np
import pytest

from trpo_repro import environments, presets, training
from trpo_repro.environments import base
from trpo_repro.randomness import Key, Purpose
from trpo_repro.sampling import population

ROWS = 30


def _setting(task):
    environment = environments.make(task)
    environment.max_episode_steps = 40
    policy = training.make_policy(presets.preset("paper", task), environment)
    generator = np.random.default_rng(0)
    thetas = policy.network.initial_parameters() + generator.standard_normal(
        (ROWS, policy.network.size)
    ).astype(np.float32)
    return environment, policy, thetas


def _rewards_one_by_one(environment, policy, thetas, key):
    """The slow definition: every row acts by itself with its own θ. Returns each one's rewards."""
    noise = key.generator(Purpose.ACTIONS)
    states = environment.initial(ROWS, key.generator(Purpose.INITIAL_STATES))
    rows = {i: states.select(np.array([i])) for i in range(ROWS)}
    rewards = [[] for _ in rows]
    while rows:
        draws = policy.family.draw_noise(noise, (len(rows),))
        for i, draw in zip(list(rows), draws, strict=True):
            seen = environment.observe(rows[i]).astype(np.float32)
            step = environment.step(rows[i], policy.sample(thetas[i], seen, draw[None]))
            rows[i] = step.states
            rewards[i].append(step.rewards[0])
            if step.terminated[0] or step.truncated[0]:
                del rows[i]
    return rewards


def _assert_rewarded(evaluation, rewards, discount=1.0):
    """Returns agree to 1e-6 of their size: batched matrix products round differently."""
    np.testing.assert_array_equal(evaluation.lengths, [len(each) for each in rewards])
    returns = [np.sum(discount ** np.arange(len(each)) * each) for each in rewards]
    np.testing.assert_allclose(evaluation.returns, returns, rtol=1e-6, atol=1e-4)
    assert len(set(evaluation.lengths)) > 3  # rows left at different times


@pytest.mark.parametrize("task", ["cartpole", "hopper"])
def test_equals_policies_run_one_by_one(task):
    environment, policy, thetas = _setting(task)
    key = Key(seed=3, iteration=2)
    evaluation = population.evaluate_population(environment, policy, thetas, key)
    _assert_rewarded(evaluation, _rewards_one_by_one(environment, policy, thetas, key))


def test_discounted_returns_of_cut_episodes():
    environment, policy, thetas = _setting("cartpole")
    key, discount, most = Key(seed=3), 0.9, 20
    evaluation = population.evaluate_policy(
        environment, policy, thetas[0], key, episodes=ROWS, discount=discount, max_steps=most
    )
    whole = _rewards_one_by_one(environment, policy, [thetas[0]] * ROWS, key)
    assert max(map(len, whole)) > most
    _assert_rewarded(evaluation, [each[:most] for each in whole], discount)


def test_a_pure_function():
    environment, policy, thetas = _setting("cartpole")
    first, second = (
        population.evaluate_population(environment, policy, thetas, Key(1)) for _ in range(2)
    )
    np.testing.assert_array_equal(first.returns, second.returns)
    other = population.evaluate_population(environment, policy, thetas, Key(2))
    assert (first.returns != other.returns).any()


def test_a_diverged_simulation_ends_its_row_alone(monkeypatch):
    environment, policy, thetas = _setting("swimmer")
    whole = environment.step

    def diverging(states, actions):
        step = whole(states, actions)
        rewards = step.rewards.copy()
        if step.states.elapsed[0] == 3:
            rewards[5] = np.nan
        return base.Step(step.states, rewards, step.terminated, step.truncated)

    monkeypatch.setattr(environment, "step", diverging)
    evaluation = population.evaluate_population(environment, policy, thetas, Key(1))
    assert np.flatnonzero(~np.isfinite(evaluation.returns)).tolist() == [5]
    assert evaluation.lengths[5] == 3
    assert set(np.delete(evaluation.lengths, 5)) == {40}
