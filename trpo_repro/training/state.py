"""What a run's future depends on, as a value."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from trpo_repro import environments
from trpo_repro.policies import normalization


@dataclasses.dataclass(frozen=True)
class State:
    """All that a run's future depends on, besides its configuration.

    Attributes:
      iteration: completed iterations.
      env_steps: environment steps simulated.
      episodes: episodes ended.
      theta: [P] policy parameters.
      environment_states: states to continue from, or None to start afresh.
      running_returns: [B] rewards so far of the episodes in `environment_states`.
      recent_returns: [≤ 100] undiscounted returns of the last episodes.
      normalizer: normalizer of observations, or None.
      baseline: arrays of the value function.
      search: arrays of a black-box algorithm.
      update: arrays that the policy's update remembers.
    """

    iteration: int
    env_steps: int
    episodes: int
    theta: np.ndarray
    environment_states: environments.EnvironmentStates | None
    running_returns: np.ndarray
    recent_returns: np.ndarray
    normalizer: normalization.ObservationNormalizer | None
    baseline: Mapping[str, np.ndarray]
    search: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    update: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns everything that can be saved as named arrays, for a checkpoint."""
        arrays = {
            "counters": np.array([self.iteration, self.env_steps, self.episodes]),
            "theta": self.theta,
            "running_returns": self.running_returns,
            "recent_returns": self.recent_returns,
        }
        groups: dict[str, Mapping[str, np.ndarray]] = {
            "baseline": self.baseline,
            "search": self.search,
            "update": self.update,
        }
        if self.environment_states is not None and self.environment_states.can_save:
            groups["environment"] = self.environment_states.to_arrays()
        if self.normalizer is not None:
            groups["normalizer"] = dataclasses.asdict(self.normalizer)
        for group, members in groups.items():
            arrays.update({f"{group}/{name}": array for name, array in members.items()})
        return arrays

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], states_type: type[environments.EnvironmentStates]
    ) -> "State":
        """The inverse of `to_arrays`, for states of an environment's type."""

        def group(prefix):
            return {
                name.removeprefix(f"{prefix}/"): array
                for name, array in arrays.items()
                if name.startswith(f"{prefix}/")
            }

        environment, normalizer = group("environment"), group("normalizer")
        iteration, env_steps, episodes = map(int, arrays["counters"])
        return cls(
            iteration,
            env_steps,
            episodes,
            theta=arrays["theta"],
            environment_states=states_type.from_arrays(environment) if environment else None,
            running_returns=arrays["running_returns"],
            recent_returns=arrays["recent_returns"],
            normalizer=normalization.ObservationNormalizer(**normalizer) if normalizer else None,
            baseline=group("baseline"),
            search=group("search"),
            update=group("update"),
        )
