"""A job that notes when it ran; its module imports little, as every new process imports it."""

import time


def note(log, name, seconds):
    """Writes when it begins and ends to a log, and leaves a file of its name."""
    with log.open("a") as file:
        file.write(f"begin {name}\n")
    time.sleep(seconds)
    with log.open("a") as file:
        file.write(f"end {name}\n")
    log.with_suffix(f".{name}").touch()
