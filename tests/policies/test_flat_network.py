"""Flat parameter vectors and chunked sums."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trpo_repro.optimization import chunks
from trpo_repro.policies import flat_network


def _model():
    inputs = keras.Input((3,))
    # Names whose order of creation is not their alphabetical order.
    hidden = keras.layers.Dense(4, "tanh", name="z_first")(inputs)
    return keras.Model(inputs, keras.layers.Dense(2, name="a_last")(hidden))


def test_order_is_by_path_and_the_network_is_the_model():
    model = _model()
    network = flat_network.FlatNetwork(model)
    assert network.variable_names == sorted(network.variable_names)
    theta = network.initial_parameters()
    assert theta.shape == (network.size,) == (3 * 4 + 4 + 4 * 2 + 2,)
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    np.testing.assert_array_equal(network(theta, x), model(x))


def test_taps_are_what_layers_take_and_give():
    """At θ, not at the model's own weights; and differentiable."""
    network = flat_network.FlatNetwork(_model())
    theta = tf.constant(2 * network.initial_parameters())
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    with tf.GradientTape() as tape:
        tape.watch(theta)
        outputs, taps = network.taps(theta, x)
    np.testing.assert_array_equal(outputs, network(theta, x))
    np.testing.assert_array_equal(taps["z_first"][0], x)
    np.testing.assert_array_equal(taps["z_first"][1], taps["a_last"][0])
    np.testing.assert_array_equal(taps["a_last"][1], outputs)
    assert [layer.name for layer in network.layers] == ["z_first", "a_last"]
    kernel = network.unflatten(theta)[network.variable_names.index("a_last/kernel")]
    gradient = tape.gradient(outputs, taps["a_last"][0])
    expected = tf.reduce_sum(kernel, axis=1)[None].numpy().repeat(5, axis=0)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_flatten_inverts_unflatten_and_leaves_the_model_alone():
    model = _model()
    network = flat_network.FlatNetwork(model)
    before = [v.numpy() for v in model.trainable_variables]
    theta = tf.range(network.size, dtype=tf.float32)
    np.testing.assert_array_equal(
        np.concatenate([np.ravel(part) for part in network.unflatten(theta)]), theta
    )
    network(theta, np.zeros((1, 3), np.float32))
    for old, variable in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())


def test_gradient_by_flat_vector_is_the_gradient_by_variables():
    model = _model()
    network = flat_network.FlatNetwork(model)
    theta = tf.constant(network.initial_parameters())
    x = tf.constant(np.random.default_rng(0).standard_normal((5, 3)), tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(theta)
        flat = tf.reduce_sum(network(theta, x) ** 2)
        plain = tf.reduce_sum(model(x) ** 2)
    by_path = sorted(model.trainable_variables, key=lambda v: v.path)
    gradients = tape.gradient(plain, [v.value for v in by_path])
    expected = np.concatenate([np.ravel(gradient) for gradient in gradients])
    np.testing.assert_allclose(tape.gradient(flat, theta), expected, rtol=1e-5, atol=1e-6)


def test_models_with_untrainable_variables_are_refused():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.BatchNormalization()(inputs))
    with pytest.raises(ValueError, match=r"not trainable: .*moving_mean"):
        flat_network.FlatNetwork(model)


@pytest.mark.parametrize("rows", [1, 6, 7, 8, 21])
def test_chunked_sums_and_maps_equal_whole_ones(rows):
    data = tf.constant(np.random.default_rng(0).standard_normal((rows, 2)))

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float64)])
    def both(data):
        largest = chunks.chunked_reduce(
            tf.reduce_max, data, tf.constant(-1e9, tf.float64), combine=tf.maximum, chunk_size=7
        )
        total = chunks.chunked_reduce(
            lambda chunk: tf.reduce_sum(chunk, axis=0),
            data,
            tf.zeros(2, tf.float64),
            chunk_size=7,
        )
        doubled = chunks.chunked_map(lambda c: 2 * c, data, tf.float64, (2,), chunk_size=7)
        return largest, total, doubled

    largest, total, doubled = both(data)
    assert float(largest) == data.numpy().max()
    np.testing.assert_allclose(total, data.numpy().sum(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(doubled, 2 * data.numpy())
