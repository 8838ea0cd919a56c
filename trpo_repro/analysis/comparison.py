"""Comparing two algorithms over several tasks: Agarwal et al. (2021), with intervals over seeds."""

from collections.abc import Callable, Mapping

import numpy as np
from scipy import stats

from trpo_repro.analysis import intervals

Scores = Mapping[str, np.ndarray]  # task → [..., S] scores, one a seed


def interquartile_mean(scores: Scores, generator: np.random.Generator) -> intervals.Interval:
    """Returns the mean of the middle half of the scores of all tasks and seeds."""
    return _resampled(
        [scores],
        lambda one: stats.trim_mean(np.concatenate(list(one.values()), axis=-1), 0.25, axis=-1),
        generator,
    )


def probability_of_improvement(
    first: Scores, second: Scores, generator: np.random.Generator
) -> intervals.Interval:
    """Returns the probability that a run of the first scores above one of the second.

    It is the mean over tasks; ties count half.
    """

    def probability(a: Scores, b: Scores) -> np.ndarray:
        wins = [np.sign(a[task][..., :, None] - b[task][..., None, :]) for task in a]
        return np.mean([(1 + won.mean((-2, -1))) / 2 for won in wins], axis=0)

    return _resampled([first, second], probability, generator)


def performance_profile(scores: Scores, levels: np.ndarray) -> np.ndarray:
    """Returns the fraction of runs, over all tasks and seeds, that score above each level."""
    everything = np.concatenate(list(scores.values()))
    return np.array([(everything > level).mean() for level in levels])


def _resampled(
    groups: list[Scores], statistic: Callable[..., np.ndarray], generator: np.random.Generator
) -> intervals.Interval:
    """Returns a statistic with its 95% percentile interval; seeds are resampled within tasks."""

    def again(scores: Scores) -> Scores:
        return {
            task: generator.choice(values, (intervals.RESAMPLES, len(values)))
            for task, values in scores.items()
        }

    low, high = np.quantile(statistic(*map(again, groups)), [0.025, 0.975])
    return intervals.Interval(float(statistic(*groups)), float(low), float(high))
