"""What the tests of the scripts share."""

import forked
import pytest
from absl import flags


@pytest.fixture(autouse=True)
def _parsed():
    flags.FLAGS.mark_as_parsed()


@pytest.fixture
def script(tmp_path_factory):
    """Returns (name, *arguments) → what a script of experiments/ did in a process of its own."""
    return lambda *command: forked.run(tmp_path_factory.mktemp("script"), *command)
