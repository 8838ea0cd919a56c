"""Where sample tasks run: in this process, or on Ray.

A task is a function of (environment, policy, θ) that is pure: it gives equal arrays wherever and
however often it runs. So what a lost worker was doing is done again by another.
"""

import contextlib
import dataclasses
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import ray
import tensorflow as tf
from absl import logging

from trpo_repro import environments
from trpo_repro.policies import policy as policy_lib
from trpo_repro.settings import SAMPLED_ACTIONS, Group, Readers, setting

SampleTask = Callable[[environments.Environment, policy_lib.Policy, np.ndarray], Any]
Build = Callable[[], tuple[environments.Environment, policy_lib.Policy]]

MAX_LOST = 5  # workers, within one call, before the tasks are blamed


@dataclasses.dataclass(frozen=True)
class ShardSettings(Group, title="Distribution", readers=SAMPLED_ACTIONS):
    shards: int = setting(
        1, "Parts of the batch that are sampled apart, with random numbers of their own", at_least=1
    )
    workers: int = setting(
        0,
        "Sampling processes on Ray, of which as many as there are shards can be busy; 0 for this "
        "process; never changes a number",
        at_least=0,
    )


@dataclasses.dataclass(frozen=True)
class ClusterSettings(
    Group,
    title="Cluster",
    readers=Readers("workers of 1 or more", lambda config: config.workers > 0),
):
    ray_address: str = setting(
        "", "Address of a Ray cluster for the workers; a local one is started when empty"
    )


class Workers(Protocol):
    """Runs tasks."""

    def map(self, theta: np.ndarray, tasks: Sequence[SampleTask]) -> list[Any]:
        """Returns the results of all tasks at θ, [P], in order."""

    def close(self) -> None:
        """Frees what the workers hold."""


class InProcess:
    """Runs tasks one after another in this process."""

    def __init__(self, environment: environments.Environment, policy: policy_lib.Policy):
        self._arguments = environment, policy

    def map(self, theta, tasks):
        return [task(*self._arguments, theta) for task in tasks]

    def close(self):
        pass


class RayWorkers:
    """Runs tasks on Ray actors, each with its own environment and policy on one TF thread."""

    def __init__(self, build: Build, count: int, address: str = ""):
        """Starts the workers.

        Args:
          build: makes a worker's environment and policy; runs in the worker.
          count: number of workers.
          address: address of a running cluster; a local one is started when empty.

        Raises:
          ValueError: there is no cluster at the address, or it has fewer cores than workers.
        """
        self._build = build
        self._workers: list[Any] = []
        self._started_ray = not ray.is_initialized()
        if self._started_ray:
            options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
            if address:
                options["address"] = address
            else:
                options |= {"num_cpus": count, "include_dashboard": False}
            _check_answers(address)
            with _own_signals():
                ray.init(**options)
        cores = ray.cluster_resources().get("CPU", 0)
        if count > cores:  # the others would wait for a core for ever
            self.close()
            raise ValueError(f"workers={count} is not allowed: the cluster has {cores:.0f} cores")
        self._workers = [self._start() for _ in range(count)]

    def map(self, theta, tasks):
        shared = ray.put(theta)
        results: list[Any] = [None] * len(tasks)
        waiting = list(enumerate(tasks))[::-1]
        busy: dict[Any, tuple[int, SampleTask, Any]] = {}
        idle, lost = list(self._workers), 0
        while waiting or busy:
            while waiting and idle:
                index, task = waiting.pop()
                worker = idle.pop()
                busy[worker.run.remote(shared, task)] = index, task, worker
            (done,), _ = ray.wait(list(busy))
            index, task, worker = busy.pop(done)
            try:
                results[index] = ray.get(done)
            except ray.exceptions.RayActorError:
                lost += 1
                if lost > MAX_LOST:
                    raise
                logging.warning("a sampling worker was lost; its task runs again in a new one")
                self._workers.remove(worker)
                worker = self._start()
                self._workers.append(worker)
                waiting.append((index, task))
            idle.append(worker)
        return results

    def processes(self) -> list[int]:
        """Returns the workers' process numbers."""
        return ray.get([worker.process.remote() for worker in self._workers])

    def close(self):
        for worker in self._workers:
            ray.kill(worker)
        self._workers = []
        if self._started_ray:
            ray.shutdown()

    def _start(self):
        return _Worker.remote(self._build)  # type: ignore[attr-defined]


def _check_answers(address: str) -> None:
    """Raises ValueError if nothing listens at host:port; Ray would try for minutes."""
    host, separator, port = address.rpartition(":")
    if "/" in address or not (separator and port.isdigit()):
        return  # none, or one of Ray's other forms
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise ValueError(f"ray_address={address}: no Ray cluster answers there") from error


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keeps this process's handler of SIGTERM, which Ray replaces."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@ray.remote(num_cpus=1)
class _Worker:
    """An environment and a policy in a process of their own."""

    def __init__(self, build: Build):
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        self._arguments = build()

    def run(self, theta: np.ndarray, task: SampleTask) -> Any:
        return task(*self._arguments, theta)

    def process(self) -> int:
        return os.getpid()
