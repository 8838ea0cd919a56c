"""A run's directory against other processes, other runs and damage."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from trpo_repro import files, presets, runs
from trpo_repro.analysis import curves
from trpo_repro.config import Config
from trpo_repro.runs import checkpoint, metrics, session

TINY = Config(
    task="cartpole", iterations=2, steps_per_iteration=400, path_length=100, hidden_sizes=(), seed=1
)
PACKAGE = pathlib.Path(runs.__file__).parent.parent


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    runs.run(dataclasses.replace(TINY, iterations=1), directory, resume=False)
    return directory


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a run of one iteration."""
    subprocess.run(["cp", "-r", f"{finished}/.", tmp_path], check=True)
    return tmp_path


def _refused(directory, message, config=TINY):
    with pytest.raises((ValueError, checkpoint.CheckpointError), match=message) as error:
        runs.run(config, directory, resume=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("error", [None, SystemError("returned a result with an exception set")])
def test_a_signal_whose_interrupt_compiled_code_loses_stops_all_the_same(
    run, monkeypatch, capfd, error
):
    """TensorFlow's now and then makes another error of it, or drops it without a word.
    The iteration of such a signal is not kept: its numbers may be wrong."""
    whole = session.training.iterations

    def interrupted(*arguments):
        for state, row in whole(*arguments):
            if state.iteration == 3:
                try:
                    signal.raise_signal(signal.SIGINT)
                except KeyboardInterrupt:
                    if error is not None:
                        raise error from None
            yield state, row

    monkeypatch.setattr(session.training, "iterations", interrupted)
    state = runs.run(dataclasses.replace(TINY, iterations=5), run, resume=True)
    assert state.iteration == 2
    assert "2 iterations saved; continue with --resume" in capfd.readouterr().err
    assert curves.read(run / "metrics.csv")["iteration"].tolist() == [1, 2]
    assert runs.load_state(run).iteration == 2


def test_a_session_that_fails_leaves_the_policy_and_its_checkpoint_too(run, monkeypatch):
    def failing(config, *arguments):
        trainer = original(config, *arguments)
        whole = trainer.iterate

        def iterate(state):
            if state.iteration == 3:
                raise ValueError("of the environment")
            return whole(state)

        monkeypatch.setattr(trainer, "iterate", iterate)
        return trainer

    original = session.training.make_trainer
    monkeypatch.setattr(session.training, "make_trainer", failing)
    with pytest.raises(ValueError, match="of the environment"):
        runs.run(dataclasses.replace(TINY, iterations=9), run, resume=True)
    assert runs.load(run).policy.iteration == 3
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-00000003.npz"]


def test_a_run_that_has_ended_keeps_the_checkpoint_that_it_came_with(run):
    """A clone has it alone; more iterations can still be asked for."""
    runs.run(TINY, run, resume=True, stop_at=1)
    carried = list(run.glob("checkpoint-*.npz"))
    subprocess.run(["rm", "-r", run / "checkpoints"], check=True)
    runs.run(dataclasses.replace(TINY, iterations=1), run, resume=True)
    assert list(run.glob("checkpoint-*.npz")) == carried
    assert runs.run(TINY, run, resume=True).iteration == 2


def test_a_run_that_ends_while_another_prepares_is_not_replaced(tmp_path, monkeypatch):
    make = session.training.make_trainer

    def slowly(config):
        (tmp_path / "config.json").write_text("of another process")
        return make(config)

    monkeypatch.setattr(session.training, "make_trainer", slowly)
    with pytest.raises(ValueError, match="already holds a run"):
        runs.run(TINY, tmp_path)
    assert (tmp_path / "config.json").read_text() == "of another process"


def test_one_process_at_a_time(run):
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with files.locked(run):
        _refused(run, "is in use by another process")
    assert {path: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_a_lock_ends_with_its_process(run):
    code = (
        "import pathlib, os, sys; from trpo_repro import files\n"
        "with files.locked(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(run)], check=False)
    with files.locked(run):
        pass


def test_a_new_run_waits_for_no_one(tmp_path):
    with files.locked(tmp_path), pytest.raises(ValueError, match="in use by another process"):
        runs.run(TINY, tmp_path, resume=False)
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize("change", [{"seed": 2}, {"task": "swimmer"}, {"hidden_sizes": (8,)}])
def test_a_checkpoint_of_another_run_counts_as_damaged(run, tmp_path_factory, change, caplog):
    other = tmp_path_factory.mktemp("other")
    runs.run(dataclasses.replace(TINY, iterations=1, **change), other, resume=False)
    theirs = other / "checkpoints" / "checkpoint-00000001.npz"
    ours = run / "checkpoints" / "checkpoint-00000001.npz"
    ours.write_bytes(theirs.read_bytes())
    assert runs.load_state(run, TINY).iteration == 0  # the one before
    assert f"{ours} is not usable (it is of another run)" in caplog.text


def test_what_may_change_on_resume_leaves_a_checkpoint_its_runs(run):
    changed = dataclasses.replace(TINY, iterations=9, target_return=3.0, threads=1)
    assert runs.load_state(run, changed).iteration == 1


def test_an_old_checkpoint_that_does_not_name_its_run_is_taken_with_a_warning(run, caplog):
    path = run / "checkpoints" / "checkpoint-00000001.npz"
    with np.load(path) as archive:
        arrays = {name: array for name, array in archive.items() if name not in ("run", "digest")}
    names = "names of the arrays"
    arrays[names] = np.array([name for name in arrays[names] if name != "digest"])
    np.savez(path, **arrays)
    assert runs.load_state(run, TINY).iteration == 1
    assert "does not say of which run it is" in caplog.text


def test_files_of_a_killed_save_are_deleted(run):
    left = [run / "unfinished-a.tmp", run / "checkpoints" / "unfinished-b.tmp"]
    for path in left:
        path.write_bytes(b"half")
    (run / "mine.tmp").write_bytes(b"of the user")
    runs.run(TINY, run, resume=True)
    assert not any(path.exists() for path in left)
    assert (run / "mine.tmp").exists()


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(run, tmp_path_factory):
    target = tmp_path_factory.mktemp("elsewhere") / "precious"
    target.write_text("precious")
    for name in ("policy.npz", "config.json.tmp", "new_policy.npz", "metrics.csv.tmp"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(target)
    runs.run(TINY, run, resume=True)
    assert target.read_text() == "precious"
    assert not (run / "policy.npz").is_symlink()


@pytest.mark.parametrize(
    "text",
    [
        "{broken",
        "[]",
        "7",
        "{}",
        '{"config": [], "sessions": []}',
        '{"config": {}, "sessions": 3}',
        '{"config": {}, "sessions": [{}]}',
        '{"config": {}, "sessions": ["a"]}',
        "[" * 100_000,
    ],
    ids=range(9),
)
def test_a_damaged_record_is_named(run, text):
    (run / "config.json").write_text(text)
    _refused(run, r"config\.json is damaged")


def test_a_run_older_than_a_metric_goes_on_without_its_values(run):
    path = run / "metrics.csv"
    table = [line.split(",") for line in path.read_text().splitlines()]
    at = table[0].index("improvement_ratio")
    path.write_text("".join(",".join([*row[:at], *row[at + 1 :]]) + "\n" for row in table))
    runs.run(TINY, run, resume=True)
    found = curves.read(path)
    assert tuple(path.read_text().splitlines()[0].split(",")) == metrics.COLUMNS
    np.testing.assert_array_equal(np.isnan(found["improvement_ratio"]), [True, False])
    assert found["return_mean"][0] == float(table[1][table[0].index("return_mean")])


@pytest.mark.parametrize(
    "damage", ["long", "text", "binary", "more", "fewer"], ids=lambda name: name
)
def test_damaged_metrics_are_named(run, damage):
    path = run / "metrics.csv"
    header, row = path.read_bytes().splitlines()
    rows = {
        "long": b'"' + b"7" * 200_000 + b'"' + row[1:],
        "text": b"one" + row[1:],
        "binary": b"\xff\xfe\x00" + row,
        "more": row + b",8",
        "fewer": row.rpartition(b",")[0],
    }
    path.write_bytes(header + b"\n" + rows[damage] + b"\n")
    _refused(run, r"metrics\.csv (is damaged|lacks rows)")
    if damage != "text":
        with pytest.raises(ValueError, match=r"metrics\.csv is damaged"):
            curves.read(path)


def test_a_byte_order_mark_changes_no_curve(run):
    path = run / "metrics.csv"
    before = curves.read(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert curves.read(path).keys() == before.keys()


def test_a_file_in_the_place_of_the_tensorboard_log(run):
    subprocess.run(["rm", "-r", run / "tensorboard"], check=True)
    (run / "tensorboard").write_text("")
    _refused(run, "tensorboard is not a directory")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["directory", "pipe"])
def test_what_is_no_file_is_no_checkpoint(run, make):
    make(run / "checkpoints" / "checkpoint-00000009.npz")
    assert runs.load_state(run, TINY).iteration == 1


class _Malicious:
    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return os.mkdir, (str(self._path),)


def test_no_code_runs_from_a_checkpoint(run):
    """An archive whose array would run a command when unpickled is damaged, and nothing runs."""
    path, proof = run / "checkpoints" / "checkpoint-00000001.npz", run / "proof"
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez(path, **{**arrays, "theta": np.array([_Malicious(proof)], dtype=object)})
    assert runs.load_state(run, TINY).iteration == 0
    assert not proof.exists()


def test_nothing_in_the_project_unpickles():
    pattern = re.compile(
        r"^\s*(import|from) (pickle|cloudpickle|dill|joblib|shelve)|allow_pickle=T"
    )
    for path in [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "experiments").glob("*.py")]:
        for line in path.read_text().splitlines():
            assert not pattern.search(line), (path, line)


def test_the_records_versions_are_read(run):
    record = json.loads((run / "config.json").read_text())
    record["sessions"][0]["versions"]["numpy"] = "1.0"
    (run / "config.json").write_text(json.dumps(record))
    runs.run(TINY, run, resume=True)
    assert len(json.loads((run / "config.json").read_text())["sessions"]) == 2


@pytest.mark.slow
def test_memory_threads_and_files_do_not_grow(tmp_path, monkeypatch):
    """300 iterations of a whole session: resident memory, threads and open files are flat.

    Memory may wander by 6 MiB: what the allocators keep. The observations of a batch are 0.1 MiB:
    a leak of one batch an iteration would be 20 in the last 200.
    """
    seen = []
    inner = session.training.iterations

    def watched(*arguments):
        for result in inner(*arguments):
            pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
            threads = len(list(pathlib.Path("/proc/self/task").iterdir()))
            files = len(list(pathlib.Path("/proc/self/fd").iterdir()))
            seen.append((pages * 4096 / 2**20, threads, files))
            yield result

    monkeypatch.setattr(session.training, "iterations", watched)
    config = dataclasses.replace(
        presets.preset("gae", "Hopper-v5"),
        iterations=300,
        steps_per_iteration=1024,
        path_length=64,
    )
    runs.run(config, tmp_path)
    memory, threads, files = np.array(seen[100:]).T
    slope = np.polyfit(np.arange(len(memory)), memory, 1)[0]
    assert abs(slope) * len(memory) < 6
    assert threads.max() == threads.min()
    assert files.max() == files.min()
