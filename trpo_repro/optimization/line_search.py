"""Backtracking line search under a constraint."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf


class LineSearchResult(NamedTuple):
    """What the line search found.

    Attributes:
      theta: [P], the accepted point, or the start bit for bit.
      accepted: whether a point was accepted.
      backtracks: points refused.
      evaluation: nest, the evaluation of the last point tried.
    """

    theta: tf.Tensor
    accepted: tf.Tensor
    backtracks: tf.Tensor
    evaluation: Any


def backtracking_line_search(
    theta: tf.Tensor,
    full_step: tf.Tensor,
    evaluate: Callable[[tf.Tensor], Any],
    acceptable: Callable[[Any], tf.Tensor],
    *,
    factor: float,
    max_backtracks: int,
) -> LineSearchResult:
    """Returns the first of θ + factorʲ · step, j = 0, 1, ..., that is acceptable (App. C).

    Args:
      theta: [P], start.
      full_step: [P], the first step tried.
      evaluate: θ' → nest of scalars.
      acceptable: evaluation → bool scalar; comparisons with NaN make it False.
      factor: in (0, 1).
      max_backtracks: times that the step is shrunk; one point more is tried.
    """

    def candidate(j):
        return theta + tf.constant(factor, theta.dtype) ** tf.cast(j, theta.dtype) * full_step

    def refused(evaluation):
        # Not `~acceptable(...)`: TensorFlow's graph optimizer rewrites ~(a > b) to a <= b,
        # which is another thing when a is not a number.
        return tf.equal(tf.cast(acceptable(evaluation), tf.int32), 0)

    def body(j, _):
        return j + 1, evaluate(candidate(j + 1))

    backtracks, evaluation = tf.while_loop(
        lambda j, evaluation: (j < max_backtracks) & refused(evaluation),
        body,
        (tf.constant(0), evaluate(candidate(tf.constant(0)))),
        parallel_iterations=1,
    )
    failed = refused(evaluation)
    return LineSearchResult(
        tf.where(failed, theta, candidate(backtracks)),
        ~failed,
        backtracks + tf.cast(failed, tf.int32),
        evaluation,
    )
