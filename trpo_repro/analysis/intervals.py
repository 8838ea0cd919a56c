"""Intervals: no estimate without its range."""

import warnings

import numpy as np
from scipy import stats

RESAMPLES = 2000


def across_seeds(curves: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns mean and 95% percentile-bootstrap interval over seeds.

    Args:
      curves: [S, I], one row a seed; NaN where a seed has no value.
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
