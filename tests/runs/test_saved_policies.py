"""Saved policies: what is written acts as the trainer's policy did."""

import dataclasses

import numpy as np
import pytest

from experiments import configs
from trpo_repro import runs, training

GAE = dataclasses.replace(configs.preset("gae", "Hopper-v5"), iterations=1, seed=1, threads=1)


def _policies():
    for task in ("cartpole", "swimmer"):
        config = configs.preset("paper", task)
        yield training.make_policy(config, training.make_environment(config))


def test_a_policy_file_of_another_network_is_refused(tmp_path):
    small, other = _policies()
    state = training.Trainer(configs.preset("paper", "cartpole")).initial_state()
    path = tmp_path / "policy.npz"
    runs.save_policy(path, small, dataclasses.replace(state, iteration=7))
    saved = runs.load_policy(path, small, normalized=False)
    np.testing.assert_array_equal(saved.theta, state.theta)
    assert (saved.iteration, runs.saved_iteration(path)) == (7, 7)
    assert saved.normalizer is None
    with pytest.raises(ValueError, match="another network"):
        runs.load_policy(path, other, normalized=False)


def test_a_normalized_runs_policy_holds_its_normalizer(tmp_path):
    """Without it the same parameters act otherwise: an old file of such a run is an error."""
    state = runs.run(GAE, tmp_path, resume=False)
    policy = training.make_policy(GAE, training.make_environment(GAE))
    saved = runs.load_policy(tmp_path / "policy.npz", policy, normalized=True)
    observations = np.random.default_rng(0).standard_normal((5, 11)).astype(np.float32)
    np.testing.assert_array_equal(saved.normalizer(observations), state.normalizer(observations))
    acted = policy.mode(saved.theta, saved.normalizer(observations))
    assert (acted != policy.mode(saved.theta, observations)).any()
    runs.save_policy(tmp_path / "old.npz", policy, dataclasses.replace(state, normalizer=None))
    with pytest.raises(ValueError, match="lacks the observations' normalizer"):
        runs.load_policy(tmp_path / "old.npz", policy, normalized=True)
