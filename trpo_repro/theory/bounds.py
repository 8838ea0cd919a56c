"""Identities and bounds of Secs. 2-3 and Apps. A-B, as functions of a process and two policies."""

import numpy as np

from trpo_repro.theory import mdp as mdps
from trpo_repro.theory.mdp import FiniteMDP


def performance_difference(mdp: FiniteMDP, old: np.ndarray, new: np.ndarray) -> float:
    """Returns Σ_s ρ_new(s) Σ_a π_new(a|s) A_old(s, a) = η(new) − η(old): eqs. 1-2, Lemma 1."""
    advantage = mdps.advantages(mdp, old)
    return float(mdps.state_visitation(mdp, new) @ (new * advantage).sum(axis=1))


def surrogate(mdp: FiniteMDP, old: np.ndarray, new: np.ndarray) -> float:
    """Returns L_old(new) = η(old) + Σ_s ρ_old(s) Σ_a π_new(a|s) A_old(s, a), eq. 3."""
    advantage = mdps.advantages(mdp, old)
    gain = mdps.state_visitation(mdp, old) @ (new * advantage).sum(axis=1)
    return float(mdps.expected_return(mdp, old) + gain)


def surrogate_gradient(mdp: FiniteMDP, logits: np.ndarray) -> np.ndarray:
    """Returns ∇L at θ_old by the softmax's closed form, ρ(s) π(a|s) A(s, a): [S, A] (eq. 4)."""
    policy = mdps.softmax(logits)
    return mdps.state_visitation(mdp, policy)[:, None] * policy * mdps.advantages(mdp, policy)


def equally_weighted_gradient(mdp: FiniteMDP, logits: np.ndarray, steps: int) -> np.ndarray:
    """Returns (1/T) Σ_t P(s_t = s) π(a|s) A(s, a): [S, A].

    A sample of T steps estimates it when every state counts equally; ∇L weighs a state at time t by
    γᵗ (eq. 3).
    """
    policy = mdps.softmax(logits)
    visits = state_distributions(mdp, policy, steps).mean(axis=0)
    return visits[:, None] * policy * mdps.advantages(mdp, policy)


def total_variation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns D_TV(first ‖ second) = ½ Σ_a |·| of every state, [S]."""
    return 0.5 * np.abs(first - second).sum(axis=-1)


def kl(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Returns KL(old ‖ new) of every state, [S], in nats.

    Raises:
      ValueError: `new` gives no probability to an action that `old` takes.
    """
    lost = (old > 0) & (new <= 0)
    if lost.any():
        state, action = np.argwhere(lost)[0]
        raise ValueError(f"state {state}: action {action} has support under old and none under new")
    ratio = np.log(np.where(old > 0, old, 1.0)) - np.log(np.where(old > 0, new, 1.0))
    return (old * ratio).sum(axis=-1)


def mixture_bound(mdp: FiniteMDP, old: np.ndarray, other: np.ndarray, alpha: float) -> float:
    """Returns the right side of eq. 6: L − 2εγ/(1 − γ)² α², for the mixture of eq. 5.

    ε = max_s |E_{a~other} A_old(s, a)|; the new policy is (1 − α) old + α other.
    """
    epsilon = np.abs((other * mdps.advantages(mdp, old)).sum(axis=1)).max()
    gamma = mdp.discount
    mixture = (1 - alpha) * old + alpha * other
    return surrogate(mdp, old, mixture) - 2 * epsilon * gamma / (1 - gamma) ** 2 * alpha**2


def penalty_coefficient(mdp: FiniteMDP, old: np.ndarray) -> float:
    """Returns C = 4εγ/(1 − γ)² with ε = max |A_old(s, a)| (eqs. 8-9)."""
    epsilon = np.abs(mdps.advantages(mdp, old)).max()
    return float(4 * epsilon * mdp.discount / (1 - mdp.discount) ** 2)


def total_variation_bound(mdp: FiniteMDP, old: np.ndarray, new: np.ndarray) -> float:
    """Returns the right side of eq. 8 (Theorem 1): L − C max_s D_TV²."""
    alpha = total_variation(old, new).max()
    return surrogate(mdp, old, new) - penalty_coefficient(mdp, old) * alpha**2


def kl_bound(mdp: FiniteMDP, old: np.ndarray, new: np.ndarray) -> float:
    """Returns the right side of eq. 9: L − C max_s KL(old ‖ new)."""
    return surrogate(mdp, old, new) - penalty_coefficient(mdp, old) * kl(old, new).max()


def maximal_coupling(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns [S, A, A] joint probabilities with marginals first and second.

    Their disagreement P(a ≠ ã|s) is D_TV, the least there is (App. A).
    """
    shared = np.minimum(first, second)
    joint = np.einsum("sa,ab->sab", shared, np.eye(first.shape[1]))
    excess = total_variation(first, second)
    outer = np.einsum("sa,sb->sab", first - shared, second - shared)
    scale = np.divide(1.0, excess, out=np.zeros_like(excess), where=excess > 0)
    return joint + outer * scale[:, None, None]


def mean_advantage(mdp: FiniteMDP, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Returns Ā(s) = E_{a~new}[A_old(s, a)], [S] (App. A)."""
    return (new * mdps.advantages(mdp, old)).sum(axis=1)


def state_distributions(mdp: FiniteMDP, policy: np.ndarray, steps: int) -> np.ndarray:
    """Returns P(s_t = s) for t = 0, ..., steps − 1: [steps, S]."""
    matrix = mdps.policy_transitions(mdp, policy)
    distributions = [mdp.initial]
    for _ in range(steps - 1):
        distributions.append(distributions[-1] @ matrix)
    return np.stack(distributions)


def perturbed_resolvent(mdp: FiniteMDP, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Returns G + γGΔG + γ²GΔGΔG̃ with Δ = P_new − P_old, which is G̃ exactly (App. B)."""
    g, g_new = mdps.resolvent(mdp, old), mdps.resolvent(mdp, new)
    delta = mdps.policy_transitions(mdp, new) - mdps.policy_transitions(mdp, old)
    gamma = mdp.discount
    return g + gamma * g @ delta @ g + gamma**2 * g @ delta @ g @ delta @ g_new
