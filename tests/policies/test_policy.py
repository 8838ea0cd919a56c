"""Policies: the paper's parameter counts, and what depends on what."""

import math

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf

from trpo_repro import environments, presets
from trpo_repro.optimization import curvature
from trpo_repro.policies import normalization
from trpo_repro.policies import policy as policy_lib


def _policy(task, **changes):
    environment = environments.make(task)
    config = presets.PAPER[task]
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
    parts = dict(zip(policy.network.variable_names, policy.network.unflatten(theta), strict=True))
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


def _convolutional(shape=(4, 52, 40)):
    return policy_lib.convolutional_policy(
        gymnasium.spaces.Box(0, 255, shape, np.uint8),
        gymnasium.spaces.MultiDiscrete([3, 3, 2]),
        seed=0,
        output_scale=1.0,
    )


def test_the_papers_network_has_33500_parameters():
    """1040 + 4112 in two convolutions, 28,180 + 168 in two layers (Sec. 8.2, Table 3)."""
    policy = _convolutional()
    assert policy.network.size == 33_500
    sizes = dict(
        zip(policy.network.variable_names, map(math.prod, policy.network.shapes), strict=True)
    )
    assert sizes["convolution_0/kernel"] + sizes["convolution_0/bias"] == 1040
    assert sizes["convolution_1/kernel"] + sizes["convolution_1/bias"] == 4112


def test_convolutions_see_the_frames_as_channels_of_numbers_up_to_1():
    """The first unit of the first layer by hand, as sums over a 4 × 4 patch of four frames."""
    policy = _convolutional()
    frames = np.random.default_rng(0).integers(256, size=(1, 4, 52, 40)).astype(np.uint8)
    theta = tf.constant(policy.network.initial_parameters())
    weights = dict(zip(policy.network.variable_names, policy.network.unflatten(theta), strict=True))
    kernel = weights["convolution_0/kernel"].numpy()  # [4, 4, frame, filter]
    patch = frames[0, :, 2:6, 4:8] / 255  # of output row 1, column 2
    expected = np.einsum("fhw,hwfo->o", patch, kernel)
    model = policy.network._model
    first = keras.Model(model.inputs, model.get_layer("convolution_0").output)
    np.testing.assert_allclose(first([frames])[0, 1, 2], expected, atol=1e-6)
    (following,) = model.get_layer("convolution_0")._outbound_nodes
    assert following.operation.activation is keras.activations.tanh


def test_fisher_products_through_convolutions_equal_the_dense_matrix():
    """JᵀMJ of three small screens, with J by reverse mode, against the accumulator's products."""
    policy = _convolutional((4, 14, 12))
    theta = tf.constant(policy.network.initial_parameters())
    frames = np.random.default_rng(0).integers(256, size=(3, 4, 14, 12)).astype(np.uint8)
    with tf.GradientTape() as tape:
        tape.watch(theta)
        logits = policy.network(theta, tf.constant(frames))
    jacobian = tape.jacobian(logits, theta).numpy().astype(np.float64)
    fisher = np.zeros((8, 8))
    vector = np.random.default_rng(1).standard_normal(policy.network.size).astype(np.float32)
    expected = np.zeros(policy.network.size)
    for row, outputs in zip(jacobian, logits.numpy(), strict=True):
        start = 0
        for size in (3, 3, 2):
            part = slice(start, start + size)
            p = np.exp(outputs[part]) / np.exp(outputs[part]).sum()
            fisher[part, part] = np.diag(p) - np.outer(p, p)
            start += size
        expected += row.T @ (fisher @ (row @ vector))
    product = curvature.fisher_vector_product(
        lambda t: policy.network(t, tf.constant(frames)),
        policy.family.fisher_product,
        theta,
        tf.constant(vector),
    )
    # Float32 sums over 5,000 parameters: 1e-5 of the largest entry.
    np.testing.assert_allclose(product, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("task", ["hopper", "swimmer"])
def test_actions_are_the_distributions_at_the_networks_parameters(task):
    """Without a graph; 1e-6 for sums that a graph's fused kernels round otherwise."""
    policy = _policy(task, output_scale=1.0)
    theta = policy.network.initial_parameters()
    generator = np.random.default_rng(0)
    seen = generator.standard_normal((16, *policy.observation_shape)).astype(np.float32)
    noise = policy.family.draw_noise(generator, (16,))
    expected = policy.family.sample(policy.network(theta, seen), noise)
    np.testing.assert_allclose(policy.sample(theta, seen, noise), expected, rtol=1e-6, atol=1e-6)
    mode = policy.family.mode(policy.network(theta, seen))
    np.testing.assert_allclose(policy.mode(theta, seen), mode, rtol=1e-6, atol=1e-6)


def test_several_actions_of_a_state_are_those_of_the_state_repeated():
    """A row of a batch of 5 may round otherwise than one of 20: 1e-5."""
    policy = _policy("hopper", output_scale=1.0)
    theta = policy.network.initial_parameters()
    generator = np.random.default_rng(0)
    seen = generator.standard_normal((5, *policy.observation_shape)).astype(np.float32)
    noise = policy.family.draw_noise(generator, (5, 4))
    actions, log_probs = policy.sample_several(theta, seen, noise)
    repeated, flat = np.repeat(seen, 4, axis=0), noise.reshape(20, *noise.shape[2:])
    expected = policy.sample(theta, repeated, flat)
    np.testing.assert_allclose(actions.reshape(expected.shape), expected, rtol=1e-5, atol=1e-6)
    likelihoods = policy.log_prob(theta, repeated, expected)
    np.testing.assert_allclose(log_probs.ravel(), likelihoods, rtol=1e-5, atol=1e-5)


def test_a_populations_actions_are_those_of_its_policies():
    """Rows that left change nothing for the others, however few are left."""
    policy = _policy("hopper")
    generator = np.random.default_rng(0)
    thetas = generator.standard_normal((9, policy.network.size)).astype(np.float32)
    act = policy.population_actor(thetas)
    for rows in (np.arange(9), np.array([0, 2, 3, 5, 6, 8]), np.array([2, 5, 8]), np.array([5])):
        seen = generator.standard_normal((len(rows), *policy.observation_shape)).astype(np.float32)
        noise = policy.family.draw_noise(generator, (len(rows),))
        expected = [
            policy.sample(thetas[row], seen[i : i + 1], noise[i : i + 1])[0]
            for i, row in enumerate(rows)
        ]
        np.testing.assert_allclose(act(rows, seen, noise), expected, rtol=1e-5, atol=1e-6)
