"""Variance measurements: known answers, and the paper's expectations on small fast settings."""

import numpy as np
import pytest

from experiments import common_random_numbers, surrogate_variance
from trpo_repro.analysis import intervals, variances


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
    assert variances.gradient_signal_to_noise(gradients) == pytest.approx(12.5, rel=0.05)
    assert variances.gradient_variance(gradients) == pytest.approx(2.0, rel=0.05)


def test_bootstrap_interval_covers_the_mean():
    """A 95% interval covers in at least 85 of 100 experiments of 40 normals."""
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        found = intervals.of_statistic(
            lambda x: float(x.mean()), generator.standard_normal(40), generator
        )
        covered += found.low <= 0 <= found.high
        assert found.low <= found.value <= found.high
    assert covered >= 85


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
    """Claim C10 on swimmer, with fewer and shorter trunks: the intervals do not meet."""
    rows = surrogate_variance.measure(
        "swimmer", 12, 0, trunks=4, path_length=200, rollout_states=50
    )
    by = {row["estimator"]: row for row in rows}
    vine, single = by["vine"], by["single path, same Q-values"]
    assert vine["q_values"] == single["q_values"] == 200
    assert vine["variance_high"] < single["variance_low"]
    equal = by["single path, same steps"]["simulator_steps"]
    assert abs(vine["simulator_steps"] / equal - 1) < 0.1
