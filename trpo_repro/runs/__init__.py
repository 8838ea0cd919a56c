"""A run's directory: config.json, metrics.csv, checkpoints, TensorBoard, the trained policy."""

from trpo_repro.runs.saved_policies import SavedPolicy, load_policy, save_policy, saved_iteration
from trpo_repro.runs.session import can_resume, check_resumable, load_state, run, stop_signals

__all__ = [
    "SavedPolicy",
    "can_resume",
    "check_resumable",
    "load_policy",
    "load_state",
    "run",
    "save_policy",
    "saved_iteration",
    "stop_signals",
]
