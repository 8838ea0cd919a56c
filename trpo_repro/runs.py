"""A run in a directory: config.json, metrics.csv, TensorBoard and checkpoints; exact resume."""

import dataclasses
import json
import pathlib
import platform
import signal
import subprocess
import sys
from importlib import metadata

import tqdm

from trpo_repro import checkpoint, metrics, training
from trpo_repro.config import Config

PACKAGES = ("tensorflow", "keras", "tensorflow-probability", "numpy", "gymnasium", "mujoco")
FREE_ON_RESUME = ("iterations", "threads")  # a resumed run may change these


def run(config: Config, directory: pathlib.Path, *, resume: bool) -> training.State:
    """Trains in a directory: config.json, metrics.csv, tensorboard/, checkpoints/.

    A checkpoint is written after every iteration. SIGINT and SIGTERM end the run at once with
    the last completed iteration saved.

    Args:
      config: of the run.
      directory: of the run.
      resume: go on from the directory's last checkpoint.

    Returns:
      The last state completed.

    Raises:
      ValueError: the directory holds another run, or none to resume.
      CheckpointError: no readable checkpoint.
      OSError: the directory cannot be written.
    """
    checkpoints = directory / "checkpoints"
    if resume:
        check_resumable(config, directory)
        trainer = training.Trainer(config)
        state = load_state(directory)
    else:
        if (directory / "config.json").exists():
            raise ValueError(f"{directory} already holds a run; pass --resume or another --out")
        trainer = training.Trainer(config)
        state = trainer.initial_state()
        checkpoint.save(checkpoints, 0, state.to_arrays())
        checkpoint.write_text(directory / "config.json", _describe(config))

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    writer = metrics.Writer(directory, state.iteration)
    progress = tqdm.tqdm(
        initial=state.iteration,
        total=config.iterations,
        unit="iteration",
        desc=f"{config.task} {config.algorithm} seed {config.seed}",
        dynamic_ncols=True,
        mininterval=1.0,
    )
    try:
        for after, row in training.iterations(trainer, state):
            writer.write(row)
            state = after
            checkpoint.save(checkpoints, state.iteration, state.to_arrays())
            progress.set_postfix_str(
                f"return {row['return_recent']:.4g}, KL {row['mean_kl']:.3g}, "
                f"{row['steps_per_second']:.0f} steps/s"
            )
            progress.update()
    except KeyboardInterrupt:
        checkpoint.save(checkpoints, state.iteration, state.to_arrays())
        message = f"stopped; {state.iteration} iterations saved; go on with --resume"
        progress.write(message, file=sys.stderr)
    finally:
        progress.close()
        writer.close()
    return state


def load_state(directory: pathlib.Path) -> training.State:
    """Returns the last state that a run's directory holds.

    Raises:
      CheckpointError: there is no readable one.
    """
    return training.State.from_arrays(checkpoint.load_latest(directory / "checkpoints"))


def check_resumable(config: Config, directory: pathlib.Path) -> None:
    """Raises ValueError unless the directory's run has this configuration."""
    path = directory / "config.json"
    if not path.exists():
        raise ValueError(f"{directory} holds no run to resume")
    saved = json.loads(path.read_text())["config"]
    asked = json.loads(json.dumps(dataclasses.asdict(config)))
    differing = [
        f"{name} is {saved.get(name)!r} there and {asked.get(name)!r} here"
        for name in sorted(saved.keys() | asked.keys())
        if saved.get(name) != asked.get(name) and name not in FREE_ON_RESUME
    ]
    if differing:
        raise ValueError(
            f"{directory} holds a run of another configuration: {'; '.join(differing)}"
        )


def _describe(config: Config) -> str:
    """Returns config.json: configuration, command, revision, versions."""
    script = pathlib.Path(sys.argv[0])
    record = {
        "config": dataclasses.asdict(config),
        "command": " ".join(["python", f"{script.parent.name}/{script.name}", *sys.argv[1:]]),
        "git_revision": _git_revision(),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in PACKAGES},
        },
    }
    return json.dumps(record, indent=2) + "\n"


def _git_revision() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    directory = pathlib.Path(__file__).parent
    try:
        result = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()
