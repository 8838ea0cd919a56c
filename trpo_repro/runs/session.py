"""A session of a run in its directory: from start or resume to the end, or to a signal."""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import pathlib
import shutil
import signal
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import tqdm
from absl import logging

from trpo_repro import environments, files, signals, training
from trpo_repro.config import BLACK_BOX, Config, unused_settings
from trpo_repro.runs import checkpoint, evaluations, metrics, provenance, saved_policies

HALF = "policy_half.npz"  # the policy after half of the iterations that a session was asked for

# A resumed run may change these.
FREE_ON_RESUME = ("iterations", "target_return", "threads", "workers", "ray_address")
_DEFAULTS = Config()


def run(
    config: Config,
    directory: pathlib.Path | str,
    *,
    resume: bool = False,
    replace: bool = False,
    stop_at: int | None = None,
    evaluate_at: Collection[int] = (),
    command: Sequence[str] | None = None,
    log_every: float | None = None,
) -> training.State | None:
    """Trains in a directory: config.json, metrics.csv, tensorboard/, checkpoints/, policy.npz.

    A checkpoint is written after every iteration. SIGINT and SIGTERM end the session at once with
    the last completed iteration saved. Every session but a killed one leaves the policy; if the run
    is unfinished, also its checkpoint in one compressed file beside metrics.csv, from which any
    copy of the directory can be resumed.

    Args:
      config: configuration of the run.
      directory: directory of the run.
      resume: continue from the directory's last checkpoint.
      replace: a new run takes the place of the one that the directory holds.
      stop_at: leave the run unfinished after this many iterations in all.
      evaluate_at: iterations after which 100 episodes are played by samples of the policy and 100
        by its most probable actions; evaluation.csv has a row of each.
      command: command of the session, for the record; this process's own when None.
      log_every: seconds between reports of progress at least; when None, 1 on a terminal and 60
        elsewhere.

    Returns:
      The last state completed; None if a signal came before there was one.

    Raises:
      ValueError: the directory holds another run, or none to resume.
      CheckpointError: no readable checkpoint.
      ClusterLostError: Ray's cluster ended; the run can be resumed.
      OSError: the directory cannot be written.
    """
    directory = pathlib.Path(directory)
    checkpoints, digest = directory / "checkpoints", _digest(config)
    state = None
    with contextlib.ExitStack() as stack:
        caught = stack.enter_context(signals.interrupting())
        try:
            trainer, state, evaluated = _start(
                config, directory, stack, resume, replace, command, evaluate_at
            )
            writer = metrics.Writer(directory, state.iteration)
            stack.callback(writer.close)
            progress = _Progress(config, state.iteration, log_every)
            stack.callback(progress.close)
            outcomes: collections.Counter[str] = collections.Counter()
            stack.callback(_warn_of_refusals, outcomes)
            for after, row in training.iterations(trainer, state, stop_at):
                outcomes[row["outcome"]] += 1
                evaluated.after(trainer, after)
                with signals.held(caught):
                    if training.ended(config, after) or after.iteration == stop_at:
                        # Before the last line of metrics.csv, which tells that the run is done.
                        saved_policies.save_policy(directory / "policy.npz", trainer.policy, after)
                    writer.write(row)
                    state = after
                    if state.iteration == (stop_at or config.iterations) // 2:
                        saved_policies.save_policy(directory / HALF, trainer.policy, state)
                    checkpoint.save(checkpoints, state.iteration, state.to_arrays(), run=digest)
                progress.report(row)
            with signals.held(caught):
                _leave(config, directory, trainer, state)
        except BaseException as error:
            # A library's compiled code may turn the KeyboardInterrupt into an error of its own.
            if not (caught or isinstance(error, KeyboardInterrupt)):
                if state is not None:
                    with contextlib.suppress(OSError):  # what failed may be the disk
                        _leave(config, directory, trainer, state)
                raise
            with signals.handled(signal.SIG_IGN):
                if state is not None:
                    checkpoint.save(checkpoints, state.iteration, state.to_arrays(), run=digest)
                    _leave(config, directory, trainer, state)
                done = state.iteration if state else "no"
                message = f"stopped; {done} iterations saved; continue with --resume"
                tqdm.tqdm.write(message, file=sys.stderr)
    return state


class _Progress:
    """A bar on a terminal; elsewhere a line now and then."""

    def __init__(self, config: Config, completed_iterations: int, log_every: float | None):
        self._name = f"{config.task} {config.algorithm} seed {config.seed}"
        self._total = config.iterations
        is_terminal = sys.stderr.isatty()
        self._every = (1.0 if is_terminal else 60.0) if log_every is None else log_every
        self._reported = time.monotonic()
        self._bar = tqdm.tqdm(
            initial=completed_iterations,
            total=config.iterations,
            unit="iteration",
            desc=self._name,
            dynamic_ncols=True,
            mininterval=self._every,
            disable=not is_terminal,
        )

    def report(self, row: Mapping[str, Any]) -> None:
        """Reports an iteration by its row of metrics."""
        kl = f"KL {row['mean_kl']:.3g}, " if "mean_kl" in row else ""
        text = f"return {row['return_recent']:.4g}, {kl}{row['steps_per_second']:.0f} steps/s"
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update()
        now, last = time.monotonic(), row["iteration"] == self._total
        if self._bar.disable and (last or now - self._reported >= self._every):
            self._reported = now
            print(f"{self._name}: {row['iteration']} of {self._total}, {text}", file=sys.stderr)

    def close(self) -> None:
        self._bar.close()


def _leave(
    config: Config,
    directory: pathlib.Path,
    trainer: training.Trainer | training.BlackBoxTrainer,
    state: training.State,
) -> None:
    """Writes what a run's directory holds between sessions."""
    saved_policies.save_policy(directory / "policy.npz", trainer.policy, state)
    if training.ended(config, state) and checkpoint.exist(directory / "checkpoints"):
        checkpoint.delete(directory)
    else:
        checkpoint.save(
            directory,
            state.iteration,
            state.to_arrays(),
            run=_digest(config),
            kept=1,
            compressed=True,
        )


def _start(
    config: Config,
    directory: pathlib.Path,
    stack: contextlib.ExitStack,
    resume: bool,
    replace: bool,
    command: Sequence[str] | None,
    evaluate_at: Collection[int],
) -> tuple[training.Trainer | training.BlackBoxTrainer, training.State, evaluations.Evaluations]:
    """Returns trainer, first state and evaluations; a new run's directory is made, and a session
    recorded, after all checks passed.

    The stack closes the trainer and gives the directory free.
    """
    record = _allowed_record(config, directory, resume, replace)
    if resume:
        for name in ("iterations", "target_return"):
            before, now = record["config"].get(name), getattr(config, name)
            if before != now:
                logging.warning("%s was %s before and is %s now", name, before, now)
    trainer = training.make_trainer(config)
    stack.callback(trainer.close)
    checkpoints = directory / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    stack.enter_context(files.locked(directory))
    # Asked before, to refuse at once; and now, for another process may have been at work since.
    record = _allowed_record(config, directory, resume, replace)
    for path in (directory, checkpoints):
        files.delete_unfinished(path)
    if resume:
        state = _load_state(directory, config, trainer.environment)
    else:
        state = trainer.initial_state()
    session = provenance.describe_session(state.iteration, command)
    if not resume:
        _clear(directory)
        checkpoint.save(checkpoints, 0, state.to_arrays(), run=_digest(config))
    evaluated = evaluations.Evaluations(config, directory, evaluate_at, state.iteration)
    if training.ended(config, state):
        raised = "--iterations" if config.target_return is None else "--iterations, --target_return"
        message = f"{directory} ended after {state.iteration} iterations; raise {raised}"
        tqdm.tqdm.write(message, file=sys.stderr)
        return trainer, state, evaluated
    _warn_of_short_paths(config, trainer.environment.max_episode_steps)
    if config.is_gymnasium and not config.fresh_paths:
        logging.warning(
            "states of %s cannot be saved: resumed, the run begins new episodes", config.task
        )
    for before in record["sessions"][-1:]:
        if before["versions"] != session["versions"]:
            logging.warning("%s: library versions have changed; numbers may differ", directory)
    record = {"config": read_fields(config), "sessions": [*record["sessions"], session]}
    files.write_text(directory / "config.json", json.dumps(record, indent=2) + "\n")
    return trainer, state, evaluated


def _allowed_record(
    config: Config, directory: pathlib.Path, resume: bool, replace: bool
) -> dict[str, Any]:
    """Returns the record that the run goes on with; ValueError if it may not begin, or resume."""
    if resume:
        return check_resumable(config, directory)
    if (directory / "config.json").exists() and not replace:
        raise ValueError(
            f"{directory} already holds a run: resume it (--resume; resume=True), or choose another"
        )
    return {"sessions": []}


def _clear(directory: pathlib.Path) -> None:
    """Deletes what a run before has left."""
    for name in ("config.json", "metrics.csv", "policy.npz", HALF, evaluations.FILE):
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / "tensorboard", ignore_errors=True)
    for place in (directory, directory / "checkpoints"):
        checkpoint.delete(place)


def _warn_of_short_paths(config: Config, limit: int) -> None:
    whole = config.algorithm in BLACK_BOX or config.path_length >= limit
    if config.fresh_paths and not whole:
        logging.warning(
            "path_length=%d is shorter than the time limit of %d: returns are reported only of "
            "episodes that end within a path",
            config.path_length,
            limit,
        )


def _warn_of_refusals(outcomes: collections.Counter[str]) -> None:
    """Warns where most updates of a session were refused: such a run learns little."""
    refused = {name: count for name, count in outcomes.items() if name != "accepted"}
    if sum(refused.values()) > outcomes.total() / 2:
        reasons = ", ".join(f"{name}: {count}" for name, count in refused.items())
        logging.warning(
            "%d of %d updates were refused (%s)",
            sum(refused.values()),
            outcomes.total(),
            reasons,
        )


def load_state(directory: pathlib.Path, config: Config | None = None) -> training.State:
    """Returns the last state that a run's directory holds.

    Args:
      directory: directory of the run.
      config: configuration of the run; states of another count as damaged. None takes any.

    Raises:
      ValueError: there is no run, or its record is damaged.
      CheckpointError: there is no usable one.
    """
    environment = training.make_environment(config or load_config(directory))
    return _load_state(directory, config, environment)


def _load_state(
    directory: pathlib.Path, config: Config | None, environment: environments.Environment
) -> training.State:
    run = None if config is None else _digest(config)
    arrays = checkpoint.load_latest(directory / "checkpoints", directory, run=run)
    return training.State.from_arrays(arrays, environment.states_type)


class LoadedRun(NamedTuple):
    """A run of the past, to use.

    Attributes:
      config: its configuration.
      environment: a new environment of its task.
      policy: the policy that it left.
    """

    config: Config
    environment: environments.Environment
    policy: saved_policies.TrainedPolicy


def load(
    directory: pathlib.Path | str, *, policy_file: str = "policy.npz", drawn: bool = False
) -> LoadedRun:
    """Returns what a run's directory holds.

    Args:
      directory: directory of the run.
      policy_file: name of the policy's file there.
      drawn: whether Gymnasium's environments are made so that they can be drawn.

    Raises:
      ValueError: there is no run, or its files are damaged.
      OSError: its policy cannot be read.
    """
    directory = pathlib.Path(directory)
    config = load_config(directory)
    shown = config
    if drawn and config.is_gymnasium:
        arguments = {**json.loads(config.env_kwargs), "render_mode": "rgb_array"}
        shown = dataclasses.replace(config, env_kwargs=json.dumps(arguments))
    environment = training.make_environment(shown, only_played=True)
    policy = training.make_policy(config, environment)
    path = directory / policy_file
    trained = saved_policies.load_policy(path, policy, normalized=config.normalize_observations)
    return LoadedRun(config, environment, trained)


def load_config(directory: pathlib.Path) -> Config:
    """Returns a run's configuration; what its record lacks has its default value.

    Raises:
      ValueError: there is no run, or its record is damaged.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise ValueError(f"{directory} holds no run")
    record = load_record(path)["config"]
    unknown = sorted(record.keys() - {field.name for field in dataclasses.fields(Config)})
    if unknown:
        raise ValueError(f"{path} has settings that this version does not know: {unknown}")
    try:
        return Config(**record)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def can_resume(directory: pathlib.Path) -> bool:
    """Whether a run's directory holds a checkpoint."""
    return checkpoint.exist(directory / "checkpoints", directory)


def check_resumable(config: Config, directory: pathlib.Path) -> dict[str, Any]:
    """Returns a run's config.json; ValueError unless the run has this configuration."""
    path = directory / "config.json"
    if not path.exists():
        raise ValueError(f"{directory} holds no run to resume")
    record = load_record(path)
    asked = _asked(config)
    # What a run knew nothing of has its default value.
    saved = {**_as_json(vars(_DEFAULTS)), **record["config"]}
    differing = [
        f"{name} is {saved[name]!r} there and {asked[name]!r} here"
        for name in sorted(asked)
        if saved[name] != asked[name] and name not in FREE_ON_RESUME
    ]
    if differing:
        raise ValueError(
            f"{directory} holds a run of another configuration: {'; '.join(differing)}; move it "
            "away, or give another --out"
        )
    return record


def load_record(path: pathlib.Path) -> dict[str, Any]:
    """Returns a config.json: the settings that its run reads, by name, and its sessions.

    Raises:
      ValueError: it is damaged.
    """
    try:
        record = json.loads(path.read_text())
        dicts = [record["config"], *(session["versions"] for session in record["sessions"])]
        if not all(isinstance(members, dict) for members in dicts):
            raise TypeError("config and versions must be objects")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    return record


@functools.lru_cache(maxsize=4096)  # experiments ask of the same runs again and again
def _asked(config: Config) -> dict[str, Any]:
    return _as_json(read_fields(config))


def _as_json(fields: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(fields))


def _digest(config: Config) -> str:
    """Returns a digest of what decides a run's states: what it reads and may not change.

    Settings with their default value are left out, so that a new one changes no digest.
    """
    defaults = vars(_DEFAULTS)
    fields = {
        name: value
        for name, value in read_fields(config).items()
        if value != defaults[name] and name not in FREE_ON_RESUME
    }
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def read_fields(config: Config) -> dict[str, Any]:
    """Returns the fields that a run of the configuration reads."""
    unread = unused_settings(config)
    return {name: v for name, v in vars(config).items() if name not in unread}
