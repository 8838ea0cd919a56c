"""Policies: the paper's parameter counts, and what depends on what."""

import numpy as np
import pytest

from experiments import configs
from trpo_repro import environments
from trpo_repro.policies import normalization
from trpo_repro.policies import policy as policy_lib


def _policy(task, **changes):
    environment = environments.make(task)
    config = configs.PAPER[task]
    arguments = {
        "hidden_sizes": config.hidden_sizes,
        "activation": config.activation,
        "seed": 0,
        "skip_inputs": config.skip_inputs,
        **changes,
    }
    return policy_lib.multilayer_perceptron_policy(
        environment.observation_space, environment.action_space, **arguments
    )


@pytest.mark.parametrize(("task", "count"), [("cartpole", 6), ("swimmer", 364)])
def test_parameter_counts_are_the_papers(task, count):
    assert _policy(task).network.size == count


def test_log_std_is_free_and_the_same_in_every_state():
    policy = _policy("hopper", initial_log_std=-0.5)
    theta = policy.network.initial_parameters()
    observations = np.random.default_rng(0).standard_normal((5, 12)).astype(np.float32)
    log_std = policy.network(theta, observations).numpy()[:, 3:]
    np.testing.assert_array_equal(log_std, np.float32(-0.5))


def test_skipped_inputs_do_not_matter_and_others_do():
    policy = _policy("swimmer", output_scale=1.0)
    theta = policy.network.initial_parameters()
    observations = np.random.default_rng(0).standard_normal((5, 10)).astype(np.float32)
    moved = observations.copy()
    moved[:, 0] += 100
    before = policy.mode(theta, observations)
    np.testing.assert_array_equal(policy.mode(theta, moved), before)
    moved[:, 1] += 1
    assert (policy.mode(theta, moved) != before).any()


def test_hidden_units_are_soft_rectifiers():
    """log(1 + eˣ) by NumPy from the flat parameters themselves; float32 rounding: 1e-5."""
    policy = _policy("swimmer", output_scale=1.0)
    theta = policy.network.initial_parameters()
    parts = dict(zip(policy.network.paths, policy.network.unflatten(theta), strict=True))
    x = np.random.default_rng(0).standard_normal((4, 10)).astype(np.float32)
    hidden = np.log1p(np.exp(x[:, 1:] @ parts["hidden_0/kernel"] + parts["hidden_0/bias"]))
    expected = hidden @ parts["output/kernel"] + parts["output/bias"]
    np.testing.assert_allclose(policy.mode(theta, x), expected, rtol=1e-5, atol=1e-5)


def test_seed_decides_the_initial_parameters():
    first, again, other = (
        _policy("swimmer", seed=seed).network.initial_parameters() for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_normalizer_statistics_are_numpys():
    """Merged over uneven batches; float64, so only the order of sums differs: 1e-12."""
    data = np.random.default_rng(0).normal(3.0, 7.0, (1000, 4)) * [1, 1e-3, 10, 1]
    normalizer = normalization.ObservationNormalizer.initial(4)
    np.testing.assert_array_equal(normalizer(data[:3]), np.clip(data[:3], -10, 10).astype("f4"))
    for part in np.split(data, [1, 10, 500]):
        normalizer = normalizer.update(part)
    np.testing.assert_allclose(normalizer.mean, data.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(normalizer.variance, data.var(axis=0), rtol=1e-12)
    normalized = normalizer(data)
    np.testing.assert_allclose(normalized.std(axis=0), 1.0, rtol=1e-2)  # 1e-8 beside 5e-5
    assert np.abs(normalizer(data + 1e6)).max() == 10.0
