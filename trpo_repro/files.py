"""One way to write a file: all of it, or nothing."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import IO


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """Yields a file that takes the place of `path` once the body is done.

    It is a new file of an unpredictable name beside it, synchronized to disk and renamed; where the
    body raises, `path` is as it was.

    Raises:
      OSError: the disk refused.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's files are the owner's alone
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _synchronize(path.parent)


def write_text(path: pathlib.Path, text: str) -> None:
    """Replaces a text file."""
    with replacing(path) as file:
        file.write(text.encode())


def _synchronize(directory: pathlib.Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
