"""Estimates with 95% intervals: no number without its range.

Over seeds they are Student's, of normal values: the percentile bootstrap of 3 seeds ends at the
least and the greatest, and covers the mean in 75% of cases. They can reach beyond what is possible.
Over many states, paths or batches, and over tasks (analysis/comparison.py), they are of the
bootstrap.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 2000


class Interval(NamedTuple):
    """A number with the ends of its 95% interval; of one value `of_mean` and `Mean.interval` give
    ends that are NaN, and `of_difference` and `of_paired_ratio` raise ValueError."""

    value: float
    low: float
    high: float

    def above(self, level: float) -> bool:
        """Whether the whole interval lies above a level."""
        return self.low > level

    def below(self, level: float) -> bool:
        """Whether the whole interval lies below a level."""
        return self.high < level

    def within(self, least: float, most: float) -> bool:
        """Whether the whole interval lies between two levels."""
        return self.above(least) and self.below(most)

    def outside(self, least: float, most: float) -> bool:
        """Whether the whole interval lies on one side of the range between two levels."""
        return self.below(least) or self.above(most)

    def verdict(self, least: float, most: float) -> str:
        """Returns `above` or `below` two levels, if the whole interval is, or `undecided`."""
        return "above" if self.above(most) else "below" if self.below(least) else "undecided"

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.value:.3g}"
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def of_mean(values: np.ndarray) -> Interval:
    """Returns the mean of [S] values, one a seed, with Student's interval."""
    return Interval(*map(float, across_seeds(values[:, None])[:, 0]))


def of_difference(first: np.ndarray, second: np.ndarray) -> Interval:
    """Returns mean(first) − mean(second), of independent values, with Welch's interval.

    Args:
      first: [S] values, one a seed, S ≥ 2.
      second: [S'] values, S' ≥ 2.

    Raises:
      ValueError: there are fewer values.
    """
    _check_count(first, second)
    return of_difference_of_means(Mean.of(first), Mean.of(second))


class Mean(NamedTuple):
    """A mean of independent values.

    Attributes:
      value: the mean.
      error: its standard error; NaN of a single value.
      size: number of values.
    """

    value: float
    error: float
    size: int

    @classmethod
    def of(cls, values: np.ndarray) -> "Mean":
        """Returns the mean of [S] values, S ≥ 2."""
        return cls(float(values.mean()), float(stats.sem(values)), len(values))

    def interval(self) -> Interval:
        """Returns the mean with Student's interval."""
        half = float(_student(self.size - 1) * self.error)
        return Interval(self.value, self.value - half, self.value + half)


def of_difference_of_means(first: Mean, second: Mean) -> Interval:
    """Returns the difference of two independent means with Welch's interval."""
    difference = first.value - second.value
    variances = np.array([first.error, second.error]) ** 2
    total = variances.sum()
    if total == 0:
        return Interval(difference, difference, difference)
    degrees = total**2 / (variances**2 / (np.array([first.size, second.size]) - 1)).sum()
    half = float(_student(degrees) * np.sqrt(total))
    return Interval(difference, difference - half, difference + half)


def of_paired_ratio(first: np.ndarray, second: np.ndarray) -> Interval:
    """Returns mean(first) / mean(second), of pairs, with Fieller's interval.

    It holds the ratios r at which the mean of first − r second is 0 by Student's interval (Fieller,
    1954), and is of all numbers where the mean of second may be 0.

    Args:
      first: [S] values, one a seed, S ≥ 2.
      second: [S] values of the same seeds.

    Raises:
      ValueError: there are fewer values.
    """
    _check_count(first, second)
    count = len(first)
    square = _student(count - 1) ** 2 / count
    (own, both), (_, other) = np.cov(first, second)
    one, two = first.mean(), second.mean()
    # The ends are the roots of leading r² − 2 half r + (one² − square own).
    leading, half = two**2 - square * other, one * two - square * both
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = float(one / two)
    if leading <= 0:
        return Interval(ratio, -np.inf, np.inf)
    root = np.sqrt(max(0.0, half**2 - leading * (one**2 - square * own)))  # less by rounding alone
    return Interval(ratio, float((half - root) / leading), float((half + root) / leading))


def _check_count(*samples: np.ndarray) -> None:
    least = min(map(len, samples))
    if least < 2:
        raise ValueError(f"an interval of {least} values is not defined: must be 2 or more")


def _student(degrees):
    """Returns how many standard errors a 95% interval reaches to each side."""
    return stats.t.ppf(0.975, degrees)


def of_statistic(
    statistic: Callable[[np.ndarray], float],
    samples: np.ndarray,
    generator: np.random.Generator,
    *,
    resamples: int = 1000,
) -> Interval:
    """Returns a statistic of samples, resampled over their first axis."""
    interval = stats.bootstrap(
        (np.arange(len(samples)),),
        lambda index: statistic(samples[index]),
        vectorized=False,
        n_resamples=resamples,
        method="percentile",
        rng=generator,
    ).confidence_interval
    return Interval(float(statistic(samples)), float(interval.low), float(interval.high))


def of_table(
    statistic: Callable[[np.ndarray], float], table: np.ndarray, generator: np.random.Generator
) -> Interval:
    """Returns a statistic of an [S, M, ...] table whose cells share what their row and what their
    column was drawn with, resampled over rows and over columns (Owen, 2007)."""
    drawn = []
    for _ in range(RESAMPLES):
        rows, columns = (generator.integers(size, size=size) for size in table.shape[:2])
        drawn.append(statistic(table[rows][:, columns]))
    return Interval(float(statistic(table)), *map(float, np.quantile(drawn, [0.025, 0.975])))


def across_seeds(curves: np.ndarray) -> np.ndarray:
    """Returns the mean over seeds with Student's 95% interval.

    Args:
      curves: [S, I], one curve a seed; NaN where a seed has no value.

    Returns:
      [3, I]: mean, lower and upper end; the ends are NaN where fewer than two seeds have a value,
      and so is the mean where none has.
    """
    count = (~np.isnan(curves)).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):  # too few seeds: NaN
        mean = np.nansum(curves, axis=0) / count
        variance = np.nansum((curves - mean) ** 2, axis=0) / (count - 1)
        half = _student(count - 1) * np.sqrt(variance / count)
    return np.stack([mean, mean - half, mean + half])
