"""Discounted returns and generalized advantages over time-first arrays."""

import dataclasses

import numpy as np

from trpo_repro.settings import SAMPLED_ACTIONS, Group, Readers, setting


@dataclasses.dataclass(frozen=True)
class ReturnSettings(Group, title="Returns", readers=SAMPLED_ACTIONS):
    discount: float = setting(0.99, "Discount factor γ", above=0, below=1)
    clip_rewards: bool = setting(
        False, "Learn from the signs of rewards; metrics keep the rewards themselves"
    )


@dataclasses.dataclass(frozen=True)
class AdvantageSettings(
    Group,
    title="Advantages",
    readers=Readers("runs with a baseline", lambda config: config.baseline != "none"),
):
    gae_lambda: float = setting(1.0, "λ of generalized advantage estimation", at_least=0, at_most=1)


def discounted_sums(terms: np.ndarray, ends: np.ndarray, discount: float) -> np.ndarray:
    """Returns y_t = x_t + discount · y_{t+1} along each path, with nothing after its end.

    Args:
      terms: [T, B] x.
      ends: [T, B] bool, t is the last step of its path; step T - 1 always is.
      discount: in [0, 1].

    Returns:
      [T, B] float64.
    """
    sums = np.empty(terms.shape, np.float64)
    next_sum = np.zeros(terms.shape[1:])
    for t in reversed(range(len(terms))):
        next_sum = terms[t] + discount * np.where(ends[t], 0.0, next_sum)
        sums[t] = next_sum
    return sums


def generalized_advantages(
    rewards: np.ndarray,
    values: np.ndarray,
    next_values: np.ndarray,
    ends: np.ndarray,
    discount: float,
    gae_lambda: float,
) -> np.ndarray:
    """Returns Â_t = Σ_l (γλ)^l δ_{t+l}, δ_t = r_t + γ V(s_{t+1}) − V(s_t) (arXiv:1506.02438).

    Args:
      rewards: [T, B].
      values: [T, B] V(s_t).
      next_values: [T, B] V(s_{t+1}): 0 after termination, the value of the state that was cut
        off after truncation.
      ends: [T, B] bool, terminated, truncated or the last step sampled.
      discount: γ.
      gae_lambda: λ; 0 is the one-step temporal difference, 1 the discounted return less V(s_t).

    Returns:
      [T, B] float64.
    """
    deltas = rewards + discount * next_values - values
    return discounted_sums(deltas, ends, discount * gae_lambda)


def standardize(values: np.ndarray) -> np.ndarray:
    """Returns values with mean 0 and deviation 1; constant values become 0.

    TRPO's step does not change with the scale of the advantages. Subtracting the mean is this
    project's choice (the paper is silent): E[∇log π] = 0, so only the variance changes.
    """
    centered = values - values.mean()
    deviation = centered.std()
    if deviation == 0 or np.ptp(values) == 0:  # the mean of equal numbers may be rounded
        return np.zeros_like(centered)
    return centered / deviation
