"""Figures from metrics.csv files alone."""

import pathlib
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import figure, pyplot, ticker
from scipy import stats

from trpo_repro import metrics

LABELS = {
    "iteration": "policy iterations",
    "env_steps": "simulator steps",
    "return_mean": "undiscounted return of an episode",
    "return_recent": "undiscounted return, mean of the last 100 episodes",
    "reward_per_step": "reward per time step (return / 1000)",
    "reward_mean": "reward per simulated step",
}
RESAMPLES = 2000


def across_seeds(curves: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns mean and 95% percentile-bootstrap interval over seeds.

    Args:
      curves: [S, I], one row a seed; NaN where a seed has no value.
      generator: of the resampling.

    Returns:
      [3, I]: mean, lower and upper end; the ends are NaN for a single seed.
    """
    with np.errstate(invalid="ignore"):
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
    return np.stack([mean, interval.low, interval.high])


def draw_curve(
    axes: pyplot.Axes,
    runs: Sequence[pathlib.Path],
    label: str,
    *,
    x: str,
    y: str,
    generator: np.random.Generator,
) -> None:
    """Draws mean and interval over the runs of one setting, up to the shortest run's end."""
    tables = [metrics.read(run / "metrics.csv") for run in runs]
    length = min(len(table[x]) for table in tables)
    curves = np.stack([table[y][:length] for table in tables])
    horizontal = tables[0][x][:length]
    mean, low, high = across_seeds(curves, generator)
    seeds = f"{len(runs)} seeds" if len(runs) > 1 else "1 seed"
    (line,) = axes.plot(horizontal, mean, label=f"{label} ({seeds})", linewidth=1.5)
    axes.fill_between(horizontal, low, high, color=line.get_color(), alpha=0.2, linewidth=0)


def label_axes(axes: pyplot.Axes, *, x: str, y: str, title: str) -> None:
    """Writes title and axis labels, and sets ticks that a reader can read."""
    axes.set_title(title)
    axes.set_xlabel(LABELS.get(x, x))
    axes.set_ylabel(LABELS.get(y, y))
    if x == "env_steps":
        axes.xaxis.set_major_formatter(ticker.EngFormatter())
    axes.grid(alpha=0.3)
    axes.set_xlim(left=0)


def learning_curves(
    groups: Mapping[str, Sequence[pathlib.Path]],
    output: pathlib.Path,
    *,
    x: str = "iteration",
    y: str = "return_mean",
    title: str = "",
) -> None:
    """Draws one curve a group: mean and 95% bootstrap interval over its runs.

    Args:
      groups: run directories by label.
      output: PNG to write.
      x: column of metrics.csv on the horizontal axis.
      y: column on the vertical axis.
      title: of the figure.

    Raises:
      ValueError: a run has no rows, or lacks a column.
    """
    generator = np.random.default_rng(0)
    canvas = figure.Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = canvas.subplots()
    for label, runs in groups.items():
        draw_curve(axes, runs, label, x=x, y=y, generator=generator)
    label_axes(axes, x=x, y=y, title=title)
    axes.legend(loc="best", fontsize="small", frameon=False)
    if any(len(runs) > 1 for runs in groups.values()):
        canvas.supxlabel("bands: 95% bootstrap interval of the mean over seeds", fontsize=8)
    canvas.savefig(output, dpi=150)
