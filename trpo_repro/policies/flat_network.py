"""A network as a function of one flat parameter vector."""

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf


class FlatNetwork:
    """A Keras model applied at any flat parameter vector θ, its own weights untouched.

    The order of θ is by variable path, not by creation. θ is a plain tensor, so gradients,
    forward accumulators and candidate steps need no variable to be assigned or restored.

    Attributes:
      variable_names: names of the variables, in the order of θ.
      shapes: shapes of the variables, in the order of θ.
      size: P, the length of θ.
    """

    def __init__(self, model: keras.Model):
        if model.non_trainable_variables:
            fixed = ", ".join(variable.path for variable in model.non_trainable_variables)
            raise ValueError(f"model has variables that are not trainable: {fixed}")
        self._model = model
        variables = model.trainable_variables
        self._order = sorted(range(len(variables)), key=lambda i: variables[i].path)
        self.variable_names = [variables[i].path for i in self._order]
        self.shapes = [tuple(variables[i].shape) for i in self._order]
        self._sizes = [math.prod(shape) for shape in self.shapes]
        self.size = sum(self._sizes)
        self.dtype = tf.as_dtype(variables[0].dtype)

    def initial_parameters(self) -> np.ndarray:
        """Returns the model's own weights as θ, [P]."""
        variables = self._model.trainable_variables
        return np.concatenate([np.ravel(variables[i].numpy()) for i in self._order])

    def keras_model(self, theta: np.ndarray) -> keras.Model:
        """Returns a copy of the model with the weights θ, [P]."""
        model = keras.models.clone_model(self._model)
        parts = self.unflatten(tf.convert_to_tensor(theta))
        for i, part in zip(self._order, parts, strict=True):
            model.trainable_variables[i].assign(part)
        return model

    def unflatten(self, theta: tf.Tensor) -> list[tf.Tensor]:
        """Returns [..., P] parameters cut into tensors [..., *shape] of `shapes`."""
        parts = tf.split(theta, self._sizes, axis=-1)
        batch = tf.shape(theta)[:-1]
        return [
            tf.reshape(part, tf.concat([batch, tf.constant(shape, tf.int32)], axis=0))
            for part, shape in zip(parts, self.shapes, strict=True)
        ]

    def __call__(self, theta: tf.Tensor, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the model's outputs at parameters θ."""
        return self._apply(self.unflatten(theta), inputs)

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The layers with weights, in the order of the model's."""
        return [layer for layer in self._model.layers if layer.weights]

    def taps(
        self, theta: tf.Tensor, inputs: tf.Tensor
    ) -> tuple[tf.Tensor, dict[str, tuple[tf.Tensor, tf.Tensor]]]:
        """Returns (outputs, by the name of each of `layers` (its input, its output)) at θ."""
        taps = {layer.name: (layer.input, layer.output) for layer in self.layers}
        tapped = keras.Model(self._model.inputs[0], [self._model.outputs[0], taps])
        parts = dict(zip(self.variable_names, self.unflatten(theta), strict=True))
        values = [parts[variable.path] for variable in tapped.trainable_variables]
        (outputs, tensors), _ = tapped.stateless_call(values, [], inputs)
        return outputs, tensors

    def apply_each(self, weights: Sequence[tf.Tensor], inputs: tf.Tensor) -> tf.Tensor:
        """Returns the outputs of R networks, each at its own of [R, ...] inputs.

        Args:
          weights: R networks' parameters, `unflatten` of an [R, P] tensor.
          inputs: [R, ...].
        """
        return tf.vectorized_map(
            lambda pair: self._apply(pair[0], pair[1][None])[0], (list(weights), inputs)
        )

    def _apply(self, weights, inputs):
        values: list[tf.Tensor | None] = [None] * len(self._order)
        for i, value in zip(self._order, weights, strict=True):
            values[i] = value
        outputs, _ = self._model.stateless_call(values, [], inputs)
        return outputs
