"""The loop over iterations, apart from what an iteration does."""

import math
import time
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from trpo_repro.config import Config
from trpo_repro.optimization import trust_region
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


class Clock:
    """The times of an iteration: begun when made, then sampled, then updated."""

    def __init__(self):
        self._times = [time.perf_counter()]

    def sampled(self) -> None:
        self._times.append(time.perf_counter())

    def updated(self) -> None:
        self._times.append(time.perf_counter())

    def seconds(self) -> tuple[float, float]:
        """Returns the seconds of sampling and of the update."""
        begun, sampled, updated = self._times
        return sampled - begun, updated - sampled


def metrics_row(
    before: State,
    after: State,
    clock: Clock,
    *,
    returns: np.ndarray,
    lengths: np.ndarray,
    max_episode_steps: int,
    reward_mean: float,
    outcome: trust_region.Outcome,
) -> dict[str, Any]:
    """Returns the columns that all algorithms have; those of no episode are left out.

    Args:
      before: state before the iteration.
      after: state after it.
      clock: times of the iteration.
      returns: [E] undiscounted returns of the iteration's episodes.
      lengths: [E] their lengths in steps.
      max_episode_steps: time limit.
      reward_mean: mean reward of a step.
      outcome: what became of the update.
    """
    sampling, update = clock.seconds()
    recent = after.recent_returns
    row = {
        "iteration": after.iteration,
        "env_steps": after.env_steps,
        "episodes": after.episodes,
        "return_recent": recent.mean() if len(recent) else math.nan,
        "reward_mean": reward_mean,
        "accepted": outcome is trust_region.Outcome.ACCEPTED,
        "outcome": outcome.name.lower(),
        "seconds_sampling": sampling,
        "seconds_update": update,
        "steps_per_second": (after.env_steps - before.env_steps) / (sampling + update),
    }
    if len(returns):
        row |= {
            "return_mean": returns.mean(),
            "return_min": returns.min(),
            "return_max": returns.max(),
            "episode_length": lengths.mean(),
            "reward_per_step": returns.mean() / max_episode_steps,
        }
    return row
