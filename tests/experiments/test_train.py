"""The command line, as a user meets it."""

import json
import os
import signal
import time

import forked
import numpy as np
import pytest
from absl.testing import flagsaver
from helpers import assert_refused

from experiments import plot, train
from trpo_repro import runs as runs_lib
from trpo_repro.analysis import curves
from trpo_repro.commands import cli
from trpo_repro.runs import metrics

TINY = {
    "task": "cartpole",
    "steps_per_iteration": 200,
    "path_length": 100,
    "iterations": 2,
}


def _tiny(out, **changes):
    values = {**TINY, "out": str(out), **changes}
    return [f"--{name}={value}" for name, value in values.items()]


def test_main_leaves_what_it_prints(tmp_path, capsys):
    with flagsaver.flagsaver(**{**TINY, "out": str(tmp_path / "run"), "hidden_sizes": ["8"]}):
        train.main([])
    printed = capsys.readouterr().out.split()
    for name in ("metrics.csv", "config.json", "checkpoints", "learning_curve.png"):
        assert str(tmp_path / "run" / name) in printed
        assert (tmp_path / "run" / name).exists()
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["config"]["hidden_sizes"] == [8]
    (session,) = record["sessions"]
    assert session["versions"]["mujoco"]
    assert session["git_revision"]
    assert session["completed_iterations"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task=hoper"], "unknown task 'hoper'; known: cartpole, swimmer"),
        (["--steps_per_iteration=-5"], "steps_per_iteration=-5 is not allowed"),
        (["--steps_per_iteration=10"], "must be at least one path: path_length=1000"),
        (["--hidden_sizes=a,b"], "hidden_sizes=a is not allowed"),
        (["--preset=best"], "flag --preset=best: value should be one of <paper|gae>"),
        (["--sede=1"], "--sede is not a flag of this script; did you mean --seed?"),
        (["--seed=x"], "flag --seed=x"),
        (["swimmer"], "unexpected argument 'swimmer'"),
        (["--trunks=8"], "--trunks has no effect here: it is for sampler=vine"),
        (["--stop_at=201"], "stop_at=201 is not allowed: must be at most iterations=200"),
        (["--task=pong", "--hidden_sizes=9"], "it is for tasks other than Atari games"),
        (["--task=pong", "--preset=gae"], "preset=gae is not allowed with Atari games"),
    ],
)
def test_impossible_values_are_one_line_and_exit_code_2(script, tmp_path, arguments, message):
    result = script("train", f"--out={tmp_path / 'run'}", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert not result.stdout
    assert not (tmp_path / "run").exists()


def test_help_names_every_flag(script):
    result = script("train", "--help")
    assert result.returncode == 0
    for name in ("task", "preset", "seed", "kl_limit", "steps_per_iteration", "resume"):
        assert f"--{name}" in result.stdout or f"--[no]{name}" in result.stdout


def _wait_for_rows(directory, count, process):
    for _ in range(600):
        time.sleep(0.1)
        assert process.running, process.result()
        path = directory / "metrics.csv"
        if path.exists() and len(path.read_text().splitlines()) > count:
            return
    raise AssertionError("no rows in a minute")


@pytest.mark.parametrize(
    "name",
    [
        "SIGALRM",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("SIGINT", "SIGTERM", "SIGKILL")),
    ],
)
def test_stopped_and_resumed_run_is_the_uninterrupted_one(script, tmp_path, name):
    """Signals to a real process in the middle of a run; all but SIGKILL save and exit 0. SIGALRM
    says that the time limit has come, and is sent on as SIGINT."""
    settings = {"iterations": 400, "steps_per_iteration": 1000, "path_length": 500}
    command = (*_tiny(tmp_path / "stopped", **settings), "--time_limit=1h")
    process = forked.start(tmp_path, "train", *command)
    _wait_for_rows(tmp_path / "stopped", 3, process)
    os.kill(process.pid, getattr(signal, name))
    result = process.result(timeout=60)
    if name == "SIGKILL":
        assert result.returncode == -signal.SIGKILL
    else:
        assert result.returncode == 0, result.stderr
        assert "continue with --resume" in result.stderr
    stopped = runs_lib.load_state(tmp_path / "stopped").iteration
    assert 2 <= stopped < 400
    settings["iterations"] = stopped + 2
    for out, extra in (("stopped", ["--resume"]), ("whole", [])):
        result = script("train", *_tiny(tmp_path / out, **settings), *extra)
        assert result.returncode == 0, result.stderr
    tables = [curves.read(tmp_path / out / "metrics.csv") for out in ("stopped", "whole")]
    for column in set(metrics.COLUMNS) - set(metrics.TIMES):
        np.testing.assert_array_equal(tables[0][column], tables[1][column], err_msg=column)
    theta = [runs_lib.load_state(tmp_path / out).theta for out in ("stopped", "whole")]
    assert theta[0].tobytes() == theta[1].tobytes()


def test_resume_with_another_config_is_one_line(script, tmp_path):
    assert script("train", *_tiny(tmp_path)).returncode == 0
    result = script("train", *_tiny(tmp_path, discount=0.9), "--resume")
    assert result.returncode == 2
    assert "discount is 0.99 there and 0.9 here" in result.stderr


def test_plot_draws_from_csv_files_alone(tmp_path):
    for seed in (1, 2):
        directory = tmp_path / f"seed_{seed}"
        directory.mkdir()
        rows = "".join(f"{i},{1000 * i},{seed * i}\n" for i in range(1, 6))
        (directory / "metrics.csv").write_text("iteration,env_steps,return_mean\n" + rows)
    out = tmp_path / "figure.png"
    with flagsaver.flagsaver(
        runs=[f"Task/δ = 0.01={tmp_path}/seed_*", f"Task/one={tmp_path}/seed_1"],
        out=str(out),
        x="env_steps",
    ):
        plot.main([])
    assert out.read_bytes().startswith(b"\x89PNG")
    with (
        flagsaver.flagsaver(runs=[f"Task/TRPO={tmp_path}/none_*"], out=str(out)),
        pytest.raises(SystemExit) as stop,
    ):
        plot.main([])
    assert stop.value.code == 2


def test_several_seeds_are_runs_of_their_own_that_continue(script, tmp_path):
    """Each is the run that --seed makes, bit for bit; a second command makes what is missing."""
    flags = [flag for flag in _tiny(tmp_path / "all") if not flag.startswith("--seed")]
    assert script("train", *flags, "--seeds=3").returncode == 0
    before = (tmp_path / "all" / "seed_3" / "metrics.csv").stat().st_mtime_ns
    result = script("train", *flags, "--seeds=3..4", "--jobs=2")
    assert result.returncode == 0, result.stderr
    assert "1 of 2 runs are done" in result.stdout
    assert (tmp_path / "all" / "seed_3" / "metrics.csv").stat().st_mtime_ns == before
    alone = [flag for flag in flags if not flag.startswith("--out")]
    assert script("train", *alone, "--seed=4", f"--out={tmp_path / 'four'}").returncode == 0
    theta = [runs_lib.load_state(tmp_path / out).theta for out in ("all/seed_4", "four")]
    assert theta[0].tobytes() == theta[1].tobytes()


@pytest.mark.parametrize("text", ["3..1", "1,1", "a", "1..", "..", "", "-1..2"])
def test_wrong_seeds_are_refused(text):
    with flagsaver.flagsaver(seeds=text), pytest.raises(ValueError, match="is not allowed: must"):
        train.seeds_from_flag()


def test_seeds_go_with_no_seed(script):
    result = script("train", "--task=cartpole", "--seeds=1..2", "--seed=1")
    assert_refused(result, "--seed is not allowed with --seeds")
    assert_refused(script("train", "--jobs=2"), "--jobs is not allowed without --seeds")


@pytest.mark.parametrize("text", ["3", "h", "", "1d", "m3", "-5m", "infs", "nanm"])
def test_wrong_times_are_refused(text):
    with pytest.raises(ValueError, match="is no time: must be like 90s, 30m or 2h"):
        cli.seconds(text)


def test_verbosity_shows_where_a_refusal_is_from(script, tmp_path):
    """A ValueError of a user's own environment is one, too."""
    (tmp_path / "config.json").write_text("{broken")
    result = script("train", "--resume", f"--out={tmp_path}", "--verbosity=1")
    assert result.returncode == 2
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert_refused(script("train", "--resume", f"--out={tmp_path}"), "config.json is damaged")


def test_times():
    assert [cli.seconds(text) for text in ("90s", "1.5m", "2h")] == [90, 90, 7200]


def test_show_config_prints_what_the_run_reads_and_ends(script, tmp_path):
    out = tmp_path / "run"
    result = script("train", "--task=Hopper-v5", "--preset=gae", "--show_config", f"--out={out}")
    shown = json.loads(result.stdout)
    assert shown["discount"] == 0.995
    assert "temperature" not in shown
    assert not out.exists()


def test_a_time_limit_ends_a_run_that_has_just_begun(script, tmp_path):
    result = script("train", *_tiny(tmp_path, iterations=100_000), "--time_limit=1s")
    assert result.returncode == 0
    assert "continue with --resume" in result.stderr
    begun = (tmp_path / "checkpoints").exists()
    assert ("no iterations saved" in result.stderr) == (not begun)


def test_resume_takes_the_settings_from_the_run(script, tmp_path):
    """No flag but --resume and --out; an extension of the run is one more."""
    first = script("train", *_tiny(tmp_path), "--stop_at=1", "--log_every=0")
    assert first.returncode == 0
    assert f": 1 of {TINY['iterations']}, return" in first.stderr  # a line tells where it is
    resumed = script("train", "--resume", f"--out={tmp_path}")
    assert resumed.returncode == 0, resumed.stderr
    done = runs_lib.load_state(tmp_path).iteration
    longer = script("train", "--resume", f"--out={tmp_path}", f"--iterations={done + 1}")
    assert longer.returncode == 0, longer.stderr
    assert runs_lib.load_state(tmp_path).iteration == done + 1
    other = script("train", "--resume", f"--out={tmp_path}", "--discount=0.5")
    assert_refused(other, "holds a run of another configuration: discount is")
    assert_refused(script("train", "--resume", f"--out={tmp_path / 'none'}"), "holds no run")


def test_a_run_whose_updates_are_refused_says_so(script, tmp_path):
    """Steps a thousand times as long as usual, none of which may be shortened."""
    tiny = _tiny(tmp_path, iterations=3)
    result = script("train", *tiny, "--kl_limit=10", "--max_backtracks=0")
    assert result.returncode == 0
    assert "of 3 updates were refused (line_search_failed" in result.stderr
