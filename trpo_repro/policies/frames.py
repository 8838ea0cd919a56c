"""Observations that stack frames, each frame stored once."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class StackedFrames:
    """N observations of F frames each.

    Attributes:
      frames: [M, H, W] uint8, the store.
      index: [N, F] int32, the frames of each observation, oldest first.
    """

    frames: np.ndarray
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: np.ndarray | slice) -> "StackedFrames":
        return StackedFrames(self.frames, self.index[index])

    def stacked(self) -> np.ndarray:
        """Returns the observations themselves, [N, F, H, W]."""
        return self.frames[self.index]
