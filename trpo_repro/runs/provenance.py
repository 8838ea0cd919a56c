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
    return {
        "completed_iterations": first_iteration,
        "command": shlex.join(_own_command() if command is None else command),
        "git_revision": _git_revision(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in PACKAGES},
        },
    }


def _own_command() -> list[str]:
    """Returns this process's command, without the machine's directories."""
    script, module = pathlib.Path(sys.argv[0]), getattr(sys.modules["__main__"], "__spec__", None)
    if module is not None:
        return ["python", "-m", module.name, *sys.argv[1:]]
    if script.suffix == ".py":
        return ["python", f"{script.parent.name}/{script.name}", *sys.argv[1:]]
    return [script.name, *sys.argv[1:]]  # installed


def _git_revision() -> str:
    """Returns the revision of this tree; `unknown` where the package is installed elsewhere."""
    root = pathlib.Path(__file__).resolve().parents[2]

    def git(*command):
        return subprocess.check_output(
            ["git", *command], cwd=root, stderr=subprocess.DEVNULL, text=True
        ).strip()

    try:
        if pathlib.Path(git("rev-parse", "--show-toplevel")) != root:
            return "unknown"
        return git("describe", "--always", "--dirty", "--abbrev=40")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
