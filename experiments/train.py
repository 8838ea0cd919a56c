"""Trains one policy, or several seeds, and draws the learning curve.

python experiments/train.py --task=swimmer --preset=paper --seed=1 --out=runs/swimmer_1

The run's directory is runs/TASK_ALGORITHM_SEED by default. With --seeds=1..5 the runs of several
seeds are in --out/seed_N, --jobs at a time: the same command continues those that are unfinished.
"""

import dataclasses
import pathlib

from absl import flags

from experiments import batch
from trpo_repro import config as config_lib
from trpo_repro.analysis import plots
from trpo_repro.commands import cli, train

flags.adopt_module_key_flags(train)
flags.declare_key_flag("jobs")
SEEDS = flags.DEFINE_string("seeds", None, "Run several seeds: 1..5, or 1,4,7.")


def seeds_from_flag() -> list[int]:
    """Returns the seeds of --seeds.

    Raises:
      ValueError: they are none, or another flag does not go with them.
    """
    text = str(SEEDS.value)
    first, dots, last = text.partition("..")
    numbers = [first, last] if dots else text.split(",")
    if not all(number.isdigit() for number in numbers):
        raise ValueError(f"--seeds={text} is not allowed: must be like 1..5 or 1,4,7")
    seeds = list(range(int(first), int(last) + 1)) if dots else [int(n) for n in numbers]
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds={text} is not allowed: must be different seeds, in order")
    for name in ("seed", "resume", "threads", "workers", "log_every"):
        if flags.FLAGS[name].present:
            raise ValueError(f"--{name} is not allowed with --seeds")
    return seeds


def run_seeds(config: config_lib.Config, seeds: list[int], out: pathlib.Path) -> None:
    """Makes the runs of several seeds, and draws their mean.

    Raises:
      ValueError: a run failed, or a directory holds a run of other settings.
    """
    planned = [
        batch.Run(
            config.task,
            config.algorithm,
            config.algorithm,
            dataclasses.replace(config, seed=seed),
            out / f"seed_{seed}",
            flags.FLAGS.stop_at,
            preset=flags.FLAGS.preset,
            evaluate_at=train.evaluated_iterations(config),
        )
        for seed in seeds
    ]
    for run in planned:
        run.check()
    batch.execute(lambda: planned, None)
    label = f"{config.algorithm}, {config.sampler}"
    curves = {config.task: {label: [run.directory for run in planned]}}
    plots.learning_curves(curves, out / "learning_curve.png")
    print(*(run.directory for run in planned), out / "learning_curve.png", sep="\n")


def main(arguments):
    if SEEDS.value is None:
        if batch.JOBS.present:
            cli.refuse("--jobs is not allowed without --seeds")
        train.main(arguments)
        return
    with cli.refused_errors():
        seeds = seeds_from_flag()
    config = train.begin()
    if config is None:
        return
    with cli.refused_errors():
        out = cli.output_directory(f"runs/{config.task}_{config.algorithm}")
        run_seeds(config, seeds, out)


if __name__ == "__main__":
    cli.run(main, lambda: train.help_text(__doc__, ("seeds", "jobs")))
