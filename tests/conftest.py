"""How many tests run at once; what the tests of faults counted is shown at the end."""

import os

import pytest

import trpo_repro  # noqa: F401 - before TensorFlow, as in every program here

# Ray's workers would give way to the tests beside them, and a test waits for its workers.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.hookimpl(optionalhook=True)  # pytest without xdist does not know it
def pytest_xdist_auto_num_workers(config):
    """One more than the cores: many a test waits for a process of its own."""
    return (os.cpu_count() or 1) + 1


def pytest_terminal_summary(terminalreporter):
    reports = [report for group in terminalreporter.stats.values() for report in group]
    for report in reports:
        for name, value in getattr(report, "user_properties", ()):
            if getattr(report, "when", "") == "call":
                terminalreporter.write_line(f"{name}: {value}")
