"""Training from sampled actions: sample, batch, update, record."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from trpo_repro import environments, settings
from trpo_repro.config import Config
from trpo_repro.optimization import trust_region
from trpo_repro.policies import normalization
from trpo_repro.randomness import Key, Purpose
from trpo_repro.sampling import episodes as episodes_lib
from trpo_repro.training import factories, loop
from trpo_repro.training.state import State


class Trainer:
    """Maps training states to training states; holds compiled graphs and no state of a run."""

    def __init__(self, config: Config, environment: environments.Environment | None = None):
        """Builds environment, policy, baseline and update.

        Args:
          config: configuration of the run.
          environment: in place of the one that `config.task` names.

        Raises:
          ValueError: an environment is given, and workers, which make their own.
        """
        if environment is not None:
            allowed = "0 with an environment of your own"
            settings.require(config.workers == 0, "workers", config.workers, allowed)
        self.config = config
        self.environment = environment or factories.make_environment(config)
        self.policy = factories.make_policy(config, self.environment)
        self.baseline = factories.make_baseline(config, self.environment.observation_space.shape[0])
        self.sampler, self._estimator = factories.make_sampler(
            config, self.environment, self.policy, self.baseline
        )
        self._update = factories.make_update(config, self.environment, self.policy, self._estimator)
        self.workers = factories.make_workers(config, self.environment, self.policy)

    def close(self) -> None:
        """Ends the sampling workers."""
        self.workers.close()

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
            environment_states=None,
            running_returns=np.zeros(config.parallel_paths),
            recent_returns=np.zeros(0),
            normalizer=normalizer,
            baseline={} if self.baseline is None else self.baseline.initial_state(),
            update=self._update.initial_memory(),
        )

    def iterate(self, state: State) -> tuple[State, dict[str, Any]]:
        """Returns the state after one policy iteration, and its row of metrics."""
        key, clock = Key(self.config.seed, state.iteration), loop.Clock()
        fresh = self.config.fresh_paths or state.environment_states is None
        sample = self._sample(state, key, fresh)
        clock.sampled()
        if sample.finite:
            learned, report = self._learn(state, sample, key)
        else:
            self._complain("the environment returned a number that is not finite", state)
            learned, report = {}, {"outcome": trust_region.Outcome.NOT_FINITE}
        clock.updated()
        episodes = self._episodes(state, sample, fresh)
        recent = np.concatenate([state.recent_returns, episodes.returns])
        carry = not self.config.fresh_paths and sample.finite
        after = dataclasses.replace(
            state,
            iteration=state.iteration + 1,
            env_steps=state.env_steps + sample.steps,
            episodes=state.episodes + episodes.count,
            environment_states=sample.after if carry else None,
            running_returns=episodes.running if carry else np.zeros(self.config.parallel_paths),
            recent_returns=recent[-loop.RECENT_EPISODES :],
            **learned,
        )
        row = loop.metrics_row(
            state,
            after,
            clock,
            returns=episodes.returns,
            lengths=episodes.lengths,
            max_episode_steps=self.environment.max_episode_steps,
            reward_mean=sample.trajectories.rewards.mean(),
            outcome=report["outcome"],
        )
        return after, {**report, **row}

    def _sample(self, state, key, fresh):
        """Returns what the sampler's shards give, joined."""
        normalize = state.normalizer or np.asarray
        functions = self.sampler.shard_functions(
            None if fresh else state.environment_states, key, normalize
        )
        return self.sampler.join(self.workers.map(state.theta, functions))

    def _learn(self, state, sample, key) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns (the fields of the state that a finite sample changes, report of the update)."""
        estimate = self._estimator(
            sample,
            state.baseline,
            state.normalizer or np.asarray,
            key.generator(Purpose.BASELINE_FIT),
        )
        theta, report, memory = self._update(
            state.theta,
            self._read(estimate.batch),
            key.generator(Purpose.FISHER_STATES),
            estimate.kl_batch and self._read(estimate.kl_batch),
            state.update,
        )
        baseline, normalizer = estimate.baseline, state.normalizer
        if not _all_finite(baseline):
            self._complain("the value function's fit is not finite", state)
            baseline = state.baseline
        if normalizer is not None:
            observations = sample.trajectories.observations
            normalizer = normalizer.update(observations.reshape(-1, observations.shape[-1]))
            if not _all_finite(dataclasses.asdict(normalizer)):
                self._complain("the observations' statistics are not finite", state)
                normalizer = state.normalizer
        learned = {
            "theta": theta,
            "baseline": baseline,
            "normalizer": normalizer,
            "update": memory,
        }
        return learned, {**report, **estimate.report}

    def _episodes(self, state, sample, fresh) -> episodes_lib.Episodes:
        """Returns the episodes that ended in a sample, with finite returns."""
        running = np.zeros(self.config.parallel_paths) if fresh else state.running_returns
        # Only the first episode of a fresh path as long as the time limit counts: episodes that
        # finish later within the path are biased short.
        whole = fresh and self.config.path_length >= self.environment.max_episode_steps
        found = episodes_lib.ended_episodes(sample.trajectories, running, first_only=whole)
        finite = np.isfinite(found.returns)
        return dataclasses.replace(
            found, returns=found.returns[finite], lengths=found.lengths[finite]
        )

    def _complain(self, what: str, state: State) -> None:
        task, iteration = self.config.task, state.iteration + 1
        logging.error("task %s, iteration %d: %s; the old state is kept", task, iteration, what)

    def _read(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Returns those of a batch's arrays that the update reads."""
        return {name: array for name, array in batch.items() if name in self._update.array_names}


def _all_finite(arrays: Mapping[str, np.ndarray]) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays.values())
