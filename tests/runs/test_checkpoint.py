"""Checkpoints survive what disks and crashes do."""

import os
import signal

import forked
import numpy as np
import pytest

from trpo_repro import files
from trpo_repro.runs import checkpoint


def _arrays(value):
    return {"theta": np.full(1000, value), "environment/elapsed": np.arange(3)}


def test_round_trip_and_only_the_last_two_are_kept(tmp_path):
    for i in range(4):
        checkpoint.save(tmp_path / "made", i, _arrays(float(i)))
    names = sorted(path.name for path in (tmp_path / "made").iterdir())
    assert names == ["checkpoint-00000002.npz", "checkpoint-00000003.npz"]
    loaded = checkpoint.load_latest(tmp_path / "made")
    assert loaded.keys() == _arrays(3.0).keys()
    np.testing.assert_array_equal(loaded["theta"], 3.0)


def test_every_flipped_byte_is_noticed_or_harmless(tmp_path):
    """A file either reads back whole or is damaged: never in part, never another exception."""
    checkpoint.save(tmp_path, 1, {"theta": np.arange(4.0), "count": np.array(3)})
    path = tmp_path / "checkpoint-00000001.npz"
    content = path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]
        )
        try:
            loaded = checkpoint.load_latest(tmp_path)
        except checkpoint.CheckpointError:
            continue
        assert loaded.keys() == {"theta", "count"}, position
        np.testing.assert_array_equal(loaded["theta"], np.arange(4.0))


@pytest.mark.parametrize("damage", ["truncate", "empty", "flip", "garbage"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, damage, caplog):
    for i in (1, 2):
        checkpoint.save(tmp_path, i, _arrays(float(i)))
    path = tmp_path / "checkpoint-00000002.npz"
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 0xFF
    path.write_bytes(
        {
            "truncate": bytes(content[: len(content) // 2]),
            "empty": b"",
            "flip": bytes(content),
            "garbage": b"not an archive",
        }[damage]
    )
    loaded = checkpoint.load_latest(tmp_path)
    np.testing.assert_array_equal(loaded["theta"], 1.0)
    assert "checkpoint-00000002.npz" in caplog.text


def test_nothing_readable_names_every_file(tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint in"):
        checkpoint.load_latest(tmp_path)
    for i in (1, 2):
        checkpoint.save(tmp_path, i, _arrays(0.0))
        (tmp_path / f"checkpoint-{i:08d}.npz").write_bytes(b"")
    with pytest.raises(checkpoint.CheckpointError, match=r"0002\.npz, .*0001\.npz"):
        checkpoint.load_latest(tmp_path)


def test_full_disk_leaves_the_old_checkpoint(tmp_path):
    """A real refusal by the kernel: a limit on the size of files stands in for the full disk."""
    checkpoint.save(tmp_path / "run", 1, _arrays(1.0))
    program = """
import pathlib, resource, signal
import numpy as np
from trpo_repro.runs import checkpoint

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
checkpoint.save(pathlib.Path("run"), 2, {"theta": np.zeros(1000)})
"""
    result = forked.run_code(tmp_path, program)
    assert result.returncode != 0
    assert "OSError" in result.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint-00000001.npz"]
    np.testing.assert_array_equal(checkpoint.load_latest(tmp_path / "run")["theta"], 1.0)


def test_killed_while_writing_leaves_the_old_checkpoint(tmp_path):
    """SIGKILL before the rename: the temporary file is never taken for a checkpoint."""
    checkpoint.save(tmp_path / "run", 1, _arrays(1.0))
    program = """
import os, pathlib, signal
import numpy as np
from trpo_repro.runs import checkpoint

os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
checkpoint.save(pathlib.Path("run"), 2, {"theta": np.zeros(1000)})
"""
    assert forked.run_code(tmp_path, program).returncode == -signal.SIGKILL
    np.testing.assert_array_equal(checkpoint.load_latest(tmp_path / "run")["theta"], 1.0)


def test_write_text_replaces_whole_files(tmp_path):
    path = tmp_path / "file.txt"
    files.write_text(path, "one")
    files.write_text(path, "two")
    assert path.read_text() == "two"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_what_is_written_stays_whatever_lies_beside_it(tmp_path):
    """Files of higher numbers are of another run: its own go on from the one that was loaded."""
    for iteration in (1, 2, 30):
        checkpoint.save(tmp_path, iteration, {"x": np.zeros(1)}, run="another")
    checkpoint.save(tmp_path, 3, {"x": np.ones(1)}, run="this", kept=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-00000002.npz",
        "checkpoint-00000003.npz",
    ]
    assert checkpoint.load_latest(tmp_path, run="this")["x"] == 1
