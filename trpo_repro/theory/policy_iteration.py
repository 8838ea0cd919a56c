"""Exact policy optimization on finite processes: from policy iteration to TRPO.

Every update maps (process, [S, A] policy) to the next policy. The KL-constrained and penalized
problems are solved exactly: their optimum in a state is π̃(a) ∝ π(a) / (μ − A(a)) for a
number μ > max A, and the rest is finding roots (SciPy).
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy import optimize
from scipy.optimize import elementwise

from trpo_repro.theory import bounds
from trpo_repro.theory import mdp as mdps
from trpo_repro.theory.mdp import FiniteMDP

Update = Callable[[FiniteMDP, np.ndarray], np.ndarray]


class Point(NamedTuple):
    """One policy of a run.

    Attributes:
      policy: [S, A].
      expected_return: η.
      max_kl: max_s KL(previous ‖ this); 0 for the first.
      mean_kl: the same, averaged over the previous policy's visitation.
    """

    policy: np.ndarray
    expected_return: float
    max_kl: float
    mean_kl: float


def run(mdp: FiniteMDP, policy: np.ndarray, update: Update, iterations: int) -> Iterator[Point]:
    """Yields the start and the policies after each of `iterations` updates."""
    mdps.check_policy(mdp, policy)
    yield Point(policy, mdps.expected_return(mdp, policy), 0.0, 0.0)
    for _ in range(iterations):
        old, policy = policy, update(mdp, policy)
        with np.errstate(divide="ignore", invalid="ignore"):  # deterministic: infinite KL
            divergence = np.where(old > 0, old * np.log(np.where(old > 0, old, 1) / policy), 0)
        divergence = divergence.sum(axis=1)
        mean = mdps.state_visitation(mdp, old) @ divergence * (1 - mdp.discount)
        yield Point(policy, mdps.expected_return(mdp, policy), divergence.max(), mean)


def greedy(mdp: FiniteMDP, policy: np.ndarray) -> np.ndarray:
    """Returns the deterministic policy argmax_a A_π(s, a): exact policy iteration (Sec. 2)."""
    return np.eye(mdp.actions)[mdps.advantages(mdp, policy).argmax(axis=1)]


def conservative(mdp: FiniteMDP, policy: np.ndarray) -> np.ndarray:
    """Returns the mixture of eq. 5 with the step that maximizes eq. 6's lower bound.

    L grows by α𝔸 and the bound loses 2εγα²/(1 − γ)²: α* = 𝔸(1 − γ)² / (4εγ), at most 1.
    """
    best = greedy(mdp, policy)
    mean = bounds.mean_advantage(mdp, policy, best)
    gain = mdps.state_visitation(mdp, policy) @ mean
    epsilon, gamma = np.abs(mean).max(), mdp.discount
    if epsilon == 0:
        return policy
    alpha = min(1.0, gain * (1 - gamma) ** 2 / (4 * epsilon * gamma))
    return (1 - alpha) * policy + alpha * best


def algorithm_1(mdp: FiniteMDP, policy: np.ndarray) -> np.ndarray:
    """Returns argmax_π̃ L_π(π̃) − C max_s KL(π ‖ π̃): Algorithm 1, eq. 10.

    With F(d) the largest L under max KL ≤ d, F is concave and F'(d) is the sum of the states'
    multipliers; the optimum has F'(d) = C. Solved to a relative 1e-12 in d.
    """
    penalty = bounds.penalty_coefficient(mdp, policy)
    advantage, rho = mdps.advantages(mdp, policy), mdps.state_visitation(mdp, policy)
    if penalty == 0 or np.ptp(advantage, axis=1).max() < 1e-14:
        return policy

    def tilted(log_d):
        return _tilted(policy, advantage, _gap_for_kl(policy, advantage, np.exp(log_d)))

    def excess(log_d):
        gap = _gap_for_kl(policy, advantage, np.exp(log_d))
        total = (rho * _multiplier(policy, advantage, gap)).sum()
        return np.log(np.maximum(total, 1e-300) / penalty)

    low, high = np.log(1e-26), np.log(10.0)
    if excess(low) < 0:
        return policy  # the optimal step is below what double precision can represent
    if excess(high) > 0:
        return tilted(high)
    return tilted(optimize.brentq(excess, low, high, xtol=1e-12, rtol=1e-14))


def max_kl_trpo(kl_limit: float) -> Update:
    """Returns the exact update of eq. 11: argmax L subject to max_s KL(π ‖ π̃) ≤ δ."""

    def update(mdp, policy):
        advantage = mdps.advantages(mdp, policy)
        return _tilted(policy, advantage, _gap_for_kl(policy, advantage, kl_limit))

    return update


def mean_kl_trpo(kl_limit: float) -> Update:
    """Returns the exact update of eq. 12: argmax L subject to E_{s~ρ} KL(π ‖ π̃) ≤ δ."""

    def update(mdp, policy):
        def excess(log_multiplier):
            new = penalized(mdp, policy, np.exp(log_multiplier))
            return _mean_kl(mdp, policy, new) - kl_limit

        if np.ptp(mdps.advantages(mdp, policy), axis=1).max() < 1e-12:
            return policy
        low, high = -20.0, 20.0
        if excess(low) < 0:
            return penalized(mdp, policy, np.exp(low))
        root = optimize.brentq(excess, low, high, xtol=1e-12, rtol=1e-14)
        return penalized(mdp, policy, np.exp(root))

    return update


def penalized(mdp: FiniteMDP, policy: np.ndarray, multiplier: float) -> np.ndarray:
    """Returns argmax_π̃ E_{s~ρ}[E_π̃ A − λ KL(π ‖ π̃)], with a multiplier λ of the mean KL.

    In every state π̃ = λ π / (μ − A) with μ such that it sums to 1.
    """
    advantage = mdps.advantages(mdp, policy)

    def excess(log_gap, states):
        found = _multiplier(policy[states], advantage[states], np.exp(log_gap))
        return np.log(found / multiplier)

    return _tilted(policy, advantage, np.exp(_roots(excess, len(policy), np.log(multiplier))))


def fixed_multiplier(multiplier: float) -> Update:
    """Returns the update that maximizes the surrogate with a fixed penalty on the mean KL."""
    return lambda mdp, policy: penalized(mdp, policy, multiplier)


class DualAscent:
    """Penalized updates whose log-multiplier climbs the dual: log λ ← log λ + κ (KL − δ) / δ.

    The violation (KL − δ) / δ is cut at 1.

    Attributes:
      multiplier: λ of the next update.
    """

    def __init__(self, kl_limit: float, multiplier: float = 1.0, rate: float = 0.5):
        self.multiplier = multiplier
        self._kl_limit = kl_limit
        self._rate = rate

    def __call__(self, mdp: FiniteMDP, policy: np.ndarray) -> np.ndarray:
        new = penalized(mdp, policy, self.multiplier)
        violation = _mean_kl(mdp, policy, new) / self._kl_limit - 1
        self.multiplier *= float(np.exp(self._rate * np.clip(violation, -1, 1)))
        return new


def gradient_flow(step_size: float, *, natural: bool) -> Update:
    """Returns Euler steps of θ' = ∇η, or of θ' = F⁺∇η, in softmax logits.

    F is the Fisher matrix averaged over ρ. Its null directions (a constant added to the logits
    of a state) leave the policy as it is, and up to these F⁺∇η is the advantage (Kakade, 2002).
    """

    def update(mdp, policy):
        with np.errstate(divide="ignore"):
            logits = np.maximum(np.log(policy), -700.0)
        if natural:
            direction = mdps.advantages(mdp, policy)
        else:
            direction = bounds.surrogate_gradient(mdp, logits)
        return mdps.softmax(logits + step_size * direction)

    return update


def _mean_kl(mdp, old, new):
    rho = mdps.state_visitation(mdp, old) * (1 - mdp.discount)
    return float(rho @ bounds.kl(old, new))


# The functions below write μ = max A + gap, with the maximum over the actions that π takes.


def _below_top(policy, advantage):
    """Returns max A − A(a) ≥ 0, [S, A]; 0 for actions that the policy never takes."""
    top = np.where(policy > 0, advantage, -np.inf).max(axis=1, keepdims=True)
    return np.where(policy > 0, top - advantage, 0.0)


def _tilted(policy, advantage, gap):
    """Returns π / (μ − A), normalized; an infinite gap leaves π."""
    weights = policy / (1.0 + _below_top(policy, advantage) / gap[:, None])
    weights = np.where(policy > 0, np.maximum(weights, 1e-300), 0.0)  # support never underflows
    return weights / weights.sum(axis=1, keepdims=True)


def _multiplier(policy, advantage, gap):
    """Returns 1 / Σ_a π(a) / (μ − A(a)), [S]: the multiplier of the state's KL.

    An infinite gap marks a state where no KL gains anything: its multiplier is 0.
    """
    relative = 1.0 + _below_top(policy, advantage) / gap[:, None]
    return np.where(np.isfinite(gap), gap, 0.0) / (policy / relative).sum(axis=1)


def _gap_for_kl(policy, advantage, divergence):
    """Returns [S] gaps at which KL(π ‖ π̃) = divergence; inf where all advantages are equal."""
    spread = _below_top(policy, advantage).max(axis=1)
    moving = spread > 1e-13 * np.maximum(1.0, np.abs(advantage).max())
    gap = np.full(len(policy), np.inf)
    if moving.any():
        p, a = policy[moving], advantage[moving]

        def excess(log_gap, states):
            # KL = log Σ π/(μ − A) + Σ π log(μ − A), in a form that loses no digits at large μ.
            relative = np.log1p(_below_top(p[states], a[states]) / np.exp(log_gap)[:, None])
            kl = (p[states] * relative).sum(axis=1)
            loss = (p[states] * np.expm1(-relative)).sum(axis=1)
            left = (p[states] * np.exp(-relative)).sum(axis=1)
            kl += np.where(loss > -0.5, np.log1p(np.maximum(loss, -0.5)), np.log(left))
            return np.log(divergence) - np.log(np.maximum(kl, 1e-300))

        start = np.log(spread[moving]) - 0.5 * np.log(8 * divergence)
        gap[moving] = np.exp(_roots(excess, len(p), start))
    return gap


def _roots(function, count, start):
    """Returns [count] roots x of increasing functions f(x, state), searched from `start`.

    Where there is no root above −600 (π is all but deterministic), −600 is returned.
    """
    states, lowest, highest = np.arange(count), -600.0, 600.0
    start = np.broadcast_to(start, (count,)).astype(float)
    bracket = elementwise.bracket_root(
        function, start - 1.0, start + 1.0, xmin=lowest, xmax=highest, args=(states,), maxiter=200
    )
    found = bracket.success
    roots = np.full(count, lowest)
    if found.any():
        left, right = bracket.bracket
        roots[found] = elementwise.find_root(
            function,
            (left[found], right[found]),
            args=(states[found],),
            tolerances={"xatol": 1e-13, "xrtol": 1e-14},
        ).x
    return roots
