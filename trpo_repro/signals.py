"""SIGINT and SIGTERM: as an interrupt that is not lost, or held until a piece of work is done."""

import contextlib
import signal
import threading
import types
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def handled(handler: Any) -> Iterator[None]:
    """Handles SIGINT and SIGTERM with `handler`; other threads than the main cannot and do not."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {name: signal.signal(name, handler) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, old in before.items():
            signal.signal(name, old)


@contextlib.contextmanager
def interrupting() -> Iterator[list[int]]:
    """Raises KeyboardInterrupt at SIGINT and SIGTERM; yields the numbers of those that came.

    The list remembers what the exception may not: compiled code that calls Python, as TensorFlow's
    does where it makes tensors, now and then drops an exception or raises another in its place.
    """
    caught: list[int] = []

    def interrupt(number: int, _: types.FrameType | None) -> None:
        caught.append(number)
        raise KeyboardInterrupt

    with handled(interrupt):
        yield caught


@contextlib.contextmanager
def held(caught: list[int]) -> Iterator[None]:
    """Holds SIGINT and SIGTERM until the body is done: they would break an archive half-way.

    Args:
      caught: signals that came before, of which no body begins, and to which these are added.

    Raises:
      KeyboardInterrupt: a signal has come.
    """
    with handled(lambda number, _: caught.append(number)):
        if not caught:
            yield
    if caught:
        raise KeyboardInterrupt
