"""Ray clusters that lose nodes and processes: the same bits, and nothing waits for ever."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import ray
from helpers import assert_equal, final, short_pong
from ray import cluster_utils

from experiments import configs
from trpo_repro import cluster, runs

ROOT = pathlib.Path(__file__).parent.parent
PONG = short_pong(iterations=3, steps_per_iteration=1600, path_length=200)


@pytest.fixture
def two_nodes():
    """Yields a cluster of two nodes of one core on this machine, and its second node."""
    nodes = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield nodes, nodes.add_node(num_cpus=1)
    ray.shutdown()
    nodes.shutdown()


def _when(condition, action):
    """Runs an action in a thread once a condition holds, within two minutes."""

    def wait():
        deadline = time.monotonic() + 120
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.05)
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.faults
def test_pong_on_two_nodes_of_which_one_is_lost(tmp_path, two_nodes):
    """The second node goes after the first iteration; fewer cores than workers are left."""
    nodes, second = two_nodes
    metrics_file = tmp_path / "there" / "metrics.csv"
    killer = _when(
        lambda: metrics_file.exists() and len(metrics_file.read_text().splitlines()) > 1,
        lambda: nodes.remove_node(second, allow_graceful=False),
    )
    settings = dataclasses.replace(PONG, workers=2, ray_address=nodes.address)
    there = final(settings, tmp_path / "there")
    killer.join()
    here = final(PONG, tmp_path / "here")
    assert_equal(here, there)


@pytest.mark.slow
@pytest.mark.faults
def test_runs_of_a_figure_on_two_nodes_of_which_one_is_lost(tmp_path, two_nodes):
    """The lost node's run is resumed on the other; both have the bits of undisturbed runs."""
    nodes, second = two_nodes
    arguments = ["--run", "--budget=smoke", "--only=cartpole/*"]
    command = [sys.executable, "experiments/figure4.py", *arguments]

    def run(out, *more):
        result = subprocess.run(
            [*command, f"--out={out}", *more], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr[-2000:]

    found = lambda: list((tmp_path / "there").glob("cartpole_smoke/*/*/metrics.csv"))  # noqa: E731
    killer = _when(found, lambda: nodes.remove_node(second, allow_graceful=False))
    run(tmp_path / "there", f"--ray_address={nodes.address}")
    killer.join()
    run(tmp_path / "here")
    directories = sorted((tmp_path / "here" / "cartpole_smoke").glob("*/seed_1"))
    assert len(directories) == len(configs.FIGURE4["cartpole"])
    for directory in directories:
        other = tmp_path / "there" / directory.relative_to(tmp_path / "here")
        np.testing.assert_array_equal(
            runs.load_state(directory).theta, runs.load_state(other).theta, err_msg=str(directory)
        )


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("process", ["raylet/raylet", "gcs_server"])
def test_a_local_ray_that_dies_is_started_again(process):
    """SIGKILL to a process without which Ray answers no more; all results are there in a minute."""

    def slow_sum(shared, item):
        time.sleep(1.0)
        return shared + item

    connection = cluster.Cluster(cores=2)
    (pid,) = subprocess.run(
        ["pgrep", "-f", process], capture_output=True, text=True, check=True
    ).stdout.split()
    killer = threading.Timer(1.5, lambda: os.kill(int(pid), signal.SIGKILL))
    killer.start()
    started = time.monotonic()
    assert connection.map(slow_sum, 1, list(range(6)), 2) == list(range(1, 7))
    assert time.monotonic() - started < 60
    connection.close()


def test_no_cluster_at_the_address_is_one_line():
    with pytest.raises(
        ValueError, match=r"ray_address=127\.0\.0\.1:1: no Ray cluster answers there"
    ):
        cluster.Cluster("127.0.0.1:1")
