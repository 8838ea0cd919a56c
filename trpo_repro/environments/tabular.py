"""Finite Markov decision processes as environments, to test samplers against exact values."""

import gymnasium
import numpy as np

from trpo_repro.environments import base


class Tabular(base.Environment):
    """A process given by its arrays; observations are one-hot, actions discrete.

    The state is (index of the state, key of the environment's random numbers): transitions are a
    function of the key and the time, so a state continues alike wherever it is restored.
    """

    name = "tabular"

    def __init__(
        self,
        transitions: np.ndarray,
        rewards: np.ndarray,
        initial: np.ndarray,
        max_episode_steps: int = 1000,
    ):
        """Builds the environment.

        Args:
          transitions: [S, A, S] P(s'|s, a).
          rewards: [S, A].
          initial: [S] ρ0.
          max_episode_steps: time limit; there is no other end.
        """
        states, actions = rewards.shape
        self.max_episode_steps = max_episode_steps
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (states,), np.float64)
        self.action_space = gymnasium.spaces.Discrete(actions)
        self._cumulative = np.cumsum(transitions, axis=-1)[..., :-1]
        self._rewards = rewards
        self._initial = initial

    def initial(self, batch_size, generator):
        index = generator.choice(len(self._initial), batch_size, p=self._initial)
        return self.states_at(index, generator)

    def states_at(
        self, index: np.ndarray, generator: np.random.Generator
    ) -> base.EnvironmentStates:
        """Returns episode-start states at [B] state indices, with fresh random numbers."""
        key = generator.integers(2**52, size=len(index))  # exact in float64
        simulator = np.stack([index, key], axis=1).astype(np.float64)
        return base.EnvironmentStates(simulator, np.zeros(len(index), np.int64))

    def step(self, states, actions):
        index = states.simulator[:, 0].astype(np.int64)
        actions = np.asarray(actions, np.int64)
        uniform = base.uniform(states.simulator[:, 1].astype(np.uint64), states.elapsed)
        next_index = (self._cumulative[index, actions] <= uniform[:, None]).sum(axis=1)
        simulator = np.stack([next_index, states.simulator[:, 1]], axis=1).astype(np.float64)
        elapsed = states.elapsed + 1
        return base.Step(
            base.EnvironmentStates(simulator, elapsed),
            self._rewards[index, actions].astype(np.float64),
            np.zeros(len(index), bool),
            elapsed >= self.max_episode_steps,
        )

    def fingerprints(self, states):
        return [row.tobytes() for row in np.c_[states.simulator, states.elapsed]]

    def observe(self, states):
        return np.eye(len(self._initial))[states.simulator[:, 0].astype(np.int64)]
