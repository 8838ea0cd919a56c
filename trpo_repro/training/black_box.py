"""Training by black-box search: candidates' parameters in, undiscounted returns out."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from absl import logging

from trpo_repro import environments
from trpo_repro.config import Config
from trpo_repro.optimization import trust_region
from trpo_repro.randomness import Key, Purpose
from trpo_repro.sampling import population
from trpo_repro.training import factories, loop
from trpo_repro.training.state import State

Arrays = Mapping[str, np.ndarray]


class Search(Protocol):
    """A maximizer over vectors as a map of states; states are named arrays."""

    def initial_state(self, theta: np.ndarray) -> Arrays:
        """Returns the state that searches around θ, [P]."""

    def ask(self, state: Arrays, generator: np.random.Generator) -> tuple[np.ndarray, Arrays]:
        """Returns ([C, P] candidates, the state to tell their values to)."""

    def tell(self, state: Arrays, candidates: np.ndarray, values: np.ndarray) -> Arrays:
        """Returns the state after [C] values of the [C, P] candidates."""

    def mean(self, state: Arrays) -> np.ndarray:
        """Returns the middle of the search, [P]."""


class BlackBoxTrainer:
    """Maps training states to training states, as `Trainer` does.

    A state's θ is the middle of the search; the metrics are of the candidates' episodes.
    """

    def __init__(self, config: Config, environment: environments.Environment | None = None):
        """Builds environment, policy and search.

        Args:
          config: configuration of the run.
          environment: in place of the one that `config.task` names.
        """
        self.config = config
        self.environment = environment or factories.make_environment(config)
        self.policy = factories.make_policy(config, self.environment)
        self._search: Search = config.search

    def close(self) -> None:
        """Does nothing: there are no workers."""

    def initial_state(self) -> State:
        """Returns the state before the first iteration."""
        theta = self.policy.network.initial_parameters()
        return State(
            iteration=0,
            env_steps=0,
            episodes=0,
            theta=theta,
            environment_states=None,
            running_returns=np.zeros(0),
            recent_returns=np.zeros(0),
            normalizer=None,
            baseline={},
            search=self._search.initial_state(theta),
        )

    def iterate(self, state: State) -> tuple[State, dict[str, Any]]:
        """Returns the state after one population, and its row of metrics."""
        config, clock = self.config, loop.Clock()
        key = Key(config.seed, state.iteration)
        candidates, search = self._search.ask(state.search, key.generator(Purpose.SEARCH))
        played = population.evaluate_population(
            self.environment,
            self.policy,
            np.repeat(candidates.astype(state.theta.dtype), config.episodes_per_candidate, axis=0),
            key,
        )
        clock.sampled()
        finite = np.isfinite(played.returns)
        theta, outcome = state.theta, trust_region.Outcome.NOT_FINITE
        if finite.any():
            # A simulation that diverged counts as the worst of the others.
            values = np.where(finite, played.returns, played.returns[finite].min())
            values = values.reshape(len(candidates), -1).mean(axis=1)
            search = self._search.tell(search, candidates, values)
            theta = self._search.mean(search).astype(state.theta.dtype)
            outcome = trust_region.Outcome.ACCEPTED
        else:
            search = state.search
        if not finite.all():
            logging.error(
                "task %s, iteration %d: %d of %d episodes returned a number that is not finite",
                config.task,
                state.iteration + 1,
                (~finite).sum(),
                len(finite),
            )
        clock.updated()
        returns, lengths = played.returns[finite], played.lengths[finite]
        recent = np.concatenate([state.recent_returns, returns])[-loop.RECENT_EPISODES :]
        after = dataclasses.replace(
            state,
            iteration=state.iteration + 1,
            env_steps=state.env_steps + int(played.lengths.sum()),
            episodes=state.episodes + len(finite),
            theta=theta,
            recent_returns=recent,
            search=search,
        )
        row = loop.metrics_row(
            state,
            after,
            clock,
            returns=returns,
            lengths=lengths,
            max_episode_steps=self.environment.max_episode_steps,
            reward_mean=returns.sum() / max(lengths.sum(), 1),
            outcome=outcome,
        )
        return after, {**row, "step_norm": np.linalg.norm(theta - state.theta)}
