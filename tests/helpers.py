"""What tests of several rooms share."""

import dataclasses
import json

import numpy as np

from trpo_repro import presets, runs
from trpo_repro.analysis import curves
from trpo_repro.policies import policy as policy_lib
from trpo_repro.runs import metrics

TIMES = (*metrics.TIMES, "seconds")  # columns of curves.read that no two runs share
_LINEAR: dict[str, policy_lib.Policy] = {}  # compiling one takes half a second


def linear_setting(environment, **changes):
    """Returns (environment, a linear policy for it, its initial θ)."""
    spaces = environment.observation_space, environment.action_space
    key = repr((spaces, changes))  # spaces cannot be hashed
    if key not in _LINEAR:
        _LINEAR[key] = policy_lib.multilayer_perceptron_policy(
            *spaces, hidden_sizes=(), activation="tanh", seed=0, **changes
        )
    return environment, _LINEAR[key], _LINEAR[key].network.initial_parameters()


def short_pong(sampler="single_path", **changes):
    """Returns two iterations of Pong in four shards, seed 1, with changes."""
    preset = presets.preset("paper", "pong", sampler)
    return dataclasses.replace(preset, **{"seed": 1, "iterations": 2, "shards": 4, **changes})


def final(config, directory):
    """Trains; returns all columns of the metrics but times, and the last state's arrays."""
    runs.run(config, directory, resume=False)
    table = curves.read(directory / "metrics.csv")
    columns = {name: column for name, column in table.items() if name not in TIMES}
    return columns, runs.load_state(directory).to_arrays()


def assert_equal(first, second):
    """Asserts that two results of `final` have the same bits."""
    for ours, theirs in zip(first, second, strict=True):
        for name, array in ours.items():
            np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def assert_refused(result, message):
    """Asserts that a script ended with one line that says why."""
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def write_run(run, rewards):
    """Writes a run's metrics.csv and config.json as if it had had these rewards per time step."""
    run.directory.mkdir(parents=True)
    lines = ["iteration,env_steps,reward_per_step,episode_length"]
    lines += [f"{i + 1},{1000 * (i + 1)},{reward},100" for i, reward in enumerate(rewards)]
    (run.directory / "metrics.csv").write_text("\n".join(lines) + "\n")
    record = {"config": dataclasses.asdict(run.config), "sessions": []}
    (run.directory / "config.json").write_text(json.dumps(record))
