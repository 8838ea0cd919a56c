"""Sampling on Ray: any number of workers, or a lost one, and the same bits."""

import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import ray

from experiments import configs
from trpo_repro import metrics, runs, training
from trpo_repro.sampling import workers

ROOT = pathlib.Path(__file__).parent.parent.parent
TINY = dataclasses.replace(
    configs.preset("paper", "pong"),
    seed=1,
    iterations=2,
    steps_per_iteration=160,
    path_length=20,
    shards=4,
)
VINE = dataclasses.replace(
    configs.preset("paper", "pong", "vine"),
    seed=1,
    iterations=2,
    path_length=20,
    trunks=4,
    rollout_states=8,
    rollouts_per_state=3,
    rollout_length=5,
    shards=4,
)
HOPPER = dataclasses.replace(
    configs.preset("paper", "hopper"),
    seed=1,
    iterations=2,
    steps_per_iteration=800,
    path_length=100,
    shards=2,
)


@pytest.fixture(scope="module", autouse=True)
def _ray():
    """One cluster for all: starting one takes seconds."""
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def _final(config, directory):
    """Returns all columns but times, and the last state's arrays."""
    runs.run(config, directory, resume=False)
    table = metrics.read(directory / "metrics.csv")
    columns = {name: column for name, column in table.items() if name not in metrics.TIMES}
    return columns, runs.load_state(directory).to_arrays()


def _assert_equal(first, second):
    for ours, theirs in zip(first, second, strict=True):
        for name, array in ours.items():
            np.testing.assert_array_equal(array, theirs[name], err_msg=name)


@pytest.mark.parametrize("config", [TINY, VINE, HOPPER], ids=["pong", "pong vine", "hopper"])
def test_any_number_of_workers_gives_the_same_bits(tmp_path, config):
    numbers = (1, 2, 4) if config is TINY else (1, 2)
    ends = [
        _final(dataclasses.replace(config, workers=count), tmp_path / str(count))
        for count in numbers
    ]
    for other in ends[1:]:
        _assert_equal(ends[0], other)


@pytest.mark.parametrize("config", [TINY, HOPPER], ids=["pong", "hopper"])
def test_in_process_is_the_same(tmp_path, config):
    """Physics and rewards do not know where they run; the policies' sums are the same on these
    networks whatever the threads."""
    _assert_equal(
        _final(config, tmp_path / "here"),
        _final(dataclasses.replace(config, workers=2), tmp_path / "there"),
    )


def test_a_killed_workers_task_runs_again(tmp_path, monkeypatch):
    """SIGKILL in the middle of a task; the run's metrics and parameters do not show it."""
    longer = dataclasses.replace(TINY, steps_per_iteration=1600, path_length=200, workers=2)
    undisturbed = _final(longer, tmp_path / "undisturbed")
    pools, killed = [], []
    original = workers.RayWorkers.__init__
    monkeypatch.setattr(
        workers.RayWorkers,
        "__init__",
        lambda self, *args: (original(self, *args), pools.append(self))[0],
    )
    sample = workers.RayWorkers.map

    def disturbed(self, theta, tasks):
        if not killed:
            victim = self.processes()[0]
            timer = threading.Timer(0.2, os.kill, (victim, signal.SIGKILL))
            killed.append(victim)
            timer.start()
        return sample(self, theta, tasks)

    monkeypatch.setattr(workers.RayWorkers, "map", disturbed)
    _assert_equal(undisturbed, _final(longer, tmp_path / "disturbed"))
    with pytest.raises(ProcessLookupError):
        os.kill(killed[0], 0)
    assert len(pools) == 1


def test_a_task_that_kills_every_worker_is_an_error(monkeypatch):
    def fatal(environment, policy, theta):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(workers, "MAX_LOST", 1)
    pool = workers.RayWorkers(lambda: (None, None), 1)
    with pytest.raises(ray.exceptions.RayActorError):
        pool.map(np.zeros(1), [fatal])
    pool.close()


def test_an_error_in_a_task_is_raised_here():
    def bad(environment, policy, theta):
        raise ValueError("what is wrong")

    pool = workers.RayWorkers(lambda: (None, None), 1)
    with pytest.raises(ValueError, match="what is wrong"):
        pool.map(np.zeros(1), [bad])
    pool.close()


def test_results_are_in_the_order_of_the_tasks():
    def task(seconds):
        return lambda environment, policy, theta: time.sleep(seconds) or (seconds, theta.sum())

    pool = workers.RayWorkers(lambda: (None, None), 2)
    waits = [0.3, 0.0, 0.1, 0.0]
    assert pool.map(np.ones(3), [task(wait) for wait in waits]) == [(w, 3.0) for w in waits]
    pool.close()


def test_resume_on_another_number_of_workers(tmp_path):
    whole = _final(dataclasses.replace(TINY, workers=2), tmp_path / "whole")
    part = dataclasses.replace(TINY, workers=1)
    runs.run(dataclasses.replace(part, iterations=1), tmp_path / "part", resume=False)
    state = runs.run(dataclasses.replace(part, workers=2), tmp_path / "part", resume=True)
    assert isinstance(state, training.State)
    np.testing.assert_array_equal(state.theta, whole[1]["theta"])


def test_a_signal_stops_a_run_on_workers_and_it_goes_on(tmp_path):
    """Ray has a handler of SIGTERM of its own, which must not end the run without a word."""
    longer = dataclasses.replace(TINY, iterations=3)
    whole = _final(dataclasses.replace(longer, workers=2), tmp_path / "whole")
    arguments = ["--task=pong", "--seed=1", "--iterations=3", "--steps_per_iteration=160"]
    arguments += ["--path_length=20", "--workers=2", f"--out={tmp_path / 'part'}"]
    command = [sys.executable, "experiments/train.py", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    rows = tmp_path / "part" / "metrics.csv"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if rows.exists() and len(rows.read_text().splitlines()) > 1:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert re.search(rb"stopped; [012] iterations saved", errors)
    state = runs.run(longer, tmp_path / "part", resume=True)
    np.testing.assert_array_equal(state.theta, whole[1]["theta"])
