"""The promise: whatever ends a run, what it saved is whole, and resumed it has the same bits.

`make test-faults`: kills, signals, full disks, damaged checkpoints, numbers that are not finite,
and, in test_cluster.py and test_workers.py, lost workers, nodes and clusters. Each test counts.
"""

import dataclasses
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import TIMES, assert_equal, final, short_pong

from trpo_repro import environments, presets, runs, training
from trpo_repro.analysis import curves
from trpo_repro.config import METHODS
from trpo_repro.runs import checkpoint

pytestmark = pytest.mark.faults
ROOT = pathlib.Path(__file__).parent.parent
KILLS = 8

# Long enough not to be over before the last kill: a kill lets an iteration pass, and half a second.
_SMALL = {"steps_per_iteration": 2000, "iterations": 120, "seed": 5}
_SEARCH = {"population": 20, "iterations": 120, "seed": 5}
RUNS = {
    "cart-pole": dataclasses.replace(presets.preset("paper", "cartpole"), **_SMALL),
    "swimmer, vine": dataclasses.replace(
        presets.preset("paper", "swimmer", "vine"),
        iterations=100,
        seed=5,
        trunks=4,
        path_length=200,
        rollout_states=20,
        rollout_length=20,
    ),
    "Hopper-v5, gae": dataclasses.replace(
        presets.preset("gae", "Hopper-v5"),
        **{**_SMALL, "iterations": 80, "steps_per_iteration": 2048},
    ),
    "cem": dataclasses.replace(presets.preset("paper", "cartpole", algorithm="cem"), **_SEARCH),
    "cma": dataclasses.replace(presets.preset("paper", "cartpole", algorithm="cma"), **_SEARCH),
    "rwr": dataclasses.replace(presets.preset("paper", "cartpole"), algorithm="rwr", **_SMALL),
    "pong on 2 workers": short_pong(
        iterations=30, steps_per_iteration=400, path_length=100, workers=2
    ),
}


def _session(config, directory, before=""):
    """Starts or resumes a run in a process of its own."""
    program = f"""
import pathlib, sys
from trpo_repro import runs
from trpo_repro.config import Config
{before}
directory = pathlib.Path({str(directory)!r})
settings = {dataclasses.asdict(config)!r}
runs.run(Config(**settings), directory, resume=runs.can_resume(directory))
"""
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _rows(directory):
    path = directory / "metrics.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


def _done(config, directory):
    return _rows(directory) >= config.iterations


def _finish(config, directory):
    """Resumes until the end; returns what `helpers.final` does."""
    if not _done(config, directory):
        process = _session(config, directory)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    table = curves.read(directory / "metrics.csv")
    columns = {name: column for name, column in table.items() if name not in TIMES}
    return columns, runs.load_state(directory).to_arrays()


@pytest.mark.parametrize("name", RUNS)
def test_killed_at_any_moment(tmp_path, name, record_property):
    """SIGKILL at random moments of the start, of iterations and of saves; then to the end."""
    config, directory = RUNS[name], tmp_path / "killed"
    whole = final(config, tmp_path / "whole")
    generator = np.random.default_rng(list(RUNS).index(name))
    kills = 0
    while kills < KILLS and not _done(config, directory):
        process = _session(config, directory)
        rows = _rows(directory)
        deadline = time.monotonic() + 60
        while _rows(directory) == rows and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.5))
        process.kill()
        process.communicate()
        kills += 1
    assert_equal(whole, _finish(config, directory))
    assert kills == KILLS, "the run was over before"
    record_property(f"{name}: kills with no differing bit", kills)


@pytest.mark.parametrize("name", ["cart-pole", "swimmer, vine"])
def test_signals_once_and_again(tmp_path, name, record_property):
    """SIGINT and SIGTERM, one or two in a row: the session saves and ends with 0."""
    config, directory = RUNS[name], tmp_path / "stopped"
    whole = final(config, tmp_path / "whole")
    generator = np.random.default_rng(1)
    rounds = 0
    while rounds < 6 and not _done(config, directory):
        process, rows = _session(config, directory), _rows(directory)
        while _rows(directory) == rows and process.poll() is None:
            time.sleep(0.01)
        for _ in range(1 + rounds % 2):
            os.kill(process.pid, (signal.SIGINT, signal.SIGTERM)[rounds // 2 % 2])
            time.sleep(generator.uniform(0, 0.02))
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0 or _done(config, directory), errors
        rounds += 1
    assert_equal(whole, _finish(config, directory))
    record_property(f"{name}: rounds of signals with no differing bit", rounds)


def test_full_disks(tmp_path, record_property):
    """The kernel refuses files above a size: the session ends, and nothing before it is lost."""
    config = dataclasses.replace(RUNS["cart-pole"], iterations=10)
    whole = final(config, tmp_path / "whole")
    largest = max(path.stat().st_size for path in (tmp_path / "whole/checkpoints").iterdir())
    sizes = [0, 1000, largest // 2, largest - 1, 4 * largest]
    for i, size in enumerate(sizes):
        directory = tmp_path / f"full_{i}"
        limit = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {resource.RLIM_INFINITY}))"""
        started = _session(dataclasses.replace(config, iterations=5), directory)
        started.communicate()
        rows = _rows(directory)
        process = _session(config, directory, limit)
        process.communicate(timeout=120)
        assert _rows(directory) >= rows
        assert _done(config, directory) == (size > largest)  # the others meet the limit
        assert_equal(whole, _finish(config, directory))
    record_property("sizes of a full disk with no differing bit", len(sizes) - 1)


def test_damaged_checkpoints(tmp_path, record_property):
    """Flipped, cut, zeroed and repeated bytes: what is accepted is what was saved."""
    config = RUNS["Hopper-v5, gae"]
    runs.run(dataclasses.replace(config, iterations=1), tmp_path)
    (path,) = (tmp_path / "checkpoints").glob("checkpoint-00000001.npz")
    for other in (tmp_path / "checkpoints").iterdir():
        if other != path:
            other.unlink()
    content, saved = path.read_bytes(), checkpoint.load_latest(tmp_path / "checkpoints")
    generator = np.random.default_rng(0)
    accepted = 0
    damages = 3000
    for i in range(damages):
        damaged = bytearray(content)
        at = int(generator.integers(len(content)))
        length = int(generator.integers(1, 64))
        match i % 4:
            case 0:
                damaged[at] ^= int(generator.integers(1, 256))
            case 1:
                del damaged[at:]
            case 2:
                damaged[at : at + length] = bytes(length)
            case 3:
                damaged[at:at] = content[at : at + length]
        path.write_bytes(damaged)
        try:
            loaded = checkpoint.load_latest(tmp_path / "checkpoints")
        except checkpoint.CheckpointError:
            continue
        accepted += 1
        assert loaded.keys() == saved.keys()
        for name, array in saved.items():
            np.testing.assert_array_equal(loaded[name], array)
    record_property("damaged checkpoints, none accepted that is wrong", damages)
    record_property("of them whole in spite of the damage", accepted)


class _Broken(environments.Environment):
    """Swimmer whose rewards or states are now and then not finite."""

    def __init__(self, number, in_state):
        self._inner = environments.make("swimmer", threads=1)
        self._number, self._in_state = number, in_state
        self._calls = 0
        self.name = "broken"
        for field in ("observation_space", "action_space", "max_episode_steps"):
            setattr(self, field, getattr(self._inner, field))

    def initial(self, batch_size, generator):
        return self._inner.initial(batch_size, generator)

    def observe(self, states):
        return self._inner.observe(states)

    def step(self, states, actions):
        step = self._inner.step(states, actions)
        self._calls += 1
        if self._calls % 150 == 70:
            rewards, simulator = step.rewards.copy(), step.states.simulator.copy()
            if self._in_state:
                simulator[0, 3] = self._number
            else:
                rewards[0] = self._number
            states = dataclasses.replace(step.states, simulator=simulator)
            step = dataclasses.replace(step, rewards=rewards, states=states)
        return step


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e300])
def test_numbers_that_are_not_finite(number, record_property):
    """In rewards and in states, with every algorithm that samples actions: θ stays finite."""
    survived = 0
    for algorithm in METHODS:
        for in_state in (False, True):
            config = dataclasses.replace(
                presets.preset("paper", "swimmer"),
                algorithm=algorithm,
                iterations=4,
                steps_per_iteration=400,
                path_length=100,
            )
            trainer = training.Trainer(config, _Broken(number, in_state))
            rows = list(training.iterations(trainer, trainer.initial_state()))
            assert all(np.isfinite(state.theta).all() for state, _ in rows)
            if not np.isfinite(number):
                assert {row["outcome"] for _, row in rows} >= {"not_finite"}
            survived += 1
    record_property(f"runs with {number} that went on", survived)
