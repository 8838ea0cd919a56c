"""Functional, batched environments: see `base.Environment`."""

import importlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from trpo_repro.environments import adaptor, atari, cartpole, mujoco
from trpo_repro.environments.base import Environment, EnvironmentStates, Step

__all__ = [
    "Environment",
    "EnvironmentStates",
    "Step",
    "is_atari",
    "is_gymnasium",
    "make",
    "task_names",
]


def task_names() -> tuple[str, ...]:
    """Returns the names of the built-in tasks, Atari games last."""
    return ("cartpole", *mujoco.TASKS, *atari.games())


def is_atari(name: str) -> bool:
    """Whether a task is an Atari game."""
    return name in atari.games()


def is_gymnasium(name: str) -> bool:
    """Whether a task is not built in, but an environment that Gymnasium makes."""
    return name not in task_names() and not is_own(name)


def is_own(name: str) -> bool:
    """Whether a task is the path of an `Environment` class, like my_package.Line."""
    return re.fullmatch(r"(\w+\.)+[A-Za-z_]\w*", name) is not None


def check_task(name: str) -> None:
    """Raises ValueError unless `make` accepts the name."""
    if is_own(name):
        _class(name)
    if not is_gymnasium(name):
        return
    try:
        adaptor.check(name)
    except ValueError as error:
        raise ValueError(
            f"unknown task {name!r}; known: cartpole, {', '.join(mujoco.TASKS)}, Atari games by "
            "the names of their ROMs, such as pong or space_invaders, classes of yours by their "
            f"paths, such as my_package.Line, and what Gymnasium knows ({error})"
        ) from None


def _class(path: str) -> Callable[[], Environment]:
    """Returns what a path like my_package.Line names.

    Raises:
      ValueError: there is no such thing.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise ValueError(f"task {path}: {error}; is it on PYTHONPATH?") from None
    except Exception as error:  # of the module's own code
        raise ValueError(f"task {path}: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise ValueError(f"task {path} is not allowed: must be a class of environments")
    return found


def make(
    name: str,
    *,
    threads: int | None = None,
    screen: str = "52x40",
    action_set: str = "factored",
    sticky_probability: float = 0.0,
    env_kwargs: Mapping[str, Any] | None = None,
    env_processes: bool = False,
    copies: bool = False,
) -> Environment:
    """Returns the environment of a task.

    Args:
      name: one of `task_names()`; the path of a class of your own, without arguments:
        `my_package.Line`; or the id of an environment that Gymnasium knows, with the module that
        registers it before a colon if need be: `my_package:MyEnv-v0`.
      threads: MuJoCo's simulator threads; all available cores when None.
      screen: size of Atari's frames, a key of `atari.SCREENS`.
      action_set: actions of Atari, one of `atari.ACTION_SETS`.
      sticky_probability: probability that a frame of Atari repeats the action before.
      env_kwargs: arguments of `gymnasium.make` for what is not built in.
      env_processes: step each of Gymnasium's environments in a process of its own.
      copies: make Gymnasium's environments restorable, by copying their states at every step.

    Raises:
      ValueError: unknown name, or `adaptor.GymnasiumEnvironment` refuses.
    """
    check_task(name)
    if name == "cartpole":
        return cartpole.CartPole()
    if name in mujoco.TASKS:
        return mujoco.Mujoco(name, threads=threads)
    if is_own(name):
        try:
            environment = _class(name)()
        except TypeError as error:  # a method or an argument is missing
            raise ValueError(f"task {name}: {error}") from error
        if not isinstance(environment, Environment):
            raise ValueError(f"task {name} is not allowed: must be a class of environments")
        return environment
    if is_gymnasium(name):
        return adaptor.GymnasiumEnvironment(
            name, arguments=env_kwargs, processes=env_processes, copies=copies
        )
    return atari.Atari(
        name, screen=screen, action_set=action_set, sticky_probability=sticky_probability
    )
