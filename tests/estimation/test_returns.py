"""Returns and advantages against O(T²) definitions, path by path."""

import numpy as np
import pytest

from trpo_repro.estimation import returns

T, B = 30, 4


@pytest.fixture
def paths():
    generator = np.random.default_rng(0)
    terminated = generator.random((T, B)) < 0.1
    truncated = ~terminated & (generator.random((T, B)) < 0.1)
    cut = truncated.copy()
    cut[-1] |= ~terminated[-1]
    rewards, values = generator.standard_normal((2, T, B))
    after_cut = generator.standard_normal((T, B))
    next_values = np.concatenate([values[1:], np.zeros((1, B))])
    next_values = np.where(cut, after_cut, np.where(terminated, 0.0, next_values))
    return rewards, values, next_values, terminated | cut


def _end(ends, t, b):
    while not ends[t, b]:
        t += 1
    return t


def test_discounted_sums_are_the_definition(paths):
    """Float64 sums of 30 terms in two orders: 1e-12."""
    rewards, _, _, ends = paths
    sums = returns.discounted_sums(rewards, ends, 0.9)
    for b in range(B):
        for t in range(T):
            end = _end(ends, t, b)
            expected = sum(0.9 ** (k - t) * rewards[k, b] for k in range(t, end + 1))
            assert sums[t, b] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("trace", [0.0, 0.3, 0.95, 1.0])
def test_advantages_are_the_weighted_mean_of_k_step_estimates(paths, trace):
    """The definition of arXiv:1506.02438: (1 − λ) Σ λ^{k−1} Â^(k), the last with the rest."""
    rewards, values, next_values, ends = paths
    advantages = returns.generalized_advantages(rewards, values, next_values, ends, 0.9, trace)
    for b in range(B):
        for t in range(T):
            end = _end(ends, t, b)
            expected = 0.0
            for k in range(1, end - t + 2):
                estimate = sum(0.9**i * rewards[t + i, b] for i in range(k))
                estimate += 0.9**k * next_values[t + k - 1, b] - values[t, b]
                last = t + k - 1 == end
                weight = trace ** (k - 1) * (1.0 if last else 1.0 - trace)
                expected += weight * estimate
            assert advantages[t, b] == pytest.approx(expected, abs=1e-12)


def test_limits_of_the_trace(paths):
    rewards, values, next_values, ends = paths
    deltas = rewards + 0.9 * next_values - values
    zero = returns.generalized_advantages(rewards, values, next_values, ends, 0.9, 0.0)
    np.testing.assert_allclose(zero, deltas, atol=1e-12)
    one = returns.generalized_advantages(rewards, values, next_values, ends, 0.9, 1.0)
    bootstrapped = rewards + 0.9 * np.where(ends, next_values, 0.0)
    expected = returns.discounted_sums(bootstrapped, ends, 0.9) - values
    np.testing.assert_allclose(one, expected, atol=1e-12)


def test_nothing_leaks_across_an_end():
    rewards = np.zeros((4, 1))
    rewards[2] = 1.0
    ends = np.array([[False], [True], [False], [True]])
    sums = returns.discounted_sums(rewards, ends, 0.5)
    np.testing.assert_array_equal(sums[:, 0], [0.0, 0.0, 1.0, 0.0])


def test_truncation_bootstraps_and_termination_does_not():
    """One step, r = 0, V = 0: the advantage is γ V(s') where the path was cut, else 0."""
    zero, ends = np.zeros((1, 2)), np.array([[True, True]])
    advantages = returns.generalized_advantages(zero, zero, np.array([[8.0, 0.0]]), ends, 0.5, 0.95)
    np.testing.assert_array_equal(advantages, [[4.0, 0.0]])


def test_standardize():
    values = np.random.default_rng(0).normal(5, 3, (10, 3))
    standard = returns.standardize(values)
    assert standard.mean() == pytest.approx(0, abs=1e-12)
    assert standard.std() == pytest.approx(1, abs=1e-12)
    for constant in (7.0, 0.3):  # the mean of the latter is rounded
        np.testing.assert_array_equal(returns.standardize(np.full((13, 2), constant)), 0.0)
