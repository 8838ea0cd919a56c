"""Scripts in copies of a process that has imported TensorFlow, which takes seconds each time."""

import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["trpo_repro.training", "trpo_repro.analysis.plots"])


def run(directory, name, *arguments):
    """Returns what a script of experiments/ did in a process of its own.

    Args:
      directory: for the texts of its output.
      name: of the script, without `.py`.
      *arguments: of its command line.
    """
    command = [f"experiments/{name}.py", *arguments]
    texts = [directory / "stdout", directory / "stderr"]
    process = _FORKS.Process(target=_main, args=(command, *texts))
    process.start()
    process.join()
    found = [text.read_text() for text in texts]
    return subprocess.CompletedProcess(command, process.exitcode, *found)


def _main(command, *texts):
    for number, text in enumerate(texts, start=1):
        os.dup2(os.open(text, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(ROOT)
    sys.argv = list(command)
    sys.path.insert(0, str(ROOT / "experiments"))
    runpy.run_path(command[0], run_name="__main__")
