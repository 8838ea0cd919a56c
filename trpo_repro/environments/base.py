"""The environment protocol: a batch of environment states is a value.

A state can be copied, indexed, repeated, concatenated and saved; `step` maps states and
actions to new states and never changes its arguments. Samplers, checkpoints and workers have
no other way to hold a simulator.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import gymnasium
import numpy as np

_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_STRIDE = np.uint64(0x9E3779B97F4A7C15)


@dataclasses.dataclass(frozen=True)
class EnvironmentStates:
    """B environment states.

    Attributes:
      simulator: [B, n] float64, all that the simulator's future depends on ([B] objects where
        a simulator has its own kind of state).
      elapsed: [B] int64, steps since the start of the episode.
      can_save: whether `to_arrays` holds all that the future depends on.
    """

    simulator: np.ndarray
    elapsed: np.ndarray
    can_save: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.elapsed)

    def select(self, index: np.ndarray) -> Self:
        """Returns the states at `index`: integers (repeats allowed) or a [B] bool mask."""
        return self._map(lambda array: array[index])

    def repeat(self, times: int) -> Self:
        """Returns [B * times] states; copies of a state are neighbors."""
        return self._map(lambda array: np.repeat(array, times, axis=0))

    def replace_at(self, index: np.ndarray, states: Self) -> Self:
        """Returns these states with those at `index` exchanged for `states`."""
        fields = self._fields()
        for name, array in states._fields().items():
            fields[name] = fields[name].copy()
            fields[name][index] = array
        return type(self)(**fields)

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Returns the states of all `parts`, in order."""
        arrays = [part._fields() for part in parts]
        return cls(**{name: np.concatenate([a[name] for a in arrays]) for name in arrays[0]})

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns the fields by name, for saving; `from_arrays` is the inverse."""
        return self._fields()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        return cls(**arrays)

    def _fields(self) -> dict[str, np.ndarray]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def _map(self, function) -> Self:
        return type(self)(**{name: function(array) for name, array in self._fields().items()})


@dataclasses.dataclass(frozen=True)
class Step:
    """What one step of B environments returns.

    Attributes:
      states: B states after the step; states whose episode ended are not reset.
      rewards: [B] float64.
      terminated: [B] bool, the task ended: no reward can follow.
      truncated: [B] bool, the time limit cut an episode that had not ended.
    """

    states: EnvironmentStates
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


class Environment(abc.ABC):
    """A simulator and a task, without a state of their own.

    Attributes:
      name: the task, as `environments.make` knows it.
      observation_space: space of one environment.
      action_space: space of one environment; values outside a Box are legal, and clipped by the
        task.
      max_episode_steps: time limit, in steps.
      can_restore: whether any state can be stepped again, any number of times, as vine needs.
      frame_stack: 1, or the number of frames, newest last, that an observation stacks along its
        first axis; an episode starts with copies of its first frame.
      preferred_batch_size: states that are best stepped together; None for any number.
      states_type: the class of its states, which a saved run's are made of again.
    """

    name: str
    observation_space: gymnasium.spaces.Box
    action_space: gymnasium.spaces.Space
    max_episode_steps: int
    can_restore: bool = True
    frame_stack: int = 1
    preferred_batch_size: int | None = None
    states_type: type[EnvironmentStates] = EnvironmentStates

    @abc.abstractmethod
    def initial(self, batch_size: int, generator: np.random.Generator) -> EnvironmentStates:
        """Returns `batch_size` states drawn from the initial distribution ρ0."""

    @abc.abstractmethod
    def step(self, states: EnvironmentStates, actions: np.ndarray) -> Step:
        """Advances B states by one step.

        Args:
          states: B states.
          actions: [B, ...] actions, one a state.
        """

    @abc.abstractmethod
    def observe(self, states: EnvironmentStates) -> np.ndarray:
        """Returns the [B, ...] observations of B states."""

    def fingerprints(self, states: EnvironmentStates) -> Sequence[bytes] | None:
        """Returns a value for each of B states, equal for two only if their futures are equal.

        None where states that were apart are not expected to become equal, as of simulators with
        real-valued states.
        """
        return None

    def render(self, states: EnvironmentStates) -> np.ndarray:
        """Returns pictures of B states, [B, H, W, 3] uint8 RGB.

        Raises:
          ValueError: it cannot be drawn, or what draws is not installed.
        """
        raise ValueError(f"{self.name} cannot be drawn")


def uniform(key: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Returns [B] numbers in [0, 1) by SplitMix64 (Steele et al., 2014) of key and time."""
    with np.errstate(over="ignore"):
        bits = key + (time.astype(np.uint64) + np.uint64(1)) * _STRIDE
        bits = (bits ^ (bits >> np.uint64(30))) * _MIX[0]
        bits = (bits ^ (bits >> np.uint64(27))) * _MIX[1]
        bits ^= bits >> np.uint64(31)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
