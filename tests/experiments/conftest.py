"""What the tests of the scripts share."""

import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys

import pytest
from absl import flags

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _parsed():
    flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="session")
def _forks():
    """Processes that have imported TensorFlow and run nothing yet: each script gets a copy."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["trpo_repro.training", "trpo_repro.analysis.plots"])
    return forks


@pytest.fixture
def script(_forks, tmp_path_factory):
    """Returns (name, *arguments) → what a script of experiments/ did in a process of its own."""

    def run(name, *arguments):
        command = [f"experiments/{name}.py", *arguments]
        texts = [tmp_path_factory.mktemp("script") / file for file in ("stdout", "stderr")]
        process = _forks.Process(target=_run, args=(command, *texts))
        process.start()
        process.join()
        found = [text.read_text() for text in texts]
        return subprocess.CompletedProcess(command, process.exitcode, *found)

    return run


def _run(command, *texts):
    for number, text in enumerate(texts, start=1):
        os.dup2(os.open(text, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(ROOT)
    sys.argv = list(command)
    sys.path.insert(0, str(ROOT / "experiments"))
    runpy.run_path(command[0], run_name="__main__")
