"""RWR and REPS: weights, temperatures and fits against closed forms."""

import gymnasium
import numpy as np
import pytest

from trpo_repro.algorithms import weighted_regression
from trpo_repro.policies import policy as policy_lib

METHODS = weighted_regression.METHODS


def _policy(inputs=1, actions=None, hidden=(), skip=0):
    return policy_lib.multilayer_perceptron_policy(
        gymnasium.spaces.Box(-np.inf, np.inf, (inputs,)),
        actions or gymnasium.spaces.Box(-1.0, 1.0, (1,)),
        hidden_sizes=hidden,
        activation="tanh",
        seed=1,
        skip_inputs=skip,
    )


def _moments(policy, theta, inputs=1):
    """Returns (mean, deviation) of a Gaussian policy at a zero observation."""
    import tensorflow as tf

    mean, log_std = policy.network(tf.constant(theta), tf.zeros([1, inputs])).numpy()[0]
    return mean, np.exp(log_std)


def test_one_step_bandit_has_the_known_posterior():
    """N(m, s²) weighted by exp(−(a − c)² / T) is the normal with precision 1/s² + 2/T and mean
    (m/s² + 2c/T) / (1/s² + 2/T). 200,000 samples of efficiency above a half leave an error of
    0.5 / sqrt(1e5) = 0.0016 in the mean; the tolerance is four of these."""
    policy = _policy()
    theta = policy.network.initial_parameters()  # mean 0, deviation 1 at a zero observation
    count, center, temperature = 200_000, 0.7, 2.0
    observations = np.zeros((count, 1), np.float32)
    noise = policy.family.draw_noise(np.random.default_rng(0), (count,))
    actions = policy.sample(theta, observations, noise)
    returns = -((actions[:, 0].astype(np.float64) - center) ** 2)
    weights = weighted_regression.exponential_weights(returns, temperature)
    rows = {"observations": observations, "actions": actions, "weights": weights}
    update = weighted_regression.WeightedRegression(policy, METHODS["rwr"])
    precision = 1 + 2 / temperature
    mean, deviation = _moments(policy, update.fit(theta, **rows))
    assert mean == pytest.approx((2 * center / temperature) / precision, abs=0.0065)
    assert deviation == pytest.approx(precision**-0.5, abs=0.0065)


@pytest.mark.parametrize("name", ["rwr", "reps"])
def test_repeated_updates_find_the_best_action(name):
    policy = _policy()
    update = weighted_regression.WeightedRegression(policy, METHODS[name])
    theta = policy.network.initial_parameters()
    observations = np.zeros((2000, 1), np.float32)
    for i in range(12):
        noise = policy.family.draw_noise(np.random.default_rng(i), (2000,))
        actions = policy.sample(theta, observations, noise)
        returns = -((actions[:, 0] - 0.7) ** 2)
        advantages = ((returns - returns.mean()) / returns.std()).astype(np.float32)
        rows = {"observations": observations, "actions": actions, "advantages": advantages}
        theta, report = update(theta, rows)
        assert report["mean_kl"] > 0
    mean, deviation = _moments(policy, theta)
    assert mean == pytest.approx(0.7, abs=0.01)
    assert deviation < 0.05


@pytest.mark.parametrize("bound", [0.05, 0.5, 2.0])
def test_reps_temperature_meets_its_bound(bound):
    """At the dual's minimum the relative entropy of the weights to uniform ones is ε."""
    returns = np.random.default_rng(0).standard_normal(5000) * 37 - 1000
    temperature = weighted_regression.relative_entropy_temperature(returns, bound)
    weights = weighted_regression.exponential_weights(returns, temperature)
    used = weights[weights > 0]
    assert np.sum(used * np.log(used * len(returns))) == pytest.approx(bound, rel=1e-4)


def test_reps_without_differences_has_uniform_weights():
    temperature = weighted_regression.relative_entropy_temperature(np.full(5, 3.0), 0.5)
    weights = weighted_regression.exponential_weights(np.full(5, 3.0), temperature)
    np.testing.assert_array_equal(weights, 0.2)


def _regression_rows(policy, inputs, count=3000):
    generator = np.random.default_rng(3)
    observations = generator.standard_normal((count, inputs)).astype(np.float32)
    actions = (observations @ np.arange(1, inputs + 1))[:, None] * 0.3 + 0.2
    actions += 0.5 * generator.standard_normal(actions.shape)
    weights = generator.exponential(size=count)
    return {
        "observations": observations,
        "actions": actions.astype(np.float32),
        "weights": (weights / weights.sum()).astype(np.float32),
    }


@pytest.mark.parametrize("skip", [0, 1])
def test_closed_form_is_what_the_optimizer_finds(skip):
    """Least squares against L-BFGS on the same likelihood; 1e-3 is what float32 sums of its
    gradient leave undecided."""
    policy = _policy(inputs=3, skip=skip)
    theta = policy.network.initial_parameters()
    rows = _regression_rows(policy, 3)
    method = weighted_regression.Method(regression_steps=200)
    update = weighted_regression.WeightedRegression(policy, method)
    closed = update.fit(theta, **rows)
    update._closed_form = False
    np.testing.assert_allclose(closed, update.fit(theta, **rows), atol=1e-3)


def test_a_network_fits_what_a_line_cannot():
    """|x| plus noise of deviation 0.1, weighted: residual deviation near 0.1, a line leaves
    sqrt(1 − 2/π + 0.01) = 0.61 of a standard normal's |x|."""
    policy = _policy(hidden=(16,))
    generator = np.random.default_rng(0)
    observations = generator.standard_normal((3000, 1)).astype(np.float32)
    actions = np.abs(observations) + 0.1 * generator.standard_normal(observations.shape)
    rows = {
        "observations": observations,
        "actions": actions.astype(np.float32),
        "weights": np.full(3000, 1 / 3000, np.float32),
    }
    method = weighted_regression.Method(regression_steps=300)
    update = weighted_regression.WeightedRegression(policy, method)
    theta = update.fit(policy.network.initial_parameters(), **rows)
    assert _moments(policy, theta)[1] < 0.2


def test_least_deviation_is_kept_by_both_fits():
    rows = {
        "observations": np.zeros((10, 1), np.float32),
        "actions": np.full((10, 1), 0.5, np.float32),
        "weights": np.full(10, 0.1, np.float32),
    }
    method = weighted_regression.Method(min_std=0.05, regression_steps=100)
    for hidden in ((), (4,)):
        policy = _policy(hidden=hidden)
        update = weighted_regression.WeightedRegression(policy, method)
        theta = update.fit(policy.network.initial_parameters(), **rows)
        assert _moments(policy, theta)[1] == pytest.approx(0.05, rel=1e-3)


def test_categorical_bandit():
    """With one state the weighted likelihood's maximum is the weighted frequencies."""
    policy = _policy(actions=gymnasium.spaces.Discrete(3))
    actions = np.array([0, 0, 1, 2, 2, 2], np.int32)
    weights = np.array([1, 2, 3, 4, 5, 5], np.float32) / 20
    rows = {"observations": np.zeros((6, 1), np.float32), "actions": actions, "weights": weights}
    update = weighted_regression.WeightedRegression(policy, METHODS["rwr"])
    theta = update.fit(policy.network.initial_parameters(), **rows)
    log_probs = policy.log_prob(theta, np.zeros((3, 1), np.float32), np.arange(3, dtype=np.int32))
    np.testing.assert_allclose(np.exp(log_probs), [0.15, 0.15, 0.7], atol=2e-3)
