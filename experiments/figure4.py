"""Figure 4: every algorithm on cart-pole, swimmer, hopper and walker.

python experiments/figure4.py --list --budget=medium
python experiments/figure4.py --run --budget=medium --only='cartpole/*' --jobs=2
python experiments/figure4.py --plot --budget=medium

Runs are --out/TASK/SETTING/seed_N, with results as default (runs/figure4_smoke for smoke); those of
a budget that changes more of Table 2 than the number of iterations are in TASK_BUDGET. Finished
runs are skipped, and interrupted ones continue. --plot draws what there is.
"""

import dataclasses
import functools
import pathlib
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from absl import flags

from experiments import batch, configs, listing
from experiments.batch import Run, finished
from trpo_repro import files
from trpo_repro.analysis import curves, intervals, plots, tables
from trpo_repro.commands import cli

flags.adopt_module_key_flags(listing)

FINAL_FRACTION = 0.1  # of the iterations, at the end: what "final performance" is the mean of
TITLES = {"cartpole": "Cart-pole", "swimmer": "Swimmer", "hopper": "Hopper", "walker": "Walker"}
COLUMNS = ("task", "setting", "seeds", "iterations", "final", "final_low", "final_high", "best")


def planned(budget_name: str, out: pathlib.Path, only: str = "*") -> list[Run]:
    """Returns the runs of a budget in the order to run them: seed by seed.

    Of a sweep in two rounds the first is a run of every value; once they are done, the second is
    those of the best value.

    Args:
      budget_name: key of configs.BUDGETS.
      out: where the tasks' directories are.
      only: glob of the runs' names.

    Raises:
      ValueError: nothing matches.
    """
    found: list[Run] = []
    for task, runs in _first_round(budget_name, out).items():
        found += runs
        found += _second_round(runs, configs.BUDGETS[budget_name].seeds[task])
    found.sort(key=lambda run: run.config.seed)  # stable: the order of tasks and settings stays
    return listing.matching(found, only)


@functools.lru_cache(maxsize=16)  # hundreds of configurations, each of them checked
def _first_round(budget_name: str, out: pathlib.Path) -> dict[str, tuple[Run, ...]]:
    """Returns a budget's runs by task, without those that the first round of sweeps decides."""
    budget = configs.BUDGETS[budget_name]
    found = {}
    for task in configs.FIGURE4:
        own = budget.own_directory(task)
        parent = out / (f"{task}_{budget_name}" if own else task)
        runs = []
        for setting, (algorithm, settings) in configs.figure4_settings(task, budget).items():
            swept = configs.ALGORITHMS[algorithm].sweep is not None
            screening = swept and task in budget.screening
            stop_at = budget.screening[task] if screening else None
            if algorithm in configs.TRPO:
                stop_at = budget.trpo_stop_at.get(task)
            for seed in range(1, 2 if screening else budget.seeds_of(task, algorithm) + 1):
                seeded = dataclasses.replace(settings, seed=seed)
                directory = parent / setting / f"seed_{seed}"
                runs.append(Run(task, setting, algorithm, seeded, directory, stop_at, screening))
        found[task] = tuple(runs)
    return found


def _second_round(first: Sequence[Run], seeds: int) -> list[Run]:
    """Returns the runs of the best value of every sweep whose first round is done."""
    found = []
    screened = [run for run in first if run.screening]
    for algorithm in dict.fromkeys(run.algorithm for run in screened):
        candidates = [run for run in screened if run.algorithm == algorithm]
        if not all(run.done for run in candidates):
            continue
        winner = max(candidates, key=lambda run: _ranked(final([run])))
        for seed in range(1, seeds + 1):
            settings = dataclasses.replace(winner.config, seed=seed)
            directory = winner.directory.parent / f"seed_{seed}"
            run = dataclasses.replace(winner, config=settings, directory=directory)
            found.append(dataclasses.replace(run, stop_at=None, screening=False))
    return found


def main(_):
    default = "runs/figure4_smoke" if listing.BUDGET.value == "smoke" else "results"
    out = pathlib.Path(cli.OUT.value or default)
    listing.main(
        lambda only: planned(listing.BUDGET.value, out, only),
        lambda: plot(planned(listing.BUDGET.value, out), out),
    )


def plot(chosen: Sequence[Run], out: pathlib.Path) -> None:
    """Draws the panels against iterations and simulator steps, and writes the table."""
    if not summarize(chosen):
        raise ValueError(f"no finished runs of budget={listing.BUDGET.value} in {out}; see --list")
    out.mkdir(parents=True, exist_ok=True)
    name = f"figure4_{listing.BUDGET.value}"
    files.write_text(out / f"{name}.csv", table(chosen))
    print(out / f"{name}.csv")
    for x in ("iteration", "env_steps"):
        file = out / f"{name}_{x}.png"
        draw(chosen, file, x)
        print(file)


def table(chosen: Sequence[Run]) -> str:
    """Returns the final performance of every setting with finished runs, as CSV."""
    return tables.csv_text(COLUMNS, summarize(chosen))


def draw(chosen: Sequence[Run], file: pathlib.Path, x: str) -> None:
    """Draws a panel a task, of the curves that there are; one that lacks iterations says so."""
    panels: dict[str, dict[str, list[pathlib.Path]]] = {}
    lengths: dict[str, int] = {}
    levels: dict[str, dict[str, float]] = {}
    with_length = []
    for task, algorithms in configs.FIGURE4.items():
        found = {name: runs for name in algorithms if (runs := drawable(chosen, task, name))}
        if not found:
            continue
        drawn = [run for runs in found.values() for run in runs]
        title = batch.panel_title(TITLES[task], drawn)
        if missing := len(algorithms) - len(found):
            title += f"\n{missing} of {len(algorithms)} methods not run yet"
        panels[title] = {label(runs[0]): [run.directory for run in runs] for runs in found.values()}
        lengths[title] = max(run.wanted for run in drawn)
        if task in ("hopper", "walker"):
            with_length.append(title)
            levels[title] = {"standing still": 1.0}
    plots.learning_curves(
        panels,
        file,
        x=x,
        y="reward_per_step",
        lengths=lengths,
        levels=levels,
        with_episode_length=with_length,
    )


def drawable(chosen: Sequence[Run], task: str, algorithm: str) -> list[Run]:
    """Returns an algorithm's runs to draw.

    Of a sweep, the runs of the best of its finished settings; otherwise the runs that have at least
    half of the iterations of the longest, since curves are drawn to the shortest.
    """
    if configs.ALGORITHMS[algorithm].sweep is not None:
        return best(chosen, task, algorithm)
    runs = [run for run in chosen if (run.task, run.algorithm) == (task, algorithm)]
    longest = max((min(run.iterations, run.wanted) for run in runs), default=0)
    return [run for run in runs if run.iterations >= max(2, longest / 2)]


def label(run: Run) -> str:
    """Returns a curve's name, with what was chosen by a sweep."""
    algorithm = configs.ALGORITHMS[run.algorithm]
    if algorithm.sweep is None:
        return algorithm.label
    field = algorithm.sweep[0]
    return f"{algorithm.label}, {configs.SWEPT[field]} = {getattr(run.config, field):g}"


def seed_curves(found: Sequence[Run], column: str = "reward_per_step") -> np.ndarray:
    """Returns a column of runs, [S, I], up to the budget's number of iterations."""
    return np.stack(
        [curves.read(run.directory / "metrics.csv")[column][: run.wanted] for run in found]
    )


def final(found: Sequence[Run]) -> np.ndarray:
    """Returns each seed's final performance, [S]: mean of the last tenth of its iterations."""
    values = seed_curves(found)
    last = max(1, round(FINAL_FRACTION * values.shape[1]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")  # no episode ended: NaN
        return np.nanmean(values[:, -last:], axis=1)


def mean_over_iterations(found: Sequence[Run]) -> np.ndarray:
    """Returns each seed's mean performance over all iterations, [S]."""
    return np.nanmean(seed_curves(found), axis=1)


def best(
    chosen: Sequence[Run],
    task: str,
    algorithm: str,
    performance: Callable[[Sequence[Run]], np.ndarray] = final,
) -> list[Run]:
    """Returns the finished runs of an algorithm; of a sweep, those of the best setting.

    The best has the highest mean performance over seeds; none is finished: no runs.
    """
    settings = dict.fromkeys(
        run.setting
        for run in chosen
        if (run.task, run.algorithm, run.screening) == (task, algorithm, False)
    )
    candidates = [found for s in settings if (found := finished(chosen, task, s))]
    return max(candidates, key=lambda found: _ranked(performance(found)), default=[])


def _ranked(performances: np.ndarray) -> float:
    """Returns the mean of [S] performances, lowest of all where one is not a number."""
    return float(np.nan_to_num(performances.mean(), nan=-np.inf))


def summarize(chosen: Sequence[Run]) -> list[dict]:
    """Returns a row of COLUMNS for every setting with finished runs."""
    rows = []
    for found in finished_settings(chosen):
        first = found[0]
        interval = intervals.of_mean(final(found))
        is_best = best(chosen, first.task, first.algorithm) == found
        cells = (first.task, first.setting, len(found), first.wanted, *interval, int(is_best))
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return rows


def finished_settings(chosen: Sequence[Run]) -> Iterator[list[Run]]:
    """Yields the finished runs of each setting that has some; a first round is one of its own."""
    groups: dict[tuple, list[Run]] = {}
    for run in chosen:
        if run.done:
            groups.setdefault((run.task, run.setting, run.screening), []).append(run)
    order = dict.fromkeys((run.task, run.setting, run.screening) for run in chosen)
    return (groups[key] for key in order if key in groups)


if __name__ == "__main__":
    cli.run(main)
