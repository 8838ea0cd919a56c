"""Counter-based random numbers: every draw is a function of (seed, iteration, purpose, shard)."""

import enum
from typing import NamedTuple

import numpy as np


class Purpose(enum.IntEnum):
    """What a stream of random numbers is for; two purposes never share a stream."""

    INITIAL_STATES = 0
    ACTIONS = 1
    FISHER_STATES = 2
    BASELINE_FIT = 3
    ROLLOUT_SET = 4
    BRANCH_ACTIONS = 5
    BASELINE_WEIGHTS = 6
    SEARCH = 7


class Key(NamedTuple):
    """Names a family of streams.

    Attributes:
      seed: seed of the run.
      iteration: iteration of the training loop.
      shard: shard of the batch of environments.
    """

    seed: int
    iteration: int = 0
    shard: int = 0

    def generator(self, purpose: Purpose) -> np.random.Generator:
        """Returns a new Philox generator: equal keys and purposes give equal numbers anywhere."""
        entropy = np.random.SeedSequence([*self, int(purpose)])
        return np.random.Generator(np.random.Philox(entropy))
