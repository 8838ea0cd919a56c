"""The cross-entropy method with decaying noise (Szita and Lőrincz 2006)."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from trpo_repro.settings import Group, algorithms, setting

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class SearchSettings(Group, title="Black-box search", readers=algorithms("cem", "cma")):
    population: int = setting(50, "Candidates of an iteration", at_least=2)
    search_deviation: float = setting(
        1.0, "Initial standard deviation of the candidates' parameters", above=0
    )


@dataclasses.dataclass(frozen=True)
class EliteSettings(Group, title="Cross-entropy method", readers=algorithms("cem")):
    elite_fraction: float = setting(
        0.1, "Fraction of the candidates that the next are fitted to", above=0, at_most=1
    )
    noise: float = setting(
        0.05,
        "Z_0 of the noise Z_0 · max(0, 1 − t / noise_updates) added to the fitted variances at "
        "update t, in units of search_deviation²",
        at_least=0,
    )
    noise_updates: int = setting(50, "Updates after which no noise is added", at_least=1)


@dataclasses.dataclass(frozen=True)
class CrossEntropyMethod(SearchSettings, EliteSettings):
    """Maximizes over vectors with an independent normal for each of their elements.

    The state is the normals' `mean` and `deviation`, [P] each, and the number of `updates`. The
    default ratios are the paper's, whose candidates start with variance 100 and Z_t = max(5 − t /
    10, 0).
    """

    def initial_state(self, theta: np.ndarray) -> Arrays:
        """Returns the state that searches around θ, [P]."""
        mean = theta.astype(np.float64)
        return {
            "mean": mean,
            "deviation": np.full_like(mean, self.search_deviation),
            "updates": np.array(0),
        }

    def ask(self, state: Arrays, generator: np.random.Generator) -> tuple[np.ndarray, Arrays]:
        """Returns ([C, P] candidates, the state to tell their values to)."""
        noise = generator.standard_normal((self.population, len(state["mean"])))
        return state["mean"] + state["deviation"] * noise, state

    def tell(self, state: Arrays, candidates: np.ndarray, values: np.ndarray) -> Arrays:
        """Returns the state fitted to the best of [C, P] candidates by their [C] values."""
        count = max(1, math.ceil(self.elite_fraction * len(candidates)))
        elite = candidates[np.argsort(-values, kind="stable")[:count]]
        remaining = max(0.0, 1.0 - float(state["updates"]) / self.noise_updates)
        noise = self.noise * self.search_deviation**2 * remaining
        return {
            "mean": elite.mean(axis=0),
            "deviation": np.sqrt(elite.var(axis=0) + noise),
            "updates": state["updates"] + 1,
        }

    def mean(self, state: Arrays) -> np.ndarray:
        """Returns the middle of the search, [P]."""
        return state["mean"]
