"""Trained policies as files: all that acting needs, as named arrays."""

import dataclasses
import json
import pathlib

import numpy as np

from trpo_repro import files
from trpo_repro.policies import normalization
from trpo_repro.policies import policy as policy_lib
from trpo_repro.training.state import State

_NORMALIZER = "normalizer_"


@dataclasses.dataclass(frozen=True)
class SavedPolicy:
    """What a trained policy is made of, besides its network.

    Attributes:
      theta: [P] parameters.
      iteration: iteration after which it was saved.
      normalizer: normalizer of the observations, or None.
    """

    theta: np.ndarray
    iteration: int
    normalizer: normalization.ObservationNormalizer | None


def save_policy(path: pathlib.Path, policy: policy_lib.Policy, state: State) -> None:
    """Replaces a file by θ, the observations' normalizer, and the variables' names and shapes."""
    arrays = {
        "theta": state.theta,
        "iteration": np.array(state.iteration),
        "paths": np.array(policy.network.variable_names),
        "shapes": np.array([json.dumps(shape) for shape in policy.network.shapes]),
    }
    if state.normalizer is not None:
        statistics = dataclasses.asdict(state.normalizer)
        arrays |= {_NORMALIZER + name: array for name, array in statistics.items()}
    with files.replacing(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def saved_iteration(path: pathlib.Path) -> int | None:
    """Returns the iteration of the policy that `save_policy` wrote; None if there is no file."""
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as archive:
        return int(archive["iteration"])


def load_policy(path: pathlib.Path, policy: policy_lib.Policy, *, normalized: bool) -> SavedPolicy:
    """Returns what `save_policy` wrote.

    Args:
      path: path of the file.
      policy: policy with the network that the parameters belong to.
      normalized: whether the policy sees normalized observations.

    Raises:
      ValueError: it is of another network, or lacks the normalizer that the policy needs.
    """
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    shapes = [tuple(json.loads(shape)) for shape in arrays["shapes"]]
    if (arrays["paths"].tolist(), shapes) != (policy.network.variable_names, policy.network.shapes):
        raise ValueError(f"{path} holds the parameters of another network")
    statistics = {
        name.removeprefix(_NORMALIZER): array
        for name, array in arrays.items()
        if name.startswith(_NORMALIZER)
    }
    if normalized and not statistics:
        raise ValueError(f"{path} lacks the observations' normalizer, which this policy needs")
    normalizer = normalization.ObservationNormalizer(**statistics) if statistics else None
    return SavedPolicy(arrays["theta"], int(arrays["iteration"]), normalizer)
