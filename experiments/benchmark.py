"""Gymnasium's tasks, beside published scores and beside SB3-contrib's TRPO on this machine.

python experiments/benchmark.py --list
python experiments/benchmark.py --run --only='Hopper-v5/*' --jobs=2
python experiments/benchmark.py --plot

Runs of preset `gae` are --out/TASK/gae/seed_N, with results as default (runs/benchmark_smoke for
smoke): a million steps, 5 seeds; three tasks go on to three million. The peer's are in
--out/benchmark/sb3_contrib; its interpreter is .venv-peers/bin/python, which `make peers` installs.
--plot writes --out/benchmark: every comparable published score with ours, by the closest rule.

A policy is scored by three rules: `training`, the mean of the last 100 training episodes;
`sampled` and `mode`, 100 episodes of the policy by samples and by its most probable actions.
"""

import collections
import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np
from absl import flags

from experiments import batch, configs, listing, published_scores
from trpo_repro import files
from trpo_repro.analysis import comparison, curves, intervals, plots, tables
from trpo_repro.commands import cli

flags.adopt_module_key_flags(listing)

PEER = "sb3_contrib"
PEER_SEEDS = 3
PEER_ITERATIONS = configs.gae_iterations(configs.MILLION)  # of 2048 steps, the peer's and ours
PEER_MINUTES = 15
HOPPER, LEVEL = "Hopper-v5", 3000.0  # where the times of two implementations are compared
TUNED = (
    "`gae`'s λ, and its γ but for Swimmer-v5, were chosen on Hopper-v5; Swimmer-v5's γ is that of "
    "its published scores above 200."
)
RULES = ("training", "sampled", "mode")
SCORES = ("task", "steps", "rule", "seeds", "mean", "low", "high")
COMPARED = (
    "task",
    "steps",
    "rule",
    "source",
    "algorithm",
    "version",
    "seeds",
    "published",
    "published_low",
    "published_high",
    "ours",
    "ours_low",
    "ours_high",
    "verdict",
)


def planned(budget: str, out: pathlib.Path, only: str = "*") -> list[batch.Run]:
    """Returns the runs of Gymnasium's tasks, seed by seed.

    Args:
      budget: `smoke`, or any other for the benchmark itself.
      out: where the tasks' directories are.
      only: glob of the runs' names.

    Raises:
      ValueError: nothing matches.
    """
    smoke = budget == "smoke"
    points = tuple(map(configs.gae_iterations, configs.EVALUATED_STEPS))
    found = []
    for (task, setting), (start, seeds) in configs.gymnasium_runs().items():
        is_scored = task in configs.MUJOCO_TASKS and setting == "gae"
        evaluated = tuple(n for n in points if n <= start.iterations) if is_scored else ()
        if smoke:
            start, seeds = dataclasses.replace(start, iterations=2), seeds[:1]
            evaluated = (1, 2) if is_scored else ()
        is_vine = start.sampler == "vine"
        found += [
            batch.Run(
                task,
                setting,
                "vine" if is_vine else "single_path",
                dataclasses.replace(start, seed=seed),
                out / task / setting / f"seed_{seed}",
                preset="paper" if is_vine else "gae",
                evaluate_at=evaluated,
            )
            for seed in seeds
        ]
    found.sort(key=lambda run: run.config.seed)  # stable: the order of tasks stays
    return listing.matching(found, only)


def planned_peers(out: pathlib.Path) -> list[batch.Job]:
    """Returns the peer's runs, seed by seed."""
    python = pathlib.Path(sys.prefix).parent / ".venv-peers/bin/python"
    found: list[batch.Job] = []
    for seed in range(1, PEER_SEEDS + 1):
        for task in configs.PEER_TASKS:
            directory = _peer_directory(out, task) / f"seed_{seed}"
            command = (f"--task={task}", f"--seed={seed}", f"--out={directory}")
            found.append(
                batch.Script(
                    f"{PEER}/{task}/seed_{seed}",
                    ("experiments/peer.py", *command),
                    (directory / "metrics.csv",),
                    PEER_MINUTES,
                    str(python),
                )
            )
    return found


def _peer_directory(out: pathlib.Path, task: str) -> pathlib.Path:
    return out / "benchmark" / PEER / task


def main(_):
    smoke = listing.BUDGET.value == "smoke"
    out = pathlib.Path(cli.OUT.value or ("runs/benchmark_smoke" if smoke else "results"))
    listing.main(
        lambda only: planned(listing.BUDGET.value, out, only),
        lambda: print(*plot(planned(listing.BUDGET.value, out), out), sep="\n"),
    )


def plot(runs: Sequence[batch.Run], out: pathlib.Path) -> list[pathlib.Path]:
    """Draws all curves, the published scores and the peer's; writes the tables.

    Returns:
      The files written.

    Raises:
      ValueError: no run has begun.
    """
    begun = _begun(runs)
    if not begun:
        raise ValueError(f"no runs of Gymnasium's tasks in {out}; see --list")
    panels: dict[str, dict[str, list[pathlib.Path]]] = {}
    for (task, setting), found in begun.items():
        if setting not in configs.GAE_ABLATION:
            panels.setdefault(task, {})[setting] = [run.directory for run in found]
    directory = out / "benchmark"
    directory.mkdir(parents=True, exist_ok=True)
    written = [out / "gymnasium.png"]
    plots.learning_curves(panels, written[0], x="env_steps", y="return_recent", columns=3)
    peers = {task: _peer_runs(out, task) for task in configs.PEER_TASKS}
    beside = {
        task: {
            "TRPO, gae": [run.directory for run in begun[task, "gae"]],
            "SB3-contrib's TRPO": peers[task],
        }
        for task in configs.PEER_TASKS
        if peers[task] and (task, "gae") in begun
    }
    if beside:
        written.append(directory / "peers.png")
        plots.learning_curves(
            beside,
            written[-1],
            x=("env_steps", "seconds"),
            y="return_recent",
            lengths=dict.fromkeys(beside, PEER_ITERATIONS),
            columns=2,
        )
    ours = scores(runs)
    compared, _ = compare(ours, out)
    if compared:
        written.append(directory / "published.png")
        plots.ranges(_ranges(ours, compared), written[-1], label="return")
    for path, text in texts(runs, out).items():
        files.write_text(path, text)
        written.append(path)
    return written


def texts(runs: Sequence[batch.Run], out: pathlib.Path) -> dict[pathlib.Path, str]:
    """Returns file → its text, by the runs' files alone."""
    ours = scores(runs)
    if not ours:
        return {}
    compared, _ = compare(ours, out)
    directory = out / "benchmark"
    rows = [
        dict(zip(SCORES, (*key, len(values), *intervals.of_mean(values)), strict=True))
        for key, values in ours.items()
    ]
    return {
        directory / "scores.csv": tables.csv_text(SCORES, rows),
        directory / "published.csv": tables.csv_text(COMPARED, compared),
    }


def scores(runs: Sequence[batch.Run]) -> dict[tuple[str, int, str], np.ndarray]:
    """Returns (task, steps, rule) → [S] scores, of the runs that have so many steps."""
    found: dict[tuple[str, int, str], list[float]] = {}
    for run in runs:
        if run.task not in configs.MUJOCO_TASKS or run.setting != "gae":
            continue
        evaluated = _evaluated(run)
        for steps in configs.EVALUATED_STEPS:
            iteration = configs.gae_iterations(steps)
            if iteration > run.config.iterations or run.iterations < iteration:
                continue
            training = curves.read(run.directory / "metrics.csv")["return_recent"][iteration - 1]
            found.setdefault((run.task, steps, "training"), []).append(float(training))
            for rule in ("sampled", "mode"):
                if (iteration, rule) in evaluated:
                    value = evaluated[iteration, rule]
                    found.setdefault((run.task, steps, rule), []).append(value)
    return {key: np.array(values) for key, values in found.items()}


def _evaluated(run: batch.Run) -> dict[tuple[int, str], float]:
    """Returns (iteration, rule) → mean return of the run's evaluations."""
    path = run.directory / "evaluation.csv"
    rows = tables.read_csv(path) if path.exists() else []
    return {
        (int(row["iteration"]), RULES[1 + int(row["deterministic"])]): float(row["return_mean"])
        for row in rows
    }


def compare(
    ours: dict[tuple[str, int, str], np.ndarray], out: pathlib.Path
) -> tuple[list[dict], collections.Counter]:
    """Returns the published scores that ours can be compared with, and how many cannot, by reason.

    The verdict is by Welch's interval of the difference, `undecided` where it reaches over 0. Of a
    published number without a spread over seeds nothing is known but itself: ours is above or below
    where its own interval is.
    """
    path = out / published_scores.FILE
    rows: list[dict] = []
    reasons = collections.Counter[str]()
    for row in tables.read_csv(path) if path.exists() else []:
        found = published_scores.match(row)
        if isinstance(found, str):
            reasons[found] += 1
            continue
        values = ours.get((found.task, found.steps, found.rule))
        if values is None or len(values) < 2:
            reasons["our runs are not finished"] += 1
            continue
        own, published = intervals.Mean.of(values), found.mean
        if published.size > 1:
            verdict = intervals.of_difference_of_means(own, published).verdict(0.0, 0.0)
        else:
            verdict = own.interval().verdict(published.value, published.value)
        cells = (
            found.task,
            found.steps,
            found.rule,
            row["source"],
            row["algorithm"],
            row["env_id"],
            row["n_seeds"],
            published.value,
            *("" if np.isnan(end) else round(end, 1) for end in published.interval()[1:]),
            *(round(number, 1) for number in own.interval()),
            verdict,
        )
        rows.append(dict(zip(COMPARED, cells, strict=True)))
    order = {task: i for i, task in enumerate(configs.MUJOCO_TASKS)}
    rows.sort(key=lambda row: (order[row["task"]], row["steps"], RULES.index(row["rule"])))
    return rows, reasons


def section(runs: Sequence[batch.Run], out: pathlib.Path) -> list[str]:
    """Returns the benchmark's part of the page of results."""
    begun = _begun(runs)
    if not begun:
        return []
    rows = []
    for (task, setting), found in begun.items():
        if setting in configs.GAE_ABLATION:
            continue
        read = [curves.read(run.directory / "metrics.csv") for run in found]
        steps = np.mean([table["env_steps"][-1] for table in read])
        recent = intervals.of_mean(np.array([table["return_recent"][-1] for table in read]))
        cells = (f"[{task}]({task}/{setting})", setting, len(found), f"{steps / 1e6:.3g}M steps")
        rows.append((*cells, _number(recent)))
    lines = [
        "## Gymnasium's tasks",
        "",
        "Mean return of the last 100 training episodes [95% interval over seeds]. "
        "`python experiments/benchmark.py --run`.",
        "",
        *tables.markdown(("task", "setting", "seeds", "steps", "return"), rows),
        "",
        "![Gymnasium's tasks](gymnasium.png)",
        "",
        "What these curves hide is in [WORKSPACE.md](../WORKSPACE.md#what-curves-hide).",
        "",
    ]
    ours = scores(runs)
    compared, reasons = compare(ours, out)
    if ours:
        lines += [
            "Three rules of scoring: the mean of the last 100 training episodes (training), and of "
            "100 episodes of the policy after these steps, by its samples (sampled) or its most "
            "probable actions (mode):",
            "",
            *_score_table(ours),
            "",
        ]
    if compared:
        lines += _comparison(compared, reasons)
    return [*lines, *_peer_section(runs, out), *_ablation_section(begun)]


def summary(runs: Sequence[batch.Run], out: pathlib.Path) -> list[str]:
    """Returns README's lines: beside published scores, and the peer's where it has run."""
    compared, _ = compare(scores(runs), out)
    if not compared:
        return []
    lines = [
        f"**{_verdicts(compared)}** ([Each of them]({out}/README.md#gymnasiums-tasks).) {TUNED}"
    ]
    _, _, rows = _beside_peer(runs, out)
    if rows:
        found = collections.Counter(row[3] for row in rows)
        lines[0] += (
            f" At a million steps ours is above SB3-contrib's TRPO, trained on this machine, on "
            f"{found['above']} of {len(rows)} tasks and below on {found['below']}; the others are "
            "undecided."
        )
    return [*lines, "", f"![Ours beside published scores]({out}/benchmark/published.png)", ""]


def _score_table(ours: dict[tuple[str, int, str], np.ndarray]) -> list[str]:
    places = dict.fromkeys((task, steps) for task, steps, _ in ours)
    rows = []
    for task, steps in places:
        found = [ours.get((task, steps, rule)) for rule in RULES]
        texts = ["" if v is None else _number(intervals.of_mean(v)) for v in found]
        rows.append((task, _steps(steps), len(ours[task, steps, "training"]), *texts))
    head = ("task", "steps", "seeds", "training", "100 episodes, sampled", "100 episodes, mode")
    return tables.markdown(head, rows)


def _comparison(compared: Sequence[dict], reasons: collections.Counter) -> list[str]:
    not_compared = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common())
    return [
        f"{_verdicts(compared)} The verdict is by Welch's interval of the difference, or, beside a "
        f"single number, by our own interval. {TUNED} Not compared are: {not_compared}.",
        "",
        "![Ours beside published scores](benchmark/published.png)",
        "",
        *tables.markdown(
            ("task", "steps", "rule", "source", "version", "seeds", "published", "ours", "verdict"),
            (
                (
                    row["task"],
                    _steps(row["steps"]),
                    row["rule"],
                    row["source"],
                    row["version"],
                    row["seeds"],
                    _cell(row, "published"),
                    _cell(row, "ours"),
                    row["verdict"],
                )
                for row in compared
            ),
        ),
        "",
    ]


def _verdicts(compared: Sequence[dict]) -> str:
    verdicts = collections.Counter(row["verdict"] for row in compared)
    single = sum(row["published_low"] == "" and row["verdict"] != "undecided" for row in compared)
    return (
        f"Beside {len(compared)} published scores of TRPO, by the closest rule and at the same "
        f"number of steps, ours is above {verdicts['above']} and below {verdicts['below']}, "
        f"{single} of them single numbers without a spread over seeds; "
        f"{verdicts['undecided']} are undecided."
    )


def _beside_peer(
    runs: Sequence[batch.Run], out: pathlib.Path
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[tuple[str, ...]]]:
    """Returns scores by task in units of the peer's mean, ours and the peer's, and the table's
    rows, by the training scores at a million steps."""
    mine: dict[str, np.ndarray] = {}
    theirs: dict[str, np.ndarray] = {}
    rows: list[tuple[str, ...]] = []
    for task in configs.PEER_TASKS:
        own = [
            curves.read(run.directory / "metrics.csv")
            for run in runs
            if (run.task, run.setting) == (task, "gae") and run.iterations >= PEER_ITERATIONS
        ]
        peers = [curves.read(path / "metrics.csv") for path in _peer_runs(out, task)]
        if len(own) < 2 or len(peers) < 2:
            continue
        ours = np.array([table["return_recent"][PEER_ITERATIONS - 1] for table in own])
        final = np.array([table["return_recent"][-1] for table in peers])
        mine[task], theirs[task] = ours / final.mean(), final / final.mean()
        seconds = [np.mean([t["seconds"][PEER_ITERATIONS - 1] for t in own])]
        seconds.append(np.mean([table["seconds"][-1] for table in peers]))
        # The peer's score when our runs were done.
        then = [table["return_recent"][table["seconds"] <= seconds[0]][-1] for table in peers]
        verdict = intervals.of_difference(ours, final).verdict(0.0, 0.0)
        rows.append(
            (
                task,
                _number(intervals.of_mean(ours)),
                _number(intervals.of_mean(final)),
                verdict,
                f"{seconds[0]:.0f}",
                f"{seconds[1]:.0f}",
                _number(intervals.of_mean(np.array(then))),
            )
        )
    return mine, theirs, rows


def _peer_section(runs: Sequence[batch.Run], out: pathlib.Path) -> list[str]:
    """Returns the comparison with the peer."""
    mine, theirs, rows = _beside_peer(runs, out)
    if not rows:
        return []
    generator = np.random.default_rng(0)
    improvement = comparison.probability_of_improvement(mine, theirs, generator)
    middle = [comparison.interquartile_mean(each, generator) for each in (mine, theirs)]
    levels = np.array([0.5, 0.75, 1.0, 1.25])
    profiles = [comparison.performance_profile(each, levels) for each in (mine, theirs)]
    return [
        "## Beside SB3-contrib's TRPO, on this machine",
        "",
        "rl-zoo3's settings (for InvertedDoublePendulum-v5, of which it has none, SB3-contrib's "
        "defaults, without normalization), 3 seeds, a million steps; scores are of the last 100 "
        "training episodes. Times are of two runs side by side, a thread each, ours of sampling "
        "and updates, the peer's by the clock to the end of its last batch. The verdict is by "
        "Welch's interval of the difference of the means.",
        "",
        *tables.markdown(
            (
                "task",
                "ours",
                "SB3-contrib",
                "verdict",
                "ours, seconds",
                "SB3-contrib, seconds",
                "SB3-contrib in our seconds",
            ),
            rows,
        ),
        "",
        "![Curves over steps and seconds](benchmark/peers.png)",
        "",
        *_time_to(LEVEL, runs, out),
        f"Over the {len(rows)} tasks, in units of SB3-contrib's mean score: interquartile mean "
        f"{middle[0]} for ours and {middle[1]} for SB3-contrib's; the probability that a run of "
        f"ours scores above one of SB3-contrib's is {improvement} (95% intervals of a bootstrap "
        "over seeds within tasks, which are too narrow for 3 to 5 seeds). "
        "Fraction of runs above a level:",
        "",
        *tables.markdown(
            ("level", *(f"{level:g}" for level in levels)),
            (
                (name, *(f"{fraction:.2f}" for fraction in profile))
                for name, profile in zip(("ours", "SB3-contrib"), profiles, strict=True)
            ),
        ),
        "",
    ]


def _time_to(level: float, runs: Sequence[batch.Run], out: pathlib.Path) -> list[str]:
    """Returns a sentence on the seconds of training to a return on Hopper-v5, within a million
    steps."""
    ours = [run.directory for run in runs if (run.task, run.setting) == (HOPPER, "gae")]
    texts = []
    for directories in (ours, _peer_runs(out, HOPPER)):
        read = [curves.read(path / "metrics.csv") for path in directories if _has_rows(path)]
        above = [table["return_recent"][:PEER_ITERATIONS] >= level for table in read]
        reached = [
            table["seconds"][np.argmax(is_above)]
            for table, is_above in zip(read, above, strict=True)
            if is_above.any()
        ]
        mean = f"after {np.mean(reached):.0f} seconds" if reached else "never"
        texts.append(f"{len(reached)} of {len(read)} runs, {mean}")
    return [f"{HOPPER} to {level:g}: ours {texts[0]}; SB3-contrib's {texts[1]}.", ""]


def _has_rows(directory: pathlib.Path) -> bool:
    path = directory / "metrics.csv"
    return path.exists() and len(path.read_text().splitlines()) > 1


def _ablation_section(begun: Mapping[tuple[str, str], Sequence[batch.Run]]) -> list[str]:
    """Returns what chose the preset's batches."""
    rows = []
    for (task, setting), found in begun.items():
        if setting in configs.GAE_ABLATION and all(run.done for run in found):
            read = [curves.read(run.directory / "metrics.csv") for run in found]
            recent = intervals.of_mean(np.array([table["return_recent"][-1] for table in read]))
            config = found[0].config
            paths = config.steps_per_iteration // config.path_length
            rows.append((task, f"{paths} × {config.path_length}", len(found), _number(recent)))
    if not rows:
        return []
    return [
        "### Why `gae` has batches of this size",
        "",
        "A million steps, on seeds that are not in the benchmark; mean return of the last 100 "
        "training episodes. Of 2048 and 4096 steps the smaller was chosen by the means of two "
        "tasks of three; where intervals overlap, the runs do not tell the sizes apart.",
        "",
        *tables.markdown(("task", "paths × steps", "seeds", "return"), rows),
        "",
    ]


def _begun(runs: Sequence[batch.Run]) -> dict[tuple[str, str], list[batch.Run]]:
    """Returns (task, setting) → runs that can be drawn together.

    They have at least half of the iterations of the longest: curves are drawn to the shortest.
    """
    groups: dict[tuple[str, str], list[batch.Run]] = {}
    for run in runs:
        groups.setdefault((run.task, run.setting), []).append(run)
    found = {}
    for key, group in groups.items():
        longest = max(run.iterations for run in group)
        if longest >= 2:
            found[key] = [run for run in group if run.iterations >= max(2, longest / 2)]
    return found


def _peer_runs(out: pathlib.Path, task: str) -> list[pathlib.Path]:
    return sorted(path.parent for path in _peer_directory(out, task).glob("seed_*/metrics.csv"))


def _ranges(ours, compared):
    """Returns title → rows to draw: our score by each rule, and the published ones."""
    panels: dict[str, list[tuple[str, intervals.Interval, bool]]] = {}
    for task, steps in dict.fromkeys((row["task"], row["steps"]) for row in compared):
        rows = []
        for rule in RULES:
            if (values := ours.get((task, steps, rule))) is not None:
                seeds = tables.counted(len(values), "seed")
                rows.append((f"ours: {rule}, {seeds}", intervals.of_mean(values), True))
            for row in compared:
                if (row["task"], row["steps"], row["rule"]) == (task, steps, rule):
                    ends = [float(row[f"published_{end}"] or np.nan) for end in ("low", "high")]
                    number = intervals.Interval(row["published"], *ends)
                    source = row["source"].partition("(")[0].strip()
                    version = row["version"].partition("-")[2]
                    name = f"{source}, {version}" if version else source
                    rows.append((f"{name}: {rule}", number, False))
        panels[f"{task}, {_steps(steps)} steps"] = rows
    return panels


def _steps(steps: int) -> str:
    return f"{steps / 1e6:g}M"


def _number(interval: intervals.Interval) -> str:
    """Returns a return with as many digits as say something."""
    texts = [f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}" for value in interval]
    return texts[0] if np.isnan(interval.low) else f"{texts[0]} [{texts[1]}, {texts[2]}]"


def _cell(row: dict, name: str) -> str:
    ends = [row[f"{name}_{end}"] for end in ("low", "high")]
    return _number(intervals.Interval(row[name], *(float(end or np.nan) for end in ends)))


if __name__ == "__main__":
    cli.run(main)
