"""Trains one policy and draws its learning curve.

trpo-train --task=swimmer --preset=paper --seed=1 --out=runs/swimmer_1

The run's directory is runs/TASK_ALGORITHM_SEED by default.
"""

import dataclasses
import errno
import json
import pathlib
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

import trpo_repro.commands.quiet  # noqa: F401, before what imports TensorFlow
from trpo_repro import cluster, presets, runs, settings
from trpo_repro import config as config_lib
from trpo_repro.analysis import plots
from trpo_repro.commands import cli
from trpo_repro.runs import checkpoint

flags.declare_key_flag("out")
flags.DEFINE_enum("preset", "paper", presets.PRESETS, "Settings that the other flags amend.")
flags.DEFINE_bool(
    "resume",
    False,
    "Continue from the last checkpoint in --out, with its settings where no --task is given.",
)
flags.DEFINE_integer(
    "stop_at", None, "Leave the run unfinished after this many iterations in all.", lower_bound=1
)
flags.DEFINE_list(
    "evaluate_at",
    [],
    "Iterations, like 49,98, after which 100 episodes are played by samples of the policy and 100 "
    "by its most probable actions; --resume needs them again.",
)
flags.DEFINE_string("time_limit", None, "Save and end after this long: 90s, 30m or 2h.")
flags.DEFINE_float(
    "log_every",
    None,
    "Seconds between reports of progress; 60 without a terminal by default.",
    lower_bound=0.0,
)
flags.DEFINE_bool("show_config", False, "Print the settings of the run, in JSON, and end.")
LOSSES = (checkpoint.CheckpointError, cluster.ClusterLostError, ChildProcessError)
OWN_FLAGS = (
    "preset",
    "resume",
    "stop_at",
    "evaluate_at",
    "time_limit",
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


def help_text(head: str = __doc__, names: Sequence[str] = ()) -> str:
    """Returns the flags by groups, each with its default for the task and preset that are given.

    Args:
      head: what the command is.
      names: flags of its own besides OWN_FLAGS.
    """
    values = flags.FLAGS.flag_values_dict()
    start = presets.preset(values["preset"], values["task"], values["sampler"], values["algorithm"])
    lines = [
        head.rstrip(),
        "",
        f"Defaults are those of --preset={values['preset']} for --task={values['task']}.",
    ]
    for name in (*OWN_FLAGS, *names, "out"):
        lines += _flag_lines(name, flags.FLAGS[name].default or None, flags.FLAGS[name].help)
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

    With --resume and no preset or task, the run's own record takes the preset's place.

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
    is_named = any(flags.FLAGS[name].present for name in ("task", "preset"))
    if values["resume"] and values["out"] and not is_named:
        start = runs.load_config(pathlib.Path(values["out"]))
        del given["task"]
    else:
        start = presets.preset(
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


def evaluated_iterations(config: config_lib.Config) -> tuple[int, ...]:
    """Returns the iterations of --evaluate_at.

    Raises:
      ValueError: they are none of the run's.
    """
    numbers = _whole_numbers("evaluate_at", flags.FLAGS.evaluate_at)
    for number in numbers:
        if not 1 <= number <= config.iterations:
            raise ValueError(
                f"evaluate_at={number} is not allowed: must be of the iterations 1 to "
                f"{config.iterations}"
            )
    return numbers


def begin() -> config_lib.Config | None:
    """Returns the configuration that the flags ask for; --time_limit runs from now.

    With --show_config it is printed, and there is nothing more to do: None. Bad input ends the
    process with one line.
    """
    try:
        config = config_from_flags()
        evaluated_iterations(config)
        stop_at = flags.FLAGS.stop_at
        if stop_at is not None:
            most = f"at most iterations={config.iterations}"
            settings.require(stop_at <= config.iterations, "stop_at", stop_at, most)
        limit = flags.FLAGS.time_limit
        if limit is not None:
            cli.stop_after(cli.seconds(limit))
    except ValueError as error:
        cli.refuse(str(error))
    if not flags.FLAGS.show_config:
        return config
    print(json.dumps(runs.read_fields(config), indent=2))
    return None


def main(_):
    config = begin()
    if config is None:
        return
    name = f"{config.task}_{config.algorithm}_{config.seed}"
    directory = pathlib.Path(cli.OUT.value or f"runs/{name}")
    try:
        state = runs.run(
            config,
            directory,
            resume=flags.FLAGS.resume,
            stop_at=flags.FLAGS.stop_at,
            evaluate_at=evaluated_iterations(config),
            log_every=flags.FLAGS.log_every,
        )
    except (ValueError, *LOSSES) as error:
        cli.refuse(str(error))
    except OSError as error:
        whole = directory.resolve()
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            cli.refuse(str(error))
        place = pathlib.Path(error.filename or whole).resolve()
        if not (place.is_relative_to(whole) or whole.is_relative_to(place)):
            cli.refuse(str(error))
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


def trpo_train() -> None:
    """The console script `trpo-train`."""
    cli.run(main, help_text)


if __name__ == "__main__":
    trpo_train()
