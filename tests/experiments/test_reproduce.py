"""The script that makes what is missing: what it lists, runs, resumes and refuses."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import noted
import numpy as np
import pytest
from absl.testing import flagsaver
from helpers import TIMES, assert_refused

from experiments import batch, configs, report, reproduce
from trpo_repro import presets, runs
from trpo_repro.analysis import curves
from trpo_repro.runs import metrics

ROOT = pathlib.Path(__file__).parent.parent.parent


def test_list_names_every_unit_with_its_state_and_command(script, tmp_path):
    result = script("reproduce", "--list", f"--out={tmp_path}")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(reproduce.UNITS)
    for line, name in zip(lines, reproduce.UNITS, strict=True):
        assert line.endswith(f"python experiments/reproduce.py --run --units={name}")
        assert " 0 of " in line
        assert "hours left" in line


def test_units_in_order_hold_every_run_of_the_budgets():
    plan = reproduce.Plan("medium", pathlib.Path("somewhere"))
    jobs = reproduce.all_jobs(plan, "*")
    names = {job.name for job in jobs}
    assert len({job.label for job in jobs}) == len(jobs)
    for task, algorithms in configs.FIGURE4.items():
        for algorithm in algorithms:
            assert any(name.startswith(f"{task}/{algorithm}") for name in names)
    rounds = [job for job in jobs if job.name == "enduro/single_path/seed_1"]
    assert [job.wanted for job in rounds] == [50, 100, 150]
    assert [job.wanted for job in jobs if job.name == "qbert/vine/seed_1"] == [100]


def test_the_committed_report_is_what_the_committed_results_give(monkeypatch, tmp_path):
    """`make report` mends a failure; a sentence or number typed by hand is one. What is committed
    is judged: runs may be under way in the checkout."""
    with subprocess.Popen(
        ["git", "archive", "HEAD", "results", "README.md", "WORKSPACE.md"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    ) as archive:
        subprocess.run(["tar", "-x", "-C", str(tmp_path)], stdin=archive.stdout, check=True)
    monkeypatch.chdir(tmp_path)
    texts = report.texts(pathlib.Path("results"), "medium", pathlib.Path("README.md"))
    for path, text in texts.items():
        assert path.read_text() == text, path


def test_a_report_of_nothing_yet(script, tmp_path):
    """Without a run there is no figure, and the text says so of every claim."""
    result = script("reproduce", "--report", f"--out={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert not list(tmp_path.glob("*.png"))
    assert "**not enough data**" in (tmp_path / "claims.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give at least one of --list, --run and --report"),
        (["--list", "--units=nothing"], "--units=nothing matches none of swimmer, cartpole"),
        (["--run", "--jobs=0"], "--jobs"),
        (["--run", "--hours=-1"], "--hours"),
    ],
)
def test_bad_input_is_one_line(script, arguments, message):
    assert_refused(script("reproduce", *arguments), message)


def _reproduce(out, *arguments, units="cartpole", **options):
    command = [sys.executable, "experiments/reproduce.py", "--run", "--budget=smoke"]
    command += [f"--units={units}", f"--out={out}", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


@pytest.mark.slow
def test_a_killed_reproduction_ends_with_the_same_bits(tmp_path):
    """Killed with its workers after the third run began; a second call completes it."""
    whole = _reproduce(tmp_path / "whole")
    whole.communicate()
    assert whole.returncode == 0
    killed = _reproduce(tmp_path / "killed", start_new_session=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(
        (tmp_path / "killed").glob("cartpole/natural_gradient_0.1/*/metrics.csv")
    ):
        time.sleep(0.1)
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(killed.pid)], capture_output=True, text=True, check=True
    )
    for pid in (killed.pid, *map(int, children.stdout.split())):
        os.kill(pid, signal.SIGKILL)
    killed.communicate()
    again = _reproduce(tmp_path / "killed")
    again.communicate()
    assert again.returncode == 0
    for run in reproduce.Plan("smoke", tmp_path / "whole").figure4_until("cartpole/*", None):
        other = tmp_path / "killed" / run.directory.relative_to(tmp_path / "whole")
        first, second = (curves.read(path / "metrics.csv") for path in (run.directory, other))
        for name in metrics.COLUMNS:
            if name not in TIMES:
                np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_the_time_limit_saves_and_the_same_command_goes_on(script, tmp_path):
    """Three seconds are too few for a worker that imports TensorFlow and trains two iterations."""
    command = ("reproduce", "--run", "--budget=smoke", "--units=walker", f"--out={tmp_path}")
    stopped = script(*command, "--hours=0.0008", spawns=True)
    assert stopped.returncode == 130
    assert "Traceback" not in stopped.stderr
    again = script(*command)
    assert again.returncode == 0, again.stderr[-2000:]
    plan = reproduce.Plan("smoke", tmp_path)
    assert all(job.done for job in reproduce.all_jobs(plan, "walker"))


class _Job:
    """A stand-in that notes when it ran; two may share what they write to."""

    def __init__(self, name, log, seconds=0.5):
        self.name = self.label = name
        self.log = log
        self.seconds = seconds

    @property
    def done(self):
        return self.log.with_suffix(f".{self.name}").exists()

    @property
    def steps(self):
        return int(self.done), 1

    def job(self, cores):
        return noted.note, self.log, self.name, self.seconds


def test_jobs_of_one_directory_follow_each_other_and_the_plan_is_asked_again(tmp_path):
    """Two workers never write to one directory at once; what a finished job adds is run too."""
    shared, other = tmp_path / "shared.log", tmp_path / "other.log"
    first, second = _Job("first", shared), _Job("second", shared)
    third = _Job("third", other, 0.1)

    def plan():
        return [first, second, *([third] if first.done else [])]

    with flagsaver.flagsaver(jobs=2):
        batch.execute(plan, None)
    assert shared.read_text().split() == [
        "begin",
        "first",
        "end",
        "first",
        "begin",
        "second",
        "end",
        "second",
    ]
    assert third.done


@pytest.mark.slow
def test_an_idle_worker_does_not_hold_up_the_end(tmp_path):
    """Two workers, and one has nothing to do when the runs are stopped. Were it to die of the
    signal, the other would wait for ever for the lock that it holds while it waits for work."""
    for i in range(3):
        pool = batch.LocalPool(2)
        places = [tmp_path / f"{i}_{worker}" for worker in range(2)]
        both = [pool.submit(noted.meet, *order) for order in (places, places[::-1])]
        assert all(future.exception(60) is None for future in both)
        begun = tmp_path / str(i)
        run = pool.submit(noted.wait_for_a_stop, begun)
        while not begun.exists():
            time.sleep(0.05)
        ending = threading.Thread(target=lambda p=pool, r=run: (p.interrupt([r]), p.close()))
        ending.start()
        ending.join(60)
        assert not ending.is_alive()
        assert run.exception() is None


def test_a_result_without_a_checkpoint_is_named_and_not_made_again(tmp_path, capsys):
    """A finished run that a larger budget asks more of, as in a clone."""
    config = dataclasses.replace(
        presets.preset("paper", "cartpole"), iterations=1, steps_per_iteration=1000, seed=1
    )
    run = batch.Run("cartpole", "trpo", "trpo", config, tmp_path / "seed_1")
    runs.run(config, run.directory)
    shutil.rmtree(run.directory / "checkpoints")
    before = (run.directory / "metrics.csv").read_bytes()
    more = dataclasses.replace(run, config=dataclasses.replace(config, iterations=2))
    with flagsaver.flagsaver(jobs=1), pytest.raises(ValueError, match="1 runs failed"):
        batch.execute(lambda: [more], None)
    assert (run.directory / "metrics.csv").read_bytes() == before
    assert "1 of 2 iterations and no checkpoint to resume from" in capsys.readouterr().out


def test_an_unfinished_run_is_carried_by_its_directory_alone(tmp_path, new_trainers):
    """Stopped on the way, copied without its checkpoints/, and resumed: the uninterrupted bits."""
    preset = presets.preset("gae", "Hopper-v5")
    config = dataclasses.replace(preset, iterations=3, seed=1, threads=1)
    runs.run(config, tmp_path / "whole", resume=False)
    runs.run(config, tmp_path / "part", resume=False, stop_at=2)
    runs.run(config, tmp_path / "part", resume=True, stop_at=1)  # is passed already
    run = batch.Run("Hopper-v5", "gae", "single_path", config, tmp_path / "copy", preset="gae")
    shutil.copytree(
        tmp_path / "part",
        run.directory,
        ignore=shutil.ignore_patterns("checkpoints", "tensorboard"),
    )
    carried = list(run.directory.glob("checkpoint-*.npz"))
    assert [path.name for path in carried] == ["checkpoint-00000002.npz"]
    assert carried[0].stat().st_size < 100_000  # what version control is to keep of each run
    run.check()
    new_trainers()
    runs.run(config, run.directory, resume=True)
    assert not list(run.directory.glob("checkpoint-*.npz"))
    first, second = (
        curves.read(path / "metrics.csv") for path in (tmp_path / "whole", run.directory)
    )
    for name in metrics.COLUMNS:
        if name not in TIMES:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    states = [runs.load_state(path).to_arrays() for path in (tmp_path / "whole", run.directory)]
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name], err_msg=name)
    sessions = json.loads((run.directory / "config.json").read_text())["sessions"]
    assert [session["completed_iterations"] for session in sessions] == [0, 2, 2]
