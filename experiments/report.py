"""What the results say: every figure, and text that no one types.

`experiments/reproduce.py --report` calls it. The text is a function of the CSV and JSON files in
results/ alone, so a test can hold the committed text against the committed files.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from experiments import (
    atari,
    batch,
    benchmark,
    claims,
    configs,
    figure4,
    published_scores,
    swimmer_study,
)
from trpo_repro import config, files, presets, settings
from trpo_repro.analysis import curves, intervals, tables

BEGIN, END = "<!-- begin: make report -->", "<!-- end: make report -->"
CLAIM_FIGURES = {
    "C": ("claims.png", "claims C2 to C7 and C13"),
    "Q": ("questions.png", "the questions"),
}
# What the paper's Figure 4 shows at the end of vine and single path, in reward per time step.
PAPER_FIGURE4 = {
    "cartpole": "10, the top of the axis",
    "swimmer": "0.10 to 0.15",
    "hopper": "above 1, which is standing still",
    "walker": "above 1, which is standing still",
}


def write(out: pathlib.Path, budget: str, readme: pathlib.Path | None) -> list[pathlib.Path]:
    """Draws every figure and writes every table and text, from what there is.

    Args:
      out: directory of results.
      budget: budget of the runs.
      readme: README.md, whose generated part is replaced, and that of WORKSPACE.md beside it; none
        when None.

    Returns:
      The files written.
    """
    written = []
    runs = figure4.planned(budget, out)
    if figure4.summarize(runs):
        for x in ("iteration", "env_steps"):
            written.append(out / f"figure4_{budget}_{x}.png")
            figure4.draw(runs, written[-1], x)
    study = swimmer_study.planned(budget, out / "swimmer_study")
    if any(run.done for run in study):
        swimmer_study.plot(study, out / "swimmer_study")
    games = atari.planned(budget, out / "atari")
    if any(run.iterations for run in games):
        atari.plot(games, out / "atari")
    tasks = benchmark.planned(budget, out)
    if any(run.iterations > 1 for run in tasks):
        written += benchmark.plot(tasks, out)
    for kind, (name, _) in CLAIM_FIGURES.items():
        if claims.draw(claims.Results(out, budget), out / name, kind):
            written.append(out / name)
    for path, text in texts(out, budget, readme).items():
        files.write_text(path, text)
        written.append(path)
    return written


def texts(out: pathlib.Path, budget: str, readme: pathlib.Path | None) -> dict[pathlib.Path, str]:
    """Returns file → its text, by the results' files alone."""
    verdicts = claims.judge(claims.Results(out, budget))
    runs = figure4.planned(budget, out)
    found = {
        out / "README.md": _results_readme(out, budget, runs, verdicts),
        out / "claims.md": claims.table(verdicts),
        out / f"figure4_{budget}.csv": figure4.table(runs),
        **benchmark.texts(benchmark.planned(budget, out), out),
    }
    if readme is not None:
        found[readme] = _with_block(readme, _summary(out, budget, runs, verdicts))
        workspace = readme.with_name("WORKSPACE.md")
        found[workspace] = _with_block(workspace, _settings())
    return found


def _with_block(path: pathlib.Path, block: str) -> str:
    """Returns a file's text with its generated part replaced."""
    before, _, rest = path.read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n{block}{END}{rest.partition(END)[2]}"


def _settings() -> str:
    """Returns the table of settings, from their declarations."""
    rows = []
    for group in config.GROUPS:
        for field in group.own_fields():
            default = field.default
            text = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
            allowed, help_ = settings.allowed(field), field.metadata["help"]
            rows.append((f"`{field.name}`", help_, allowed, text, group.readers))
    return "\n".join(
        [*tables.markdown(("setting", "meaning", "allowed", "default", "read by"), rows), ""]
    )


def _summary(
    out: pathlib.Path,
    budget: str,
    runs: Sequence[batch.Run],
    verdicts: Mapping[str, claims.Verdict],
) -> str:
    """Returns README's answer to "does it reproduce?"."""
    papers = {name: v for name, v in verdicts.items() if name.startswith("C")}
    counts = {
        verdict: sum(v.verdict == verdict for v in papers.values())
        for verdict in (claims.HOLDS, claims.FAILS, claims.UNDECIDED, claims.UNKNOWN)
    }
    lines = [
        f"**Verdicts on the {len(papers)} claims: holds {counts[claims.HOLDS]}, does not hold "
        f"{counts[claims.FAILS]}, undecided {counts[claims.UNDECIDED]}, not enough data so far "
        f"{counts[claims.UNKNOWN]}** ([how each is judged, with its numbers]({out}/claims.md)). "
        f"{claims.SMALLER_BATCHES} Q1 to Q6 are questions beside the claims.",
        "",
        f"![Figure 4: learning curves]({out}/figure4_{budget}_iteration.png)",
        "",
        *tables.markdown(
            ("claim", "", "verdict", "by"),
            ((name, claims.statement(name), v.verdict, v.summary) for name, v in verdicts.items()),
        ),
        "",
        "Figure 4's final reward per time step, paper against here (mean over seeds of the last "
        "tenth of the iterations [Student's 95% interval]):",
        "",
        *tables.markdown(
            ("task", "paper, read off", "single path", "vine", "budget"), _figure4_rows(runs)
        ),
        "",
    ]
    lines += benchmark.summary(benchmark.planned(budget, out), out)
    table = out / "atari" / "table1.csv"
    if table.exists():
        lines += ["Table 1, paper against here:", "", *_atari_rows(table), ""]
    return "\n".join(lines)


def _figure4_rows(runs: Sequence[batch.Run]) -> Iterable[Sequence[str]]:
    for task, published in PAPER_FIGURE4.items():
        cells = [figure4.TITLES[task], published]
        budgets = []
        for algorithm in ("single_path", "vine"):
            found = figure4.best(runs, task, algorithm)
            if not found:
                begun = figure4.drawable(runs, task, algorithm)
                cells.append(f"{len(begun)} unfinished runs" if begun else "not run yet")
                continue
            cells.append(str(intervals.of_mean(figure4.final(found))))
            steps = np.mean([curves.read(_csv(run))["env_steps"][run.wanted - 1] for run in found])
            seeds = tables.counted(len(found), "seed")
            label = configs.ALGORITHMS[algorithm].label
            budgets.append(
                f"{label}: {seeds} × {found[0].wanted} iterations, {_count(steps)}"
                f"{_less_than_table_2(found[0].config)}"
            )
        yield (*cells, "; ".join(budgets))


def _less_than_table_2(run_config: config.Config) -> str:
    """Returns how much less data an iteration has than Table 2 says; nothing where it has as
    much."""
    field, what = (
        ("rollout_states", "rollout states")
        if run_config.sampler == "vine"
        else ("steps_per_iteration", "steps an iteration")
    )
    table_2 = presets.preset("paper", run_config.task, run_config.sampler)
    here, there = getattr(run_config, field), getattr(table_2, field)
    return "" if here == there else f", {here:,} {what} of Table 2's {there:,}"


def _atari_rows(table: pathlib.Path) -> list[str]:
    """Returns the paper's scores and ours, without what is normalized or a standard error."""
    rows = [
        row
        for row in tables.read_csv(table)
        if not row["score"].startswith("human-normalized") and "error" not in row["score"]
    ]
    head = ("", *configs.GAMES.values())
    return tables.markdown(
        head,
        (
            (
                ", ".join(
                    row[name]
                    for name in ("row", "budget", "score")
                    if row[name] not in ("not stated", "as published")
                ),
                *(row[game] or "" for game in configs.GAMES),
            )
            for row in rows
        ),
    )


def _results_readme(
    out: pathlib.Path,
    budget: str,
    runs: Sequence[batch.Run],
    verdicts: Mapping[str, claims.Verdict],
) -> str:
    """Returns the page of results/: figures, tables, and every setting with its command."""
    sections = [
        _claims_section(out, verdicts),
        _figure4_section(out, budget, runs),
        _swimmer_study(out / "swimmer_study"),
        benchmark.section(benchmark.planned(budget, out), out),
        _atari_section(out / "atari"),
        _films_section(out),
        _theory_section(out),
    ]
    return "\n".join(line for section in sections for line in section).rstrip() + "\n"


def _claims_section(out: pathlib.Path, verdicts: Mapping[str, claims.Verdict]) -> list[str]:
    """Returns the page's head and the claims with their curves."""
    lines = [
        "# Results",
        "",
        "`make report` writes this page from the files beside it. Every "
        "run's directory holds `metrics.csv` (columns: [WORKSPACE.md](../WORKSPACE.md#metrics)), "
        "`config.json` (settings, exact command, revision, versions) and `policy.npz`: "
        "`config, environment, policy = trpo_repro.load(DIRECTORY)`. An "
        "unfinished run that holds a checkpoint, `checkpoint-N.npz`, continues by its command with "
        "`--resume`. `python experiments/reproduce.py --list` says what is missing.",
        "",
        "## Claims",
        "",
        *claims.table(verdicts).splitlines(),
        "",
    ]
    for name, what in CLAIM_FIGURES.values():
        if (out / name).exists():
            lines += [f"![The curves that {what} are judged by]({name})", ""]
    return lines


def _figure4_section(out: pathlib.Path, budget: str, runs: Sequence[batch.Run]) -> list[str]:
    return [
        "## Figure 4",
        "",
        f"![Figure 4 against iterations](figure4_{budget}_iteration.png)",
        f"![Figure 4 against simulator steps](figure4_{budget}_env_steps.png)",
        "",
        "Final: mean over seeds of the last tenth of the iterations, reward per time step, with "
        "Student's 95% interval. Length: mean episode length at the end, in steps. Of a sweep the "
        "best is drawn. Where values have one seed and fewer iterations, these are the first "
        "of two rounds, which chooses the value for the second; the first seed counts in both, "
        "which favors the methods that are swept. Minutes are by the clock, beside other work and "
        "pauses included: they do not compare methods. The numbers are in "
        f"[figure4_{budget}.csv](figure4_{budget}.csv).",
        "",
        *tables.markdown(
            (
                "setting",
                "final",
                "length",
                "seeds × iterations",
                "steps",
                "minutes a run",
                "best of its sweep",
            ),
            [*_setting_rows(out, runs), *_setting_rows(out, _in_full(out, runs))],
        ),
        "",
        "The command of seed 1 of each, with `--seed` and `--out` to change:",
        "",
        "```sh",
        *(_command(run) for run in runs if run.config.seed == 1 and run.done),
        "```",
        "",
    ]


def _atari_section(directory: pathlib.Path) -> list[str]:
    if not (directory / "table1.md").exists():
        return []
    return [
        "## Atari",
        "",
        "A step is a decision, an action held for 4 frames. Scores are undiscounted and unclipped, "
        "by two rules: the last 100 training episodes, and 30 episodes of the final policy. "
        "`python experiments/atari.py --run`; each run's `config.json` has its own command.",
        "",
        "![Figure 5 against iterations](atari/figure5_iteration.png)",
        "![Figure 5 against decisions](atari/figure5_env_steps.png)",
        "",
        *(directory / "table1.md").read_text().splitlines(),
        "",
    ]


def _films_section(out: pathlib.Path) -> list[str]:
    """Returns the section that shows policies at work."""
    found = [name for name in configs.FILMS if (out / "films" / f"{name}.gif").exists()]
    if not found:
        return []
    commands = []
    for name in found:
        run, steps = configs.FILMS[name]
        commands.append(
            f"python experiments/watch.py --run=results/{run} --training --steps={steps} "
            f"--out=results/films/{name}.gif"
        )
    films = [f"![{name}](films/{name}.gif)" for name in found]
    return ["## Films", "", *films, "", "```sh", *commands, "```", ""]


def _theory_section(out: pathlib.Path) -> list[str]:
    lines = [
        "## Theory and variances",
        "",
        "| what | data | command |",
        "|---|---|---|",
    ]
    for path, command in (
        ("theory/violations.md", "theory.py --out=results/theory"),
        ("theory/state_weighting.csv", "theory.py --out=results/theory"),
        ("vine/common_random_numbers.csv", "common_random_numbers.py --out=results/vine"),
        ("vine/surrogate_variance.csv", "surrogate_variance.py --out=results/vine"),
        (
            "gradient_variance/gradient_variance.csv",
            "gradient_variance.py --out=results/gradient_variance",
        ),
        ("vine/vine_information.csv", "vine_information.py --out=results/vine"),
        ("kfac/kfac.csv", "kfac.py --out=results/kfac"),
    ):
        if (out / path).exists():
            name = pathlib.Path(path).stem.replace("_", " ")
            lines.append(f"| {name} | [{path}]({path}) | `python experiments/{command}` |")
    pictures = [
        path.relative_to(out)
        for folder in ("theory", "vine", "gradient_variance", "kfac")
        for path in sorted((out / folder).glob("*.png"))
    ]
    lines += ["", *(f"![{path.stem}]({path})" for path in pictures), ""]
    if (out / published_scores.FILE).exists():
        count = len(tables.read_csv(out / published_scores.FILE))
        name = published_scores.FILE
        lines.append(
            f"[{name}]({name}): {count} published scores, each with its source and protocol."
        )
    return lines


def _in_full(out: pathlib.Path, runs: Sequence[batch.Run]) -> list[batch.Run]:
    """Returns the runs that go beyond what the budget asks for, to Table 2's iterations."""
    beyond = [run for run in runs if run.stop_at is not None and not run.screening]
    return [dataclasses.replace(run, stop_at=None) for run in beyond]


def _setting_rows(out: pathlib.Path, runs: Sequence[batch.Run]) -> Iterable[Sequence[str]]:
    for found in figure4.finished_settings(runs):
        tables = [curves.read(_csv(run)) for run in found]
        last = [slice(run.wanted) for run in found]
        lengths = [t["episode_length"][s][-1] for t, s in zip(tables, last, strict=True)]
        steps = [t["env_steps"][s][-1] for t, s in zip(tables, last, strict=True)]
        minutes = [
            np.sum((t["seconds_sampling"] + t["seconds_update"])[s]) / 60
            for t, s in zip(tables, last, strict=True)
        ]
        first = found[0]
        is_swept = configs.ALGORITHMS[first.algorithm].sweep is not None
        directory = first.directory.parent.relative_to(out)
        yield (
            f"[{directory}]({directory})",
            str(intervals.of_mean(figure4.final(found))),
            f"{np.nanmean(lengths):.0f}",
            f"{len(found)} × {first.wanted}",
            _count(np.mean(steps)),
            f"{np.mean(minutes):.1f}",
            "yes" if is_swept and figure4.best(runs, first.task, first.algorithm) == found else "",
        )


def _swimmer_study(directory: pathlib.Path) -> list[str]:
    """Returns the section on which point's velocity swimmer is rewarded for."""
    path = directory / "judged.csv"
    if not path.exists():
        return []
    groups: dict[tuple[str, ...], list[float]] = {}
    for row in tables.read_csv(path):
        key = tuple(row[name] for name in ("rewarded", "algorithm", "discount", "judged_by"))
        groups.setdefault(key, []).append(float(row["reward_per_step"]))
    return [
        "## Swimmer: rewarded point and discount",
        "",
        "TRPO and CEM rewarded for the velocity of the root joint, as Gymnasium does, or of the "
        "center of mass; each final policy is judged by both rewards, per time step, in 50 "
        "episodes a seed, acting by samples (mean over seeds [Student's 95% interval]). CEM "
        "maximizes undiscounted returns. "
        "`python experiments/swimmer_study.py --run`.",
        "",
        "![Swimmer by rewarded point and discount](swimmer_study/curves.png)",
        "",
        *tables.markdown(
            ("rewarded point", "algorithm", "γ", "seeds", "judged by", "reward per time step"),
            (
                (*setting, str(len(scores)), judge, str(intervals.of_mean(np.array(scores))))
                for (*setting, judge), scores in groups.items()
            ),
        ),
        "",
    ]


def _command(run: batch.Run) -> str:
    """Returns the command that begins a run, to the iteration that its row is of."""
    sessions = json.loads((run.directory / "config.json").read_text())["sessions"]
    stop = "" if run.stop_at is None else f" --stop_at={run.stop_at}"
    command = re.sub(r" --stop_at=\d+", "", sessions[0]["command"]) if sessions else ""
    return command.replace(" --out=", f"{stop} --out=")


def _csv(run: batch.Run) -> pathlib.Path:
    return run.directory / "metrics.csv"


def _count(steps: float) -> str:
    return f"{steps / 1e6:.3g}M steps"
