"""Conjugate gradient in the graph, with a report."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf


class Solution(NamedTuple):
    """What conjugate gradient found.

    Attributes:
      x: [P], the last iterate; x = 0 is the start.
      relative_residual: ‖b − A x‖ / ‖b‖ by the recurrence; 0 when b = 0.
      iterations: products used.
      positive: whether pᵀAp > 0 for the first direction, p = K⁻¹b; true when b = 0.
      finite: whether every product was finite.
    """

    x: tf.Tensor
    relative_residual: tf.Tensor
    iterations: tf.Tensor
    positive: tf.Tensor
    finite: tf.Tensor


def conjugate_gradient(
    product: Callable[[tf.Tensor], tf.Tensor],
    b: tf.Tensor,
    *,
    iterations: int,
    tolerance: float | None = None,
    preconditioner: Callable[[tf.Tensor], tf.Tensor] | None = None,
) -> Solution:
    """Solves A x = b for symmetric positive semi-definite A (Hestenes and Stiefel, 1952).

    The Fisher matrix of a softmax policy is singular: once the solver has converged as far as its
    number type allows, rounding may show it a direction p with pᵀAp ≤ 0. It stops there, as at a
    product that is not finite, and keeps the iterate that it has.

    Args:
      product: v → A v.
      b: [P].
      iterations: products at most.
      tolerance: stops once the relative residual is at most this; by default 16 units of rounding
        of b's type, which is what sums over a batch leave of a residual.
      preconditioner: v → K⁻¹v, K symmetric positive definite and near A; the identity when None.
        The first iterate is then a multiple of K⁻¹b. A multiple of K gives the same iterates.
    """
    if tolerance is None:
        tolerance = 16 * float(np.finfo(b.dtype.as_numpy_dtype).eps)
    squared_b = tf.reduce_sum(b * b)
    squared_goal = tf.constant(tolerance, b.dtype) ** 2 * squared_b

    def conditioned(residual, squared):
        """Returns K⁻¹r, and rᵀK⁻¹r."""
        if preconditioner is None:
            return residual, squared
        solved = preconditioner(residual)
        return solved, tf.reduce_sum(residual * solved)

    def proceed(i, usable, finite, x, residual, direction, squared, slope):
        return (i < iterations) & usable & (squared > squared_goal)

    def body(i, usable, finite, x, residual, direction, squared, slope):
        a_direction = product(direction)
        curvature = tf.reduce_sum(direction * a_direction)
        finite = tf.math.is_finite(curvature)
        usable = finite & (curvature > 0)
        alpha = tf.math.divide_no_nan(slope, curvature)
        new_residual = tf.where(usable, residual - alpha * a_direction, residual)
        new_squared = tf.reduce_sum(new_residual * new_residual)
        new_solved, new_slope = conditioned(new_residual, new_squared)
        return (
            i + 1,
            usable,
            finite,
            tf.where(usable, x + alpha * direction, x),
            new_residual,
            new_solved + (new_slope / slope) * direction,
            new_squared,
            new_slope,
        )

    true = tf.constant(True)
    first, slope = conditioned(b, squared_b)
    start = (tf.constant(0), true, true, tf.zeros_like(b), b, first, squared_b, slope)
    used, usable, finite, x, _, _, squared, _ = tf.while_loop(
        proceed, body, start, parallel_iterations=1
    )
    residual = tf.sqrt(tf.math.divide_no_nan(squared, squared_b))
    return Solution(x, residual, used, usable | (used > 1), finite)
