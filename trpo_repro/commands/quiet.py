"""Imports TensorFlow without its chatter: to import before anything that imports it."""

import contextlib
import os
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def _quiet_imports() -> Iterator[None]:
    """Drops what libraries write below Python, and lets Ctrl-C end the process without a word."""
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
        signal.signal(signal.SIGINT, handler)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with _quiet_imports():
    import tensorflow  # noqa: F401
    import tensorflow_probability  # noqa: F401
