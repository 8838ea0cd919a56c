"""Trains one policy and draws its learning curve.

python experiments/train.py --task=swimmer --preset=paper --seed=1 --out=runs/swimmer_1

The run's directory is runs/TASK_ALGORITHM_SEED by default. With --seeds=1..5 the runs of several
seeds are in --out/seed_N, --jobs at a time: the same command continues those that are unfinished.
"""

import dataclasses
import json
import pathlib
import textwrap
from collections.abc import Callable
from typing import Any

from absl import flags

from experiments import batch, cli, configs
from trpo_repro import cluster, runs, settings
from trpo_repro import config as config_lib
from trpo_repro.analysis import plots
from trpo_repro.runs import checkpoint

flags.DEFINE_enum("preset", "paper", configs.PRESETS, "Settings that the other flags amend.")
flags.DEFINE_bool("resume", False, "Continue from the last checkpoint in --out.")
flags.DEFINE_integer(
    "stop_at", None, "Leave the run unfinished after this many iterations in all.", lower_bound=1
)
flags.DEFINE_list(
    "evaluate_at",
    [],
    "Iterations after which 100 episodes are played by samples and 100 by the policy's mode.",
)
flags.DEFINE_string("time_limit", None, "Save and end after this long: 90s, 30m or 2h.")
flags.DEFINE_string("seeds", None, "Run several seeds: 1..5, or 1,4,7.")
flags.DEFINE_float(
    "log_every",
    None,
    "Seconds between reports of progress; 60 without a terminal by default.",
    lower_bound=0.0,
)
flags.DEFINE_bool("show_config", False, "Print the settings of the run, in JSON, and end.")
flags.declare_key_flag("jobs")
OWN_FLAGS = (
    "preset",
    "resume",
    "stop_at",
    "evaluate_at",
    "time_limit",
    "seeds",
    "log_every",
    "show_config",
)


def _define(field: dataclasses.Field) -> None:
    """Defines the flag of a setting; its default is the preset's."""
    allowed = settings.allowed(field)
    help_ = field.metadata["help"] + (f"; {allowed}." if allowed else ".")
    kinds: dict[Any, Callable[..., object]] = {
        bool: flags.DEFINE_bool,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        float | None: flags.DEFINE_float,
        str: flags.DEFINE_string,
    }
    define = kinds.get(field.type, flags.DEFINE_list)
    define(field.name, config_lib.Config.task if field.name == "task" else None, help_)


for _field in dataclasses.fields(config_lib.Config):
    _define(_field)


def help_text() -> str:
    """Returns the flags by groups, each with its default for the task and preset that are given."""
    values = flags.FLAGS.flag_values_dict()
    start = configs.preset(values["preset"], values["task"], values["sampler"], values["algorithm"])
    lines = [
        __doc__.rstrip(),
        "",
        f"Defaults are those of --preset={values['preset']} for --task={values['task']}.",
    ]
    for name in (*OWN_FLAGS, "jobs", "out"):
        lines += _flag_lines(name, flags.FLAGS[name].default, flags.FLAGS[name].help)
    for group in config_lib.GROUPS:
        lines += ["", f"{group.title}, for {group.readers}:"]
        for field in group.own_fields():
            lines += _flag_lines(
                field.name, getattr(start, field.name), flags.FLAGS[field.name].help
            )
    return "\n".join(lines)


def _flag_lines(name: str, default: object, help_: str) -> list[str]:
    text = ",".join(map(str, default)) if isinstance(default, tuple) else default
    head = f"  --{name}" if default is None else f"  --{name}={text}"
    return [head, *textwrap.wrap(help_, 90, initial_indent=" " * 6, subsequent_indent=" " * 6)]


def config_from_flags() -> config_lib.Config:
    """Returns the preset's configuration with every given flag in place.

    Raises:
      ValueError: a value is not allowed, or would have no effect.
    """
    values = flags.FLAGS.flag_values_dict()
    given = {
        field.name: values[field.name]
        for field in dataclasses.fields(config_lib.Config)
        if values[field.name] is not None
    }
    if "hidden_sizes" in given:
        given["hidden_sizes"] = _whole_numbers("hidden_sizes", given["hidden_sizes"])
    start = configs.preset(
        values["preset"], given.pop("task"), given.get("sampler"), given.get("algorithm")
    )
    config = dataclasses.replace(start, **given)
    for name, readers in config_lib.unused_settings(config).items():
        if name in given:
            raise ValueError(f"--{name} has no effect here: it is for {readers}")
    return config


def _whole_numbers(name: str, texts: list[str]) -> tuple[int, ...]:
    texts = [text.strip() for text in texts if text]
    for text in texts:
        if not text.isdigit():
            raise ValueError(f"{name}={text} is not allowed: must be whole numbers, like 64,64")
    return tuple(map(int, texts))


def seeds_from_flag() -> list[int]:
    """Returns the seeds of --seeds.

    Raises:
      ValueError: they are none, or another flag does not go with them.
    """
    text = flags.FLAGS.seeds
    first, dots, last = text.partition("..")
    numbers = [first, last] if dots else text.split(",")
    if not all(number.isdigit() for number in numbers):
        raise ValueError(f"--seeds={text} is not allowed: must be like 1..5 or 1,4,7")
    seeds = list(range(int(first), int(last) + 1)) if dots else [int(n) for n in numbers]
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds={text} is not allowed: must be different seeds, in order")
    for name in ("seed", "resume"):
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
            evaluate_at=_whole_numbers("evaluate_at", flags.FLAGS.evaluate_at),
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


def main(_):
    try:
        config = config_from_flags()
        seeds = None if flags.FLAGS.seeds is None else seeds_from_flag()
        limit = flags.FLAGS.time_limit
        if limit is not None:
            cli.stop_after(cli.seconds(limit))
    except ValueError as error:
        cli.refuse(str(error))
    if flags.FLAGS.show_config:
        print(json.dumps(runs.read_fields(config), indent=2))
        return
    if seeds is not None:
        out = pathlib.Path(cli.OUT.value or f"runs/{config.task}_{config.algorithm}")
        try:
            run_seeds(config, seeds, out)
        except (ValueError, OSError) as error:
            cli.refuse(str(error))
        return
    name = f"{config.task}_{config.algorithm}_{config.seed}"
    directory = pathlib.Path(cli.OUT.value or f"runs/{name}")
    try:
        state = runs.run(
            config,
            directory,
            resume=flags.FLAGS.resume,
            stop_at=flags.FLAGS.stop_at,
            evaluate_at=_whole_numbers("evaluate_at", flags.FLAGS.evaluate_at),
            log_every=flags.FLAGS.log_every,
        )
    except (ValueError, checkpoint.CheckpointError, cluster.ClusterLostError) as error:
        cli.refuse(str(error))
    except OSError as error:
        cli.refuse(f"--out={directory} cannot be written: {error.strerror or error}")
    if state is not None and state.iteration:
        curve = {config.task: {f"{config.algorithm}, {config.sampler}": [directory]}}
        plots.learning_curves(curve, directory / "learning_curve.png")
    for file in (
        "metrics.csv",
        "config.json",
        "checkpoints",
        "tensorboard",
        "policy.npz",
        "learning_curve.png",
    ):
        if (directory / file).exists():
            print(directory / file)


if __name__ == "__main__":
    cli.run(main, help_text)
