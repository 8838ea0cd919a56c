"""Programs in copies of a process that has imported TensorFlow, which takes seconds each time."""

import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["trpo_repro.commands.quiet", "trpo_repro.training", "trpo_repro.analysis.plots"]
)


def run(directory, name, *arguments, spawns=False):
    """Returns what a script of experiments/ did in a process of its own.

    Args:
      directory: for the texts of its output.
      name: of the script, without `.py`.
      *arguments: of its command line.
      spawns: whether the processes that it spawns begin from nothing, as a user's do; otherwise
        they are copies too.
    """
    return start(directory, name, *arguments, spawns=spawns).result()


def run_code(directory, code):
    """Returns what a program did in a process of its own, in a directory."""
    return _Process(directory, _program, code).result()


def start(directory, name, *arguments, spawns=False):
    """Returns a script's process, with its `pid` and its `result`; arguments as of `run`."""
    target = _script if spawns else _script_of_copies
    return _Process(directory, target, [str(ROOT / f"experiments/{name}.py"), *arguments])


class _Process:
    def __init__(self, directory, target, command):
        self._command = command
        self._texts = [directory / "stdout", directory / "stderr"]
        self._process = _FORKS.Process(
            target=_main, args=(target, directory, command, *self._texts)
        )
        self._process.start()
        self.pid = self._process.pid

    @property
    def running(self):
        return self._process.is_alive()

    def result(self, timeout=None):
        """Returns what it did, when it has ended; kills it after so many seconds and raises."""
        self._process.join(timeout)
        if self.running:
            self._process.kill()
            raise subprocess.TimeoutExpired(self._command, timeout)
        found = [text.read_text() for text in self._texts]
        return subprocess.CompletedProcess(self._command, self._process.exitcode, *found)


def _main(target, directory, command, *texts):
    for number, text in enumerate(texts, start=1):
        os.dup2(os.open(text, os.O_WRONLY | os.O_CREAT), number)
    target(directory, command)


def _script_of_copies(directory, command):
    # This process has computed nothing yet, nor has it threads of TensorFlow's.
    multiprocessing.context._concrete_contexts["spawn"] = multiprocessing.get_context("fork")
    _script(directory, command)


def _script(_, command):
    os.chdir(ROOT)
    sys.argv = list(command)
    sys.path.insert(0, str(ROOT / "experiments"))
    runpy.run_path(command[0], run_name="__main__")


def _program(directory, code):
    os.chdir(directory)
    sys.path.insert(0, str(directory))
    exec(compile(code, "program", "exec"), {"__name__": "__main__"})
