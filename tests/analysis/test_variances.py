"""Variance measurements: known answers, and the paper's expectations on small fast settings."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from experiments import common_random_numbers, gradient_variance, surrogate_variance
from trpo_repro.analysis import variances
from trpo_repro.randomness import Key
from trpo_repro.sampling import single_path


def test_statistics_of_known_samples():
    """Means 0 or 2 in two states, deviation 3: variance 9, signal 2, ratio 2/9; 5% at 20k."""
    generator = np.random.default_rng(0)
    samples = np.array([[0.0], [2.0]]) + 3 * generator.standard_normal((2, 20_000))
    assert variances.difference_variance(samples) == pytest.approx(9.0, rel=0.05)
    assert variances.signal_to_noise(samples) == pytest.approx(2 / 9, rel=0.05)
    noise_only = np.stack(
        [variances.signal_to_noise(generator.standard_normal((50, 10))) for _ in range(200)]
    )
    assert abs(noise_only.mean()) < 5 * noise_only.std() / np.sqrt(200)  # no bias at few samples


def test_signal_to_noise_of_known_gradients():
    """E g = (3, 4), deviation 1 in two directions: 25 / 2. The bounds are 3 standard errors of the
    variance, 1/√n each."""
    gradients = np.array([3.0, 4.0]) + np.random.default_rng(0).standard_normal((4000, 2))
    statistics = variances.GradientStatistics(gradients)
    assert statistics.signal_to_noise(np.arange(4000)) == pytest.approx(12.5, rel=0.05)
    assert statistics.variance(np.arange(4000)) == pytest.approx(2.0, rel=0.05)


def test_gradient_statistics_by_their_definitions():
    """Of a sample with repeats: all pairs one by one, and NumPy's variance; 1e-10 for float64's
    sums. A gradient paired with itself is no pair of two samples."""
    gradients = np.random.default_rng(0).standard_normal((6, 3)) + 1
    index = np.array([0, 0, 2, 3, 5, 5, 5])
    statistics = variances.GradientStatistics(gradients)
    variance = gradients[index].var(axis=0, ddof=1).sum()
    pairs = [gradients[i] @ gradients[j] for i in index for j in index if i != j]
    assert statistics.variance(index) == pytest.approx(variance, rel=1e-10)
    assert statistics.signal_to_noise(index) == pytest.approx(np.mean(pairs) / variance, rel=1e-10)
    assert np.isnan(statistics.signal_to_noise(np.zeros(3, int)))


def test_a_variance_ratio_is_of_the_same_paths():
    """Of gradients that are twice the others the ratio is 4 in every resample; 1e-10 for
    float64's sums."""
    gradients = np.random.default_rng(0).standard_normal((20, 3))
    doubled = variances.GradientStatistics(2 * gradients)
    ratio = doubled.variance_ratio(
        variances.GradientStatistics(gradients), np.random.default_rng(0)
    )
    assert ratio == pytest.approx((4.0, 4.0, 4.0), rel=1e-10)


@pytest.fixture(scope="module")
def finite():
    """A finite process, and each estimator's gradients from 2000 paths."""
    problem = gradient_variance.finite_process()

    def sample(theta, seed):
        arguments = problem.environment, problem.policy, theta, Key(seed)
        return single_path.sample_trajectories(*arguments, steps=problem.steps, states=2000)[0]

    estimators = variances.PathEstimators(
        problem.policy, problem.theta, problem.discount, sample(problem.theta, 1)
    )
    own, others = sample(problem.theta, 2), sample(problem.behavior, 3)
    found = {}
    for name in estimators.NAMES:
        paths = others if name == "importance sampled" else own
        found[name] = estimators.gradients(name, paths, problem.behavior)
    return problem, found


@pytest.mark.parametrize("name", variances.PathEstimators.NAMES)
def test_path_estimators_have_the_exact_gradient_as_their_mean(finite, name):
    """Every component within 4.5 standard errors, which one of 90 misses by chance once in 1600
    samples; what 120 steps leave out is 0.9^120 = 3e-6."""
    problem, found = finite
    error = found[name].std(axis=0) / np.sqrt(len(found[name]))
    assert (np.abs(found[name].mean(axis=0) - problem.exact) < 4.5 * error + 1e-9).all()


def test_reward_to_go_and_a_baseline_lower_the_variance(finite):
    """By factors of at least 5 and 1.2 on this process."""
    _, found = finite
    plain, to_go, baseline, control, other = (
        found[name].var(axis=0, ddof=1).sum() for name in variances.PathEstimators.NAMES
    )
    assert to_go < plain / 5
    assert baseline < to_go / 1.2
    assert control < 0.97 * baseline
    assert other > to_go


def test_a_path_counts_to_the_end_of_its_first_episode():
    """By hand, of two paths, one of which ends at its second step: Σ ψ_t γᵗ Σ_t' γ^(t'-t) r, and
    that times the ratio of the path's probabilities."""
    problem = gradient_variance.finite_process()
    arguments = problem.environment, problem.policy, problem.theta, Key(5)
    paths, *_ = single_path.sample_trajectories(*arguments, steps=4, states=2)
    terminated = np.zeros((4, 2), bool)
    terminated[1, 0] = True
    paths = dataclasses.replace(paths, terminated=terminated)
    estimators = variances.PathEstimators(problem.policy, problem.theta, 0.9, paths)
    found = estimators.gradients("reward to go", paths)
    for b, length in ((0, 2), (1, 4)):
        expected = np.zeros(len(problem.theta))
        for t in range(length):
            theta = tf.constant(problem.theta)
            with tf.GradientTape() as tape:
                tape.watch(theta)
                parameters = problem.policy.network(theta, paths.observations[t, b][None])
                log_prob = problem.policy.family.log_prob(parameters, paths.actions[t, b][None])
            to_go = sum(0.9**i * paths.rewards[i, b] for i in range(t, length))
            expected += tape.gradient(log_prob, theta).numpy() * to_go
        np.testing.assert_allclose(found[b], expected, atol=1e-12)
        probabilities = [
            np.exp(
                problem.policy.log_prob(
                    at, paths.observations[:length, b], paths.actions[:length, b]
                )
            )
            for at in (problem.theta, problem.behavior)
        ]
        ratio = np.prod(probabilities[0]) / np.prod(probabilities[1])
        weighted = estimators.gradients("importance sampled", paths, problem.behavior)
        np.testing.assert_allclose(weighted[b], ratio * expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("task", ["cartpole", "swimmer"])
def test_common_random_numbers_cut_the_variance_of_q_differences(task, monkeypatch):
    """App. H and claim C9: at every Δt the interval with them lies below the one without.

    And as Δt falls fourfold, the signal-to-noise ratio with them does not fall below half.
    """
    own, _, durations = common_random_numbers.SWEEPS[task]
    sweep = (own, (0.25, 1.0), durations[:1])
    monkeypatch.setitem(common_random_numbers.SWEEPS, task, sweep)
    rows = common_random_numbers.measure(task, states=30, repeats=20)
    by = {(row["seconds_per_step"], row["common_random_numbers"]): row for row in rows}
    steps = sorted({row["seconds_per_step"] for row in rows})
    for seconds in steps:
        assert by[seconds, True]["variance_high"] < by[seconds, False]["variance_low"]
    assert by[steps[0], True]["snr"] > 0.5 * by[steps[1], True]["snr"]
    assert by[steps[0], True]["snr"] > 3 * by[steps[0], False]["snr"]


def test_vines_gradient_varies_less_for_as_many_q_values():
    """Claim C10 on swimmer, with fewer and shorter trunks and rollouts: the intervals do not
    meet."""
    shorter = {"trunks": 4, "path_length": 200, "rollout_states": 50, "rollout_length": 20}
    rows = surrogate_variance.measure("swimmer", 8, 0, **shorter)
    by = {row["estimator"]: row for row in rows}
    vine, single = by["vine"], by["single path, same Q-values"]
    assert vine["q_values"] == single["q_values"] == 200
    assert vine["variance_high"] < single["variance_low"]
    equal = by["single path, same steps"]["simulator_steps"]
    assert abs(vine["simulator_steps"] / equal - 1) < 0.1
