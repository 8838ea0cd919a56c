"""Surrogate objectives L_θold(θ), one term a state (eqs. 14-16)."""

from collections.abc import Mapping
from typing import Protocol

import tensorflow as tf

from trpo_repro.policies import distributions


class Surrogate(Protocol):
    """A sum over states of a function of the new policy."""

    def batch_specs(self, family: distributions.Family) -> dict[str, tf.TensorSpec]:
        """Returns the specs of the arrays that `__call__` reads, observations aside."""

    def log_probs(
        self,
        family: distributions.Family,
        parameters: tf.Tensor,
        batch: Mapping[str, tf.Tensor],
    ) -> tf.Tensor:
        """Returns log π(a|s) of every sampled action, [n] or [n, K]."""

    def __call__(
        self,
        family: distributions.Family,
        old: tf.Tensor,
        new: tf.Tensor,
        batch: Mapping[str, tf.Tensor],
    ) -> tf.Tensor:
        """Returns each state's term, [n].

        Args:
          family: family of the action distribution.
          old: [n, D] distribution parameters at θ_old.
          new: [n, D] distribution parameters at θ.
          batch: tensors [n, ...] by name.
        """


class ImportanceSampled:
    """Eq. 14 with q = π_old: π_θ(a|s) / π_old(a|s) · Â, one action a state."""

    def batch_specs(self, family):
        return {
            "actions": tf.TensorSpec([None, *family.action_shape], family.action_dtype),
            "advantages": tf.TensorSpec([None], tf.float32),
        }

    def log_probs(self, family, parameters, batch):
        return family.log_prob(parameters, batch["actions"])

    def __call__(self, family, old, new, batch):
        log_ratio = self.log_probs(family, new, batch) - self.log_probs(family, old, batch)
        return tf.exp(log_ratio) * tf.cast(batch["advantages"], log_ratio.dtype)


class Clipped(ImportanceSampled):
    """PPO's min(r Â, clip(r, 1 − ε, 1 + ε) Â) with r = π_θ(a|s) / π_old(a|s) (Schulman et al.,
    2017, eq. 7): a lower bound of eq. 14's term, to which it is equal where r is within ε of 1."""

    def __init__(self, clip_range: float):
        self._clip_range = clip_range

    def __call__(self, family, old, new, batch):
        ratio = tf.exp(self.log_probs(family, new, batch) - self.log_probs(family, old, batch))
        advantages = tf.cast(batch["advantages"], ratio.dtype)
        clipped = tf.clip_by_value(ratio, 1 - self._clip_range, 1 + self._clip_range)
        return tf.minimum(ratio * advantages, clipped * advantages)


class SelfNormalized:
    """Eq. 16: Σ_k wₖ Q̂ₖ / Σ_k wₖ with wₖ = π_θ(aₖ|s) / q(aₖ|s), K actions a state (eq. 66).

    Adding a constant to a state's Q-values adds it to the term and changes no gradient: the
    estimator holds its own baseline (App. I).
    """

    def batch_specs(self, family):
        return {
            "actions": tf.TensorSpec([None, None, *family.action_shape], family.action_dtype),
            "proposal_log_probs": tf.TensorSpec([None, None], tf.float32),
            "q_values": tf.TensorSpec([None, None], tf.float32),
        }

    def log_probs(self, family, parameters, batch):
        return _log_probs_of_many(family, parameters, batch["actions"])

    def __call__(self, family, old, new, batch):
        log_probs = self.log_probs(family, new, batch)
        log_weights = log_probs - tf.cast(batch["proposal_log_probs"], log_probs.dtype)
        weights = tf.nn.softmax(log_weights)  # wₖ / Σ w
        return tf.reduce_sum(weights * tf.cast(batch["q_values"], weights.dtype), axis=-1)


class ActionSum:
    """Eq. 15: Σ_a π_θ(a|s) Q̂(s, a), every action once."""

    def batch_specs(self, family):
        return {
            "actions": tf.TensorSpec([None, None, *family.action_shape], family.action_dtype),
            "q_values": tf.TensorSpec([None, None], tf.float32),
        }

    def log_probs(self, family, parameters, batch):
        return _log_probs_of_many(family, parameters, batch["actions"])

    def __call__(self, family, old, new, batch):
        probabilities = tf.exp(self.log_probs(family, new, batch))
        return tf.reduce_sum(
            probabilities * tf.cast(batch["q_values"], probabilities.dtype), axis=-1
        )


def _log_probs_of_many(family, parameters, actions):
    """Returns [n, K] log π(aₖ|s) of [n, K, ...] actions, from [n, D] parameters."""
    count = tf.shape(actions)[1]
    repeated = tf.repeat(parameters[:, None], count, axis=1)
    return family.log_prob(repeated, actions)
