"""The loop over iterations, apart from what an iteration does."""

import math
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from trpo_repro.config import Config
from trpo_repro.training.state import State

RECENT_EPISODES = 100


class Iteration(Protocol):
    """What `iterations` needs of a trainer."""

    config: Config

    def iterate(self, state: State) -> tuple[State, dict[str, Any]]:
        """Returns the state after one iteration, and its row of metrics."""


def iterations(
    trainer: Iteration, state: State, stop_at: int | None = None
) -> Iterator[tuple[State, dict[str, Any]]]:
    """Yields (state, metrics) after each iteration until the run ends or has `stop_at` of them."""
    while not ended(trainer.config, state) and (stop_at is None or state.iteration < stop_at):
        state, row = trainer.iterate(state)
        yield state, row


def ended(config: Config, state: State) -> bool:
    """Returns whether a run's last iteration is done, or its target return is passed."""
    target, recent = config.target_return, state.recent_returns
    passed = target is not None and len(recent) == RECENT_EPISODES and recent.mean() > target
    return passed or state.iteration >= config.iterations


def return_metrics(
    episode_returns: np.ndarray, lengths: np.ndarray, recent: np.ndarray, max_episode_steps: int
) -> dict[str, float]:
    """Returns the columns about episodes; those of an iteration without one are NaN.

    Args:
      episode_returns: [E] of the iteration's episodes.
      lengths: [E] of the same.
      recent: returns of the run's last episodes.
      max_episode_steps: the time limit.
    """
    row = {"return_recent": recent.mean() if len(recent) else math.nan}
    if len(episode_returns):
        row |= {
            "return_mean": episode_returns.mean(),
            "return_min": episode_returns.min(),
            "return_max": episode_returns.max(),
            "episode_length": lengths.mean(),
            "reward_per_step": episode_returns.mean() / max_episode_steps,
        }
    return row
