"""Sums over a batch in fixed-size chunks, inside the graph: memory is bounded by the chunk."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

CHUNK_SIZE = 4096  # Activations of a 50-unit layer then fit a core's second-level cache.


def batch_size(batch: Any) -> tf.Tensor:
    """Returns N, of a nest of tensors [N, ...]."""
    return tf.shape(tf.nest.flatten(batch)[0])[0]


def take(batch: Any, start: tf.Tensor, stop: tf.Tensor) -> Any:
    """Returns elements [start, stop) of every tensor of a nest."""
    return tf.nest.map_structure(lambda tensor: tensor[start:stop], batch)


def add(first: Any, second: Any) -> Any:
    """Returns the elementwise sum of two nests."""
    return tf.nest.map_structure(tf.add, first, second)


def chunked_reduce(
    function: Callable[[Any], Any],
    batch: Any,
    initial: Any,
    *,
    combine: Callable[[Any, Any], Any] = add,
    chunk_size: int = CHUNK_SIZE,
) -> Any:
    """Folds `function` over chunks of a batch, one chunk in memory at a time.

    Args:
      function: maps a chunk (a nest like `batch`, [n, ...]) to a nest of tensors of fixed shape.
      batch: nest of tensors [N, ...].
      initial: nest of tensors shaped like the function's result, where the fold starts.
      combine: joins what has been folded so far with the next result.
      chunk_size: elements of a chunk; the last may be shorter.

    Returns:
      The folded nest.
    """
    total = batch_size(batch)

    def body(start, folded):
        stop = tf.minimum(start + chunk_size, total)
        return stop, combine(folded, function(take(batch, start, stop)))

    _, result = tf.while_loop(
        lambda start, _: start < total, body, (tf.constant(0), initial), parallel_iterations=1
    )
    return result


def chunked_map(
    function: Callable[[Any], tf.Tensor],
    batch: Any,
    dtype: tf.DType,
    element_shape: tuple[int, ...],
    *,
    chunk_size: int = CHUNK_SIZE,
) -> tf.Tensor:
    """Returns [N, *element_shape]: `function` of each chunk of a batch, joined."""
    total = batch_size(batch)
    count = (total + chunk_size - 1) // chunk_size
    array = tf.TensorArray(dtype, count, infer_shape=False, element_shape=[None, *element_shape])

    def body(i, array):
        stop = tf.minimum((i + 1) * chunk_size, total)
        return i + 1, array.write(i, function(take(batch, i * chunk_size, stop)))

    _, array = tf.while_loop(
        lambda i, _: i < count, body, (tf.constant(0), array), parallel_iterations=1
    )
    return array.concat()
