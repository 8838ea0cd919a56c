"""evaluate.py and watch.py as their users call them."""

import json
import pathlib

import imageio.v3 as imageio
import numpy as np
import pytest
from helpers import assert_refused

import trpo_repro
from trpo_repro import environments

ROOT = pathlib.Path(__file__).parent.parent.parent
SWIMMER = "results/swimmer/vine/seed_1"


def test_evaluate_prints_one_line_of_what_play_returns(script):
    result = script("evaluate", f"--run={SWIMMER}", "--episodes=4", "--seed=2")
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout)
    _, environment, policy = trpo_repro.load(ROOT / SWIMMER)
    played = policy.play(environment, 4, seed=2)
    assert record["return_mean"] == pytest.approx(played.returns.mean(), rel=1e-12)
    assert record["return_low"] < record["return_mean"] < record["return_high"]
    assert record["episode_length"] == 1000
    assert record["task"] == "swimmer"


def test_bad_input_is_one_line(script):
    assert_refused(script("evaluate"), "give the run's directory with --run=DIR")
    assert_refused(script("evaluate", "--run=nowhere"), "nowhere holds no run")
    assert_refused(script("watch", f"--run={SWIMMER}", "--out=a.avi"), "must be a file ending in")


def test_watch_draws_a_run_of_gymnasium(script, tmp_path):
    """Every third of 30 steps, and the last one; before and after training side by side."""
    trained = script(
        "train",
        "--task=CartPole-v1",
        "--preset=gae",
        "--iterations=2",
        "--seed=1",
        f"--out={tmp_path / 'run'}",
    )
    assert trained.returncode == 0, trained.stderr
    for name in ("film.gif", "film.mp4"):
        result = script(
            "watch",
            f"--run={tmp_path / 'run'}",
            f"--out={tmp_path / name}",
            "--training",
            "--steps=9",
            "--every=3",
            "--width=120",
        )
        assert result.returncode == 0, result.stderr
        assert (tmp_path / name).stat().st_size > 1000
    film = imageio.imread(tmp_path / "film.gif")
    assert film.shape[0] == 4  # steps 0, 3, 6, 9
    assert film.shape[2] == 3 * 120  # before, half, after
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.gif", "film.mp4", "run"]


@pytest.mark.parametrize("task", ["cartpole", "pong"])
def test_pictures_of_states_differ_as_the_states_do(task):
    environment = environments.make(task)
    states = environment.initial(2, np.random.default_rng(0))
    for _ in range(20):
        after = environment.step(states, np.ones((2, *environment.action_space.shape), int))
        states = after.states
    pictures = environment.render(states)
    assert pictures.dtype == np.uint8
    assert pictures.shape[0] == 2
    assert pictures.shape[3] == 3
    np.testing.assert_array_equal(environment.render(states), pictures)
    assert (environment.render(environment.initial(2, np.random.default_rng(0))) != pictures).any()


def test_mujoco_draws_beside_tensorflow():
    """In a process of its own; where there is no renderer, one line says what to install."""
    environment = environments.make("hopper")
    states = environment.initial(2, np.random.default_rng(0))
    try:
        pictures = environment.render(states)
    except ValueError as error:
        assert "install EGL" in str(error)  # noqa: PT017
        return
    assert pictures.shape == (2, 240, 320, 3)
    assert pictures.std() > 10


def test_no_renderer_is_one_line(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setenv("PYOPENGL_PLATFORM", "nowhere")
    environment = environments.make("hopper")
    with pytest.raises(ValueError, match="MuJoCo cannot draw: install EGL") as error:
        environment.render(environment.initial(1, np.random.default_rng(0)))
    assert "\n" not in str(error.value)
