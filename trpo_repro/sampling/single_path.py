"""The single-path sampler (Sec. 5.1): parallel paths, all their steps used."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from trpo_repro import environments
from trpo_repro.policies import frames
from trpo_repro.policies import policy as policy_lib
from trpo_repro.randomness import Key, Purpose
from trpo_repro.settings import SAMPLED_ACTIONS, Group, Readers, setting


@dataclasses.dataclass(frozen=True)
class PathSettings(Group, title="Sampling", readers=SAMPLED_ACTIONS):
    path_length: int = setting(
        1000, "Environment steps of each parallel path, or vine trunk, in one iteration", at_least=1
    )
    fresh_paths: bool = setting(
        True, "Start the paths of every iteration from s0 ~ ρ0; else continue from the last states"
    )


@dataclasses.dataclass(frozen=True)
class SinglePathSettings(
    Group,
    title="Single path",
    readers=Readers(
        f"sampler=single_path and {SAMPLED_ACTIONS}",
        lambda config: config.sampler == "single_path" and SAMPLED_ACTIONS.include(config),
    ),
):
    steps_per_iteration: int = setting(
        50_000,
        "Environment steps (Atari: decisions of 4 frames) of one iteration, all paths together",
        at_least=1,
    )


@dataclasses.dataclass(frozen=True)
class Trajectories:
    """B paths of T steps; where an episode ends inside, the path continues with a new one.

    Attributes:
      observations: [T, B, ...] before normalization, uint8 of images and otherwise in the
        policy's number type; of environments that stack frames the newest alone.
      actions: [T, B, ...] as sampled, before clipping.
      rewards: [T, B] float64.
      terminated: [T, B] bool, the task ended after this step.
      truncated: [T, B] bool, the time limit ended the episode after this step.
      elapsed: [T, B] int64, steps since the start of the episode.
      cut_observations: [M, ...], the observation after each step at which `cut` is true, in
        row-major order of [T, B].
      frames_before: [F - 1, B, H, W] uint8, the frames under the first one in stacks of F.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    elapsed: np.ndarray
    cut_observations: np.ndarray
    frames_before: np.ndarray | None = None

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
        arrays = [self.rewards, self.observations, self.cut_observations]
        return all(array.dtype.kind != "f" or bool(np.isfinite(array).all()) for array in arrays)

    def flat_observations(self) -> np.ndarray | frames.StackedFrames:
        """Returns the T * B observations in row-major order, [T * B, ...]."""
        if self.frames_before is None:
            return self.observations.reshape(-1, *self.observations.shape[2:])
        below, paths = len(self.frames_before), self.observations.shape[1]
        store = np.concatenate([self.frames_before, self.observations])
        # Row t of `observations` is frame t + below; none older than the episode's first.
        age = np.arange(below, -1, -1)
        age = np.minimum(age, self.elapsed[..., None])
        index = (np.arange(len(self.observations))[:, None, None] + below - age) * paths
        index += np.arange(paths)[:, None]
        store = store.reshape(-1, *store.shape[2:])
        return frames.StackedFrames(store, index.reshape(-1, below + 1).astype(np.int32))

    @classmethod
    def concatenate(cls, parts: "Sequence[Trajectories]") -> "Trajectories":
        """Returns the paths of all parts side by side, in order."""
        if len(parts) == 1:
            return parts[0]
        joined = {}
        for field in dataclasses.fields(cls):
            arrays = [getattr(part, field.name) for part in parts]
            if field.name != "cut_observations" and arrays[0] is not None:
                joined[field.name] = np.concatenate(arrays, axis=1)
        # The order of the cuts is by time first, then by path.
        cut = np.concatenate([part.cut for part in parts], axis=1)
        place = np.zeros(cut.shape, np.int64)
        place[cut] = np.arange(cut.sum())
        observations = np.concatenate([part.cut_observations for part in parts])
        columns = np.split(place, np.cumsum([p.cut.shape[1] for p in parts])[:-1], axis=1)
        order = np.concatenate([c[p.cut] for c, p in zip(columns, parts, strict=True)])
        joined["cut_observations"] = observations[np.argsort(order)]
        return cls(**joined)


@dataclasses.dataclass(frozen=True)
class SinglePathSample:
    """Trajectories, and the B states after their last step."""

    trajectories: Trajectories
    after: environments.EnvironmentStates

    @property
    def finite(self) -> bool:
        """Whether every observation and reward is a finite number."""
        return self.trajectories.finite

    @property
    def steps(self) -> int:
        """Environment steps simulated."""
        return self.trajectories.rewards.size


class SinglePathSampler:
    """Sec. 5.1, in shards: a function of each, and their results joined."""

    def __init__(self, settings: Any):
        """Args: settings: PathSettings, SinglePathSettings and ShardSettings."""
        self._settings = settings

    def shard_functions(
        self,
        states: environments.EnvironmentStates | None,
        key: Key,
        normalize: Callable[[np.ndarray], np.ndarray],
    ) -> list[Callable[..., SinglePathSample]]:
        """Returns a pure function of (environment, policy, θ) for every shard.

        Args:
          states: states of the environments to continue from, or None to start afresh.
          key: key of the iteration.
          normalize: [B, ...] observations → what the policy sees.
        """
        settings = self._settings
        count = settings.steps_per_iteration // settings.path_length
        return [
            functools.partial(
                _sample_shard, **arguments, normalize=normalize, steps=settings.path_length
            )
            for arguments in shard_arguments(settings.shards, count, states, key)
        ]

    def join(self, results: Sequence[SinglePathSample]) -> SinglePathSample:
        """Returns the paths of all shards side by side."""
        after = [result.after for result in results]
        return SinglePathSample(
            Trajectories.concatenate([result.trajectories for result in results]),
            type(after[0]).concatenate(after),
        )


def shard_arguments(
    shards: int, count: int, states: environments.EnvironmentStates | None, key: Key
) -> Iterator[dict[str, Any]]:
    """Yields each shard's key, and its states or the number of its fresh ones.

    Args:
      shards: a divisor of `count`.
      count: paths of all shards together.
      states: `count` states to continue from, or None to start afresh.
      key: key of the iteration.
    """
    width = count // shards
    for shard in range(shards):
        chosen = np.arange(shard * width, (shard + 1) * width)
        yield {
            "key": key._replace(shard=shard),
            "states": width if states is None else states.select(chosen),
        }


def _sample_shard(*arguments, **settings) -> SinglePathSample:
    return SinglePathSample(*sample_trajectories(*arguments, **settings)[:2])


def sample_trajectories(
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
      environment: environment to act in.
      policy: policy to act with.
      theta: [P] parameters of the policy.
      key: key of all random numbers drawn here.
      steps: T.
      states: B states to continue from, or the number B of fresh ones, s0 ~ ρ0.
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
    observed = policy.cast(environment.observe(states))
    stacked = environment.frame_stack > 1
    stored = (
        observed[:, -1] if stacked else observed
    )  # a frame is in as many observations as are stacked
    observations = np.empty((steps, *stored.shape), observed.dtype)
    frames_before = observed[:, :-1].swapaxes(0, 1).copy() if stacked else None
    actions = np.empty((*shape, *family.action_shape), family.action_dtype.as_numpy_dtype)
    rewards = np.empty(shape, np.float64)
    terminated, truncated = np.empty(shape, bool), np.empty(shape, bool)
    elapsed = np.empty(shape, np.int64)
    cut_observations = [observed[:0]]
    kept = [states.select(np.zeros(0, np.int64))]

    for t in range(steps):
        observed = policy.cast(environment.observe(states))
        observations[t] = observed[:, -1] if stacked else observed
        elapsed[t] = states.elapsed
        if keep is not None and keep[t].any():
            kept.append(states.select(keep[t]))
        noise = family.draw_noise(action_noise, (len(states),))
        actions[t] = act(normalize(observed), noise)
        step = environment.step(states, actions[t])
        states = step.states
        rewards[t], terminated[t], truncated[t] = step.rewards, step.terminated, step.truncated
        cut = truncated[t] if t < steps - 1 else ~terminated[t]
        if cut.any():
            cut_observations.append(policy.cast(environment.observe(states.select(cut))))
        ended = np.flatnonzero(terminated[t] | truncated[t])
        if len(ended):
            states = states.replace_at(ended, environment.initial(len(ended), initial_noise))

    trajectories = Trajectories(
        observations,
        actions,
        rewards,
        terminated,
        truncated,
        elapsed,
        np.concatenate(cut_observations),
        frames_before,
    )
    return trajectories, states, type(states).concatenate(kept)
