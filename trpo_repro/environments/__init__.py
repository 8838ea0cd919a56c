"""Functional, batched environments: see `base.Environment`."""

from collections.abc import Mapping

import numpy as np

from trpo_repro.environments import atari, cartpole, mujoco
from trpo_repro.environments.base import Environment, EnvironmentStates, Step

__all__ = [
    "Environment",
    "EnvironmentStates",
    "Step",
    "is_atari",
    "make",
    "states_from_arrays",
    "task_names",
]


def task_names() -> tuple[str, ...]:
    """Returns the names that `make` accepts, Atari games last."""
    return ("cartpole", *mujoco.TASKS, *atari.games())


def is_atari(name: str) -> bool:
    """Whether a task is an Atari game."""
    return name in atari.games()


def check_task(name: str) -> None:
    """Raises ValueError unless `make` accepts the name."""
    if name not in task_names():
        raise ValueError(
            f"unknown task {name!r}; known: cartpole, {', '.join(mujoco.TASKS)}, and Atari games "
            "by the names of their ROMs, such as pong or space_invaders"
        )


def make(
    name: str,
    *,
    threads: int | None = None,
    screen: str = "52x40",
    action_set: str = "factored",
    sticky_probability: float = 0.0,
) -> Environment:
    """Returns the environment of a task.

    Args:
      name: one of `task_names()`.
      threads: MuJoCo's simulator threads; all available cores when None.
      screen: size of Atari's frames, a key of `atari.SCREENS`.
      action_set: actions of Atari, one of `atari.ACTION_SETS`.
      sticky_probability: probability that a frame of Atari repeats the action before.

    Raises:
      ValueError: unknown name.
    """
    check_task(name)
    if name == "cartpole":
        return cartpole.CartPole()
    if name in mujoco.TASKS:
        return mujoco.Mujoco(name, threads=threads)
    return atari.Atari(
        name, screen=screen, action_set=action_set, sticky_probability=sticky_probability
    )


def states_from_arrays(arrays: Mapping[str, np.ndarray]) -> EnvironmentStates:
    """Returns the states that `to_arrays` made the arrays of."""
    kind = atari.AtariStates if "emulator" in arrays else EnvironmentStates
    return kind.from_arrays(arrays)
