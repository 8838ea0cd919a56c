"""What the scripts share: flags, and errors in one line with exit code 2."""

import contextlib
import difflib
import os
import pathlib
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NoReturn

from absl import app, flags, logging

from trpo_repro import signals

OUT = flags.DEFINE_string(
    "out", None, "Where to write; the script's first lines say where by default."
)


flags.register_validator(
    "out", lambda value: value is None or value.strip(), "give the name of a file or directory"
)


def refuse(message: str) -> NoReturn:
    """Ends the process with one line on standard error and exit code 2.

    Of an error that is being handled --verbosity=1 shows where it is from.
    """
    logging.debug("refused", exc_info=sys.exception())
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


@contextlib.contextmanager
def refused_errors() -> Iterator[None]:
    """Makes a ValueError or an OSError of the body one line; a reader that has gone is no error."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        refuse(str(error))


def output_directory(default: str) -> pathlib.Path:
    """Returns the directory of --out, which is made; what forbids it is one line."""
    directory = pathlib.Path(OUT.value or default)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        refuse(f"--out={directory} cannot be written: {error.strerror or error}")
    return directory


def run(
    main: Callable[[Sequence[str]], None], help_text: Callable[[], str] | None = None
) -> NoReturn:
    """Runs a script's main; an unknown flag, a bad value or a stray argument is one line.

    A script reads its key flags, which --help shows: those that its module defines or declares.
    Others, which modules that it imports define, are refused like unknown ones.

    Args:
      main: main function of the script.
      help_text: what --help prints, in place of absl's list.
    """
    with signals.interrupting() as caught:
        try:
            app.run(main, flags_parser=lambda argv: _parse(argv, main.__module__, help_text))
        except BrokenPipeError:  # the reader of this process's output has gone, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except (Exception, KeyboardInterrupt) as error:
            if not (caught or isinstance(error, KeyboardInterrupt)):
                raise
            print("stopped", file=sys.stderr)
            sys.exit(130)


def stop_after(seconds: float) -> None:
    """Lets this process have a Ctrl-C after so long: what it runs saves and ends."""
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))


def seconds(text: str) -> float:
    """Returns the seconds in a text like 90s, 30m or 2h.

    Raises:
      ValueError: it is none.
    """
    units = {"s": 1, "m": 60, "h": 3600}
    if not re.fullmatch(r"\d+(\.\d+)?[smh]", text):
        raise ValueError(f"{text!r} is no time: must be like 90s, 30m or 2h")
    return float(text[:-1]) * units[text[-1]]


def _parse(argv: Sequence[str], module: str, help_text: Callable[[], str] | None) -> list[str]:
    # absl names the module of the script itself after its file.
    key_flags = flags.FLAGS.get_key_flags_for_module(argv[0] if module == "__main__" else module)
    read = {flag.name for flag in key_flags}
    helps = ("--help", "-h", "-help")
    wants_help = help_text is not None and any(arg in helps for arg in argv)
    try:
        rest = flags.FLAGS([arg for arg in argv if arg not in helps] if wants_help else argv)
        if wants_help:
            assert help_text is not None
            print(help_text())
            sys.exit(0)
    except flags.UnrecognizedFlagError as error:
        _refuse_flag(error.flagname, read)  # absl would suggest flags that the script refuses
    except (flags.Error, ValueError) as error:
        refuse(str(error))
    except SystemExit:  # after --help; absl's exit code is 1
        sys.exit(0)
    for name in flags.FLAGS:
        defined_by = flags.FLAGS.find_module_defining_flag(name) or ""
        is_ours = defined_by.startswith(("trpo_repro.", "experiments."))
        if is_ours and name not in read and flags.FLAGS[name].present:
            _refuse_flag(name, read)
    if len(rest) > 1:
        refuse(f"unexpected argument {rest[1]!r}; flags look like --name=value")
    return rest


def _refuse_flag(name: str, read: Collection[str]) -> NoReturn:
    """Refuses a flag; names one that it may be a slip for, or those that the script reads."""
    near = difflib.get_close_matches(name, read, n=1)
    meant = f"; did you mean --{near[0]}?" if near else f", which has --{', --'.join(sorted(read))}"
    refuse(f"--{name} is not a flag of this script{meant}")
