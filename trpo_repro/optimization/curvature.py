"""Fisher-vector products, none of which forms the matrix (App. C.1).

Both take a flat θ and a vector v, both [P], and return [P].
"""

from collections.abc import Callable

import tensorflow as tf


def fisher_vector_product(
    outputs: Callable[[tf.Tensor], tf.Tensor],
    metric: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    theta: tf.Tensor,
    vector: tf.Tensor,
) -> tf.Tensor:
    """Returns Σ_n JₙᵀMₙJₙ v, App. C.1: positive semi-definite by construction.

    One forward accumulator inside one tape: J v on the way forward, Jᵀ on the way back.

    Args:
      outputs: θ → [n, D] distribution parameters.
      metric: ([n, D] parameters, [n, D] tangent u) → M u, the Fisher information in the
        distribution's own parameters. With log-probabilities for outputs and the identity for M
        the product is the covariance of the scores, the empirical matrix.
      theta: [P].
      vector: [P].
    """
    with tf.GradientTape() as tape:
        tape.watch(theta)
        with tf.autodiff.ForwardAccumulator(theta, vector) as accumulator:
            values = outputs(theta)
        tangent = accumulator.jvp(values)
    cotangent = metric(tf.stop_gradient(values), tf.stop_gradient(tangent))
    return tape.gradient(values, theta, output_gradients=cotangent)


def hessian_vector_product(
    function: Callable[[tf.Tensor], tf.Tensor], theta: tf.Tensor, vector: tf.Tensor
) -> tf.Tensor:
    """Returns ∇²f(θ) v by nested tapes; with f = Σ KL(old ‖ θ), App. C.1's generic route.

    Args:
      function: θ → scalar.
      theta: [P].
      vector: [P].
    """
    with tf.GradientTape() as outer:
        outer.watch(theta)
        with tf.GradientTape() as inner:
            inner.watch(theta)
            value = function(theta)
        slope = tf.tensordot(inner.gradient(value, theta), tf.stop_gradient(vector), 1)
    return outer.gradient(slope, theta)
