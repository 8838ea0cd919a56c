"""Trust Region Policy Optimization (Schulman et al., 2015), reproduced.

    config, environment, policy = trpo_repro.load("results/swimmer/vine/seed_1")

What a user needs most is here: `Config` and `train` make a run in a directory, `load` returns one,
`make` an environment, which `RestorableVectorEnv` puts behind Gymnasium's interface. Policies,
samplers and updates are in their rooms, which WORKSPACE.md lists.
"""

import importlib
import os
from typing import Any

__version__ = "0.1.0"

# TensorFlow leaves oneDNN's kernels off where a processor has no AVX-512; an update of Atari's
# convolutions then takes 2.6 times as long. To set before TensorFlow is imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# Imported on first use, so that reading results needs no TensorFlow.
_FACE = {
    "Config": ("config", "Config"),
    "RestorableVectorEnv": ("environments.vector", "RestorableVectorEnv"),
    "TrainedPolicy": ("runs", "TrainedPolicy"),
    "load": ("runs", "load"),
    "make": ("environments", "make"),
    "train": ("runs", "run"),
}


def __getattr__(name: str) -> Any:
    if name not in _FACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, member = _FACE[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), member)


def __dir__() -> list[str]:
    return sorted([*globals(), *_FACE])
