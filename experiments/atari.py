"""Atari from pixels: Figure 5 and Table 1.

python experiments/atari.py --list --budget=medium
python experiments/atari.py --run --budget=medium --only='qbert/single_path/*'
python experiments/atari.py --plot --budget=medium

Runs are --out/GAME/SAMPLER/seed_N, with results/atari as default (runs/atari_smoke for smoke).
Finished runs are skipped, and interrupted ones continue. --plot plays 30 episodes with every new
final policy, draws Figure 5 and writes Table 1, with what there is.

A run's two scores: the mean undiscounted score of the last 100 training episodes, and of 30
episodes of the final stochastic policy. Rewards are never clipped in scores. Where a run ends at a
target return, the first score is just above the target by construction, the second is not.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from scipy import stats

from experiments import batch, configs, listing, published_scores
from trpo_repro import files, runs, training
from trpo_repro.analysis import curves, plots, tables
from trpo_repro.commands import cli

flags.adopt_module_key_flags(listing)

PUBLISHED = pathlib.Path("results") / published_scores.FILE
AXES = {
    **plots.LABELS,
    "env_steps": "decisions",
    "return_recent": "mean score of the last 100 games",
}
EPISODES = 30  # of an evaluation
EVALUATION_SEED = 10_000  # apart from the seeds of training
COLUMNS = ("row", "budget", "score", *configs.GAMES)
# Rows of the table that published_rows have published: source, algorithm → label.
PUBLISHED_ROWS = {
    ("TRPO paper Table 1", "Random"): "random",
    ("TRPO paper Table 1", "Human (Mnih 2013)"): "human",
    ("TRPO paper Table 1", "DQN (Mnih 2013)"): "DQN (Mnih et al. 2013)",
    ("TRPO paper Table 1", "UCC-I (Guo 2014)"): "UCC-I (Guo et al. 2014)",
    ("TRPO paper Table 1", "TRPO single path"): "paper, single path",
    ("TRPO paper Table 1", "TRPO vine"): "paper, vine",
    ("OpenAI baselines Atari10M", "TRPO (trpo_mpi)"): "OpenAI baselines TRPO",
}


LEVELS = ("random", "paper, single path")  # that Figure 5's curves are compared with


def planned(budget_name: str, out: pathlib.Path, only: str = "*") -> list[batch.Run]:
    """Returns the runs of a budget, in the order to run them.

    Args:
      budget_name: key of configs.ATARI_BUDGETS.
      out: where the games' directories are.
      only: glob of the runs' names.

    Raises:
      ValueError: nothing matches.
    """
    found = []
    for (game, sampler, seed), config in configs.atari_runs(budget_name).items():
        directory = out / game / sampler / f"seed_{seed}"
        stop_at = configs.ATARI_STOP_AT.get(budget_name, {}).get(sampler)
        found.append(batch.Run(game, sampler, sampler, config, directory, stop_at))
    return listing.matching(found, only)


def main(_):
    budget = listing.BUDGET.value
    default = "runs/atari_smoke" if budget == "smoke" else "results/atari"
    out = pathlib.Path(cli.OUT.value or default)
    listing.main(lambda only: planned(budget, out, only), lambda: plot(planned(budget, out), out))


def plot(chosen: Sequence[batch.Run], out: pathlib.Path) -> None:
    """Draws Figure 5, one panel a game, and writes Table 1, from the runs that were begun."""
    begun = [run for run in chosen if run.iterations]
    if not begun:
        raise ValueError(f"no run of the budget is in {out}; begin with --run")
    panels: dict[str, dict[str, list[pathlib.Path]]] = {}
    levels: dict[str, dict[str, float]] = {}
    published_rows = published(PUBLISHED)
    for game, name in configs.GAMES.items():
        runs = [run for run in begun if run.task == game]
        title = batch.panel_title(name, runs)
        for run in runs:
            panel = panels.setdefault(title, {})
            panel.setdefault(configs.ALGORITHMS[run.setting].label, []).append(run.directory)
        levels[title] = {row["row"]: row[game] for row in published_rows if row["row"] in LEVELS}
    for x in ("iteration", "env_steps"):
        file = out / f"figure5_{x}.png"
        plots.learning_curves(
            panels, file, x=x, y="return_recent", labels=AXES, levels=levels, columns=3
        )
        print(file)
    rows = [*published_rows, *measured_rows(begun)]
    scores = [row for row in rows if row["row"] not in ("random", "human")]
    rows += [normalized(row, rows) for row in scores if "error" not in row["score"]]
    titles = {**dict.fromkeys(COLUMNS[:3]), **configs.GAMES}
    head = [titles[name] or name for name in COLUMNS]
    lines = tables.markdown(head, ([row.get(name, "") for name in COLUMNS] for row in rows))
    files.write_text(out / "table1.csv", tables.csv_text(COLUMNS, rows))
    files.write_text(out / "table1.md", "\n".join(lines) + "\n")
    print(out / "table1.csv", out / "table1.md", sep="\n")


def published(path: pathlib.Path) -> list[dict]:
    """Returns rows of COLUMNS with the published scores of the paper's games.

    Raises:
      ValueError: one is not in the table.
    """
    table = tables.read_csv(path)
    rows = []
    for (source, algorithm), label in PUBLISHED_ROWS.items():
        row: dict[str, Any] = {"row": label, "score": "as published"}
        for game, title in configs.GAMES.items():
            for line in table:
                same = (line["source"], line["algorithm"]) == (source, algorithm)
                if same and _plain(line["env_id"]) == _plain(title):
                    row[game] = float(line["mean"])
                    row["budget"] = line["timesteps_or_budget"] or "not stated"
            if game not in row:
                raise ValueError(f"{path} lacks {title} of {source}, {algorithm}")
        rows.append(row)
    return rows


def _plain(name: str) -> str:
    """Returns a game's name without what sources write differently, Qbert-v4 or Q*bert."""
    letters = name.lower().partition("noframeskip")[0].partition("-v")[0]
    return "".join(letter for letter in letters if letter.isalnum())


def measured_rows(begun: Sequence[batch.Run]) -> list[dict]:
    """Returns rows of COLUMNS with our scores: two rules for each sampler and budget."""
    rows: dict[tuple, dict] = {}
    for run in begun:
        table = curves.read(run.directory / "metrics.csv")
        steps = batch.most_steps(run, 1) / 1e3
        budget = f"{run.iterations} × {steps:.3g}K decisions, seed {run.config.seed}"
        if (target := runs.load_config(run.directory).target_return) is not None:
            budget += f", until its mean score was above {target:g}"
        label = f"ours, {configs.ALGORITHMS[run.setting].label}"
        scores = {}
        if table["episodes"][-1] >= training.RECENT_EPISODES:
            scores["last 100 training episodes"] = table["return_recent"][-1]
        if run.done:
            played = evaluation(run)
            rule = f"{EPISODES} episodes of the final policy"
            scores[rule] = np.mean(played)
            scores[f"{rule}: standard error"] = stats.sem(played)
        for rule, score in scores.items():
            key = (label, budget, rule)
            row = rows.setdefault(key, dict(zip(COLUMNS[:3], key, strict=True)))
            row[run.task] = round(float(score), 1)
    return list(rows.values())


def evaluation(run: batch.Run) -> list[float]:
    """Returns the scores of EPISODES episodes of a finished run's policy, played only once."""
    path = run.directory / "evaluation.json"
    _, environment, policy = runs.load(run.directory)
    if path.exists():
        record = json.loads(path.read_text())
        if record["iteration"] == policy.iteration:
            return record["scores"]
    played = policy.play(environment, EPISODES, seed=EVALUATION_SEED)
    record = {
        "iteration": policy.iteration,
        "scores": played.returns.tolist(),
        "decisions": played.lengths.tolist(),
    }
    files.write_text(path, json.dumps(record) + "\n")
    return record["scores"]


def normalized(row: dict, rows: Sequence[dict]) -> dict:
    """Returns a row's scores as percentages of the way from random to human play."""
    random, human = (next(r for r in rows if r["row"] == name) for name in ("random", "human"))
    return {
        "row": row["row"],
        "budget": row["budget"],
        "score": f"human-normalized, %; {row['score']}",
        **{
            game: round(100 * (row[game] - random[game]) / (human[game] - random[game]), 1)
            for game in configs.GAMES
            if game in row
        },
    }


if __name__ == "__main__":
    cli.run(main)
