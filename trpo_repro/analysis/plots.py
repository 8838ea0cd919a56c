"""Figures from metrics.csv files alone."""

import pathlib
from collections.abc import Collection, Mapping, Sequence

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import figure, ticker

from trpo_repro.analysis import curves, intervals

LABELS = {
    "iteration": "policy iterations",
    "env_steps": "simulator steps",
    "return_mean": "mean undiscounted return",
    "return_recent": "mean return of the last 100 episodes",
    "reward_per_step": "reward per time step (return / time limit)",
    "reward_mean": "reward per simulated step",
    "episode_length": "mean length of an episode (steps)",
}


def learning_curves(
    panels: Mapping[str, Mapping[str, Sequence[pathlib.Path]]],
    output: pathlib.Path,
    *,
    x: str = "iteration",
    y: str = "return_mean",
    lengths: Mapping[str, int] | None = None,
    levels: Mapping[str, Mapping[str, float]] | None = None,
    with_episode_length: Collection[str] = (),
    columns: int = 2,
) -> None:
    """Draws one curve a group: mean and 95% bootstrap interval over its runs.

    Args:
      panels: title → label → run directories; a label, up to a comma, has the same color in
        every panel. Panels without labels are left out.
      output: PNG to write.
      x: column of metrics.csv on the horizontal axes.
      y: column on the vertical axes.
      lengths: title → iterations to draw at most.
      levels: title → label → height of a horizontal line to compare with.
      with_episode_length: titles whose curves have a second panel, of mean episode length: a
        policy that learns to end its episodes early is to be seen.
      columns: panels side by side.

    Raises:
      ValueError: there is no run, or one has no rows or lacks a column.
    """
    generator = np.random.default_rng(0)
    panels = {title: groups for title, groups in panels.items() if groups}
    if not panels:
        raise ValueError("there is no run to draw")
    drawn = [(title, title, y) for title in panels]
    drawn += [
        (
            "\n".join([title.partition("\n")[0] + ": episode length", *title.splitlines()[1:]]),
            title,
            "episode_length",
        )
        for title in with_episode_length
        if title in panels
    ]
    columns = min(len(drawn), columns)
    rows = -(-len(drawn) // columns)
    canvas = figure.Figure(figsize=(5.6 * columns, 3.7 * rows), layout="constrained")
    grid = canvas.subplots(rows, columns, squeeze=False)
    labels = list(
        dict.fromkeys(label.partition(",")[0] for groups in panels.values() for label in groups)
    )
    for axes, (heading, title, column) in zip(grid.flat, drawn, strict=False):
        groups = panels[title]
        for label, runs in groups.items():
            # A label without the value that follows a comma has one color in every panel.
            place = labels.index(label.partition(",")[0])
            style = {"color": f"C{place}", "linestyle": ("-", "--", ":")[place // 10]}  # 10 colors
            longest = (lengths or {}).get(title)
            _draw_curve(
                axes, runs, label, style, x=x, y=column, generator=generator, longest=longest
            )
        for i, (label, height) in enumerate((levels or {}).get(heading, {}).items()):
            axes.axhline(height, color="gray", linestyle=("--", ":")[i % 2], label=label)
        axes.set(title=heading, xlabel=LABELS.get(x, x), ylabel=LABELS.get(column, column))
        axes.set_xlim(left=0)
        if x == "env_steps":
            axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
        else:
            axes.xaxis.set_major_locator(ticker.MaxNLocator(steps=[1, 2, 5, 10], integer=True))
        axes.grid(alpha=0.3)
        axes.legend(loc="best", fontsize="small", frameon=False)
    for axes in grid.flat[len(drawn) :]:
        axes.remove()
    if any(len(runs) > 1 for groups in panels.values() for runs in groups.values()):
        canvas.supxlabel("bands: 95% bootstrap interval of the mean over seeds", fontsize=8)
    canvas.savefig(output, dpi=150)


def _draw_curve(axes, runs, label, style, *, x, y, generator, longest):
    """Draws mean and interval over the runs of one setting, up to the shortest run's end."""
    tables = [curves.read(run / "metrics.csv") for run in runs]
    for run, table in zip(runs, tables, strict=True):
        for column in (x, y):
            if column not in table:
                raise ValueError(f"{run / 'metrics.csv'} has no column {column!r}")
    length = min(len(table[x]) for table in tables)
    length = min(length, longest or length)
    values = np.stack([table[y][:length] for table in tables])
    horizontal = np.mean([table[x][:length] for table in tables], axis=0)
    mean, low, high = intervals.across_seeds(values, generator)
    seeds = f"{len(runs)} seeds" if len(runs) > 1 else "1 seed"
    axes.plot(horizontal, mean, **style, label=f"{label} ({seeds})", linewidth=1.5)
    axes.fill_between(horizontal, low, high, color=style["color"], alpha=0.2, linewidth=0)
