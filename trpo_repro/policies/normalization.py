"""Running normalization of observations; the statistics are a value like any other state."""

import dataclasses

import numpy as np

from trpo_repro.settings import Group, setting


@dataclasses.dataclass(frozen=True)
class NormalizationSettings(Group, title="Observations"):
    normalize_observations: bool = setting(
        False, "Normalize observations by their running mean and deviation"
    )


@dataclasses.dataclass(frozen=True)
class ObservationNormalizer:
    """Running mean and variance of each observation column.

    Attributes:
      count: [] float64, observations seen.
      mean: [O] float64.
      variance: [O] float64, of the population seen.
    """

    count: np.ndarray
    mean: np.ndarray
    variance: np.ndarray

    LIMIT = 10.0  # normalized observations are clipped to ± this many deviations
    EPSILON = 1e-8

    @classmethod
    def initial(cls, size: int) -> "ObservationNormalizer":
        """Returns statistics of no observations, which normalize to the identity, clipped."""
        return cls(np.zeros(()), np.zeros(size), np.ones(size))

    def update(self, observations: np.ndarray) -> "ObservationNormalizer":
        """Returns the statistics with [N, O] observations added (Chan et al., 1983)."""
        added = np.float64(len(observations))
        mean = observations.mean(axis=0, dtype=np.float64)
        variance = observations.var(axis=0, dtype=np.float64)
        count = self.count + added
        shift = mean - self.mean
        spread = self.variance * self.count + variance * added
        spread += shift**2 * self.count * added / count
        return ObservationNormalizer(
            np.asarray(count), self.mean + shift * added / count, spread / count
        )

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """Returns float32 [..., O] normalized observations."""
        scaled = (observations - self.mean) / np.sqrt(self.variance + self.EPSILON)
        return np.clip(scaled, -self.LIMIT, self.LIMIT).astype(np.float32)
