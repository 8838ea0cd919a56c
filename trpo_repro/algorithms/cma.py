"""CMA-ES (Hansen and Ostermeier 1996) by the `cmaes` package, as a map of states."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from trpo_repro.algorithms import cem

Arrays = Mapping[str, np.ndarray]

FULL_COVARIANCE_SIZE = 500  # parameters; beyond, a covariance's square root costs too much
FULL_COVARIANCE = "_c_1d"  # the array that a search with a full covariance matrix has


@dataclasses.dataclass(frozen=True)
class CovarianceMatrixAdaptation(cem.SearchSettings):
    """Maximizes over vectors with a normal whose covariance is adapted.

    Up to FULL_COVARIANCE_SIZE parameters the covariance is a full matrix, beyond it is diagonal.
    The state is the arrays of the package's search by the names that it gives them.
    """

    def initial_state(self, theta: np.ndarray) -> Arrays:
        """Returns the state that searches around θ, [P]."""
        diagonal = len(theta) > FULL_COVARIANCE_SIZE
        logging.info(
            "CMA-ES: %s covariance of %d parameters", "diagonal" if diagonal else "full", len(theta)
        )
        search = _kind(diagonal)(
            mean=theta.astype(np.float64),
            sigma=self.search_deviation,
            population_size=self.population,
        )
        state = _arrays(search)
        # The best and worst values of past updates, which the package leaves unset.
        return {**state, "_funhist_values": np.zeros_like(state["_funhist_values"])}

    def ask(self, state: Arrays, generator: np.random.Generator) -> tuple[np.ndarray, Arrays]:
        """Returns ([C, P] candidates, the state to tell their values to)."""
        search = _search(state)
        search.reseed_rng(int(generator.integers(2**32)))
        candidates = np.stack([search.ask() for _ in range(self.population)])
        return candidates, _arrays(search)

    def tell(self, state: Arrays, candidates: np.ndarray, values: np.ndarray) -> Arrays:
        """Returns the state after [C] values, to be maximized, of the [C, P] candidates."""
        search = _search(state)
        search.tell(list(zip(candidates, -values, strict=True)))
        return _arrays(search)

    def mean(self, state: Arrays) -> np.ndarray:
        """Returns the middle of the search, [P]."""
        return state["_mean"]


def _kind(diagonal: bool) -> Any:
    """Returns the package's class; its import, most of a second, is for who searches alone."""
    import cmaes

    return cmaes.SepCMA if diagonal else cmaes.CMA


def _arrays(search: Any) -> Arrays:
    """Returns what the package would pickle, as arrays; what is None is left out."""
    attributes = search.__getstate__()
    return {name: np.array(value) for name, value in attributes.items() if value is not None}


def _search(state: Arrays) -> Any:
    """Returns the search of `_arrays`; ValueError if they are not of one."""
    if "_mean" not in state:
        raise ValueError("the checkpoint's search is not one of this version; begin the run again")
    kind = _kind(diagonal=FULL_COVARIANCE not in state)
    attributes = {
        name: array.item() if array.ndim == 0 else array.copy() for name, array in state.items()
    }
    search = kind.__new__(kind)
    search.__setstate__({"_bounds": None, "_B": None, "_D": None, **attributes})
    return search
