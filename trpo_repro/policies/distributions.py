"""Action distributions: TFP objects, and what TRPO needs beside them.

A family maps one [..., D] tensor of distribution parameters (the network's output) to a TFP
distribution. `fisher_product` is the Fisher information of the family in these D numbers, the
M of App. C.1's JᵀMJ. Sampling is a deterministic function of given random numbers (App. H).
"""

import abc
import math
from collections.abc import Sequence

import gymnasium
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions

_EXCLUDED = -1e9  # logit of an action that a factor does not have: probability exactly 0


class Family(abc.ABC):
    """A parametric family of action distributions.

    Attributes:
      parameter_size: D, distribution parameters of one state.
      action_shape: shape of one action.
      action_dtype: number type of actions as tensors.
    """

    parameter_size: int
    action_shape: tuple[int, ...]
    action_dtype: tf.DType

    @abc.abstractmethod
    def distribution(self, parameters: tf.Tensor) -> tfp.distributions.Distribution:
        """Returns the TFP distribution with [..., D] parameters."""

    @abc.abstractmethod
    def draw_noise(self, generator: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        """Returns float32 random numbers that decide actions of batch shape `shape`."""

    @abc.abstractmethod
    def sample(self, parameters: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """Returns the [..., *action_shape] actions that `noise` decides."""

    @abc.abstractmethod
    def mode(self, parameters: tf.Tensor) -> tf.Tensor:
        """Returns the most probable actions."""

    @abc.abstractmethod
    def fisher_product(self, parameters: tf.Tensor, tangent: tf.Tensor) -> tf.Tensor:
        """Returns M u: [..., D], with M the Fisher information in the [..., D] parameters."""

    @abc.abstractmethod
    def fisher_root(self, parameters: tf.Tensor) -> tf.Tensor:
        """Returns a root R of M = RRᵀ: [..., D, D]."""

    def all_actions(self) -> np.ndarray:
        """Returns every action of a finite set, [n, ...].

        Raises:
          TypeError: the set is not finite.
        """
        raise TypeError(f"{type(self).__name__} has infinitely many actions")

    def log_prob(self, parameters: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
        """Returns log π(a|s), [...]."""
        if self.action_dtype.is_floating:
            actions = tf.cast(actions, parameters.dtype)
        return self.distribution(parameters).log_prob(actions)

    def kl(self, old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
        """Returns KL(old ‖ new) of every state, [...], from two [..., D] parameters."""
        return tfd.kl_divergence(self.distribution(old), self.distribution(new))

    def entropy(self, parameters: tf.Tensor) -> tf.Tensor:
        """Returns the entropy in nats, [...]."""
        return self.distribution(parameters).entropy()


class DiagonalGaussian(Family):
    """Independent normals over A actions; parameters are A means, then A log deviations."""

    action_dtype = tf.float32

    def __init__(self, action_size: int):
        self.parameter_size = 2 * action_size
        self.action_shape = (action_size,)

    def distribution(self, parameters):
        mean, log_std = tf.split(parameters, 2, axis=-1)
        # A graph of it is made in about half the time that MultivariateNormalDiag's takes.
        return tfd.Independent(tfd.Normal(mean, tf.exp(log_std)), 1)

    def draw_noise(self, generator, shape):
        return generator.standard_normal((*shape, *self.action_shape), np.float32)

    def sample(self, parameters, noise):
        mean, log_std = tf.split(parameters, 2, axis=-1)
        return mean + tf.exp(log_std) * tf.cast(noise, mean.dtype)

    def mode(self, parameters):
        return tf.split(parameters, 2, axis=-1)[0]

    def fisher_product(self, parameters, tangent):
        log_std = tf.split(parameters, 2, axis=-1)[1]
        mean_tangent, log_std_tangent = tf.split(tangent, 2, axis=-1)
        return tf.concat([mean_tangent * tf.exp(-2 * log_std), 2 * log_std_tangent], axis=-1)

    def fisher_root(self, parameters):
        log_std = tf.split(parameters, 2, axis=-1)[1]
        diagonal = tf.concat([tf.exp(-log_std), tf.ones_like(log_std) * math.sqrt(2)], axis=-1)
        return tf.linalg.diag(diagonal)


class FactoredCategorical(Family):
    """Independent categoricals (App. D); parameters are the logits of all factors, in order.

    An action is an int32 vector, one entry a factor.
    """

    action_dtype = tf.int32

    def __init__(self, sizes: Sequence[int]):
        self.sizes = tuple(int(size) for size in sizes)
        self.parameter_size = sum(self.sizes)
        self.action_shape = (len(self.sizes),)

    def distribution(self, parameters):
        widest = max(self.sizes)
        rank = len(parameters.shape)
        padded = [
            tf.pad(logits, [[0, 0]] * (rank - 1) + [[0, widest - size]], constant_values=_EXCLUDED)
            for logits, size in zip(self._split(parameters), self.sizes, strict=True)
        ]
        return tfd.Independent(tfd.Categorical(tf.stack(padded, axis=-2)), 1)

    def draw_noise(self, generator, shape):
        return generator.random((*shape, *self.action_shape), np.float32)

    def sample(self, parameters, noise):
        factors = [
            _inverse_cdf(logits, tf.cast(noise[..., i], logits.dtype))
            for i, logits in enumerate(self._split(parameters))
        ]
        return tf.stack(factors, axis=-1)

    def mode(self, parameters):
        factors = [
            tf.argmax(logits, axis=-1, output_type=tf.int32) for logits in self._split(parameters)
        ]
        return tf.stack(factors, axis=-1)

    def fisher_product(self, parameters, tangent):
        products = []
        for logits, u in zip(self._split(parameters), self._split(tangent), strict=True):
            p = tf.nn.softmax(logits)
            products.append(p * (u - tf.reduce_sum(p * u, axis=-1, keepdims=True)))
        return tf.concat(products, axis=-1)

    def fisher_root(self, parameters):
        blocks = []
        for logits in self._split(parameters):
            p = tf.nn.softmax(logits)
            root = tf.sqrt(p)
            # diag(√p) − p√pᵀ: its square is diag(p) − 2ppᵀ + p(Σp)pᵀ.
            blocks.append(tf.linalg.diag(root) - p[..., :, None] * root[..., None, :])
        return tf.linalg.LinearOperatorBlockDiag(
            [tf.linalg.LinearOperatorFullMatrix(block) for block in blocks]
        ).to_dense()

    def all_actions(self):
        return np.stack(list(np.ndindex(*self.sizes))).astype(np.int32)

    def _split(self, parameters):
        return tf.split(parameters, self.sizes, axis=-1)


class Categorical(FactoredCategorical):
    """One categorical over n actions; an action is an int32 scalar."""

    def __init__(self, size: int):
        super().__init__((size,))
        self.action_shape = ()

    def distribution(self, parameters):
        return tfd.Categorical(parameters)

    def sample(self, parameters, noise):
        return _inverse_cdf(parameters, tf.cast(noise, parameters.dtype))

    def mode(self, parameters):
        return tf.argmax(parameters, axis=-1, output_type=tf.int32)

    def all_actions(self):
        return np.arange(self.parameter_size, dtype=np.int32)


def for_space(space: gymnasium.spaces.Space) -> Family:
    """Returns the family that fits an action space.

    Raises:
      ValueError: no family fits.
    """
    match space:
        case gymnasium.spaces.Box():
            return DiagonalGaussian(math.prod(space.shape))
        case gymnasium.spaces.Discrete():
            return Categorical(int(space.n))
        case gymnasium.spaces.MultiDiscrete():
            return FactoredCategorical([int(size) for size in space.nvec])
    raise ValueError(f"no action distribution for {space}; allowed: Box, Discrete, MultiDiscrete")


def _inverse_cdf(logits: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """Returns the smallest index whose cumulative probability exceeds `uniform` in [0, 1)."""
    cumulative = tf.cumsum(tf.nn.softmax(logits), axis=-1)
    below = cumulative[..., :-1] <= uniform[..., None]  # Rounding cannot pass the last index.
    return tf.reduce_sum(tf.cast(below, tf.int32), axis=-1)
