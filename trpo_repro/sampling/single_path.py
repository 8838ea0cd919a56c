"""The single-path sampler (Sec. 5.1): parallel paths, all their steps used."""

import dataclasses
from collections.abc import Callable

import numpy as np

from trpo_repro import environments
from trpo_repro.policies import policy as policy_lib
from trpo_repro.randomness import Key, Purpose


@dataclasses.dataclass(frozen=True)
class Trajectories:
    """B paths of T steps; where an episode ends inside, the path goes on with a new one.

    Attributes:
      observations: [T, B, ...] float32, before normalization.
      actions: [T, B, ...] as sampled, before clipping.
      rewards: [T, B] float64.
      terminated: [T, B] bool, the task ended after this step.
      truncated: [T, B] bool, the time limit ended the episode after this step.
      elapsed: [T, B] int64, steps since the start of the episode.
      cut_observations: [M, ...] float32, the observation after each step at which `cut` is
        true, in row-major order of [T, B].
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    elapsed: np.ndarray
    cut_observations: np.ndarray

    @property
    def cut(self) -> np.ndarray:
        """[T, B] bool: reward could still have followed, but the path ends or restarts here."""
        cut = self.truncated.copy()
        cut[-1] |= ~self.terminated[-1]
        return cut

    @property
    def ends(self) -> np.ndarray:
        """[T, B] bool: last step of an episode, or of the sample."""
        return self.terminated | self.cut

    @property
    def finite(self) -> bool:
        """Whether every observation and reward is a finite number."""
        arrays = (self.rewards, self.observations, self.cut_observations)
        return all(bool(np.isfinite(array).all()) for array in arrays)


def sample_paths(
    environment: environments.Environment,
    policy: policy_lib.Policy,
    theta: np.ndarray,
    key: Key,
    *,
    steps: int,
    states: environments.EnvironmentStates | int,
    normalize: Callable[[np.ndarray], np.ndarray] = np.asarray,
    keep: np.ndarray | None = None,
) -> tuple[Trajectories, environments.EnvironmentStates, environments.EnvironmentStates]:
    """Runs π_θ for `steps` steps in B parallel environments; ended episodes restart in place.

    A pure function: equal arguments give equal arrays.

    Args:
      environment: to act in.
      policy: to act with.
      theta: [P] parameters of the policy.
      key: of all random numbers drawn here.
      steps: T.
      states: B states to go on from, or the number B of fresh ones, s0 ~ ρ0.
      normalize: [B, ...] observations → what the policy sees.
      keep: [T, B] bool, the states to return besides; none when None.

    Returns:
      The trajectories, the B states after the last step, and the states at `keep` in row-major
      order.
    """
    action_noise = key.generator(Purpose.ACTIONS)
    initial_noise = key.generator(Purpose.INITIAL_STATES)
    if isinstance(states, int):
        states = environment.initial(states, initial_noise)
    act = policy.actor(theta)
    shape = (steps, len(states))
    family = policy.family
    observations = np.empty((*shape, *policy.observation_shape), np.float32)
    actions = np.empty((*shape, *family.action_shape), family.action_dtype.as_numpy_dtype)
    rewards = np.empty(shape, np.float64)
    terminated, truncated = np.empty(shape, bool), np.empty(shape, bool)
    elapsed = np.empty(shape, np.int64)
    cut_observations = []
    kept = [states.select(np.zeros(0, np.int64))]

    for t in range(steps):
        observations[t] = environment.observe(states)
        elapsed[t] = states.elapsed
        if keep is not None and keep[t].any():
            kept.append(states.select(keep[t]))
        noise = family.draw_noise(action_noise, (len(states),))
        actions[t] = act(normalize(observations[t]), noise)
        step = environment.step(states, actions[t])
        states = step.states
        rewards[t], terminated[t], truncated[t] = step.rewards, step.terminated, step.truncated
        cut = truncated[t] if t < steps - 1 else ~terminated[t]
        if cut.any():
            cut_observations.append(environment.observe(states.select(cut)).astype(np.float32))
        ended = np.flatnonzero(terminated[t] | truncated[t])
        if len(ended):
            states = states.replace_rows(ended, environment.initial(len(ended), initial_noise))

    empty = np.empty((0, *policy.observation_shape), np.float32)
    trajectories = Trajectories(
        observations,
        actions,
        rewards,
        terminated,
        truncated,
        elapsed,
        np.concatenate([empty, *cut_observations]),
    )
    return trajectories, states, type(states).concatenate(kept)
