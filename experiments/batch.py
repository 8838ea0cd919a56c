"""Launch and resume many runs, here or on a cluster; finished runs are skipped."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import tqdm
from absl import flags

import trpo_repro.commands.quiet  # noqa: F401, before what imports TensorFlow
from trpo_repro import cluster, config, presets, runs, signals
from trpo_repro.analysis import curves

JOBS = flags.DEFINE_integer(
    "jobs",
    None,
    "Runs at a time, which share the cores; 1 by default, on a cluster as many as it has cores.",
    lower_bound=1,
)


STEPS_PER_SECOND = 15_000  # of one core, where nothing has been measured


class Job(Protocol):
    """What `execute` runs."""

    @property
    def name(self) -> str: ...

    @property
    def label(self) -> str:
        """What tells it from other jobs, the same run asked for more iterations among them."""

    @property
    def done(self) -> bool: ...

    @property
    def steps(self) -> tuple[int, int]:
        """Environment steps done and asked for, at most."""

    @property
    def log(self) -> pathlib.Path:
        """What it prints."""

    def job(self, cores: int) -> tuple[Callable[..., None], *tuple[Any, ...]]:
        """Returns the function that does what is missing with so many cores, and its arguments.

        Raises:
          ValueError: it cannot be done.
        """


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of the experiment.

    Attributes:
      task: task of the experiment.
      setting: name of an algorithm, with the value of its swept field if it has one.
      algorithm: key of configs.ALGORITHMS.
      config: configuration of the run.
      directory: directory of the run.
      stop_at: iterations that the experiment asks for, of the configuration's; None for all.
      screening: the run only helps to choose the value of a sweep.
      preset: preset of presets.PRESETS, that the command amends.
      evaluate_at: iterations after which the policy is evaluated.
    """

    task: str
    setting: str
    algorithm: str
    config: config.Config
    directory: pathlib.Path
    stop_at: int | None = None
    screening: bool = False
    preset: str = "paper"
    evaluate_at: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.task}/{self.setting}/seed_{self.config.seed}"

    @property
    def log(self) -> pathlib.Path:
        """What the run prints."""
        return self.directory / "train.log"

    @property
    def label(self) -> str:
        """The name, with the iterations asked for: a run can be asked for more than once."""
        return f"{self.name} to {self.wanted}"

    @property
    def arguments(self) -> list[str]:
        """Flags of experiments/train.py: what differs from the task's preset."""
        start = presets.preset(self.preset, self.task, self.config.sampler, self.config.algorithm)
        unread = config.unused_settings(self.config)
        changed = {
            field.name: getattr(self.config, field.name)
            for field in dataclasses.fields(self.config)
            if getattr(self.config, field.name) != getattr(start, field.name)
            and field.name not in unread
        }
        if self.config.sampler == "vine":
            changed = {"sampler": "vine", **changed}
        if self.config.algorithm != "trpo":
            changed = {"algorithm": self.config.algorithm, **changed}
        if self.preset != "paper":
            changed = {"preset": self.preset, **changed}
        if self.stop_at is not None:
            changed["stop_at"] = self.stop_at
        if self.evaluate_at:
            changed["evaluate_at"] = ",".join(map(str, self.evaluate_at))
        named = {"task": self.task, **changed, "seed": self.config.seed, "out": self.directory}
        return [f"--{name}={value}" for name, value in named.items()]

    @property
    def command(self) -> list[str]:
        """What makes the run by itself."""
        return ["python", "experiments/train.py", *self.arguments]

    @property
    def wanted(self) -> int:
        """Iterations that the experiment asks for."""
        return self.config.iterations if self.stop_at is None else self.stop_at

    @property
    def iterations(self) -> int:
        """Iterations that metrics.csv holds."""
        try:
            with (self.directory / "metrics.csv").open() as file:
                return max(0, sum(line.endswith("\n") for line in file) - 1)
        except FileNotFoundError:
            return 0

    @property
    def done(self) -> bool:
        """Whether the iterations asked for are there, or those that reached the target return.

        Raises:
          ValueError: the directory holds a run of another configuration, or one that says none.
        """
        if self.iterations:
            runs.check_resumable(self.config, self.directory)
        target, policy = self.config.target_return, self.directory / "policy.npz"
        if target is not None and runs.saved_iteration(policy) == self.iterations > 0:
            reached = curves.read(self.directory / "metrics.csv")["return_recent"][-1]
            return reached > target or self.iterations >= self.wanted
        return self.iterations >= self.wanted

    @property
    def steps(self) -> tuple[int, int]:
        """Environment steps done and asked for, at most; what a target return spared is done."""
        total = most_steps(self, self.wanted)
        return total if self.done else most_steps(self, self.iterations), total

    def job(self, cores: int) -> tuple[Callable[..., None], *tuple[Any, ...]]:
        self.check()
        share: dict[str, Any] = {"threads": cores}
        if self.config.is_atari:
            share = {"workers": cores if cores > 1 else 0}
        shared = dataclasses.replace(self.config, **share)
        return _train, shared, self.directory, self.stop_at, self.evaluate_at, self.command

    def check(self) -> None:
        """Raises ValueError if the directory holds a run that can be neither used nor resumed."""
        if not (self.directory / "config.json").exists():
            return
        runs.check_resumable(self.config, self.directory)
        if not self.done and not runs.can_resume(self.directory):
            raise ValueError(
                f"{self.directory} has {self.iterations} of {self.wanted} iterations "
                "and no checkpoint to resume from: move it away, or give another --out"
            )


@dataclasses.dataclass(frozen=True)
class Script:
    """An experiment that is one script, run as a whole.

    Attributes:
      name: name of the experiment.
      command: script and arguments; the script is of this tree, whatever the working directory is.
      outputs: files that it leaves.
      minutes: minutes that it takes on one core.
      python: interpreter, this one's by default.
    """

    name: str
    command: tuple[str, ...]
    outputs: tuple[pathlib.Path, ...]
    minutes: float
    python: str = sys.executable

    @property
    def label(self) -> str:
        return self.name

    @property
    def log(self) -> pathlib.Path:
        return pathlib.Path("runs") / f"{self.name.replace('/', '_')}.log"

    @property
    def done(self) -> bool:
        return all(output.exists() for output in self.outputs)

    @property
    def steps(self) -> tuple[int, int]:
        """Done and asked for, as if they were environment steps."""
        total = int(self.minutes * 60 * STEPS_PER_SECOND)
        return total * self.done, total

    def job(self, cores: int) -> tuple[Callable[..., None], *tuple[Any, ...]]:
        return _run_script, self.python, self.command, self.log


def _run_script(python: str, command: Sequence[str], log: pathlib.Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file, signals.interrupting():
        script = pathlib.Path(__file__).parent.parent / command[0]
        subprocess.run([python, str(script), *command[1:]], stdout=file, stderr=file, check=True)


class LocalPool:
    """Runs in processes of this machine, which share its cores.

    Attributes:
      jobs: number of runs at a time.
      cores: cores of a run.
    """

    def __init__(self, jobs: int):
        self.jobs = jobs
        self.cores = max(1, len(os.sched_getaffinity(0)) // jobs)
        self._pool = self._started()

    def _started(self):
        spawn = multiprocessing.get_context("spawn")
        return concurrent.futures.ProcessPoolExecutor(self.jobs, spawn, initializer=_begin_worker)

    def submit(self, function: Callable[..., None], *arguments: Any) -> concurrent.futures.Future:
        """Returns the future of a call; a pool that a killed worker broke is started again."""
        try:
            return self._pool.submit(function, *arguments)
        except concurrent.futures.BrokenExecutor:
            self._pool.shutdown()
            self._pool = self._started()
            return self._pool.submit(function, *arguments)

    def interrupt(self, futures: Collection[concurrent.futures.Future]) -> None:
        """Stops the runs, which save, and waits for them."""
        while True:  # again for a worker that had not begun its run yet
            for child in multiprocessing.active_children():
                with contextlib.suppress(ProcessLookupError):
                    # Not SIGINT, of which a worker that still imports would print a traceback.
                    os.kill(
                        child.pid,  # type: ignore[arg-type]
                        signal.SIGTERM,
                    )
            if not concurrent.futures.wait(futures, timeout=5).not_done:
                return

    def close(self) -> None:
        """Ends the processes."""
        self._pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    # The terminal's Ctrl-C is kept from the workers: `interrupt` passes it on.
    os.setpgrp()
    # An idle worker that dies takes the lock of the pool's queue with it, for which the others
    # then wait for ever. A run handles the signal, and an idle worker ends by the pool's own word.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class ClusterPool:
    """Runs on a Ray cluster whose nodes share this file system, one core each.

    Attributes:
      jobs: number of runs at a time.
      cores: cores of a run.
    """

    def __init__(self, address: str, jobs: int | None):
        self._cluster = cluster.Cluster(address)
        self.jobs = jobs or self._cluster.cores
        self.cores = 1
        self._references: dict[concurrent.futures.Future, Any] = {}

    def submit(self, function: Callable[..., None], *arguments: Any) -> concurrent.futures.Future:
        """Returns the future of a call, which Ray runs again if it loses the node."""
        reference = self._cluster.submit(_in_directory, os.getcwd(), function, *arguments)
        future = reference.future()
        self._references[future] = reference
        return future

    def interrupt(self, futures: Collection[concurrent.futures.Future]) -> None:
        """Stops the runs, which save, and waits for them."""
        self._cluster.cancel([self._references[future] for future in futures], seconds=30)

    def close(self) -> None:
        """Leaves the cluster."""
        self._cluster.close()


def _in_directory(directory: str, function: Callable[..., None], *arguments: Any) -> None:
    os.chdir(directory)  # on the shared file system
    function(*arguments)


def execute(plan: Callable[[], Sequence[Job]], address: str | None) -> None:
    """Runs what is missing here or on a cluster, with one progress bar over all.

    Ctrl-C stops the runs, which save; the same command resumes them.

    Args:
      plan: () → the runs in the order to run them; asked again whenever a worker is free, since
        what has been run may decide what comes next.
      address: address of a Ray cluster; this machine when None or empty.

    Raises:
      ValueError: a run failed, or there is no cluster at the address.
    """
    chosen = plan()
    missing = [run for run in chosen if not run.done]
    print(f"{len(chosen) - len(missing)} of {len(chosen)} runs are done")
    if not missing:
        return
    pool = ClusterPool(address, JOBS.value) if address else LocalPool(JOBS.value or 1)
    tried: set[str] = set()
    failed = []
    lost: collections.Counter[str] = collections.Counter()
    active: dict[concurrent.futures.Future, Job] = {}
    progress = tqdm.tqdm(
        desc="all runs",
        unit=" steps",
        unit_scale=True,
        dynamic_ncols=True,
        smoothing=0.05,
        mininterval=1.0 if sys.stderr.isatty() else 60.0,
    )

    def tally():
        """Sets the bar's total; returns the steps done, those of active runs aside."""
        largest: dict[pathlib.Path, Job] = {}
        for run in chosen:  # of a run asked for more than once, the most
            if run.log not in largest or run.steps[1] > largest[run.log].steps[1]:
                largest[run.log] = run
        progress.total = sum(run.steps[1] for run in largest.values())
        busy = {run.log for run in active.values()}
        return sum(run.steps[0] for log, run in largest.items() if log not in busy)

    def next_job():
        """Takes the first missing job whose directory no active one writes to; None if none."""
        busy = {run.log for run in active.values()}
        for i, run in enumerate(missing):
            if run.log not in busy:
                return missing.pop(i)
        return None

    finished_steps = progress.n = progress.initial = progress.last_print_n = tally()
    try:
        with progress, signals.interrupting():
            while missing or active:
                while len(active) < pool.jobs and (run := next_job()) is not None:
                    tried.add(run.label)
                    try:
                        function, *arguments = run.job(pool.cores)
                    except ValueError as refusal:
                        failed.append(run)
                        tqdm.tqdm.write(f"{run.name}: {refusal}")
                        continue
                    active[pool.submit(function, *arguments)] = run
                    finished_steps = tally()
                ended, _ = concurrent.futures.wait(
                    active, timeout=1.0, return_when="FIRST_COMPLETED"
                )
                for future in ended:
                    run, error = active.pop(future), future.exception()
                    if isinstance(error, concurrent.futures.BrokenExecutor) and not lost[run.label]:
                        # A killed process takes the pool with it, and all of its runs.
                        lost[run.label] += 1
                        tried.remove(run.label)
                        tqdm.tqdm.write(f"{run.name}: its process was killed; it is resumed")
                    elif error or not run.done:
                        failed.append(run)
                        tqdm.tqdm.write(f"{run.name} failed: {error or 'stopped'}; see {run.log}")
                if ended:
                    chosen = plan()
                    missing = [run for run in chosen if not (run.done or run.label in tried)]
                    finished_steps = tally()
                progress.n = finished_steps + sum(run.steps[0] for run in active.values())
                names = ", ".join(run.name for run in active.values())
                progress.set_postfix_str(f"{len(missing)} runs to go after {names}", refresh=False)
                progress.update(0)
    except KeyboardInterrupt:
        pool.interrupt(active)
        raise
    finally:
        pool.close()
    if failed:
        raise ValueError(f"{len(failed)} runs failed: {', '.join(run.name for run in failed)}")


def panel_title(name: str, drawn: Sequence[Run]) -> str:
    """Returns the title of a figure's panel, which says if one of its runs is unfinished."""
    if all(run.done for run in drawn):
        return name
    return f"{name}\nunfinished: fewer than {max(run.wanted for run in drawn)} iterations"


def most_steps(run: Run, iterations: int) -> int:
    """Returns the environment steps of so many iterations, at most."""
    asked = run.config
    if asked.algorithm in config.BLACK_BOX:
        return iterations * asked.population * asked.episodes_per_candidate * 1000
    if asked.sampler == "vine":
        branches = asked.rollout_states * asked.rollouts_per_state * asked.rollout_length
        branches = min(branches, asked.branch_steps or branches)
        return iterations * (asked.trunks * asked.path_length + branches)
    return iterations * asked.steps_per_iteration


def _train(
    settings: config.Config,
    directory: pathlib.Path,
    stop_at: int | None,
    evaluate_at: tuple[int, ...],
    command: list[str],
) -> None:
    """Makes or resumes a run in this worker; what it prints goes to train.log."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "train.log").open("a") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    runs.run(
        settings,
        directory,
        resume=(directory / "config.json").exists(),
        stop_at=stop_at,
        evaluate_at=evaluate_at,
        command=command,
    )


def finished(chosen: Sequence[Run], task: str, setting: str) -> list[Run]:
    """Returns the finished runs of a setting, by seed, those of a first round aside."""
    return [
        run
        for run in chosen
        if (run.task, run.setting, run.screening) == (task, setting, False) and run.done
    ]
