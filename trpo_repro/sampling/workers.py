"""Where shards are sampled: in this process, or on Ray.

A task is a function of (environment, policy, θ) that is pure: it gives equal arrays wherever and
however often it runs. So what a lost worker was doing is done again by another.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from trpo_repro import cluster, environments
from trpo_repro.policies import policy as policy_lib
from trpo_repro.settings import SAMPLED_ACTIONS, Group, Readers, setting

ShardFunction = Callable[[environments.Environment, policy_lib.Policy, np.ndarray], Any]
Build = Callable[[Any], tuple[environments.Environment, policy_lib.Policy]]


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
    """Samples shards."""

    def map(self, theta: np.ndarray, shards: Sequence[ShardFunction]) -> list[Any]:
        """Returns the results of all shards at θ, [P], in order."""

    def close(self) -> None:
        """Frees what the workers hold."""


class InProcess:
    """Samples shards one after another in this process."""

    def __init__(self, environment: environments.Environment, policy: policy_lib.Policy):
        self._arguments = environment, policy

    def map(self, theta, shards):
        return [sample(*self._arguments, theta) for sample in shards]

    def close(self):
        pass


class RayWorkers:
    """Samples shards on Ray, in processes that keep environment and policy on one thread each."""

    def __init__(self, build: Build, config: Hashable, count: int, address: str = ""):
        """Connects to Ray.

        Args:
          build: config → a worker's environment and policy; runs in the worker.
          config: configuration of the run.
          count: number of shards that may be sampled at one time.
          address: address of a running cluster; a local one is started when empty.

        Raises:
          ValueError: there is no cluster at the address, or it has fewer cores than workers.
        """
        self._build, self._config, self._count = build, config, count
        self._cluster = cluster.Cluster(address, count)
        cores = self._cluster.cores
        if count > cores:
            self.close()
            raise ValueError(f"workers={count} is not allowed: the cluster has {cores} cores")

    def map(self, theta, shards):
        shared = self._build, self._config, theta
        return self._cluster.map(_run, shared, shards, self._count)

    def close(self):
        self._cluster.close()


def _run(shared: tuple[Build, Hashable, np.ndarray], sample: ShardFunction) -> Any:
    build, config, theta = shared
    return sample(*_built(build, config), theta)


@functools.lru_cache(maxsize=1)
def _built(build: Build, config: Hashable) -> tuple[environments.Environment, policy_lib.Policy]:
    """Returns the environment and policy of this process, made once."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return build(config)
