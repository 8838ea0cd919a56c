"""RWR and REPS: weights and fits against closed forms and the constrained problem itself."""

import dataclasses
import itertools

import gymnasium
import numpy as np
import pytest
from scipy import optimize

from trpo_repro import environments, presets, training
from trpo_repro.algorithms import weighted_regression
from trpo_repro.optimization import trust_region
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
        theta, report, _ = update(theta, rows)
        assert report["mean_kl"] > 0
    mean, deviation = _moments(policy, theta)
    assert mean == pytest.approx(0.7, abs=0.01)
    assert deviation < 0.05


def test_reps_weights_where_the_features_leave_no_freedom():
    """Two states that the mean feature tells apart: only equal weights keep it."""
    weights, temperature = weighted_regression.relative_entropy_weights(
        np.array([0.0, 1.0]), np.array([[0.0], [1.0]]), 0.5
    )
    np.testing.assert_allclose(weights, 0.5, atol=1e-6)  # of a deviation, as below
    assert temperature <= 1e-6


@pytest.mark.parametrize("bound", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_reps_weights_meet_their_constraints(bound, scale):
    """At the dual's minimum the weights' relative entropy to equal ones is ε, and their mean
    features are the sample's; L-BFGS stops at a gradient,
    which these gaps are, of 1e-8 of a deviation; 1e-6 is for the last of its steps."""
    generator = np.random.default_rng(0)
    features = generator.standard_normal((5000, 3)) * [1, 10, 100]
    returns = scale * (features @ [3, -0.2, 0.01] + generator.standard_normal(5000)) - 1000
    weights, temperature = weighted_regression.relative_entropy_weights(returns, features, bound)
    assert weights.sum() == pytest.approx(1)
    used = weights[weights > 0]
    assert np.sum(used * np.log(used * len(returns))) == pytest.approx(bound, rel=1e-4)
    gap = (weights @ features - features.mean(axis=0)) / features.std(axis=0)
    assert np.abs(gap).max() < 1e-6
    assert temperature > 0


def test_reps_weights_are_the_best_that_meet_the_constraints():
    """Against the primal problem, Σ w R at most, solved by sequential quadratic programming on 12
    samples: the same objective to 1e-4 of a deviation."""
    generator = np.random.default_rng(1)
    features, returns = generator.standard_normal((12, 1)), generator.standard_normal(12)
    bound = 0.3
    weights, _ = weighted_regression.relative_entropy_weights(returns, features, bound)
    primal = optimize.minimize(
        lambda w: -w @ returns,
        np.full(12, 1 / 12),
        bounds=[(1e-9, 1)] * 12,
        constraints=[
            {"type": "eq", "fun": lambda w: w.sum() - 1},
            {"type": "eq", "fun": lambda w: w @ features[:, 0] - features.mean()},
            {"type": "ineq", "fun": lambda w: bound - np.sum(w * np.log(12 * w))},
        ],
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert weights @ returns == pytest.approx(-primal.fun, abs=1e-4)


def test_differences_between_states_use_up_none_of_the_bound():
    """A term of the state's features in the returns changes no weight."""
    generator = np.random.default_rng(2)
    features, noise = generator.standard_normal((2000, 2)), generator.standard_normal(2000)
    plain, _ = weighted_regression.relative_entropy_weights(noise, features, 0.5)
    shifted, _ = weighted_regression.relative_entropy_weights(
        noise + 50 * features[:, 0] - 20 * features[:, 1], features, 0.5
    )
    np.testing.assert_allclose(shifted, plain, atol=2e-3 * plain.max())


def test_reps_without_differences_has_equal_weights():
    weights, _ = weighted_regression.relative_entropy_weights(np.full(5, 3.0), np.ones((5, 1)), 0.5)
    np.testing.assert_array_equal(weights, 0.2)


class _ContextualBandit(environments.Environment):
    """One step: R = 10 s − (a − s − 2)², s uniform on [−1, 1]; the best action is s + 2."""

    name = "contextual bandit"
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float64)
    action_space = gymnasium.spaces.Box(-10.0, 10.0, (1,))
    max_episode_steps = 1

    def initial(self, batch_size, generator):
        simulator = generator.uniform(-1, 1, (batch_size, 1))
        return environments.EnvironmentStates(simulator, np.zeros(batch_size, np.int64))

    def step(self, states, actions):
        s, a = states.simulator[:, 0], actions[:, 0].astype(np.float64)
        after = environments.EnvironmentStates(states.simulator, states.elapsed + 1)
        ended = np.ones(len(s), bool)
        return environments.Step(after, 10 * s - (a - s - 2) ** 2, ended, ~ended)

    def observe(self, states):
        return states.simulator


@pytest.mark.parametrize("algorithm", ["rwr", "reps"])
def test_contextual_bandit_has_a_known_answer(algorithm):
    """Five updates of 20,000 samples bring the mean action within a squared error of 0.01 of s + 2.

    Contexts' returns differ by 20, actions' by a few: weighted by returns alone, both would fit
    the contexts. RWR takes a linear baseline here.
    """
    config = dataclasses.replace(
        presets.preset("paper", "cartpole", algorithm=algorithm),
        algorithm=algorithm,
        baseline="linear" if algorithm == "rwr" else "none",
        steps_per_iteration=20_000,
        path_length=1,
        temperature=0.3,
        iterations=5,
        seed=1,
    )
    trainer = training.Trainer(config, _ContextualBandit())
    *_, (state, _) = training.iterations(trainer, trainer.initial_state())
    s = np.linspace(-1, 1, 21, dtype=np.float32)[:, None]
    mean = trainer.policy.mode(state.theta, s)
    assert np.mean((mean - (s + 2)) ** 2) <= 0.01


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


@pytest.mark.parametrize("name", ["rwr", "reps"])
@pytest.mark.parametrize("hidden", [(), (4,)], ids=["linear", "hidden"])
def test_numbers_out_of_range_refuse_the_update(name, hidden):
    """Or leave θ finite: nothing raises, whichever array holds one."""
    policy = _policy(hidden=hidden)
    theta = policy.network.initial_parameters()
    update = weighted_regression.WeightedRegression(policy, METHODS[name])
    generator = np.random.default_rng(0)
    good = {
        "observations": generator.standard_normal((50, 1)).astype(np.float32),
        "actions": generator.standard_normal((50, 1)).astype(np.float32),
        "advantages": generator.standard_normal(50).astype(np.float32),
    }
    for array, number in itertools.product(good, (np.nan, np.inf, 1e30)):
        batch = {key: value.copy() for key, value in good.items()}
        batch[array][7] = number
        with np.errstate(all="ignore"):
            fitted, report, _ = update(theta, batch)
        assert np.isfinite(fitted).all(), (array, number)
        if not np.isfinite(number):
            assert report["outcome"] is trust_region.Outcome.NOT_FINITE, (array, number)
        if report["outcome"] is trust_region.Outcome.NOT_FINITE:
            np.testing.assert_array_equal(fitted, theta)
