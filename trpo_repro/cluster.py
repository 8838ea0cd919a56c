"""Functions on the cores of a Ray cluster, or of this machine by a Ray of its own.

Ray runs what a lost process or node was doing again elsewhere, and uses the cores that there are:
nodes may leave and join. A function must give the same result wherever and however often it runs.
"""

import contextlib
import importlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import logging

MAX_RETRIES = 5  # of a call whose processes are lost, before the call itself is blamed
_CHECK_SECONDS = 5.0


class ClusterLostError(RuntimeError):
    """The cluster does not answer any more."""


class Cluster:
    """A connection to Ray.

    Attributes:
      is_local: whether Ray was started by this object, on this machine alone.
    """

    def __init__(self, address: str = "", cores: int | None = None):
        """Connects.

        Args:
          address: address of a running cluster; without one a local Ray is started, or this
            process's own is used.
          cores: cores of a local Ray; all of the machine's when None.

        Raises:
          ValueError: Ray cannot connect; the message is Ray's.
        """
        if not address:
            # Read when Ray is imported: a Ray of this machine alone listens on the loopback
            # interface alone.
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        self._ray = importlib.import_module("ray")
        self._connected_here = not self._ray.is_initialized()
        self.is_local = self._connected_here and not address
        self._cores_asked = cores
        if self._connected_here:
            self._connect(address)

    def _connect(self, address: str) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address:
            _check_answers(address)
            options["address"] = address
        else:
            cores = self._cores_asked or len(os.sched_getaffinity(0))
            # "local": its own, where another Ray runs on this machine, or RAY_ADDRESS names one.
            options |= {"address": "local", "num_cpus": cores, "include_dashboard": False}
        with _own_signals():
            try:
                self._ray.init(**options)
            except (ConnectionError, RuntimeError, ValueError) as error:
                where = f"ray_address={address}" if address else "Ray cannot be started here"
                raise ValueError(f"{where}: {_first_line(error)}") from error

    @property
    def cores(self) -> int:
        """Cores of the nodes that are alive."""
        return int(self._ray.cluster_resources().get("CPU", 0))

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Returns Ray's reference of a call, which waits for a core."""
        return self._remote(function).remote(*arguments)

    def _remote(self, function: Callable[..., Any]) -> Any:
        return self._ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(function)

    def map(
        self,
        function: Callable[[Any, Any], Any],
        shared: Any,
        items: Sequence[Any],
        at_once: int,
    ) -> list[Any]:
        """Returns function(shared, item) of each item, in order, each on one core.

        A local Ray that has died is started again, and what it was doing is done again.

        Args:
          function: maps (shared, item) to a result.
          shared: first argument, sent to each node once.
          items: second arguments.
          at_once: number of calls that may run at one time.

        Raises:
          ClusterLostError: the cluster does not answer any more.
        """
        results: dict[int, Any] = {}
        restarted = 0
        while len(results) < len(items):
            missing = {i: item for i, item in enumerate(items) if i not in results}
            try:
                for index, result in self._results(function, shared, missing, at_once):
                    results[index] = result
            except ClusterLostError:
                if not self.is_local or restarted == MAX_RETRIES:
                    raise
                logging.warning("Ray has died; it is started again, and what it was doing, too")
                restarted += 1
                self._ray.shutdown()
                self._connect("")
        return [results[index] for index in range(len(items))]

    def _results(self, function, shared, items, at_once) -> Iterator[tuple[int, Any]]:
        """Yields (index, result) of items by index, as the calls end."""
        shared, remote = self._ray.put(shared), self._remote(function)
        waiting = list(items)[::-1]
        running: dict[Any, int] = {}
        checked = time.monotonic()
        while waiting or running:
            while waiting and len(running) < at_once:
                index = waiting.pop()
                running[remote.remote(shared, items[index])] = index
            done, _ = self._ray.wait(list(running), timeout=_CHECK_SECONDS)
            if time.monotonic() - checked > _CHECK_SECONDS:
                self.check_alive()
                checked = time.monotonic()
            for reference in done:
                try:
                    result = self._ray.get(reference)
                except self._ray.exceptions.LocalRayletDiedError as error:
                    raise ClusterLostError(_first_line(error)) from error
                yield running.pop(reference), result

    def check_alive(self) -> None:
        """Raises ClusterLostError unless the cluster answers and has a node."""
        try:
            _check_answers(self._ray.get_runtime_context().gcs_address)
            if any(node["Alive"] for node in self._ray.nodes()):
                return
        except (ValueError, ConnectionError, RuntimeError) as error:
            raise ClusterLostError(f"the Ray cluster is lost: {_first_line(error)}") from error
        raise ClusterLostError("the Ray cluster is lost: no node is alive")

    def cancel(self, references: Sequence[Any], seconds: float) -> None:
        """Interrupts calls as Ctrl-C does, and waits for their ends, so long at most."""
        for reference in references:
            self._ray.cancel(reference)
        deadline = time.monotonic() + seconds
        waiting = list(references)
        while waiting and time.monotonic() < deadline:
            _, waiting = self._ray.wait(waiting, timeout=1.0)

    def close(self) -> None:
        """Disconnects, and ends a Ray of this object's own."""
        if self._connected_here:
            self._ray.shutdown()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _check_answers(address: str) -> None:
    """Raises ValueError if nothing listens at host:port; Ray would try for minutes."""
    host, separator, port = address.rpartition(":")
    if "/" in address or not (separator and port.isdigit()):
        return  # one of Ray's other forms
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
