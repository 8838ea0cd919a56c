"""A run's directory: config.json, metrics.csv, checkpoints, TensorBoard, the trained policy."""

from trpo_repro.runs.saved_policies import (
    TrainedPolicy,
    load_policy,
    save_policy,
    saved_iteration,
)
from trpo_repro.runs.session import (
    LoadedRun,
    can_resume,
    check_resumable,
    load,
    load_config,
    load_state,
    read_fields,
    run,
)

__all__ = [
    "LoadedRun",
    "TrainedPolicy",
    "can_resume",
    "check_resumable",
    "load",
    "load_config",
    "load_policy",
    "load_state",
    "read_fields",
    "run",
    "save_policy",
    "saved_iteration",
]
