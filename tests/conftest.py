"""How many tests run at once, what they share, and what is shown at their end."""

import copy
import dataclasses
import os

import pytest

import trpo_repro  # noqa: F401 - before TensorFlow, as in every program here

# Ray's workers would give way to the tests beside them, and a test waits for its workers.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.hookimpl(optionalhook=True)  # pytest without xdist does not know it
def pytest_xdist_auto_num_workers(config):
    """One more than the cores: many a test waits for a process of its own."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(autouse=True, scope="session")
def _compiled_once():
    """Runs of one configuration share their trainer: its graphs take seconds, and no run's state.

    A trainer that did hold a run's state would make a resumed run differ from the whole one here.
    """
    from trpo_repro import training  # TensorFlow takes seconds; --help and --collect-only do not

    make, made = training.make_trainer, {}

    def shared(config):
        if config.workers:  # are ended with their run
            return make(config)
        key = dataclasses.replace(config, iterations=1, target_return=None)
        if key not in made:
            made[key] = make(config)
        trainer = copy.copy(made[key])
        trainer.config = config
        return trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "make_trainer", shared)
        yield


def pytest_terminal_summary(terminalreporter):
    reports = [report for group in terminalreporter.stats.values() for report in group]
    for report in reports:
        for name, value in getattr(report, "user_properties", ()):
            if getattr(report, "when", "") == "call":
                terminalreporter.write_line(f"{name}: {value}")
