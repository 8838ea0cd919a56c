"""The training loop: states are values, an iteration maps one to the next."""

import dataclasses
import functools
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from absl import logging

from trpo_repro import config as config_lib
from trpo_repro import environments, metrics, settings
from trpo_repro.algorithms import policy_update, weighted_regression
from trpo_repro.estimation import baselines, estimators
from trpo_repro.optimization import chunks, trust_region
from trpo_repro.policies import normalization
from trpo_repro.policies import policy as policy_lib
from trpo_repro.randomness import Key, Purpose
from trpo_repro.sampling import episodes as episodes_lib
from trpo_repro.sampling import single_path, vine, workers

RECENT_EPISODES = 100
PIXEL_CHUNK_ROWS = 256  # the convolutions' activations then stay in the third-level cache


@dataclasses.dataclass(frozen=True)
class State:
    """All that a run's future depends on, besides its configuration.

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
      search: arrays of a black-box algorithm.
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
    search: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns everything as named arrays, for a checkpoint."""
        arrays = {
            "counters": np.array([self.iteration, self.env_steps, self.episodes]),
            "theta": self.theta,
            "running_returns": self.running_returns,
            "recent_returns": self.recent_returns,
        }
        groups: dict[str, Mapping[str, np.ndarray]] = {
            "baseline": self.baseline,
            "search": self.search,
        }
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
            environment=environments.states_from_arrays(environment) if environment else None,
            running_returns=arrays["running_returns"],
            recent_returns=arrays["recent_returns"],
            normalizer=normalization.ObservationNormalizer(**normalizer) if normalizer else None,
            baseline=group("baseline"),
            search=group("search"),
        )


class Trainer:
    """Maps training states to training states; holds compiled graphs and no state of a run."""

    def __init__(
        self, config: config_lib.Config, environment: environments.Environment | None = None
    ):
        """Builds environment, policy, baseline and update.

        Args:
          config: of the run.
          environment: in place of the one that `config.task` names.
        """
        self.config = config
        self.environment = environment or make_environment(config)
        self.policy = make_policy(config, self.environment)
        self.baseline = _make_baseline(config, self.environment.observation_space.shape[0])
        self.sampler: single_path.SinglePathSampler | vine.VineSampler
        self._estimator: estimators.Estimator
        if config.sampler == "vine":
            self.sampler = vine.VineSampler(config, self.environment)
            self._estimator = estimators.VineEstimator(config, self.policy)
        else:
            self.sampler = single_path.SinglePathSampler(config)
            self._estimator = estimators.SinglePathEstimator(config, self.baseline)
        stacked_frames = self.environment.frame_stack > 1
        self._update: policy_update.PolicyUpdate | weighted_regression.WeightedRegression
        if isinstance(config.method, weighted_regression.Method):
            self._update = weighted_regression.WeightedRegression(self.policy, config.method)
        else:
            self._update = policy_update.PolicyUpdate(
                self.policy,
                self._estimator.surrogate,
                config.method,
                separate_kl_states=self._estimator.separate_kl_states,
                weighted_states=config.state_weighting == "discounted",
                stacked_frames=stacked_frames,
                chunk_rows=PIXEL_CHUNK_ROWS if stacked_frames else chunks.CHUNK_ROWS,
            )
        self._workers: workers.Workers = workers.InProcess(self.environment, self.policy)
        if config.workers:
            if environment is not None:
                raise ValueError("workers make their own environments: workers must be 0 with one")
            build = functools.partial(_build, config)
            useful = min(config.workers, config.shards)
            self._workers = workers.RayWorkers(build, useful, config.ray_address)

    def close(self) -> None:
        """Ends the sampling workers."""
        self._workers.close()

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
        tasks = self.sampler.tasks(None if fresh else state.environment, key, normalize)
        sample = self.sampler.join(self._workers.map(state.theta, tasks))
        sampled = time.perf_counter()
        paths = sample.paths
        running = np.zeros(config.paths) if fresh else state.running_returns
        # Of fresh paths of full length only first episodes count: later ones that end in time
        # are the short ones.
        whole = fresh and config.path_length >= self.environment.max_episode_steps
        episodes = episodes_lib.ended_episodes(paths, running, first_only=whole)

        if sample.finite:
            estimate = self._estimator(
                sample, state.baseline, normalize, key.generator(Purpose.BASELINE_FIT)
            )
            theta, report = self._update(
                state.theta,
                self._read(estimate.rows),
                key.generator(Purpose.FISHER_STATES),
                estimate.kl_rows and self._read(estimate.kl_rows),
            )
            report = {**report, "explained_variance": estimate.explained_variance}
            baseline = estimate.baseline
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
            finite = np.isfinite(episodes.returns)
            episodes = dataclasses.replace(
                episodes, returns=episodes.returns[finite], lengths=episodes.lengths[finite]
            )
        updated = time.perf_counter()

        recent = np.concatenate([state.recent_returns, episodes.returns])[-RECENT_EPISODES:]
        carry = not config.fresh_paths and sample.finite
        after = State(
            iteration=state.iteration + 1,
            env_steps=state.env_steps + sample.steps,
            episodes=state.episodes + episodes.count,
            theta=theta,
            environment=sample.after if carry else None,
            running_returns=episodes.running if carry else np.zeros(config.paths),
            recent_returns=recent,
            normalizer=normalizer,
            baseline=baseline,
        )
        row = dict.fromkeys(metrics.COLUMNS, math.nan)
        row |= {name: value for name, value in report.items() if name in row}
        row |= return_metrics(
            episodes.returns, episodes.lengths, recent, self.environment.max_episode_steps
        )
        row |= {
            "iteration": after.iteration,
            "env_steps": after.env_steps,
            "episodes": after.episodes,
            "reward_mean": paths.rewards.mean(),
            "accepted": report["outcome"] is trust_region.Outcome.ACCEPTED,
            "outcome": report["outcome"].name.lower(),
            "seconds_sampling": sampled - started,
            "seconds_update": updated - sampled,
            "steps_per_second": sample.steps / (updated - started),
        }
        return after, row

    def _read(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Returns those of a batch's arrays that the update reads."""
        return {name: array for name, array in rows.items() if name in self._update.row_names}


class Iteration(Protocol):
    """What `iterations` needs of a trainer, this module's or `black_box.Trainer`."""

    config: config_lib.Config

    def iterate(self, state: State) -> tuple[State, dict[str, Any]]:
        """Returns the state after one iteration, and its row of metrics."""


def iterations(
    trainer: Iteration, state: State, stop_at: int | None = None
) -> Iterator[tuple[State, dict[str, Any]]]:
    """Yields (state, metrics) after each iteration until the run ends or has `stop_at` of them."""
    while not ended(trainer.config, state) and (stop_at is None or state.iteration < stop_at):
        state, row = trainer.iterate(state)
        yield state, row


def ended(config: config_lib.Config, state: State) -> bool:
    """Returns whether a run's last iteration is done, or its target return is passed."""
    target, recent = config.target_return, state.recent_returns
    passed = target is not None and len(recent) == RECENT_EPISODES and recent.mean() > target
    return passed or state.iteration >= config.iterations


def make_environment(config: config_lib.Config) -> environments.Environment:
    """Returns the environment of `config.task`."""
    return environments.make(
        config.task,
        threads=config.threads or None,
        screen=config.screen,
        action_set=config.action_set,
        sticky_probability=config.sticky_probability,
    )


def _build(config: config_lib.Config) -> tuple[environments.Environment, policy_lib.Policy]:
    """Returns a worker's environment, on one simulator thread, and its policy."""
    environment = make_environment(dataclasses.replace(config, threads=1))
    return environment, make_policy(config, environment)


def make_policy(
    config: config_lib.Config, environment: environments.Environment
) -> policy_lib.Policy:
    """Returns the configuration's policy for an environment."""
    space = environment.observation_space
    if environment.frame_stack > 1:
        return policy_lib.convolutional_policy(space, environment.action_space, seed=config.seed)
    settings.require(
        config.skip_inputs < space.shape[0],
        "skip_inputs",
        config.skip_inputs,
        f"less than the {space.shape[0]} observation columns of {config.task}",
    )
    return policy_lib.multilayer_perceptron_policy(
        space,
        environment.action_space,
        hidden_sizes=config.hidden_sizes,
        activation=config.activation,
        seed=config.seed,
        skip_inputs=config.skip_inputs,
        initial_log_std=config.initial_log_std,
    )


def _make_baseline(config: config_lib.Config, observation_size: int) -> baselines.Baseline | None:
    if config.baseline == "linear":
        return baselines.LinearBaseline(observation_size)
    if config.baseline == "network":
        return baselines.NetworkBaseline(
            observation_size,
            hidden_sizes=config.hidden_sizes,
            activation=config.activation,
            epochs=config.baseline_epochs,
            minibatch_rows=config.baseline_minibatch,
            learning_rate=config.baseline_learning_rate,
            # Not the policy's seed: equal seeds make equal weights.
            seed=int(Key(config.seed).generator(Purpose.BASELINE_WEIGHTS).integers(2**24)),
        )
    return None


def return_metrics(
    episode_returns: np.ndarray, lengths: np.ndarray, recent: np.ndarray, max_episode_steps: int
) -> dict[str, float]:
    """Returns the columns about episodes; those of an iteration without one are NaN.

    Args:
      episode_returns: [E] of the iteration's episodes.
      lengths: [E] of the same.
      recent: returns of the run's last episodes.
      max_episode_steps: the time limit.
    """
    row = {"return_recent": recent.mean() if len(recent) else math.nan}
    if len(episode_returns):
        row |= {
            "return_mean": episode_returns.mean(),
            "return_min": episode_returns.min(),
            "return_max": episode_returns.max(),
            "episode_length": lengths.mean(),
            "reward_per_step": episode_returns.mean() / max_episode_steps,
        }
    return row


def _flat(array: np.ndarray) -> np.ndarray:
    """Returns [T, B, ...] as [T * B, ...]."""
    return array.reshape(-1, *array.shape[2:])
