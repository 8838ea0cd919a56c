"""Functional, batched environments: see `base.Environment`."""

from trpo_repro.environments import cartpole, mujoco
from trpo_repro.environments.base import Environment, EnvironmentStates, Step

__all__ = ["Environment", "EnvironmentStates", "Step", "make", "task_names"]


def task_names() -> tuple[str, ...]:
    """Returns the names that `make` accepts."""
    return ("cartpole", *mujoco.TASKS)


def make(name: str, *, threads: int | None = None) -> Environment:
    """Returns the environment of a task.

    Args:
      name: one of `task_names()`.
      threads: simulator threads; all available cores when None.

    Raises:
      ValueError: unknown name.
    """
    if name == "cartpole":
        return cartpole.CartPole()
    if name in mujoco.TASKS:
        return mujoco.Mujoco(name, threads=threads)
    raise ValueError(f"unknown task {name!r}; known: {', '.join(task_names())}")
