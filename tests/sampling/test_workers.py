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
import tensorflow as tf
from helpers import assert_equal, final, short_pong

from trpo_repro import cluster, presets, runs, training
from trpo_repro.sampling import workers

ROOT = pathlib.Path(__file__).parent.parent.parent
TINY = short_pong(steps_per_iteration=160, path_length=20)
VINE = short_pong(
    "vine", path_length=20, trunks=4, rollout_states=8, rollouts_per_state=3, rollout_length=5
)
HOPPER = dataclasses.replace(
    presets.preset("paper", "hopper"),
    seed=1,
    iterations=2,
    steps_per_iteration=800,
    path_length=100,
    shards=2,
)


@pytest.fixture(scope="module", autouse=True)
def _ray():
    """One cluster for all: starting one takes seconds."""
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _system_config={"prestart_worker_first_driver": False},  # few tests need all four
    )
    yield
    ray.shutdown()


PONG = [
    pytest.param(TINY, id="pong", marks=pytest.mark.slow),
    pytest.param(VINE, id="pong vine", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(
    "config", [*PONG, pytest.param(HOPPER, id="hopper", marks=pytest.mark.slow)]
)
def test_any_number_of_workers_gives_the_same_bits(tmp_path, config):
    numbers = (1, 2, 4) if config is TINY else (1, 2)
    ends = [
        final(dataclasses.replace(config, workers=count), tmp_path / str(count))
        for count in numbers
    ]
    for other in ends[1:]:
        assert_equal(ends[0], other)


@pytest.mark.parametrize("config", [*PONG, pytest.param(HOPPER, id="hopper")])
def test_in_process_is_the_same(tmp_path, config):
    """Physics and rewards do not know where they run; the policies' sums are the same on these
    networks whatever the threads."""
    assert_equal(
        final(config, tmp_path / "here"),
        final(dataclasses.replace(config, workers=1), tmp_path / "there"),
    )


@pytest.mark.faults
def test_a_killed_workers_task_runs_again(tmp_path, monkeypatch):
    """SIGKILL in the middle of a task; the run's metrics and parameters do not show it."""
    longer = dataclasses.replace(TINY, steps_per_iteration=1600, path_length=200, workers=2)
    undisturbed = final(longer, tmp_path / "undisturbed")
    sample, begun = workers.RayWorkers.map, tmp_path / "begun"
    begun.mkdir()

    def noted(task, index):
        def run(*arguments):
            (begun / f"{index}_{os.getpid()}").touch()
            return task(*arguments)

        return run

    def kill_the_first():
        while not list(begun.iterdir()):
            time.sleep(0.01)
        time.sleep(0.1)  # a task takes some tenths of a second
        os.kill(int(next(begun.iterdir()).name.partition("_")[2]), signal.SIGKILL)

    def disturbed(self, theta, tasks):
        monkeypatch.setattr(workers.RayWorkers, "map", sample)  # in this iteration alone
        killer = threading.Thread(target=kill_the_first)
        killer.start()
        results = sample(self, theta, [noted(task, i) for i, task in enumerate(tasks)])
        killer.join()
        return results

    monkeypatch.setattr(workers.RayWorkers, "map", disturbed)
    assert_equal(undisturbed, final(longer, tmp_path / "disturbed"))
    tasks = [path.name.partition("_")[0] for path in begun.iterdir()]
    assert len(tasks) == longer.shards + 1  # one of them in two processes


def test_one_thread_and_all_cores_compute_the_same_bits():
    """Logits of 25 frames, as many as a shard has paths in the paper's settings."""
    frames = np.random.default_rng(0).integers(256, size=(25, 4, 52, 40)).astype(np.uint8)

    def logits(environment, policy, theta):
        network = tf.function(lambda: policy.network(tf.constant(theta), tf.constant(frames)))
        return network().numpy()

    trainer = training.Trainer(dataclasses.replace(TINY, workers=1))
    theta = trainer.policy.network.initial_parameters()
    theta += 0.1 * np.random.default_rng(1).standard_normal(theta.shape).astype(np.float32)
    (there,) = trainer.workers.map(theta, [logits])
    trainer.close()
    np.testing.assert_array_equal(logits(None, trainer.policy, theta), there)


@pytest.mark.slow
def test_workers_on_a_running_cluster(tmp_path):
    """The script joins this test's own cluster by its address."""
    here = final(TINY, tmp_path / "here")
    address = ray.get_runtime_context().gcs_address
    arguments = ["--task=pong", "--seed=1", "--iterations=2", "--steps_per_iteration=160"]
    arguments += ["--path_length=20", "--workers=2", f"--out={tmp_path / 'there'}"]
    command = [sys.executable, "experiments/train.py", *arguments, f"--ray_address={address}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    np.testing.assert_array_equal(runs.load_state(tmp_path / "there").theta, here[1]["theta"])


def test_more_workers_than_cores_are_refused():
    with pytest.raises(ValueError, match="workers=5 is not allowed: the cluster has 4 cores"):
        workers.RayWorkers(lambda _: (None, None), None, 5)


def test_results_are_in_the_order_of_the_tasks_and_an_error_is_raised_here():
    def bad(environment, policy, theta):
        raise ValueError("what is wrong")

    def task(seconds):
        return lambda environment, policy, theta: time.sleep(seconds) or (seconds, theta.sum())

    pool = workers.RayWorkers(lambda _: (None, None), None, 2)
    waits = [0.3, 0.0, 0.1, 0.0]
    assert pool.map(np.ones(3), [task(wait) for wait in waits]) == [(w, 3.0) for w in waits]
    with pytest.raises(ValueError, match="what is wrong"):
        pool.map(np.zeros(1), [bad])
    pool.close()


def test_a_task_that_kills_every_worker_is_an_error(monkeypatch):
    """After the tests that use the same workers, which take seconds to begin."""

    def fatal(environment, policy, theta):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(cluster, "MAX_RETRIES", 1)
    pool = workers.RayWorkers(lambda _: (None, None), None, 1)
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        pool.map(np.zeros(1), [fatal])
    pool.close()


@pytest.mark.slow
def test_resume_on_another_number_of_workers(tmp_path):
    whole = final(dataclasses.replace(TINY, workers=2), tmp_path / "whole")
    part = dataclasses.replace(TINY, workers=1)
    runs.run(dataclasses.replace(part, iterations=1), tmp_path / "part", resume=False)
    state = runs.run(dataclasses.replace(part, workers=2), tmp_path / "part", resume=True)
    assert isinstance(state, training.State)
    np.testing.assert_array_equal(state.theta, whole[1]["theta"])


@pytest.mark.faults
def test_a_signal_stops_a_run_on_workers_and_it_goes_on(tmp_path):
    """Ray has a handler of SIGTERM of its own, which must not end the run without a word."""
    longer = dataclasses.replace(TINY, iterations=3)
    whole = final(dataclasses.replace(longer, workers=2), tmp_path / "whole")
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
