"""Any Gymnasium environment behind our protocol: its states are live objects.

They are stepped in place, so that a state can be stepped once; or, for vine, copied before every
step, where `copy.deepcopy` makes exact copies of the environment.
"""

import contextlib
import copy
import dataclasses
import functools
import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from absl import logging

from trpo_repro.environments import base
from trpo_repro.settings import Group, Readers, setting

LEAST_IMAGE_SIDE = 10  # pixels, of which two convolutions of 4 with stride 2 leave one
_PROBE_STEPS = 20  # steps by which a copy is compared with its original


@dataclasses.dataclass(frozen=True)
class GymnasiumSettings(
    Group,
    title="Gymnasium environments",
    readers=Readers("environments that Gymnasium makes", lambda config: config.is_gymnasium),
):
    env_kwargs: str = setting(
        "{}", 'Arguments of gymnasium.make, in JSON, such as {"gravity": 9.0}'
    )
    env_processes: bool = setting(False, "Step each environment in a process of its own")


@dataclasses.dataclass(frozen=True)
class LiveStates(base.EnvironmentStates):
    """States of Gymnasium environments.

    Attributes:
      simulator: [B] `_Live` objects.
      observations: [B, ...], what the environments last returned.
    """

    observations: np.ndarray
    can_save: ClassVar[bool] = False


class _Live:
    """A Gymnasium environment that is some steps into its episode.

    One that no state holds any more goes back to the pool, from which the next episode takes it.

    Attributes:
      environment: the environment; one process's vector environment of size 1 with `processes`.
      elapsed: steps since its reset.
    """

    def __init__(self, environment: Any, pool: list[Any] | None, elapsed: int = 0):
        self.environment = environment
        self.elapsed = elapsed
        self._pool = pool

    def __del__(self):
        if self._pool is not None:
            self._pool.append(self.environment)

    def copy(self) -> "_Live":
        """Returns a copy that is not the pool's."""
        return _Live(_copied(self.environment), None, self.elapsed)


def _copied(environment: gymnasium.Env) -> gymnasium.Env:
    """Returns a deep copy that shares what does not change: spaces and specification."""
    inner = environment.unwrapped
    shared = (inner.spec, inner.observation_space, inner.action_space)
    return copy.deepcopy(environment, {id(part): part for part in shared if part is not None})


class GymnasiumEnvironment(base.Environment):
    """Steps any Gymnasium environment.

    Observations that are neither vectors nor uint8 images [H, W] or [H, W, C] are flattened by
    Gymnasium's FlattenObservation. Actions outside of a Box are clipped to it; those of Discrete
    and MultiDiscrete spaces are counted from 0, wherever the environment begins. An episode begins
    with `reset(seed=...)` of a seed drawn from the generator that `initial` gets.
    """

    def __init__(
        self,
        name: str,
        *,
        arguments: Mapping[str, Any] | None = None,
        processes: bool = False,
        copies: bool = False,
    ):
        """Makes one environment, and looks at what it returns.

        Args:
          name: id of a registered environment, with the module that registers it before a colon if
            need be.
          arguments: of `gymnasium.make`; `max_episode_steps` is one.
          processes: whether each environment is stepped in a process of its own.
          copies: whether states are copied before they are stepped, so that they can be restored.

        Raises:
          ValueError: the environment cannot be made, has no time limit, or does not return what its
            spaces say; or copies are asked for and are not exact.
        """
        self.name = name
        self._arguments = dict(arguments or {})
        self._processes = processes
        self._pool: list[Any] = []
        first = self._make_one()
        limit = first.spec.max_episode_steps if first.spec else None
        if limit is None:
            raise ValueError(
                f"task {name} has no time limit; give one with "
                """--env_kwargs='{"max_episode_steps": 1000}'"""
            )
        self.max_episode_steps = limit
        self._own_actions: Any = first.action_space
        self.action_space = _from_zero(first.action_space)
        space: Any = first.observation_space
        self._is_gray = len(space.shape) == 2
        if self._is_gray:
            space = gymnasium.spaces.Box(0, 255, (*space.shape, 1), np.uint8)  # type: ignore[arg-type]
        if len(space.shape) == 3 and min(space.shape[:2]) < LEAST_IMAGE_SIDE:
            raise ValueError(
                f"task {name} has images of {space.shape[0]}x{space.shape[1]} pixels: must be at "
                f"least {LEAST_IMAGE_SIDE}x{LEAST_IMAGE_SIDE}"
            )
        self.observation_space = space
        if not _obeys_seed(first):
            logging.warning("%s does not obey reset(seed=...): runs cannot be repeated", name)
        self.can_restore = copies and not processes and _copies_exactly(first)
        if copies and not self.can_restore:
            how = "they are in another process"
            if not processes:
                how = "copy.deepcopy does not copy them exactly"
            raise ValueError(f"task {name} cannot restore its states: {how}")
        if processes:
            first.close()
        else:
            self._pool.append(first)

    def initial(self, batch_size, generator):
        lives = np.empty(batch_size, object)
        observations = np.empty(
            (batch_size, *self.observation_space.shape), self.observation_space.dtype
        )
        seeds = generator.integers(2**31, size=batch_size)
        for i in range(batch_size):
            lives[i] = _Live(self._pool.pop() if self._pool else self._make(), self._pool)
        if self._processes:
            with self._living():
                for live, seed in zip(lives, seeds, strict=True):
                    live.environment.reset_async(seed=int(seed))
                found = [live.environment.reset_wait()[0][0] for live in lives]
        else:
            found = [
                live.environment.reset(seed=int(seed))[0]
                for live, seed in zip(lives, seeds, strict=True)
            ]
        self._fill(observations, found)
        return LiveStates(lives, np.zeros(batch_size, np.int64), observations)

    def step(self, states, actions):
        """Advances the states; without copies, those that are given are used up.

        Raises:
          ValueError: a state was used up before, or an observation is not what its space says.
          ChildProcessError: an environment's process has ended.
        """
        lives = states.simulator
        if self.can_restore:
            lives = np.array([*(live.copy() for live in lives), None], object)[:-1]
        for live, elapsed in zip(lives, states.elapsed, strict=True):
            if live.elapsed != elapsed:
                raise ValueError(f"a state of {self.name} was stepped twice: it cannot be restored")
            live.elapsed += 1
        legal = self._legal(np.asarray(actions))
        if self._processes:
            with self._living():
                for live, action in zip(lives, legal, strict=True):
                    live.environment.step_async(action[None])
                found = [_only(live.environment.step_wait()) for live in lives]
        else:
            found = [
                live.environment.step(action) for live, action in zip(lives, legal, strict=True)
            ]
        observations = np.empty_like(states.observations)
        self._fill(observations, [result[0] for result in found])
        terminated = np.array([result[2] for result in found], bool)
        truncated = np.array([result[3] for result in found], bool)
        return base.Step(
            LiveStates(lives, states.elapsed + 1, observations),
            np.array([result[1] for result in found], np.float64),
            terminated,
            truncated & ~terminated,
        )

    @contextlib.contextmanager
    def _living(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError) as error:
            raise ChildProcessError(f"a process of {self.name} has ended") from error

    def observe(self, states):
        return states.observations

    def render(self, states):
        """Returns what the environments draw; they must be made with render_mode=rgb_array."""
        try:
            pictures = [np.asarray(live.environment.render()) for live in states.simulator]
        except Exception as error:  # of the environment's own code, or a library that it lacks
            raise ValueError(f"{self.name} cannot be drawn: {error}") from error
        if any(picture.ndim != 3 for picture in pictures):
            raise ValueError(f"{self.name} cannot be drawn with render_mode=rgb_array")
        return np.stack(pictures)

    def _legal(self, actions: np.ndarray) -> Sequence[Any]:
        """Returns the actions of a policy as the environment takes them."""
        space = self._own_actions
        if isinstance(space, gymnasium.spaces.Box):
            # After an observation that is not finite; the update will be refused.
            shaped = np.nan_to_num(actions.reshape(-1, *space.shape))
            return np.clip(shaped, space.low, space.high).astype(space.dtype)
        return (actions + space.start).astype(space.dtype)

    def _fill(self, observations: np.ndarray, found: Sequence[Any]) -> None:
        for row, value in zip(observations, found, strict=True):
            value = np.asarray(value)
            value = value[..., None] if self._is_gray else value
            if value.shape != row.shape:
                raise ValueError(
                    f"task {self.name} observes an array of shape {value.shape}; its "
                    f"observation_space says {row.shape}"
                )
            row[...] = value

    def _make(self) -> Any:
        if not self._processes:
            return self._make_one()
        return gymnasium.vector.AsyncVectorEnv(
            [functools.partial(_make, self.name, self._arguments)],
            autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED,
        )

    def _make_one(self) -> gymnasium.Env:
        return _make(self.name, self._arguments)


def check(name: str) -> None:
    """Raises ValueError, one line, unless a name is a registered Gymnasium environment's."""
    module, _, identifier = name.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        gymnasium.spec(identifier)
    except ImportError as error:
        raise ValueError(f"task {name}: {error}") from None
    except gymnasium.error.Error as error:
        raise ValueError(" ".join(str(error).split())) from None


def parse_arguments(text: str) -> dict[str, Any]:
    """Returns the JSON object in a text.

    Raises:
      ValueError: there is none.
    """
    try:
        arguments = json.loads(text)
    except ValueError as error:
        raise ValueError(f"env_kwargs={text} is not allowed: must be JSON ({error})") from None
    if not isinstance(arguments, dict):
        raise ValueError(f"env_kwargs={text} is not allowed: must be a JSON object")
    return arguments


def _make(name: str, arguments: Mapping[str, Any]) -> gymnasium.Env:
    try:
        environment = gymnasium.make(name, **arguments)
    except Exception as error:  # of the environment's own code
        reason = " ".join(str(error).split())
        raise ValueError(f"task {name} with {dict(arguments)} cannot be made: {reason}") from error
    space: Any = environment.observation_space
    is_box = isinstance(space, gymnasium.spaces.Box)
    is_image = is_box and space.dtype == np.uint8 and len(space.shape) in (2, 3)
    if is_image or (is_box and len(space.shape) == 1):
        return environment
    try:
        return gymnasium.wrappers.FlattenObservation(environment)
    except (NotImplementedError, ValueError, TypeError) as error:
        raise ValueError(f"task {name} observes {space}, which is no vector: {error}") from None


def _from_zero(space: Any) -> gymnasium.spaces.Space:
    """Returns a space of actions, whose whole numbers begin at 0 as a policy's do."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return gymnasium.spaces.Discrete(int(space.n))
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        return gymnasium.spaces.MultiDiscrete(space.nvec)
    return space


def _only(result: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns what one environment's vector environment returned for it."""
    return tuple(part[0] for part in result[:4])


def _trace(environment: gymnasium.Env, actions: Sequence[Any]) -> list[np.ndarray]:
    """Returns all that an environment answers to actions; ended episodes begin anew."""
    found = []
    for action in actions:
        observation, reward, terminated, truncated, _ = environment.step(action)
        found += [np.array(observation), np.array([reward, terminated, truncated], np.float64)]
        if terminated or truncated:
            found.append(np.array(environment.reset()[0]))
    return found


def _actions(environment: gymnasium.Env) -> list[Any]:
    space = copy.deepcopy(environment.action_space)
    space.seed(0)
    return [space.sample() for _ in range(_PROBE_STEPS)]


def _obeys_seed(environment: gymnasium.Env) -> bool:
    actions = _actions(environment)
    traces = []
    for _ in range(2):
        first = np.array(environment.reset(seed=0)[0])
        traces.append([first, *_trace(environment, actions)])
    return _equal(*traces)


def _copies_exactly(environment: gymnasium.Env) -> bool:
    """Whether a copy and its original continue alike, and leave each other alone."""
    actions = _actions(environment)
    environment.reset(seed=0)
    try:
        _trace(environment, actions[:3])
        twin, third = _copied(environment), _copied(environment)
        return _equal(_trace(environment, actions), _trace(twin, actions)) and _equal(
            _trace(_copied(third), actions), _trace(third, actions)
        )
    except Exception:  # deepcopy raises whatever the environment's parts raise
        return False


def _equal(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> bool:
    return len(first) == len(second) and all(
        np.array_equal(a, b, equal_nan=True) for a, b in zip(first, second, strict=True)
    )
