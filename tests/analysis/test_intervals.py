"""Intervals: against SciPy's, against their definition, and by how often they cover the truth."""

import numpy as np
import pytest
from scipy import stats

from trpo_repro.analysis import intervals

EXPERIMENTS = 4000
# Of 4,000 experiments at 95% the standard error of the covered share is 0.0034; four of them.
COVERAGE_ERROR = 0.014


def test_mean_is_students():
    values = np.array([3.0, 1.0, 4.0, 1.5, 9.0])
    expected = stats.ttest_1samp(values, 0.0).confidence_interval()
    np.testing.assert_allclose(intervals.of_mean(values), [values.mean(), *expected], rtol=1e-12)


def test_difference_is_welchs():
    first, second = np.array([3.0, 1.0, 4.0]), np.array([10.0, 30.0, 20.0, 50.0, 70.0])
    expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    found = intervals.of_difference(first, second)
    np.testing.assert_allclose(found, [first.mean() - second.mean(), *expected], rtol=1e-12)


def test_ratio_is_where_the_difference_from_it_may_be_0():
    """Fieller: the mean of first − r second is t standard errors from 0 at the ends."""
    first = np.array([3.0, 1.0, 4.0, 1.5, 2.0])
    second = np.array([8.0, 5.0, 9.0, 8.5, 7.5])
    found = intervals.of_paired_ratio(first, second)
    assert found.value == first.mean() / second.mean()
    distances = [stats.ttest_1samp(first - end * second, 0.0).statistic for end in found[1:]]
    quantile = stats.t.ppf(0.975, 4)
    np.testing.assert_allclose(distances, [quantile, -quantile], rtol=1e-9)


def test_ratio_to_what_may_be_0_is_any_number():
    for second in ([-1.0, 1.0, 2.0], [-1.0, 0.0, 1.0]):
        found = intervals.of_paired_ratio(np.array([1.0, 2.0, 3.0]), np.array(second))
        assert found[1:] == (-np.inf, np.inf)


@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_over_few_seeds_cover_what_they_say(seeds):
    """Of normal values. Welch's is an approximation, and covers more of these."""
    generator = np.random.default_rng(0)
    shared = generator.standard_normal((EXPERIMENTS, seeds))  # what a seed does to both
    first = 10 + shared + generator.standard_normal((EXPERIMENTS, seeds))
    second = 20 + shared + 0.3 * generator.standard_normal((EXPERIMENTS, seeds))
    _, low, high = intervals.across_seeds(first.T)
    assert abs(((low <= 10) & (high >= 10)).mean() - 0.95) < COVERAGE_ERROR
    ratios = [intervals.of_paired_ratio(*pair) for pair in zip(first, second, strict=True)]
    covered = np.mean([each.low <= 0.5 <= each.high for each in ratios])
    assert abs(covered - 0.95) < COVERAGE_ERROR
    others = 20 + 3 * generator.standard_normal((EXPERIMENTS, seeds))
    differences = [intervals.of_difference(*pair) for pair in zip(first, others, strict=True)]
    covered = np.mean([each.low <= -10 <= each.high for each in differences])
    assert covered > 0.95 - COVERAGE_ERROR


def test_a_bootstrap_of_three_seeds_is_their_range():
    """Why intervals over seeds are not of it: of symmetric values 1/4 of ranges miss the center."""
    values = np.random.default_rng(0).standard_normal((100, 3))
    for three in values:  # the same value thrice has more than 2.5% of the resamples
        ends = stats.bootstrap((three,), np.mean, method="percentile", rng=1).confidence_interval
        np.testing.assert_allclose(ends, [three.min(), three.max()], rtol=1e-12)


def test_seeds_that_agree_have_their_value_as_interval():
    same = np.full(3, 2.0)
    assert intervals.of_mean(same) == (2.0, 2.0, 2.0)
    assert intervals.of_difference(same, same / 2) == (1.0, 1.0, 1.0)
    assert intervals.of_paired_ratio(same, same / 2) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("of", [intervals.of_difference, intervals.of_paired_ratio])
def test_one_value_has_no_difference_nor_ratio(of):
    with pytest.raises(ValueError, match="an interval of 1 values is not defined"):
        of(np.ones(1), np.ones(1))


def test_one_seed_has_no_interval_and_missing_values_are_left_out():
    _, low, _ = intervals.across_seeds(np.ones((1, 4)))
    assert np.isnan(low).all()
    curves = np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]])
    mean, low, _ = intervals.across_seeds(curves)
    np.testing.assert_array_equal(mean, [2.0, 5.0, np.nan])
    assert np.isfinite(low[0])
    assert np.isnan(low[1:]).all()


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
