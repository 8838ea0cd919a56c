"""What the scripts share: errors in one line with exit code 2, and no TensorFlow chatter."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from absl import app, flags


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Sends standard error to nowhere, for libraries that write to it below Python."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with _silent_stderr():
    import tensorflow  # noqa: F401
    import tensorflow_probability  # noqa: F401


def refuse(message: str) -> NoReturn:
    """Ends the process with one line on standard error and exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def run(main: Callable[[Sequence[str]], None]) -> NoReturn:
    """Runs a script's main; an unknown flag, a bad value or a stray argument is one line."""
    app.run(main, flags_parser=_parse)


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        refuse(str(error))
    except SystemExit:  # after --help; absl's exit code is 1
        sys.exit(0)
    if len(rest) > 1:
        refuse(f"unexpected argument {rest[1]!r}; flags look like --name=value")
    return rest
