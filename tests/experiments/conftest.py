"""What the tests of the scripts share."""

import pathlib
import subprocess
import sys

import pytest
from absl import flags

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _parsed():
    flags.FLAGS.mark_as_parsed()


@pytest.fixture
def script():
    """Returns (name, *arguments) → what a script of experiments/ did in its own process."""

    def run(name, *arguments):
        command = [sys.executable, f"experiments/{name}.py", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    return run
