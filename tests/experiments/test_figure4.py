"""Figure 4's script: what it lists, runs, goes on with, refuses and draws."""

import collections
import csv
import dataclasses
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from absl import flags
from helpers import assert_refused, write_run

from experiments import configs, figure4
from trpo_repro import runs
from trpo_repro.analysis import curves
from trpo_repro.commands import train
from trpo_repro.runs import session

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ("swimmer/vine/*", {"swimmer": 1}),
        pytest.param(
            "*", {"cartpole": 8, "swimmer": 7, "hopper": 5, "walker": 5}, marks=pytest.mark.slow
        ),
    ],
)
def test_the_smoke_budget_end_to_end(script, tmp_path, only, expected):
    """All 25 curves run, the figures are drawn, and a second call finds nothing to do; without the
    slow tests, one curve."""
    arguments = ("--run", "--plot", "--budget=smoke", "--jobs=2", f"--out={tmp_path}")
    arguments += (f"--only={only}",)
    result = script("figure4", *arguments)
    assert result.returncode == 0, result.stderr[-2000:]
    with (tmp_path / "figure4_smoke.csv").open() as file:
        table = list(csv.DictReader(file))
    assert collections.Counter(row["task"] for row in table) == expected
    assert all(np.isfinite(float(row["final"])) for row in table)
    for x in ("iteration", "env_steps"):
        figure = tmp_path / f"figure4_smoke_{x}.png"
        assert figure.read_bytes().startswith(b"\x89PNG")
        assert str(figure) in result.stdout
    for run in figure4.planned("smoke", tmp_path, only):
        session = json.loads((run.directory / "config.json").read_text())["sessions"][0]
        assert session["command"].startswith("python experiments/train.py --task=")
    count = sum(expected.values())
    assert f"{count} of {count} runs are done" in script("figure4", *arguments).stdout


@pytest.mark.parametrize("budget", list(configs.BUDGETS))
def test_listed_commands_make_the_planned_configurations(budget):
    """Every command parses to what --run checks its directory against, which runs read."""
    for run in figure4.planned(budget, pathlib.Path("somewhere")):
        if run.config.seed > 1:
            break
        for name in flags.FLAGS:
            flags.FLAGS[name].unparse()
        flags.FLAGS(["train.py", *run.arguments])
        assert session.read_fields(train.config_from_flags()) == session.read_fields(run.config)
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    flags.FLAGS.mark_as_parsed()


def test_the_paper_budget_is_table_2():
    by_name = {run.name: run.config for run in figure4.planned("paper", pathlib.Path())}
    assert by_name["hopper/single_path/seed_5"].steps_per_iteration == 1_000_000
    assert by_name["walker/vine/seed_1"].rollout_states == 625
    assert by_name["hopper/cem_1/seed_1"].population == 1000
    assert {run.split("/")[0] for run in by_name} == set(configs.FIGURE4)


def test_smaller_batches_have_a_directory_of_their_own():
    directories = {
        run.name: str(run.directory) for run in figure4.planned("medium", pathlib.Path("r"))
    }
    assert directories["swimmer/vine/seed_1"] == "r/swimmer/vine/seed_1"
    assert directories["hopper/vine/seed_1"] == "r/hopper_medium/vine/seed_1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give at least one of --list, --run and --plot"),
        (["--list", "--only=nothing*"], "--only=nothing* matches no run"),
        (["--list", "--budget=huge"], "--budget"),
        (["--run", "--jobs=0"], "--jobs"),
    ],
)
def test_bad_input_is_one_line(script, arguments, message):
    assert_refused(script("figure4", *arguments), message)


def _first(out):
    return figure4.planned("smoke", out, "cartpole/single_path/*")[0]


def test_other_settings_in_the_directory_are_refused(tmp_path):
    run = _first(tmp_path)
    runs.run(dataclasses.replace(run.config, discount=0.5), run.directory, resume=False)
    with pytest.raises(ValueError, match=r"discount is 0\.5 there and 0\.99 here"):
        run.check()


def test_an_unfinished_run_needs_its_checkpoint(tmp_path):
    run = _first(tmp_path)
    runs.run(dataclasses.replace(run.config, iterations=1), run.directory, resume=False)
    run.check()
    assert not run.done
    for path in (run.directory / "checkpoints").iterdir():
        path.unlink()
    (run.directory / "checkpoints").rmdir()
    with pytest.raises(ValueError, match="1 of 2 iterations and no checkpoint"):
        run.check()


@pytest.mark.slow
def test_ctrl_c_then_the_same_command(tmp_path):
    """SIGINT to the script alone: its worker saves, and the next call goes on from there."""
    command = [sys.executable, "experiments/figure4.py", "--run", "--budget=medium"]
    command += ["--only=cartpole/single_path/seed_1", f"--out={tmp_path}"]
    run = figure4.planned("medium", tmp_path, "cartpole/single_path/seed_1")[0]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while run.iterations < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert b"stopped" in errors
    done = run.iterations
    assert 2 <= done < run.config.iterations
    assert f"stopped; {done} iterations saved" in (run.directory / "train.log").read_text()
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "0 of 1 runs are done" in result.stdout
    iterations = curves.read(run.directory / "metrics.csv")["iteration"]
    np.testing.assert_array_equal(iterations, np.arange(1, 51))
    sessions = json.loads((run.directory / "config.json").read_text())["sessions"]
    assert [session["completed_iterations"] for session in sessions] == [0, done]


def test_the_best_of_a_sweep_by_final_performance_is_drawn(tmp_path):
    chosen = figure4.planned("medium", tmp_path, "swimmer/natural_gradient*")
    for run in chosen:
        step, last = run.config.step_size, 5
        rewards = np.full(run.config.iterations, 1.0 if step == 10 else 0.0)
        rewards[-last:] = 2.0 if step == 1 else 0.5
        write_run(run, rewards)
    assert {run.setting for run in figure4.best(chosen, "swimmer", "natural_gradient")} == {
        "natural_gradient_1"
    }
    table = {row["setting"]: row for row in figure4.summarize(chosen)}
    assert len(table) == 7
    assert [name for name, row in table.items() if row["best"]] == ["natural_gradient_1"]
    assert table["natural_gradient_1"]["final"] == 2.0
    assert shlex.split(" ".join(chosen[0].arguments))[0] == "--task=swimmer"


def test_a_sweeps_second_round_is_the_best_of_its_first(tmp_path):
    """One value is not a number: it does not win. The second round has three seeds in full."""
    only = "hopper/natural_gradient*"
    first = figure4.planned("medium", tmp_path, only)
    assert [run.wanted for run in first] == [50] * 7
    for run, value in zip(first, (np.nan, 1.0, 3.0, 2.0, 0.0, 0.0, 0.0), strict=True):
        assert len(figure4.planned("medium", tmp_path, only)) == 7
        write_run(run, [value] * 50)
    second = [run for run in figure4.planned("medium", tmp_path, only) if not run.screening]
    assert {run.setting for run in second} == {"natural_gradient_1"}
    assert [(run.config.seed, run.wanted) for run in second] == [(1, 200), (2, 200), (3, 200)]
    assert figure4.best(second, "hopper", "natural_gradient") == []


def test_unfinished_seeds_far_behind_are_not_drawn(tmp_path):
    chosen = figure4.planned("medium", tmp_path, "walker/single_path/*")
    for run, count in zip(chosen, (60, 60, 3), strict=False):
        write_run(run, [0.0] * count)
    drawn = figure4.drawable(chosen, "walker", "single_path")
    assert [run.config.seed for run in drawn] == [1, 2]
    asked = [dataclasses.replace(run, stop_at=3) for run in chosen]
    assert len(figure4.drawable(asked, "walker", "single_path")) == 3  # all have what is asked for
    figure4.draw(chosen, tmp_path / "figure.png", "iteration")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
