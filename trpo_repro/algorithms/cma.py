"""CMA-ES (Hansen and Ostermeier 1996) by the `cma` package, as a map of states."""

import dataclasses
import pickle
from collections.abc import Mapping

import cma
import numpy as np
from absl import logging

from trpo_repro.algorithms import cem

Arrays = Mapping[str, np.ndarray]

FULL_COVARIANCE_SIZE = 500  # parameters; beyond, a covariance's square root costs too much


@dataclasses.dataclass(frozen=True)
class CovarianceMatrixAdaptation(cem.SearchSettings):
    """Maximizes over vectors with a normal whose covariance is adapted.

    Up to FULL_COVARIANCE_SIZE parameters the covariance is a full matrix, beyond it is diagonal.
    The state is the package's own object, pickled.
    """

    def initial_state(self, theta: np.ndarray) -> Arrays:
        """Returns the state that searches around θ, [P]."""
        diagonal = len(theta) > FULL_COVARIANCE_SIZE
        logging.info(
            "CMA-ES: %s covariance of %d parameters", "diagonal" if diagonal else "full", len(theta)
        )
        options = {
            "popsize": self.population,
            "CMA_diagonal": diagonal,
            "randn": _Normal(),
            "verbose": -9,
        }
        return _dump(
            cma.CMAEvolutionStrategy(theta.astype(np.float64), self.search_deviation, options)
        )

    def ask(self, state: Arrays, generator: np.random.Generator) -> tuple[np.ndarray, Arrays]:
        """Returns ([C, P] candidates, the state to tell their values to)."""
        strategy = _load(state)
        strategy.opts["randn"].generator = generator
        candidates = np.stack(strategy.ask())
        return candidates, _dump(strategy)

    def tell(self, state: Arrays, candidates: np.ndarray, values: np.ndarray) -> Arrays:
        """Returns the state after [C] values, to be maximized, of the [C, P] candidates."""
        strategy = _load(state)
        strategy.tell(list(candidates), (-values).tolist())
        return _dump(strategy)

    def mean(self, state: Arrays) -> np.ndarray:
        """Returns the middle of the search, [P]."""
        return _load(state).mean


class _Normal:
    """Standard normal numbers from a generator that is set before each use and never saved."""

    generator: np.random.Generator

    def __call__(self, *shape: int) -> np.ndarray:
        return self.generator.standard_normal(shape)

    def __getstate__(self):
        return {}


def _dump(strategy: cma.CMAEvolutionStrategy) -> Arrays:
    return {"pickle": np.frombuffer(strategy.pickle_dumps(), np.uint8)}


def _load(state: Arrays) -> cma.CMAEvolutionStrategy:
    return pickle.loads(state["pickle"].tobytes())
