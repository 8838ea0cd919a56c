"""Variances of estimators, measured by repeated sampling at a fixed policy (App. H, claim C10)."""

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from trpo_repro import environments
from trpo_repro.estimation import surrogates
from trpo_repro.policies import policy as policy_lib
from trpo_repro.randomness import Key
from trpo_repro.sampling import vine


def value_differences(
    environment: environments.Environment,
    policy: policy_lib.Policy,
    theta: np.ndarray,
    key: Key,
    states: environments.EnvironmentStates,
    actions: np.ndarray,
    *,
    repeats: int,
    length: int,
    discount: float,
    common_random_numbers: bool,
) -> np.ndarray:
    """Returns [N, R] independent samples of Q̂(s, a₁) − Q̂(s, a₂), by branches from N states.

    Args:
      environment: environment to act in.
      policy: π_θ.
      theta: [P].
      key: key of the policy's random numbers.
      states: N states.
      actions: [N, 2, ...].
      repeats: R.
      length: steps of a branch.
      discount: γ.
      common_random_numbers: whether the two branches share random numbers.
    """
    q_values, _ = vine.branch_values(
        environment,
        policy,
        theta,
        key,
        states.repeat(repeats),
        np.repeat(actions, repeats, axis=0),
        length=length,
        discount=discount,
        common_random_numbers=common_random_numbers,
    )
    return (q_values[:, 0] - q_values[:, 1]).reshape(len(states), repeats)


def difference_variance(differences: np.ndarray) -> float:
    """Returns the variance of [N, R] samples about their state's mean, averaged over states."""
    return float(differences.var(axis=1, ddof=1).mean())


def signal_to_noise(differences: np.ndarray) -> float:
    """Returns E_s[(E D)²] / E_s[Var D] of [N, R] samples D, the numerator without bias."""
    variance = differences.var(axis=1, ddof=1)
    signal = differences.mean(axis=1) ** 2 - variance / differences.shape[1]
    return float(signal.mean() / variance.mean())


def surrogate_gradient(
    policy: policy_lib.Policy, surrogate: surrogates.Surrogate
) -> Callable[[np.ndarray, Mapping[str, np.ndarray]], np.ndarray]:
    """Returns (θ, batch) → [P], the gradient at θ_old = θ of the mean surrogate over the batch."""
    observations = tf.TensorSpec([None, *policy.observation_shape], policy.observation_dtype)
    specs = {"observations": observations, **surrogate.batch_specs(policy.family)}

    @tf.function(input_signature=[tf.TensorSpec([policy.network.size], tf.float32), specs])
    def gradient(theta, batch):
        with tf.GradientTape() as tape:
            tape.watch(theta)
            new = policy.network(theta, batch["observations"])
            terms = surrogate(policy.family, tf.stop_gradient(new), new, batch)
            mean = tf.reduce_mean(terms)
        return tape.gradient(mean, theta)

    return lambda theta, batch: gradient(theta, {name: batch[name] for name in specs}).numpy()


def gradient_variance(gradients: np.ndarray) -> float:
    """Returns tr Cov(g) of [M, P] samples."""
    return float(gradients.var(axis=0, ddof=1).sum())


def gradient_signal_to_noise(gradients: np.ndarray) -> float:
    """Returns ‖E g‖² / tr Cov(g) of [M, P] samples, free of the estimator's scale.

    The squared norm is the mean of gᵢᵀgⱼ over different samples, without bias; equal gradients are
    one sample drawn twice by a bootstrap, and are left out as the diagonal is.
    """
    _, label = np.unique(gradients, axis=0, return_inverse=True)
    different = label.ravel()[:, None] != label.ravel()
    products = (gradients @ gradients.T)[different]
    return float(products.mean() / gradient_variance(gradients)) if len(products) else np.nan
