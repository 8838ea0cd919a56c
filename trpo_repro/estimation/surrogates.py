"""Surrogate objectives L_θold(θ), one term a state (eqs. 14-16)."""

from collections.abc import Mapping
from typing import Protocol

import tensorflow as tf

from trpo_repro.policies import distributions


class Surrogate(Protocol):
    """A sum over states of a function of the new policy."""

    def row_specs(self, family: distributions.Family) -> dict[str, tf.TensorSpec]:
        """Returns the specs of the rows that `__call__` reads, observations aside."""

    def log_probs(
        self,
        family: distributions.Family,
        parameters: tf.Tensor,
        rows: Mapping[str, tf.Tensor],
    ) -> tf.Tensor:
        """Returns log π(a|s) of every sampled action, [n] or [n, K]."""

    def __call__(
        self,
        family: distributions.Family,
        old: tf.Tensor,
        new: tf.Tensor,
        rows: Mapping[str, tf.Tensor],
    ) -> tf.Tensor:
        """Returns each state's term, [n].

        Args:
          family: of the action distribution.
          old: [n, D] distribution parameters at θ_old.
          new: [n, D] distribution parameters at θ.
          rows: tensors [n, ...] by name.
        """


class ImportanceSampled:
    """Eq. 14 with q = π_old: π_θ(a|s) / π_old(a|s) · Â, one action a state."""

    def row_specs(self, family):
        return {
            "actions": tf.TensorSpec([None, *family.action_shape], family.action_dtype),
            "advantages": tf.TensorSpec([None], tf.float32),
        }

    def log_probs(self, family, parameters, rows):
        return family.log_prob(parameters, rows["actions"])

    def __call__(self, family, old, new, rows):
        log_ratio = self.log_probs(family, new, rows) - self.log_probs(family, old, rows)
        return tf.exp(log_ratio) * tf.cast(rows["advantages"], log_ratio.dtype)
