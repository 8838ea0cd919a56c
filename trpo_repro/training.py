"""The training loop: states are values, an iteration maps one to the next."""

import dataclasses
import json
import math
import pathlib
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

import numpy as np
import tqdm
from absl import logging

from trpo_repro import checkpoint, environments, metrics
from trpo_repro.algorithms import trust_region
from trpo_repro.estimation import baselines, returns, surrogates
from trpo_repro.policies import networks, normalization
from trpo_repro.policies import policy as policy_lib
from trpo_repro.randomness import Key, Purpose
from trpo_repro.sampling import single_path

RECENT_EPISODES = 100
PACKAGES = ("tensorflow", "keras", "tensorflow-probability", "numpy", "gymnasium", "mujoco")
FREE_ON_RESUME = ("iterations", "threads")  # a resumed run may change these


@dataclasses.dataclass(frozen=True)
class Config:
    """All that decides a run's numbers.

    Attributes:
      task: see `environments.task_names`.
      algorithm: see `trust_region.METHODS`.
      sampler: `single_path`.
      seed: of every random number.
      iterations: policy iterations.
      steps_per_iteration: environment steps of one iteration, all paths together.
      path_length: steps of each parallel path in one iteration.
      fresh_paths: start every iteration from s0 ~ ρ0; else go on from the last states.
      discount: γ.
      gae_lambda: λ of the advantages, with a baseline.
      baseline: `none` (paper), `linear` or `network`.
      hidden_sizes: units of the policy's hidden layers (and of a network baseline's).
      activation: of hidden layers.
      skip_inputs: leading observation columns that the policy does not see.
      initial_log_std: of Gaussian policies.
      normalize_observations: by running mean and deviation.
      kl_limit: δ, in nats.
      step_size: 1/λ of algorithms with a fixed step.
      cg_iterations: k.
      damping: multiple of the identity added to the Fisher matrix.
      fisher_fraction: of the states used for Fisher-vector products.
      backtrack_factor: of the line search.
      max_backtracks: of the line search.
      baseline_epochs: passes of Adam over a batch.
      baseline_minibatch: rows of one Adam step.
      baseline_learning_rate: of Adam.
      threads: simulator threads; 0 means all cores. Never changes a number.
    """

    task: str = "swimmer"
    algorithm: str = "trpo"
    sampler: str = "single_path"
    seed: int = 0
    iterations: int = 200
    steps_per_iteration: int = 50_000
    path_length: int = 1000
    fresh_paths: bool = True
    discount: float = 0.99
    gae_lambda: float = 1.0
    baseline: str = "none"
    hidden_sizes: tuple[int, ...] = (30,)
    activation: str = "softplus"
    skip_inputs: int = 0
    initial_log_std: float = 0.0
    normalize_observations: bool = False
    kl_limit: float = 0.01
    step_size: float = 0.1
    cg_iterations: int = 10
    damping: float = 0.0
    fisher_fraction: float = 0.1
    backtrack_factor: float = 0.8
    max_backtracks: int = 15
    baseline_epochs: int = 20
    baseline_minibatch: int = 128
    baseline_learning_rate: float = 1e-3
    threads: int = 0

    def __post_init__(self):
        _require_choice("task", self.task, environments.task_names())
        _require_choice("algorithm", self.algorithm, tuple(trust_region.METHODS))
        _require_choice("sampler", self.sampler, SAMPLERS)
        _require_choice("baseline", self.baseline, BASELINES)
        _require_choice("activation", self.activation, networks.ACTIVATIONS)
        for name in [
            "iterations",
            "steps_per_iteration",
            "path_length",
            "cg_iterations",
            "baseline_epochs",
            "baseline_minibatch",
        ]:
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("seed", "skip_inputs", "threads", "max_backtracks", "damping"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        for name in ("kl_limit", "step_size", "baseline_learning_rate"):
            value = getattr(self, name)
            _require(0 < value < math.inf, name, value, "positive and finite")
        for name in ("discount", "backtrack_factor"):
            value = getattr(self, name)
            _require(0 < value < 1, name, value, "between 0 and 1, both excluded")
        _require(0 <= self.gae_lambda <= 1, "gae_lambda", self.gae_lambda, "in [0, 1]")
        _require(
            0 < self.fisher_fraction <= 1, "fisher_fraction", self.fisher_fraction, "in (0, 1]"
        )
        _require(
            all(units >= 1 for units in self.hidden_sizes),
            "hidden_sizes",
            self.hidden_sizes,
            "positive",
        )
        _require(
            self.steps_per_iteration >= self.path_length,
            "steps_per_iteration",
            self.steps_per_iteration,
            f"at least one path: path_length={self.path_length}",
        )
        _require(
            self.steps_per_iteration % self.path_length == 0,
            "steps_per_iteration",
            self.steps_per_iteration,
            f"a multiple of path_length={self.path_length}",
        )

    @property
    def paths(self) -> int:
        """Parallel paths."""
        return self.steps_per_iteration // self.path_length

    @property
    def method(self) -> trust_region.Method:
        """The algorithm's row of the table with this configuration's numbers."""
        row = trust_region.METHODS[self.algorithm]
        numbers = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(row)
            if hasattr(self, field.name)
        }
        return dataclasses.replace(row, **numbers)


SAMPLERS = ("single_path",)
BASELINES = ("none", "linear", "network")


@dataclasses.dataclass(frozen=True)
class State:
    """All that a run's future depends on, besides its Config.

    Attributes:
      iteration: completed iterations.
      env_steps: environment steps simulated.
      episodes: episodes ended.
      theta: [P] policy parameters.
      environment: states to go on from, or None to start afresh.
      running_returns: [B] rewards so far of the episodes in `environment`.
      recent_returns: [≤ 100] undiscounted returns of the last episodes.
      normalizer: of observations, or None.
      baseline: arrays of the value function.
    """

    iteration: int
    env_steps: int
    episodes: int
    theta: np.ndarray
    environment: environments.EnvironmentStates | None
    running_returns: np.ndarray
    recent_returns: np.ndarray
    normalizer: normalization.ObservationNormalizer | None
    baseline: Mapping[str, np.ndarray]

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns everything as named arrays, for a checkpoint."""
        arrays = {
            "counters": np.array([self.iteration, self.env_steps, self.episodes]),
            "theta": self.theta,
            "running_returns": self.running_returns,
            "recent_returns": self.recent_returns,
        }
        groups: dict[str, Mapping[str, np.ndarray]] = {"baseline": self.baseline}
        if self.environment is not None:
            groups["environment"] = self.environment.to_arrays()
        if self.normalizer is not None:
            groups["normalizer"] = dataclasses.asdict(self.normalizer)
        for group, members in groups.items():
            arrays.update({f"{group}/{name}": array for name, array in members.items()})
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "State":
        """The inverse of `to_arrays`."""

        def group(prefix):
            return {
                name.removeprefix(f"{prefix}/"): array
                for name, array in arrays.items()
                if name.startswith(f"{prefix}/")
            }

        environment, normalizer = group("environment"), group("normalizer")
        iteration, env_steps, episodes = map(int, arrays["counters"])
        return cls(
            iteration,
            env_steps,
            episodes,
            theta=arrays["theta"],
            environment=environments.EnvironmentStates(**environment) if environment else None,
            running_returns=arrays["running_returns"],
            recent_returns=arrays["recent_returns"],
            normalizer=normalization.ObservationNormalizer(**normalizer) if normalizer else None,
            baseline=group("baseline"),
        )


class Trainer:
    """Maps training states to training states; holds compiled graphs and no state of a run."""

    def __init__(self, config: Config, environment: environments.Environment | None = None):
        """Builds environment, policy, baseline and update.

        Args:
          config: of the run.
          environment: in place of the one that `config.task` names.
        """
        self.config = config
        self.environment = environment or environments.make(
            config.task, threads=config.threads or None
        )
        space = self.environment.observation_space
        _require(
            config.skip_inputs < space.shape[0],
            "skip_inputs",
            config.skip_inputs,
            f"less than the {space.shape[0]} observation columns of {config.task}",
        )
        self.policy = policy_lib.multilayer_perceptron_policy(
            space,
            self.environment.action_space,
            hidden_sizes=config.hidden_sizes,
            activation=config.activation,
            seed=config.seed,
            skip_inputs=config.skip_inputs,
            initial_log_std=config.initial_log_std,
        )
        self.baseline = _make_baseline(config, space.shape[0])
        self._update = trust_region.PolicyUpdate(
            self.policy, surrogates.ImportanceSampled(), config.method
        )

    def initial_state(self) -> State:
        """Returns the state before the first iteration."""
        config = self.config
        columns = self.environment.observation_space.shape[0]
        normalizer = None
        if config.normalize_observations:
            normalizer = normalization.ObservationNormalizer.initial(columns)
        return State(
            iteration=0,
            env_steps=0,
            episodes=0,
            theta=self.policy.network.initial_parameters(),
            environment=None,
            running_returns=np.zeros(config.paths),
            recent_returns=np.zeros(0),
            normalizer=normalizer,
            baseline={} if self.baseline is None else self.baseline.initial_state(),
        )

    def iterate(self, state: State) -> tuple[State, dict[str, Any]]:
        """Returns the state after one policy iteration, and its row of metrics."""
        config = self.config
        key = Key(config.seed, state.iteration)
        normalize = state.normalizer or np.asarray
        started = time.perf_counter()
        fresh = config.fresh_paths or state.environment is None
        after_paths: environments.EnvironmentStates | None
        paths, after_paths = single_path.sample_paths(
            self.environment,
            self.policy,
            state.theta,
            key,
            steps=config.path_length,
            states=config.paths if state.environment is None else state.environment,
            normalize=normalize,
        )
        sampled = time.perf_counter()
        running = np.zeros(config.paths) if fresh else state.running_returns
        # Of fresh paths of full length only first episodes count: later ones that end in time
        # are the short ones.
        whole = fresh and config.path_length >= self.environment.max_episode_steps
        episodes = _episodes(paths, running, first_only=whole)

        if paths.finite:
            theta, report, baseline = self._learn(state, paths, key, normalize)
            normalizer = state.normalizer and state.normalizer.update(_flat(paths.observations))
        else:
            logging.error(
                "task %s, iteration %d: the environment returned a number that is not finite; "
                "no update",
                config.task,
                state.iteration + 1,
            )
            theta, baseline, normalizer = state.theta, state.baseline, state.normalizer
            report = {"outcome": trust_region.Outcome.NOT_FINITE}
            after_paths = None
            episodes["returns"] = episodes["returns"][np.isfinite(episodes["returns"])]
        updated = time.perf_counter()

        recent = np.concatenate([state.recent_returns, episodes["returns"]])[-RECENT_EPISODES:]
        carry = not config.fresh_paths and after_paths is not None
        after = State(
            iteration=state.iteration + 1,
            env_steps=state.env_steps + config.steps_per_iteration,
            episodes=state.episodes + episodes["count"],
            theta=theta,
            environment=after_paths if carry else None,
            running_returns=episodes["running"] if carry else np.zeros(config.paths),
            recent_returns=recent,
            normalizer=normalizer,
            baseline=baseline,
        )
        row = dict.fromkeys(metrics.COLUMNS, math.nan)
        row |= {name: value for name, value in report.items() if name in row}
        row |= _return_metrics(episodes, recent, self.environment.max_episode_steps)
        row |= {
            "iteration": after.iteration,
            "env_steps": after.env_steps,
            "episodes": after.episodes,
            "reward_mean": paths.rewards.mean(),
            "accepted": report["outcome"] is trust_region.Outcome.ACCEPTED,
            "outcome": report["outcome"].name.lower(),
            "seconds_sampling": sampled - started,
            "seconds_update": updated - sampled,
            "steps_per_second": config.steps_per_iteration / (updated - started),
        }
        return after, row

    def _learn(self, state, paths, key, normalize):
        """Returns (θ', report, baseline state) from finite trajectories."""
        config = self.config
        observations = normalize(_flat(paths.observations))
        elapsed = _flat(paths.elapsed)
        baseline = state.baseline
        if self.baseline is None:
            advantages = returns.discounted_sums(paths.rewards, paths.ends, config.discount)
            explained = math.nan
        else:
            values = self.baseline.predict(baseline, observations, elapsed)
            values = values.reshape(paths.rewards.shape)
            advantages = returns.generalized_advantages(
                paths.rewards,
                values,
                self._next_values(baseline, paths, values, normalize),
                paths.ends,
                config.discount,
                config.gae_lambda,
            )
            targets = values + advantages
            explained = 1.0 - np.var(targets - values) / max(np.var(targets), 1e-12)
            baseline = self.baseline.fit(
                baseline, observations, elapsed, _flat(targets), key.generator(Purpose.BASELINE_FIT)
            )
        rows = {
            "observations": observations,
            "actions": _flat(paths.actions),
            "advantages": _flat(returns.standardize(advantages)).astype(np.float32),
        }
        theta, report = self._update(state.theta, rows, key.generator(Purpose.FISHER_STATES))
        return theta, {**report, "explained_variance": explained}, baseline

    def _next_values(self, baseline, paths, values, normalize):
        """Returns V(s_{t+1}), [T, B]: 0 after termination, V of the state cut off at a cut."""
        assert self.baseline is not None
        following = np.concatenate([values[1:], np.zeros_like(values[:1])])
        following[paths.terminated] = 0.0
        t, b = np.nonzero(paths.cut)
        if len(t):
            following[t, b] = self.baseline.predict(
                baseline, normalize(paths.cut_observations), paths.elapsed[t, b] + 1
            )
        return following


def load_state(directory: pathlib.Path) -> State:
    """Returns the last state that a run's directory holds.

    Raises:
      CheckpointError: there is no readable one.
    """
    return State.from_arrays(checkpoint.load_latest(directory / "checkpoints"))


def iterations(trainer: Trainer, state: State) -> Iterator[tuple[State, dict[str, Any]]]:
    """Yields (state, metrics) after each iteration until the configured number is done."""
    while state.iteration < trainer.config.iterations:
        state, row = trainer.iterate(state)
        yield state, row


def run(config: Config, directory: pathlib.Path, *, resume: bool) -> State:
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
        trainer = Trainer(config)
        state = load_state(directory)
    else:
        if (directory / "config.json").exists():
            raise ValueError(f"{directory} already holds a run; pass --resume or another --out")
        trainer = Trainer(config)
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
        for after, row in iterations(trainer, state):
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


def _make_baseline(config: Config, observation_size: int) -> baselines.Baseline | None:
    if config.baseline == "linear":
        return baselines.LinearBaseline(observation_size)
    if config.baseline == "network":
        return baselines.NetworkBaseline(
            observation_size,
            hidden_sizes=config.hidden_sizes,
            activation=config.activation,
            discount=config.discount,
            epochs=config.baseline_epochs,
            minibatch_rows=config.baseline_minibatch,
            learning_rate=config.baseline_learning_rate,
            seed=config.seed,
        )
    return None


def _episodes(
    paths: single_path.Trajectories, running: np.ndarray, *, first_only: bool
) -> dict[str, Any]:
    """Returns what the episodes that ended in [T, B] steps earned.

    Args:
      paths: trajectories.
      running: [B] rewards of the first episodes before these steps.
      first_only: report only the first episode of each path.

    Returns:
      returns and lengths: [E], in the order of their ends; count of all that ended; running:
      [B] rewards so far of the episodes that have not ended.
    """
    earned = running[None] + np.cumsum(paths.rewards, axis=0)
    ended = paths.terminated | paths.truncated
    # What each path had earned at the end of its previous episode, at every time.
    at_end = np.where(ended, np.arange(len(ended))[:, None], -1)
    last_end = np.maximum.accumulate(at_end, axis=0)
    before = np.vstack([np.full((1, ended.shape[1]), -1), last_end[:-1]])
    columns = np.arange(ended.shape[1])[None]

    def base(index):
        return np.where(index < 0, 0.0, earned[index, columns])

    chosen = ended & (before < 0) if first_only else ended
    return {
        "returns": (earned - base(before))[chosen],
        "lengths": paths.elapsed[chosen] + 1,
        "count": int(ended.sum()),
        "running": (earned[-1:] - base(last_end[-1:]))[0],
    }


def _return_metrics(episodes, recent, max_episode_steps) -> dict[str, float]:
    """Returns the columns about episodes; those of an iteration without one are NaN."""
    row = {"return_recent": recent.mean() if len(recent) else math.nan}
    returned = episodes["returns"]
    if len(returned):
        row |= {
            "return_mean": returned.mean(),
            "return_min": returned.min(),
            "return_max": returned.max(),
            "episode_length": episodes["lengths"].mean(),
            "reward_per_step": returned.mean() / max_episode_steps,
        }
    return row


def _flat(array: np.ndarray) -> np.ndarray:
    """Returns [T, B, ...] as [T * B, ...]."""
    return array.reshape(-1, *array.shape[2:])


def _require(condition: bool, name: str, value: Any, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{name}={value} is not allowed: must be {allowed}")


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(choices)}")
