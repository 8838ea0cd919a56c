"""Conjugate gradient in the graph, with a report."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf


class Solution(NamedTuple):
    """What conjugate gradient found.

    Attributes:
      x: [P], the last iterate; x = 0 is the start.
      relative_residual: ‖b − A x‖ / ‖b‖ by the recurrence; 0 when b = 0.
      iterations: products used.
      positive: whether every pᵀAp met was positive; a negative or zero one stops the solver.
    """

    x: tf.Tensor
    relative_residual: tf.Tensor
    iterations: tf.Tensor
    positive: tf.Tensor


def conjugate_gradient(
    product: Callable[[tf.Tensor], tf.Tensor],
    b: tf.Tensor,
    *,
    iterations: int,
    tolerance: float = 1e-10,
) -> Solution:
    """Solves A x = b for symmetric positive definite A (Hestenes and Stiefel, 1952).

    Args:
      product: v → A v.
      b: [P].
      iterations: products at most.
      tolerance: stops once the relative residual is at most this.
    """
    squared_b = tf.reduce_sum(b * b)
    squared_goal = tf.constant(tolerance, b.dtype) ** 2 * squared_b

    def proceed(i, x, residual, direction, squared, positive):
        return (i < iterations) & positive & (squared > squared_goal)

    def body(i, x, residual, direction, squared, positive):
        a_direction = product(direction)
        curvature = tf.reduce_sum(direction * a_direction)
        positive = curvature > 0  # False for NaN too.
        alpha = tf.where(positive, squared / curvature, tf.zeros_like(squared))
        x += alpha * direction
        residual -= alpha * a_direction
        new_squared = tf.reduce_sum(residual * residual)
        direction = residual + (new_squared / squared) * direction
        return i + 1, x, residual, direction, new_squared, positive

    start = (tf.constant(0), tf.zeros_like(b), b, b, squared_b, tf.constant(True))
    used, x, _, _, squared, positive = tf.while_loop(proceed, body, start, parallel_iterations=1)
    residual = tf.sqrt(tf.math.divide_no_nan(squared, squared_b))
    return Solution(x, residual, used, positive)
