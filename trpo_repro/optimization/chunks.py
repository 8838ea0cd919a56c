"""Sums over rows in fixed-size chunks, inside the graph: memory is bounded by the chunk."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

CHUNK_ROWS = 4096  # Activations of a 50-unit layer then fit a core's second-level cache.


def row_count(rows: Any) -> tf.Tensor:
    """Returns N, of a nest of tensors [N, ...]."""
    return tf.shape(tf.nest.flatten(rows)[0])[0]


def take(rows: Any, start: tf.Tensor, stop: tf.Tensor) -> Any:
    """Returns rows [start, stop) of every tensor of a nest."""
    return tf.nest.map_structure(lambda tensor: tensor[start:stop], rows)


def add(first: Any, second: Any) -> Any:
    """Returns the elementwise sum of two nests."""
    return tf.nest.map_structure(tf.add, first, second)


def chunked_reduce(
    function: Callable[[Any], Any],
    rows: Any,
    initial: Any,
    *,
    combine: Callable[[Any, Any], Any] = add,
    chunk_rows: int = CHUNK_ROWS,
) -> Any:
    """Folds `function` over chunks of rows, one chunk in memory at a time.

    Args:
      function: maps a chunk (a nest like `rows`, [n, ...]) to a nest of tensors of fixed shape.
      rows: nest of tensors [N, ...].
      initial: nest of tensors shaped like the function's result, where the fold starts.
      combine: joins what has been folded so far with the next result.
      chunk_rows: rows in a chunk; the last may be shorter.

    Returns:
      The folded nest.
    """
    total = row_count(rows)

    def body(start, folded):
        stop = tf.minimum(start + chunk_rows, total)
        return stop, combine(folded, function(take(rows, start, stop)))

    _, result = tf.while_loop(
        lambda start, _: start < total, body, (tf.constant(0), initial), parallel_iterations=1
    )
    return result


def chunked_map(
    function: Callable[[Any], tf.Tensor],
    rows: Any,
    dtype: tf.DType,
    element_shape: tuple[int, ...],
    *,
    chunk_rows: int = CHUNK_ROWS,
) -> tf.Tensor:
    """Returns [N, *element_shape]: `function` of each chunk of rows, joined."""
    total = row_count(rows)
    count = (total + chunk_rows - 1) // chunk_rows
    array = tf.TensorArray(dtype, count, infer_shape=False, element_shape=[None, *element_shape])

    def body(i, array):
        stop = tf.minimum((i + 1) * chunk_rows, total)
        return i + 1, array.write(i, function(take(rows, i * chunk_rows, stop)))

    _, array = tf.while_loop(
        lambda i, _: i < count, body, (tf.constant(0), array), parallel_iterations=1
    )
    return array.concat()
