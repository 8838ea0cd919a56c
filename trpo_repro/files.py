"""One way to write a file: all of it, or nothing; and one process at a time in a directory."""

import contextlib
import fcntl
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import IO

PREFIX, SUFFIX = "unfinished-", ".tmp"  # of files that are being written


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """Yields a file that takes the place of `path` once the body is done.

    It is a new file of an unpredictable name beside it, synchronized to disk and renamed; where the
    body raises, `path` is as it was.

    Raises:
      OSError: the disk refused.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=PREFIX, suffix=SUFFIX)
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


def delete_unfinished(directory: pathlib.Path) -> None:
    """Deletes what a process that was killed while it wrote has left in a directory."""
    for path in directory.glob(f"{PREFIX}*{SUFFIX}"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(directory: pathlib.Path) -> Iterator[None]:
    """Holds a directory's lock, an advisory one that ends with its process.

    Raises:
      ValueError: another process holds it.
      OSError: the directory cannot be opened.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ValueError(f"{directory} is in use by another process") from None
    try:
        yield
    finally:
        os.close(descriptor)


def _synchronize(directory: pathlib.Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
