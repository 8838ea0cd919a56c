"""Searches settings with Optuna, on several tasks and seeds at once.

python experiments/tune.py --tasks=Hopper-v5,Walker2d-v5 --seeds=11,12 --trials=30 --out=runs/tune

The preset's own runs come first. A trial's value is the mean over tasks and seeds of what it gained
over the untrained policy, in units of what the preset gained. The gain is of the mean return of the
last 100 episodes. Trials go in stages of equal length and are pruned where their
value is below the median of the earlier trials' at that stage. The same command continues a search
that was stopped. --out gets journal.log (Optuna's storage), trials.csv, importance.png and
best.json, whose commands train with the best settings. The search space is SPACE below.

Needs `make install-tune`.
"""

import dataclasses
import json
import logging
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from absl import flags
from matplotlib import figure, ticker

import trpo_repro.commands.quiet  # noqa: F401, before what imports TensorFlow
from trpo_repro import environments, files, presets, training
from trpo_repro.analysis import tables
from trpo_repro.commands import cli
from trpo_repro.config import Config

TASKS = flags.DEFINE_list("tasks", ["Hopper-v5"], "Tasks to tune for.")
SEEDS = flags.DEFINE_list("seeds", ["11", "12"], "Seeds of every trial; others than you report.")
TRIALS = flags.DEFINE_integer("trials", 20, "Trials in all.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 300_000, "Environment steps of a run.", lower_bound=1)
STAGES = flags.DEFINE_integer("stages", 5, "Stages of a trial.", lower_bound=1)
flags.declare_key_flag("out")

# Setting of preset `gae` → (lowest, highest, whether on a logarithmic scale), or its choices.
SPACE: dict[str, tuple[float, float, bool] | list[Any]] = {
    "kl_limit": (0.003, 0.03, True),
    "discount": [0.98, 0.99, 0.995, 0.999],
    "gae_lambda": (0.9, 0.99, False),
    "damping": (0.01, 0.3, True),
    "steps_per_iteration": [2048, 4096, 8192],
    "baseline_learning_rate": (3e-4, 3e-3, True),
}


def main(_):
    seeds = [int(seed) for seed in SEEDS.value if seed.isdigit()]
    if len(seeds) < len(SEEDS.value) or not seeds:
        cli.refuse(f"--seeds={','.join(SEEDS.value)} is not allowed: must be like 11,12")
    with cli.refused_errors():
        for task in TASKS.value:
            environments.check_task(task)
        starts = [presets.preset("gae", task) for task in TASKS.value]
    try:
        import optuna
    except ImportError:
        cli.refuse("Optuna is not installed: make install-tune")
    out = cli.output_directory("runs/tune")
    # Every trial traces its graphs anew, as it must.
    logging.getLogger("tensorflow").setLevel("ERROR")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name="trpo",
        direction="maximize",
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(out / "journal.log"))
        ),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
        load_if_exists=True,
    )
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))
    asked = {"tasks": TASKS.value, "seeds": seeds, "steps": STEPS.value, "stages": STAGES.value}
    if study.user_attrs.setdefault("asked", asked) != asked:
        cli.refuse(f"{out} holds a search of {study.user_attrs['asked']}; give another --out")
    study.set_user_attr("asked", asked)
    reference = study.user_attrs.get("reference")
    if reference is None:
        runs = [_Run(dataclasses.replace(start, seed=seed)) for start in starts for seed in seeds]
        for run in runs:
            run.advance(STEPS.value)
        reference = [run.gain for run in runs]
        named = [start.task for start in starts for _ in seeds]
        for task, gain in zip(named, reference, strict=True):
            if not gain > 0:
                cli.refuse(
                    f"the preset gains nothing on {task} in --steps={STEPS.value}: there is no "
                    "unit to measure by; give more steps"
                )
        study.set_user_attr("reference", reference)
        print(f"the preset gains {', '.join(f'{gain:.4g}' for gain in reference)}", flush=True)

    def objective(trial):
        chosen = {name: _suggested(trial, name) for name in SPACE}
        runs = [
            _Run(dataclasses.replace(start, seed=seed, **chosen))
            for start in starts
            for seed in seeds
        ]
        for stage in range(STAGES.value):
            for run in runs:
                run.advance(STEPS.value * (stage + 1) // STAGES.value)
            value = float(np.mean([run.gain for run in runs] / np.array(reference)))
            trial.report(value, stage)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    def progress(_, trial):
        text = "pruned" if trial.value is None else f"{trial.value:.3f}"
        print(f"trial {trial.number}: {text}", flush=True)

    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    missing = TRIALS.value - len(study.get_trials(states=ended))
    study.optimize(objective, n_trials=max(0, missing), callbacks=[progress])
    if not study.get_trials(states=ended[:1]):
        cli.refuse(f"no trial of {out} is complete: raise --trials")
    _write(study, out, optuna)


def _suggested(trial, name: str):
    space = SPACE[name]
    if isinstance(space, list):
        return trial.suggest_categorical(name, space)
    low, high, logarithmic = space
    return trial.suggest_float(name, low, high, log=logarithmic)


class _Run:
    """A run in memory.

    Attributes:
      gain: mean return of the last 100 episodes over that of the first iteration's.
    """

    def __init__(self, config: Config):
        # As many iterations as the steps take.
        self._trainer = training.make_trainer(dataclasses.replace(config, iterations=10**9))
        self._state = self._trainer.initial_state()
        self._first = math.nan
        self.gain = 0.0

    def advance(self, steps: int) -> None:
        """Iterates until the run has so many environment steps."""
        while self._state.env_steps < steps:
            self._state, row = self._trainer.iterate(self._state)
            if math.isnan(self._first):
                self._first = row["return_recent"]
            self.gain = float(np.nan_to_num(row["return_recent"] - self._first))


def _write(study, out: pathlib.Path, optuna) -> None:
    """Writes trials.csv, best.json and importance.png."""
    finished = [trial for trial in study.trials if trial.value is not None]
    columns = ("trial", "state", "value", *SPACE)
    rows = [
        {"trial": t.number, "state": t.state.name.lower(), "value": t.value, **t.params}
        for t in study.trials
    ]
    files.write_text(out / "trials.csv", tables.csv_text(columns, rows))
    best = study.best_trial
    settings = " ".join(f"--{name}={value}" for name, value in best.params.items())
    commands = [
        f"python experiments/train.py --task={task} --preset=gae {settings}" for task in TASKS.value
    ]
    record = {"value": best.value, "settings": best.params, "commands": commands}
    files.write_text(out / "best.json", json.dumps(record, indent=2) + "\n")
    written = ["trials.csv", "best.json"]
    if len(finished) >= 4:  # fewer say nothing of importance
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        importance = optuna.importance.get_param_importances(study, evaluator=evaluator)
        _draw(importance, finished, out / "importance.png")
        written.append("importance.png")
    print(*(out / name for name in written), sep="\n")


def _draw(importance: Mapping[str, float], trials: Sequence[Any], file: pathlib.Path) -> None:
    """Draws the importance of every setting, and the trials' values against it."""
    names = sorted(importance, key=lambda name: -importance[name])
    canvas = figure.Figure(figsize=(4 * len(names) / 2, 7), layout="constrained")
    grid = canvas.subplots(2, -(-len(names) // 2), squeeze=False)
    values = [trial.value for trial in trials]
    for axes, name in zip(grid.flat, names, strict=False):
        axes.plot([trial.params[name] for trial in trials], values, "o", color="C0")
        space = SPACE[name]
        if isinstance(space, list):
            axes.set_xticks(space, [f"{choice:g}" for choice in space])
        elif space[2]:
            axes.set_xscale("log")
            ticks = np.geomspace(*space[:2], 3)
            axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
            axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.axhline(1, color="gray", linestyle="--")
        axes.set(xlabel=name, ylabel="gain / preset's gain", title=f"{importance[name]:.0%}")
        axes.grid(alpha=0.3)
    for axes in grid.flat[len(names) :]:
        axes.remove()
    canvas.suptitle("importance of each setting (PED-ANOVA); dashed: the preset", fontsize=10)
    canvas.savefig(file, dpi=150)


if __name__ == "__main__":
    cli.run(main)
