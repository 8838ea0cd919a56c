"""Estimates with 95% bootstrap intervals: no number without its range."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 2000


class Interval(NamedTuple):
    """A number with the ends of its 95% interval; of one sample `of_mean` gives ends that are
    NaN, and the others raise ValueError."""

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
    """Returns the mean of [S] values, one a seed."""
    return Interval(*map(float, across_seeds(values[:, None], np.random.default_rng(0))[:, 0]))


def of_two_means(
    first: np.ndarray, second: np.ndarray, function: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Interval:
    """Returns a function of the means of two independent groups of seeds.

    Args:
      first: [S] values, one a seed.
      second: [S'] values.
      function: maps two arrays of means, elementwise.
    """
    interval = stats.bootstrap(
        (first, second),
        lambda a, b, axis=-1: function(a.mean(axis=axis), b.mean(axis=axis)),
        method="percentile",
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(0),
    ).confidence_interval
    value = float(function(first.mean(), second.mean()))
    return Interval(value, float(interval.low), float(interval.high))


def of_difference(first: np.ndarray, second: np.ndarray) -> Interval:
    """Returns mean(first) − mean(second), each [S] values, one a seed."""
    return of_two_means(first, second, lambda a, b: a - b)


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


def across_seeds(curves: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns mean and 95% percentile-bootstrap interval over seeds.

    Args:
      curves: [S, I], one curve a seed; NaN where a seed has no value.
      generator: random numbers of the resampling.

    Returns:
      [3, I]: mean, lower and upper end; the ends are NaN for a single seed.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")  # no seed has a value: NaN
        warnings.filterwarnings("ignore", category=stats.DegenerateDataWarning)  # all equal
        return _mean_and_interval(curves, generator)


def _mean_and_interval(curves, generator):
    mean = np.nanmean(curves, axis=0)
    if len(curves) == 1:
        return np.stack([mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)])
    interval = stats.bootstrap(
        (curves,),
        np.nanmean,
        axis=0,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=generator,
    ).confidence_interval
    # SciPy has no interval where all seeds agree; it is the point itself.
    low, high = (np.where(np.isnan(end), mean, end) for end in (interval.low, interval.high))
    return np.stack([mean, low, high])
