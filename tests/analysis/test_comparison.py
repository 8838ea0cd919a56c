"""Comparisons over tasks, against SciPy's own and by hand."""

import numpy as np
import pytest
from scipy import stats

from trpo_repro.analysis import comparison


def _scores(generator, shift=0.0, seeds=5):
    return {task: generator.normal(shift, 1.0, seeds) for task in "abc"}


def test_probability_of_improvement_is_the_mann_whitney_statistic():
    generator = np.random.default_rng(0)
    first, second = _scores(generator, 0.5), _scores(generator, seeds=3)
    expected = np.mean([stats.mannwhitneyu(first[t], second[t]).statistic / (5 * 3) for t in first])
    found = comparison.probability_of_improvement(first, second, generator)
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.low <= found.value <= found.high


def test_ties_count_half():
    ones = {"a": np.ones(3)}
    found = comparison.probability_of_improvement(ones, ones, np.random.default_rng(0))
    assert found == (0.5, 0.5, 0.5)


def test_interquartile_mean_leaves_out_the_quarters():
    scores = {"a": np.array([-100.0, 1.0, 2.0, 3.0]), "b": np.array([4.0, 5.0, 6.0, 1000.0])}
    found = comparison.interquartile_mean(scores, np.random.default_rng(0))
    assert found.value == pytest.approx((2 + 3 + 4 + 5) / 4)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """Normal scores: the true interquartile mean is the mean.

    Percentile intervals of few seeds are too narrow: 95% come to some 90% with 3 tasks of 5 seeds.
    The bounds are that, with 3 standard errors of 150 trials.
    """
    covered = 0
    for trial in range(150):
        generator = np.random.default_rng(trial)
        found = comparison.interquartile_mean(_scores(generator), generator)
        covered += found.low <= 0.0 <= found.high
    assert 0.82 < covered / 150 < 0.99


def test_performance_profile_counts_runs():
    scores = {"a": np.array([0.5, 1.5]), "b": np.array([1.0, 2.0])}
    np.testing.assert_array_equal(
        comparison.performance_profile(scores, np.array([0.0, 1.0, 3.0])), [1.0, 0.5, 0.0]
    )
