"""What the tests of the scripts share."""

import forked
import pytest
from absl import flags


@pytest.fixture(autouse=True)
def _parsed():
    flags.FLAGS.mark_as_parsed()


@pytest.fixture
def script(tmp_path_factory):
    """Returns `forked.run` in a directory of its own."""
    return lambda *command, **options: forked.run(
        tmp_path_factory.mktemp("script"), *command, **options
    )
