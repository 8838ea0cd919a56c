"""Figures from metrics.csv files alone."""

import pathlib
from collections.abc import Collection, Mapping, Sequence

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import figure, ticker

from trpo_repro.analysis import curves, intervals, tables

# Ten dark colors, then ten light ones.
COLORS = [matplotlib.colormaps["tab20"](i) for i in (*range(0, 20, 2), *range(1, 20, 2))]
FEW = 4  # curves of a panel, and runs of a curve, of which each run is drawn, too
LEAST_SEEDS = 3  # of a band: of two seeds it would reach to 13 times half of their distance
LABELS = {
    "iteration": "policy iterations",
    "env_steps": "simulator steps",
    "seconds": "seconds of training",
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
    x: str | Sequence[str] = "iteration",
    y: str = "return_mean",
    labels: Mapping[str, str] = LABELS,
    lengths: Mapping[str, int] | None = None,
    levels: Mapping[str, Mapping[str, float]] | None = None,
    with_episode_length: Collection[str] = (),
    columns: int = 2,
) -> None:
    """Draws one curve a group: the mean and, of LEAST_SEEDS runs or more, Student's 95% interval.

    Where they are few, in panels of few curves, each run is a thin line besides: a mean does not
    tell one run of three that learns from three that learn a third.

    Args:
      panels: title → label → run directories; a label, up to a comma, has the same color in
        every panel. Panels without labels are left out.
      output: PNG to write.
      x: column of metrics.csv on the horizontal axes; of several, a panel each, side by side.
      y: column on the vertical axes.
      labels: column → what its axis says.
      lengths: title → iterations to draw at most.
      levels: title → label → height of a horizontal line to compare with.
      with_episode_length: titles whose curves have a second panel, of mean episode length: a
        policy that learns to end its episodes early is to be seen.
      columns: panels side by side.

    Raises:
      ValueError: there is no run, or one has no rows or lacks a column.
    """
    panels = {title: groups for title, groups in panels.items() if groups}
    if not panels:
        raise ValueError("there is no run to draw")
    xs = [x] if isinstance(x, str) else list(x)
    drawn = [(title, title, x, y) for title in panels for x in xs]
    drawn += [
        (
            "\n".join([title.partition("\n")[0] + ": episode length", *title.splitlines()[1:]]),
            title,
            xs[0],
            "episode_length",
        )
        for title in with_episode_length
        if title in panels
    ]
    columns = min(len(drawn), columns)
    rows = -(-len(drawn) // columns)
    most = max(map(len, panels.values()))
    size = (5.6 * columns, (3.7 + 0.2 * min(most, 4)) * rows)
    canvas = figure.Figure(figsize=size, layout="constrained")
    grid = canvas.subplots(rows, columns, squeeze=False)
    names = [label.partition(",")[0] for groups in panels.values() for label in groups]
    styles = {
        name: {"color": COLORS[i % 20], "linestyle": "-" if i < 10 else "--"}
        for i, name in enumerate(dict.fromkeys(names))
    }
    for axes, (heading, title, x, column) in zip(grid.flat, drawn, strict=False):
        heights = (levels or {}).get(heading, {})
        longest = (lengths or {}).get(title)
        _draw_panel(axes, panels[title], styles, heights, x=x, y=column, longest=longest)
        axes.set(title=heading, xlabel=labels.get(x, x), ylabel=labels.get(column, column))
    for axes in grid.flat[len(drawn) :]:
        axes.remove()
    if any(len(runs) >= LEAST_SEEDS for groups in panels.values() for runs in groups.values()):
        bands = (
            f"bands: Student's 95% interval of the mean over {LEAST_SEEDS} seeds or more, cut at "
            f"the range of all seeds; thin: each seed, of at most {FEW} in panels of at most {FEW} "
            "curves"
        )
        canvas.supxlabel(bands, fontsize=8)
    canvas.savefig(output, dpi=150 if rows <= 4 else 100)  # a file stays below 2 MB


def ranges(
    panels: Mapping[str, Sequence[tuple[str, intervals.Interval, bool]]],
    output: pathlib.Path,
    *,
    label: str,
    columns: int = 2,
) -> None:
    """Draws numbers with their intervals, a row each; those of ours with a shaded band.

    Args:
      panels: title → (name, number, whether it is ours), from the top; the band of ours reaches
        over the numbers that follow, up to the next of ours.
      output: PNG to write.
      label: what the numbers are.
      columns: panels side by side.
    """
    columns = min(len(panels), columns)
    rows = -(-len(panels) // columns)
    tallest = max(len(entries) for entries in panels.values())
    size = (7.0 * columns, (0.24 * tallest + 0.9) * rows)
    canvas = figure.Figure(figsize=size, layout="constrained")
    grid = canvas.subplots(rows, columns, squeeze=False)
    for axes, (title, entries) in zip(grid.flat, panels.items(), strict=False):
        for i, (_, number, is_ours) in enumerate(entries):
            color = "C3" if is_ours else "black"
            if is_ours and np.isfinite(number.low):
                others = (j for j in range(i + 1, len(entries)) if entries[j][2])
                rows_below = [i - 0.5, next(others, len(entries)) - 0.5]
                band = {"color": color, "alpha": 0.12, "linewidth": 0}
                axes.fill_betweenx(rows_below, number.low, number.high, **band)
            if np.isfinite(number.low):
                axes.plot([number.low, number.high], [i, i], color=color, linewidth=2)
            has_interval = np.isfinite(number.low)
            axes.plot([number.value], [i], "o" if has_interval else "D", color=color, markersize=5)
        axes.set_yticks(range(len(entries)), [name for name, _, _ in entries], fontsize="small")
        axes.set_ylim(len(entries) - 0.5, -0.5)
        axes.set_title(title, fontsize="medium")
        axes.set(xlabel=label)
        axes.grid(alpha=0.3, axis="x")
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    canvas.supxlabel(
        "red: ours, with a band over what it is compared with; lines: Student's 95% intervals over "
        "seeds, also beyond what is possible; diamonds: no interval can be had",
        fontsize=8,
    )
    canvas.savefig(output, dpi=150)


def _draw_panel(axes, groups, styles, heights, *, x, y, longest):
    """Draws the curves of label → runs, and horizontal lines at label → height."""
    few = len(groups) <= FEW
    ends = list(heights.values())
    for label, runs in groups.items():
        style = styles[label.partition(",")[0]]
        ends += _draw_curve(axes, runs, label, style, x=x, y=y, longest=longest, few=few)
    for i, (label, height) in enumerate(heights.items()):
        axes.axhline(height, color="gray", linestyle=("--", ":")[i % 2], label=label)
    if ends:  # not of the bands, which are wider than all else of 3 seeds
        margin = 0.05 * np.ptp(ends) or 1.0
        axes.set_ylim(min(ends) - margin, max(ends) + margin)
    axes.set_xlim(left=0)
    if x == "env_steps":
        axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    else:
        axes.xaxis.set_major_locator(ticker.MaxNLocator(steps=[1, 2, 5, 10], integer=True))
    axes.grid(alpha=0.3)
    # Beneath, where it crosses no curve.
    beneath = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)}
    many = 1 if len(axes.get_legend_handles_labels()[0]) <= 3 else 2
    axes.legend(**beneath, ncols=many, fontsize="small", frameon=False)


def _draw_curve(axes, runs, label, style, *, x, y, longest, few):
    """Draws mean and interval over the runs of one setting, up to the shortest run's end.

    Returns:
      The least and the greatest value of all runs.
    """
    read = [curves.read(run / "metrics.csv") for run in runs]
    for run, table in zip(runs, read, strict=True):
        for column in (x, y):
            if column not in table:
                raise ValueError(f"{run / 'metrics.csv'} has no column {column!r}")
            if table[column].dtype.kind not in "fi":
                raise ValueError(f"column {column!r} of {run / 'metrics.csv'} is not of numbers")
    length = min(len(table[x]) for table in read)
    length = min(length, longest or length)
    values = np.stack([table[y][:length] for table in read])
    horizontal = np.mean([table[x][:length] for table in read], axis=0)
    mean, low, high = intervals.across_seeds(values)
    seeds = tables.counted(len(runs), "seed")
    axes.plot(horizontal, mean, **style, label=f"{label} ({seeds})", linewidth=1.5)
    if few and 1 < len(runs) <= FEW:
        axes.plot(horizontal, values.T, **style, linewidth=0.6, alpha=0.6)
    if len(runs) >= LEAST_SEEDS:
        opacity = 0.2 if few else 0.1  # many overlap
        axes.fill_between(horizontal, low, high, color=style["color"], alpha=opacity, linewidth=0)
    seen = values[np.isfinite(values)]
    return [seen.min(), seen.max()] if seen.size else []
