"""Training from sampled actions: sample, batch, update, record."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from trpo_repro import environments
from trpo_repro.algorithms import policy_update, weighted_regression
from trpo_repro.config import Config
from trpo_repro.estimation import estimators
from trpo_repro.optimization import chunks, trust_region
from trpo_repro.policies import normalization
from trpo_repro.randomness import Key, Purpose
from trpo_repro.sampling import episodes as episodes_lib
from trpo_repro.sampling import single_path, vine, workers
from trpo_repro.training import factories, loop
from trpo_repro.training.state import State

PIXEL_CHUNK_SIZE = 256  # the convolutions' activations then stay in the third-level cache


class Trainer:
    """Maps training states to training states; holds compiled graphs and no state of a run."""

    def __init__(self, config: Config, environment: environments.Environment | None = None):
        """Builds environment, policy, baseline and update.

        Args:
          config: configuration of the run.
          environment: in place of the one that `config.task` names.
        """
        self.config = config
        self.environment = environment or factories.make_environment(config)
        self.policy = factories.make_policy(config, self.environment)
        self.baseline = factories.make_baseline(config, self.environment.observation_space.shape[0])
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
                chunk_size=PIXEL_CHUNK_SIZE if stacked_frames else chunks.CHUNK_SIZE,
            )
        self._workers: workers.Workers = workers.InProcess(self.environment, self.policy)
        if config.workers:
            if environment is not None:
                raise ValueError("workers make their own environments: workers must be 0 with one")
            useful = min(config.workers, config.shards)
            self._workers = workers.RayWorkers(
                factories.build_worker, config, useful, config.ray_address
            )

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
            running_returns=np.zeros(config.parallel_paths),
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
        trajectories = sample.trajectories
        running = np.zeros(config.parallel_paths) if fresh else state.running_returns
        # Only the first episode of a fresh path as long as the time limit counts: episodes that
        # finish later within the path are biased short.
        whole = fresh and config.path_length >= self.environment.max_episode_steps
        episodes = episodes_lib.ended_episodes(trajectories, running, first_only=whole)

        if sample.finite:
            estimate = self._estimator(
                sample, state.baseline, normalize, key.generator(Purpose.BASELINE_FIT)
            )
            theta, report = self._update(
                state.theta,
                self._read(estimate.batch),
                key.generator(Purpose.FISHER_STATES),
                estimate.kl_batch and self._read(estimate.kl_batch),
            )
            report = {**report, "explained_variance": estimate.explained_variance}
            baseline = estimate.baseline
            observations = trajectories.observations.reshape(
                -1, trajectories.observations.shape[-1]
            )
            normalizer = state.normalizer and state.normalizer.update(observations)
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

        recent = np.concatenate([state.recent_returns, episodes.returns])[-loop.RECENT_EPISODES :]
        carry = not config.fresh_paths and sample.finite
        after = State(
            iteration=state.iteration + 1,
            env_steps=state.env_steps + sample.steps,
            episodes=state.episodes + episodes.count,
            theta=theta,
            environment=sample.after if carry else None,
            running_returns=episodes.running if carry else np.zeros(config.parallel_paths),
            recent_returns=recent,
            normalizer=normalizer,
            baseline=baseline,
        )
        row = dict(report)
        row |= loop.return_metrics(
            episodes.returns, episodes.lengths, recent, self.environment.max_episode_steps
        )
        row |= {
            "iteration": after.iteration,
            "env_steps": after.env_steps,
            "episodes": after.episodes,
            "reward_mean": trajectories.rewards.mean(),
            "accepted": report["outcome"] is trust_region.Outcome.ACCEPTED,
            "outcome": report["outcome"].name.lower(),
            "seconds_sampling": sampled - started,
            "seconds_update": updated - sampled,
            "steps_per_second": sample.steps / (updated - started),
        }
        return after, row

    def _read(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Returns those of a batch's arrays that the update reads."""
        return {name: array for name, array in batch.items() if name in self._update.array_names}
