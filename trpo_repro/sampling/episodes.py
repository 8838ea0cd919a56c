"""What the episodes inside sampled trajectories earned."""

import dataclasses

import numpy as np

from trpo_repro.sampling import single_path


@dataclasses.dataclass(frozen=True)
class Episodes:
    """Episodes that ended, and the returns so far of those that did not.

    Attributes:
      returns: [E] undiscounted, in the order of their ends.
      lengths: [E] steps.
      count: episodes that ended, reported or not.
      running: [B] rewards so far of the episodes that continue.
    """

    returns: np.ndarray
    lengths: np.ndarray
    count: int
    running: np.ndarray


def ended_episodes(
    trajectories: single_path.Trajectories, running: np.ndarray, *, first_only: bool
) -> Episodes:
    """Returns what the episodes that ended in [T, B] steps earned.

    Args:
      trajectories: [T, B].
      running: [B] rewards of the first episodes before these steps.
      first_only: report only the first episode of each path.
    """
    earned = running[None] + np.cumsum(trajectories.rewards, axis=0)
    ended = trajectories.terminated | trajectories.truncated
    # What each path had earned at the end of its previous episode, at every time.
    at_end = np.where(ended, np.arange(len(ended))[:, None], -1)
    last_end = np.maximum.accumulate(at_end, axis=0)
    before = np.vstack([np.full((1, ended.shape[1]), -1), last_end[:-1]])
    columns = np.arange(ended.shape[1])[None]

    def base(index):
        return np.where(index < 0, 0.0, earned[index, columns])

    chosen = ended & (before < 0) if first_only else ended
    return Episodes(
        returns=(earned - base(before))[chosen],
        lengths=trajectories.elapsed[chosen] + 1,
        count=int(ended.sum()),
        running=(earned[-1:] - base(last_end[-1:]))[0],
    )
