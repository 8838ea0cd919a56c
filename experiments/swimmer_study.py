"""Why swimmer plateaus: the point whose velocity is rewarded, against the discount factor.

python experiments/swimmer_study.py --run --jobs=2
python experiments/swimmer_study.py --plot

TRPO (single path) and CEM on the paper's swimmer, rewarded for the velocity of its root joint, as
Gymnasium does, or of its center of mass; discount factors 0.99, 0.995 and 0.9999; 3 seeds of 50
iterations. CEM maximizes undiscounted returns: no discount changes it. Runs are
--out/TASK/SETTING/seed_N, with results/swimmer_study as default. --plot draws the learning curves
and writes a table, in which both rewards judge 50 episodes of every final policy; a policy that the
table has is not judged again (delete judged.csv to have all judged anew).
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence

from absl import flags

from experiments import batch, configs, listing
from trpo_repro import environments, files, runs
from trpo_repro.analysis import plots, tables
from trpo_repro.commands import cli

flags.adopt_module_key_flags(listing)

REWARDED = {"swimmer_root_joint": "root joint", "swimmer": "center of mass"}
EPISODES = 50
EVALUATION_SEED = 2**31 - 1  # no run's
COLUMNS = (
    "rewarded", "algorithm", "discount", "seed", "policy", "judged_by", "reward_per_step",
)  # fmt: skip


def planned(budget: str, out: pathlib.Path, only: str = "*") -> list[batch.Run]:
    """Returns the runs of the study, seed by seed.

    Args:
      budget: `smoke`, or any other for the study itself.
      out: where the tasks' directories are.
      only: glob of the runs' names.

    Raises:
      ValueError: nothing matches.
    """
    found = []
    for seed in range(1, 2 if budget == "smoke" else 4):
        for task in REWARDED:
            for setting, config in configs.swimmer_study(task, budget).items():
                algorithm = "cem" if setting == "cem" else "single_path"
                directory = out / task / setting / f"seed_{seed}"
                seeded = dataclasses.replace(config, seed=seed)
                found.append(batch.Run(task, setting, algorithm, seeded, directory))
    return listing.matching(found, only)


def main(_):
    smoke = listing.BUDGET.value == "smoke"
    default = "runs/swimmer_study_smoke" if smoke else "results/swimmer_study"
    out = pathlib.Path(cli.OUT.value or default)
    listing.main(
        lambda only: planned(listing.BUDGET.value, out, only),
        lambda: plot(planned(listing.BUDGET.value, out), out),
    )


def plot(chosen: Sequence[batch.Run], out: pathlib.Path) -> None:
    """Draws the learning curves and writes the table of judged policies."""
    panels: dict[str, dict[str, list[pathlib.Path]]] = {}
    table = out / "judged.csv"
    old = tables.read_csv(table) if table.exists() else []
    known = {
        (row["policy"], row["judged_by"]): row["reward_per_step"]
        for row in old
        if tuple(row) == COLUMNS
    }
    rows = []
    for task, setting in dict.fromkeys((run.task, run.setting) for run in chosen):
        found = batch.finished(chosen, task, setting)
        if not found:
            continue
        is_search = setting == "cem"
        discount = "none" if is_search else found[0].config.discount
        label = "CEM, undiscounted" if is_search else f"TRPO γ = {discount}"
        title = f"rewarded: velocity of the {REWARDED[task]}"
        panels.setdefault(title, {})[label] = [run.directory for run in found]
        name = "cem" if is_search else "trpo"
        for run in found:
            contents = (run.directory / "policy.npz").read_bytes()
            policy = hashlib.sha256(contents).hexdigest()[:12]
            for judge, judged_by in REWARDED.items():
                score = known.get((policy, judged_by)) or judged(run, judge)
                cells = (REWARDED[task], name, discount, run.config.seed, policy, judged_by, score)
                rows.append(dict(zip(COLUMNS, cells, strict=True)))
    if not rows:
        raise ValueError(f"no finished runs in {out}; see --list")
    plots.learning_curves(panels, out / "curves.png", y="reward_per_step")
    files.write_text(table, tables.csv_text(COLUMNS, rows))
    print(out / "curves.png", table, sep="\n")


def judged(run: batch.Run, task: str) -> float:
    """Returns the mean reward per time step of a run's final policy in a task."""
    environment = environments.make(task)
    policy = runs.load(run.directory).policy
    played = policy.play(environment, EPISODES, seed=EVALUATION_SEED)
    return float(played.returns.mean() / environment.max_episode_steps)


if __name__ == "__main__":
    cli.run(main)
