"""What a session of a run should be remembered by."""

import os
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

PACKAGES = (
    "tensorflow",
    "keras",
    "tensorflow-probability",
    "numpy",
    "gymnasium",
    "mujoco",
    "ale-py",
    "opencv-python-headless",
    "ray",
    "cmaes",
)


def describe_session(first_iteration: int, command: Sequence[str] | None) -> dict[str, Any]:
    """Returns what a session of a run should be remembered by.

    Args:
      first_iteration: completed iterations before it.
      command: command that began it; this process's own when None.
    """
    script = pathlib.Path(sys.argv[0])
    own = ["python", f"{script.parent.name}/{script.name}", *sys.argv[1:]]
    return {
        "completed_iterations": first_iteration,
        "command": shlex.join(own if command is None else command),
        "git_revision": _git_revision(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in PACKAGES},
        },
    }


def _git_revision() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    directory = pathlib.Path(__file__).parent
    try:
        result = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()
