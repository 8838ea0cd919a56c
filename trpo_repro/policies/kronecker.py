"""The Fisher matrix by one Kronecker product a layer: K-FAC.

Martens and Grosse (2015) for dense layers, Grosse and Martens (2016) for convolutions. A layer
maps ā, its input and a 1 for the bias, to s = W̄ᵀā; its block of the Fisher matrix is taken for
E[āāᵀ] ⊗ E[ggᵀ], g the gradient of log π(a|s) by s. The expectation over actions is exact, not
sampled: with M = RRᵀ the Fisher information in the distribution's parameters, E_a[ggᵀ] is the sum
over the columns r of R of the outer products of Jᵀr. Blocks of different layers are taken for
independent.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trpo_repro.policies import flat_network, networks
from trpo_repro.policies import policy as policy_lib


class _Block(NamedTuple):
    """A layer with weights, and where `unflatten` has its kernel and bias, or its one vector."""

    layer: keras.layers.Layer
    parts: tuple[int, ...]
    input_size: int  # of ā
    output_size: int


class KroneckerFactors:
    """The factors of a policy's layers, as functions of θ and states.

    Factors are a dict of two matrices a layer: `NAME/input`, E[Σ āāᵀ] over the places of a
    convolution, and `NAME/output`, E[ggᵀ], a mean over them.
    """

    def __init__(self, policy: policy_lib.Policy):
        """Finds the layers.

        Raises:
          ValueError: a layer is of a kind that has no rule here.
        """
        self._family = policy.family
        self._network = policy.network
        self._blocks = [_block(policy.network, layer) for layer in policy.network.layers]

    def zeros(self) -> dict[str, np.ndarray]:
        """Returns factors of zeros."""
        dtype = self._network.dtype.as_numpy_dtype
        return {
            f"{block.layer.name}/{side}": np.zeros((size, size), dtype)
            for block in self._blocks
            for side, size in (("input", block.input_size), ("output", block.output_size))
        }

    def sums(
        self, theta: tf.Tensor, observations: tf.Tensor, weights: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Returns the factors' sums over [n, ...] observations with weights [n]."""
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(theta)
            parameters, taps = self._network.taps(theta, observations)
        root = tf.stop_gradient(self._family.fisher_root(parameters))
        columns = tf.unstack(root, axis=-1)
        after = [taps[block.layer.name][1] for block in self._blocks]
        gradients = [
            tape.gradient(parameters, after, output_gradients=column, unconnected_gradients="zero")
            for column in columns
        ]
        del tape
        sums = {}
        for i, block in enumerate(self._blocks):
            inputs = _inputs(block.layer, taps[block.layer.name][0])
            sums[f"{block.layer.name}/input"] = _outer_sum(inputs, weights)
            outputs = [_outputs(block, gradient[i]) for gradient in gradients]
            places = tf.cast(tf.shape(outputs[0])[1], weights.dtype)
            total = tf.add_n([_outer_sum(output, weights) for output in outputs])
            sums[f"{block.layer.name}/output"] = total / places
        return sums

    def preconditioner(
        self, factors: Mapping[str, tf.Tensor], damping: float | tf.Tensor
    ) -> Callable[[tf.Tensor], tf.Tensor]:
        """Returns v → K⁻¹v, both [P], of the matrix K that the factors make.

        Damping is factored (Martens and Grosse, 2015, Sec. 6.3): π√λ I is added to the inputs'
        factor and √λ/π I to the outputs', π² being the ratio of their mean eigenvalues.
        """
        solvers = []
        for block in self._blocks:
            first, second = (factors[f"{block.layer.name}/{side}"] for side in ("input", "output"))
            ratio = tf.sqrt(_mean_eigenvalue(first) / _mean_eigenvalue(second))
            root = tf.sqrt(tf.convert_to_tensor(damping, first.dtype))
            solvers.append((_cholesky(first, root * ratio), _cholesky(second, root / ratio)))

        def solve(vector):
            parts = self._network.unflatten(vector)
            for block, (first, second) in zip(self._blocks, solvers, strict=True):
                rows = [tf.reshape(parts[i], [-1, block.output_size]) for i in block.parts]
                sizes = [row.shape[0] for row in rows]
                joined = tf.cast(tf.concat(rows, axis=0), tf.float64)
                joined = tf.linalg.cholesky_solve(first, joined)
                joined = tf.transpose(tf.linalg.cholesky_solve(second, tf.transpose(joined)))
                solved = tf.split(tf.cast(joined, vector.dtype), sizes)
                for i, part in zip(block.parts, solved, strict=True):
                    parts[i] = part
            return tf.concat([tf.reshape(part, [-1]) for part in parts], axis=0)

        return solve


def running_mean(
    before: Mapping[str, tf.Tensor], now: Mapping[str, tf.Tensor], kept: tf.Tensor
) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Returns (kept · before + (1 − kept) · now, true), or (before, false) if now is not finite."""
    finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(factor)) for factor in now.values()])
    mean = {
        name: tf.where(finite, kept * before[name] + (1 - kept) * factor, before[name])
        for name, factor in now.items()
    }
    return mean, finite


def _block(network: flat_network.FlatNetwork, layer: keras.layers.Layer) -> _Block:
    """Returns the block of a layer."""
    at = {path: i for i, path in enumerate(network.variable_names)}
    if isinstance(layer, networks.AppendLogStd):
        size = layer.log_std.shape[0]
        return _Block(layer, (at[layer.log_std.path],), 1, size)
    if not isinstance(layer, keras.layers.Dense | keras.layers.Conv2D):
        raise ValueError(
            f"layer {layer.name} is not allowed with K-FAC: must be Dense, Conv2D or AppendLogStd"
        )
    if layer.activation is not keras.activations.linear or not layer.use_bias:
        raise ValueError(
            f"layer {layer.name} is not allowed with K-FAC: must have a bias, and its activation "
            "as a layer of its own"
        )
    *fan_in, output_size = layer.kernel.shape
    parts = at[layer.kernel.path], at[layer.bias.path]
    return _Block(layer, parts, int(np.prod(fan_in)) + 1, output_size)


def _inputs(layer, values):
    """Returns ā at every place, [n, T, size + 1], of a layer's input."""
    if isinstance(layer, networks.AppendLogStd):
        return tf.ones_like(values[:, None, :1])
    if isinstance(layer, keras.layers.Conv2D):
        values = tf.image.extract_patches(
            values,
            [1, *layer.kernel_size, 1],
            [1, *layer.strides, 1],
            [1, *layer.dilation_rate, 1],
            layer.padding.upper(),
        )
        values = tf.reshape(values, [tf.shape(values)[0], -1, values.shape[-1]])
    else:
        values = values[:, None]
    return tf.concat([values, tf.ones_like(values[..., :1])], axis=-1)


def _outputs(block, gradient):
    """Returns g at every place, [n, T, size], of the gradient by a layer's output."""
    if isinstance(block.layer, networks.AppendLogStd):
        gradient = gradient[:, block.output_size :]  # the means come first
    return tf.reshape(gradient, [tf.shape(gradient)[0], -1, block.output_size])


def _outer_sum(vectors, weights):
    """Returns Σ w v vᵀ over [n, T, size] vectors."""
    size = vectors.shape[-1]
    weighted = tf.reshape(vectors * weights[:, None, None], [-1, size])
    return tf.matmul(tf.reshape(vectors, [-1, size]), weighted, transpose_a=True)


def _mean_eigenvalue(matrix):
    size = tf.cast(tf.shape(matrix)[0], matrix.dtype)
    tiny = tf.constant(np.finfo(matrix.dtype.as_numpy_dtype).tiny ** 0.5, matrix.dtype)
    return tf.maximum(tf.linalg.trace(matrix) / size, tiny)


def _cholesky(matrix, damping):
    """Returns the Cholesky factor of a damped factor, in float64."""
    wide = tf.cast(matrix, tf.float64)
    diagonal = tf.linalg.diag_part(wide) + tf.cast(damping, tf.float64)
    return tf.linalg.cholesky(tf.linalg.set_diag(wide, diagonal))
