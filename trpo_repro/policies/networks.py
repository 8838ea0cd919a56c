"""Keras networks: observations to distribution parameters, or to a value."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from trpo_repro.settings import NOT_ATARI, Group, setting

ACTIVATIONS = ("softplus", "tanh", "relu")


@dataclasses.dataclass(frozen=True)
class NetworkSettings(Group, title="Policy network", readers=NOT_ATARI):
    hidden_sizes: tuple[int, ...] = setting(
        (30,), "Units of the hidden layers, comma-separated; empty for a linear policy"
    )
    activation: str = setting("softplus", "Activation of the hidden layers", choices=ACTIVATIONS)
    skip_inputs: int = setting(
        0, "Leading observation columns that the policy does not see", at_least=0
    )
    initial_log_std: float = setting(
        0.0,
        "Initial log standard deviation of Gaussian policies, in action units",
        at_least=-20,
        at_most=20,
    )


@keras.saving.register_keras_serializable("trpo_repro")
class AppendLogStd(keras.layers.Layer):
    """Appends a free vector of log standard deviations, the same in every state."""

    def __init__(self, initial_value: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self._initial_value = initial_value

    def build(self, input_shape):
        self.log_std = self.add_weight(
            name="log_std",
            shape=(input_shape[-1],),
            initializer=keras.initializers.Constant(self._initial_value),
        )

    def call(self, mean):
        return keras.ops.concatenate(
            [mean, keras.ops.broadcast_to(self.log_std, keras.ops.shape(mean))], axis=-1
        )

    def get_config(self):
        return {**super().get_config(), "initial_value": self._initial_value}

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 2 * input_shape[-1])


def multilayer_perceptron(
    input_size: int,
    hidden_sizes: Sequence[int],
    output_size: int,
    *,
    activation: str,
    output_scale: float,
    seed: int,
    skip_inputs: int = 0,
    dtype: str = "float32",
    log_std: float | None = None,
) -> keras.Model:
    """Returns a fully connected network [N, input_size] → [N, output_size].

    Args:
      input_size: columns of an observation.
      hidden_sizes: units of each hidden layer; none makes a linear map.
      output_size: columns of the last layer.
      activation: activation of the hidden layers; softplus is the paper's soft rectifier.
      output_scale: variance scale of the last layer's initial weights (1 is Glorot's).
      seed: seed of the initial weights.
      skip_inputs: leading columns that the network does not see.
      dtype: number type of weights and computation.
      log_std: initial log standard deviation; doubles the output with `AppendLogStd`.
    """
    inputs = keras.Input((input_size,), dtype=dtype)
    outputs = inputs[:, skip_inputs:] if skip_inputs else inputs
    for i, units in enumerate(hidden_sizes):
        outputs = keras.layers.Dense(
            units,
            kernel_initializer=keras.initializers.GlorotUniform(seed=seed * 100 + i),
            dtype=dtype,
            name=f"hidden_{i}",
        )(outputs)
        outputs = keras.layers.Activation(activation, dtype=dtype)(outputs)
    initializer = keras.initializers.VarianceScaling(
        output_scale, "fan_avg", "uniform", seed=seed * 100 + len(hidden_sizes)
    )
    outputs = keras.layers.Dense(
        output_size, kernel_initializer=initializer, dtype=dtype, name="output"
    )(outputs)
    if log_std is not None:
        outputs = AppendLogStd(log_std, dtype=dtype, name="gaussian")(outputs)
    return keras.Model(inputs, outputs)


@keras.saving.register_keras_serializable("trpo_repro")
class Normalized(keras.layers.Layer):
    """Observations by the running mean and deviation of an `ObservationNormalizer`, as numbers."""

    def __init__(self, mean: Sequence[float], deviation: Sequence[float], limit: float, **kwargs):
        super().__init__(**kwargs)
        self._numbers: dict[str, Any] = {
            "mean": list(mean),
            "deviation": list(deviation),
            "limit": limit,
        }

    def call(self, observations):
        mean, deviation, limit = self._numbers.values()
        return keras.ops.clip((observations - mean) / deviation, -limit, limit)

    def get_config(self):
        return {**super().get_config(), **self._numbers}


@keras.saving.register_keras_serializable("trpo_repro")
class ChannelsLast(keras.layers.Layer):
    """Four stacked frames, [N, 4, H, W] uint8, as four channels, [N, H, W, 4].

    A pixel's four bytes become the bytes of one number, the oldest lowest: half the time of a
    transposition, which a third of the network's time went to.
    """

    def call(self, frames):
        places = tf.constant([1, 2**8, 2**16, 2**24], tf.uint32)[:, None, None]
        return tf.bitcast(tf.reduce_sum(tf.cast(frames, tf.uint32) * places, axis=1), tf.uint8)

    def compute_output_spec(self, frames):
        batch, _, height, width = frames.shape
        return keras.KerasTensor((batch, height, width, 4), "uint8")


def convolutional(
    image_shape: Sequence[int],
    output_size: int,
    *,
    stacked_frames: bool,
    output_scale: float,
    seed: int,
    log_std: float | None = None,
) -> keras.Model:
    """Returns the paper's network for Atari, uint8 images [N, ...] → [N, output_size].

    Two convolutions of 16 filters of 4 × 4 with stride 2 and tanh, no pooling or padding, and 20
    tanh units (Sec. 8.2, App. E): 33,500 parameters for four frames of 52 × 40 and 8 outputs.

    Args:
      image_shape: (4, H, W) of four stacked frames, or (H, W, C).
      output_size: columns of the last layer.
      stacked_frames: whether the images are stacked frames.
      output_scale: variance scale of the last layer's initial weights (1 is Glorot's).
      seed: seed of the initial weights.
      log_std: initial log standard deviation; doubles the output with `AppendLogStd`.
    """
    inputs = keras.Input(tuple(image_shape), dtype="uint8")
    images = ChannelsLast(dtype="uint8")(inputs) if stacked_frames else inputs
    outputs = keras.layers.Rescaling(1 / 255)(images)

    def glorot(i):
        return keras.initializers.GlorotUniform(seed=seed * 100 + i)

    for i in range(2):
        outputs = keras.layers.Conv2D(
            16, 4, 2, kernel_initializer=glorot(i), name=f"convolution_{i}"
        )(outputs)
        outputs = keras.layers.Activation("tanh")(outputs)
    outputs = keras.layers.Flatten()(outputs)
    outputs = keras.layers.Dense(20, kernel_initializer=glorot(2), name="hidden_0")(outputs)
    outputs = keras.layers.Activation("tanh")(outputs)
    initializer = keras.initializers.VarianceScaling(
        output_scale, "fan_avg", "uniform", seed=seed * 100 + 3
    )
    outputs = keras.layers.Dense(output_size, kernel_initializer=initializer, name="output")(
        outputs
    )
    if log_std is not None:
        outputs = AppendLogStd(log_std, name="gaussian")(outputs)
    return keras.Model(inputs, outputs)
