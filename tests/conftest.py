"""What tests share, and what is shown at their end."""

import copy
import dataclasses
import os
import sys

import pytest

import trpo_repro  # noqa: F401 - before TensorFlow, as in every program here

# Ray's workers would give way to the tests beside them, and a test waits for its workers.
os.environ.setdefault("RAY_worker_niceness", "0")


_TRAINERS: dict = {}  # by configuration, those of this process


@pytest.fixture(autouse=True, scope="session")
def _trainers_are_shared():
    """Runs of one configuration share their trainer, whose graphs take seconds to make.

    What a run's beginning checks or warns of is seen once a configuration, and what a test patches
    stays in a trainer that is made meanwhile: such a test forgets the trainers with `new_trainers`.
    """
    if "trpo_repro.training" not in sys.modules:  # no test here needs it
        yield
        return
    from trpo_repro import training

    make = training.make_trainer

    def shared(config):
        if config.workers:  # Ray's, which end with the run
            return make(config)
        key = dataclasses.replace(config, iterations=1, target_return=None)
        if key not in _TRAINERS:
            _TRAINERS[key] = make(config)
        trainer = copy.copy(_TRAINERS[key])
        trainer.config = config
        return trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "make_trainer", shared)
        yield


@pytest.fixture
def new_trainers():
    """Returns what forgets all trainers: the next run has its own, as in a process of its own."""
    yield _TRAINERS.clear
    _TRAINERS.clear()


def pytest_terminal_summary(terminalreporter):
    reports = [report for group in terminalreporter.stats.values() for report in group]
    for report in reports:
        for name, value in getattr(report, "user_properties", ()):
            if getattr(report, "when", "") == "call":
                terminalreporter.write_line(f"{name}: {value}")
