"""A job that notes when it ran; its module imports little, as every new process imports it."""

import signal
import time


def note(log, name, seconds):
    """Writes when it begins and ends to a log, and leaves a file of its name."""
    with log.open("a") as file:
        file.write(f"begin {name}\n")
    time.sleep(seconds)
    with log.open("a") as file:
        file.write(f"end {name}\n")
    log.with_suffix(f".{name}").touch()


def meet(own, other):
    """Waits for another process to be here, too."""
    own.touch()
    while not other.exists():
        time.sleep(0.05)


def wait_for_a_stop(begun):
    """A run as to signals: SIGTERM ends it, and it returns after a second, as if it saved."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        begun.touch()
        time.sleep(600)
    except KeyboardInterrupt:
        time.sleep(1)
    finally:
        signal.signal(signal.SIGTERM, before)
