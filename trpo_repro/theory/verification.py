"""Every identity and bound evaluated over random processes and policies: the worst case of each."""

from collections.abc import Iterator

import numpy as np

from trpo_repro.theory import bounds, mdp, natural_gradient
from trpo_repro.theory.mdp import FiniteMDP


def random_pairs(count: int) -> Iterator[tuple[FiniteMDP, np.ndarray, np.ndarray]]:
    """Yields (process, old policy, new policy), the same for equal counts.

    1 − γ is log-uniform in [0.001, 0.9]; old policies go from uniform to near deterministic,
    new ones from a thousandth of a logit away to opposed.
    """
    for seed in range(count):
        generator = np.random.default_rng(seed)
        discount = 1 - np.exp(generator.uniform(np.log(0.001), np.log(0.9)))
        states, actions = int(generator.integers(2, 8)), int(generator.integers(2, 5))
        process = mdp.random_mdp(seed, states, actions, discount)
        shape = (states, actions)
        logits = generator.choice([0.1, 1.0, 10.0]) * generator.standard_normal(shape)
        shift = generator.choice([1e-3, 0.1, 1.0, 20.0]) * generator.standard_normal(shape)
        yield process, mdp.softmax(logits), mdp.softmax(logits + shift)


def scale(process: FiniteMDP) -> float:
    """Returns the size of returns, max|r| / (1 − γ): violations are relative to it."""
    return float(np.abs(process.rewards).max() / (1 - process.discount))


def verify(count: int) -> tuple[dict[str, tuple[str, float]], dict[str, np.ndarray]]:
    """Returns the worst violations and the tightness of the bounds over `count` random pairs.

    Returns:
      violations: equation → (statement, largest violation relative to the scale of returns).
        Bounds that hold everywhere have the largest (negative or zero) excess, cut at zero.
      tightness: bound → [count] actual over allowed: 1 is tight, above 1 violated.
    """
    worst: dict[str, float] = {}
    used: dict[str, list[float]] = {"eq. 6": [], "eq. 8": [], "eq. 9": [], "Pinsker": []}

    def record(name, violation):
        worst[name] = max(worst.get(name, 0.0), float(violation))

    for process, old, new in random_pairs(count):
        for name, violation in _identities(process, old, new).items():
            record(name, violation)
        for name, (actual, allowed) in _bounds(process, old, new).items():
            record(name, (actual - allowed) / scale(process))
            # Below rounding of η, the ratio of two zeros says nothing.
            meaningful = allowed > 1e-10 * scale(process)
            used[name].append(max(actual, 0.0) / allowed if meaningful else 0.0)
    violations = {name: (STATEMENTS[name], worst[name]) for name in STATEMENTS}
    return violations, {name: np.array(values) for name, values in used.items()}


STATEMENTS = {
    "eqs. 1-2, Lemma 1": "η(π̃) = η(π) + Σ ρ_π̃ Σ π̃ A_π",
    "eq. 4, value": "L_π(π) = η(π)",
    "eq. 4, gradient": "∇L = ∇η at θ_old (complex-step derivative)",
    "eq. 6": "η ≥ L − 2εγα²/(1 − γ)² for mixtures (α = 0.3)",
    "eq. 8": "η ≥ L − 4εγα²/(1 − γ)² (Theorem 1)",
    "eq. 9": "η ≥ L − C max KL",
    "Pinsker": "D_TV² ≤ KL in every state",
    "coupling": "a joint law with both marginals and P(a ≠ ã) = D_TV",
    "Lemma 2": "|Ā(s)| ≤ 2α max|A|",
    "Lemma 3": "|E_π̃ Ā(s_t) − E_π Ā(s_t)| ≤ 4α(1 − (1 − α)ᵗ) max|A|, t < 20",
    "App. B": "G̃ = G + γGΔG + γ²GΔGΔG̃",
    "compatible features": "F w = ∇η, w fitted to Q on ∇log π (log-linear policies)",
}


def _identities(process: FiniteMDP, old: np.ndarray, new: np.ndarray) -> dict[str, float]:
    size = scale(process)
    gap = mdp.expected_return(process, new) - mdp.expected_return(process, old)
    difference = abs(gap - bounds.performance_difference(process, old, new))
    value = abs(bounds.surrogate(process, old, old) - mdp.expected_return(process, old))

    logits = np.log(np.maximum(old, 1e-12))
    direction = np.cos(np.arange(logits.size)).reshape(logits.shape)
    moved = mdp.softmax(logits + 1e-30j * direction)
    slope = mdp.expected_return(process, moved).imag / 1e-30
    gradient = abs(np.sum(bounds.surrogate_gradient(process, logits) * direction) - slope)

    joint = bounds.maximal_coupling(old, new)
    agreement = np.trace(joint, axis1=1, axis2=2)
    coupling = max(
        np.abs(joint.sum(axis=2) - old).max(),
        np.abs(joint.sum(axis=1) - new).max(),
        np.abs(1 - agreement - bounds.total_variation(old, new)).max(),
        -joint.min(),
    )
    alpha = bounds.total_variation(old, new).max()
    largest = np.abs(mdp.advantages(process, old)).max()
    mean = bounds.mean_advantage(process, old, new)
    first, second = (bounds.state_distributions(process, policy, 20) for policy in (old, new))
    disagreed = 1 - (1 - alpha) ** np.arange(20)
    lemma_3 = np.abs((second - first) @ mean) - 4 * alpha * disagreed * largest
    resolvent = mdp.resolvent(process, new)
    perturbed = np.abs(bounds.perturbed_resolvent(process, old, new) - resolvent).max()
    return {
        "eqs. 1-2, Lemma 1": difference / size,
        "eq. 4, value": value / size,
        "eq. 4, gradient": gradient / size,
        "coupling": coupling,
        "Lemma 2": (np.abs(mean).max() - 2 * alpha * largest) / size,
        "Lemma 3": lemma_3.max() / size,
        "App. B": perturbed / resolvent.max(),
        "compatible features": _compatible_violation(process) / size,
    }


def _compatible_violation(process: FiniteMDP) -> float:
    """Returns max |F w − ∇η| of a log-linear policy with two random features."""
    generator = np.random.default_rng(0)
    features = generator.standard_normal((*process.rewards.shape, 2))
    policy, theta = natural_gradient.LogLinearPolicy(features), generator.standard_normal(2)
    weights = natural_gradient.compatible_weights(process, policy, theta)
    product = policy.fisher(process, theta) @ weights
    return np.abs(product - policy.gradient(process, theta)).max()


def _bounds(process: FiniteMDP, old: np.ndarray, new: np.ndarray) -> dict[str, tuple[float, float]]:
    """Returns bound → (what L exceeds η by, what the bound allows)."""
    new = np.maximum(new, 1e-300)
    surrogate = bounds.surrogate(process, old, new)
    excess = surrogate - mdp.expected_return(process, new)
    variation, divergence = bounds.total_variation(old, new), bounds.kl(old, new)
    alpha = 0.3
    best = np.eye(process.actions)[mdp.advantages(process, old).argmax(axis=1)]
    mixture = (1 - alpha) * old + alpha * best
    predicted = bounds.surrogate(process, old, mixture)
    allowed = predicted - bounds.mixture_bound(process, old, best, alpha)
    resolved = divergence > 1e-12  # below, rounding of the KL is larger than the KL
    tightest = np.argmax(np.where(resolved, variation**2 / np.maximum(divergence, 1e-12), -1.0))
    return {
        "eq. 6": (predicted - mdp.expected_return(process, mixture), allowed),
        "eq. 8": (excess, surrogate - bounds.total_variation_bound(process, old, new)),
        "eq. 9": (excess, surrogate - bounds.kl_bound(process, old, new)),
        "Pinsker": (
            variation[tightest] ** 2 * scale(process),
            divergence[tightest] * scale(process),
        ),
    }
