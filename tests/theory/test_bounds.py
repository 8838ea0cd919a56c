"""Identities and bounds of the paper over more than a thousand random pairs of policies.

Tolerances: float64 solves with condition number up to (1 + γ)/(1 − γ) = 2000 at γ = 0.999, on
values up to max|r|/(1 − γ): errors stay under 1e-9 of that scale.
"""

import functools

import numpy as np
import pytest

from trpo_repro.theory import bounds, mdp, verification

PAIRS = 1200
pairs = functools.partial(verification.random_pairs, 400)
_scale = verification.scale


@pytest.fixture(scope="module")
def verified():
    return verification.verify(PAIRS)


@pytest.mark.parametrize("name", verification.STATEMENTS)
def test_statement_holds_over_random_pairs(verified, name):
    violations, _ = verified
    assert violations[name][1] < 1e-9


@pytest.mark.parametrize("name", ["eq. 6", "eq. 8", "eq. 9", "Pinsker"])
def test_bounds_are_never_exceeded_and_not_vacuous_everywhere(verified, name):
    """Actual / allowed stays below 1 (1e-9 for rounding), and some pair uses a part of it."""
    _, tightness = verified
    assert len(tightness[name]) == PAIRS
    assert 1e-4 < tightness[name].max() <= 1 + 1e-9


def test_pairs_span_what_they_should():
    found = list(pairs())
    discounts = [process.discount for process, *_ in found]
    assert min(discounts) < 0.15
    assert max(discounts) > 0.998
    variations = [bounds.total_variation(old, new).max() for _, old, new in found]
    assert min(variations) < 1e-3
    assert max(variations) > 0.999


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 0.5, 1.0])
def test_conservative_bound_holds(alpha):
    """Eq. 6, with the other policy both greedy and random."""
    for process, old, new in list(pairs())[:300]:
        best = np.eye(process.actions)[mdp.advantages(process, old).argmax(axis=1)]
        for other in (best, new):
            mixture = (1 - alpha) * old + alpha * other
            value = mdp.expected_return(process, mixture)
            bound = bounds.mixture_bound(process, old, other, alpha)
            assert value >= bound - 1e-9 * _scale(process)


def test_surrogate_matches_the_return_to_first_order():
    """Eq. 4: value, and ∇L against the complex-step derivative of η, which is exact to rounding."""
    for process, old, _ in list(pairs())[:200]:
        logits = np.log(np.maximum(old, 1e-12))
        policy = mdp.softmax(logits)
        assert bounds.surrogate(process, policy, policy) == pytest.approx(
            mdp.expected_return(process, policy), abs=1e-9 * _scale(process)
        )
        gradient = bounds.surrogate_gradient(process, logits)
        for index in np.ndindex(*logits.shape):
            moved = logits.astype(complex)
            moved[index] += 1e-30j
            slope = mdp.expected_return(process, mdp.softmax(moved)).imag / 1e-30
            assert abs(gradient[index] - slope) < 1e-8 * _scale(process)


def test_surrogate_error_is_of_second_order():
    """Halving the step quarters η − L: the ratio tends to 4 within 2% at small steps."""
    process, generator = mdp.random_mdp(0), np.random.default_rng(0)
    logits, direction = generator.standard_normal((2, 5, 3))
    errors = []
    for size in (0.02, 0.01):
        old, new = mdp.softmax(logits), mdp.softmax(logits + size * direction)
        errors.append(mdp.expected_return(process, new) - bounds.surrogate(process, old, new))
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.02)


def test_maximal_coupling_has_its_marginals_and_disagrees_as_little_as_possible():
    for _, old, new in list(pairs())[:300]:
        joint = bounds.maximal_coupling(old, new)
        assert (joint >= -1e-15).all()
        np.testing.assert_allclose(joint.sum(axis=2), old, atol=1e-12)
        np.testing.assert_allclose(joint.sum(axis=1), new, atol=1e-12)
        agreement = np.trace(joint, axis1=1, axis2=2)
        np.testing.assert_allclose(1 - agreement, bounds.total_variation(old, new), atol=1e-12)


def test_lemmas_2_and_3_hold():
    """|Ā| ≤ 2α max|A|, and its expectations at time t differ by ≤ 4α (1 − (1 − α)ᵗ) max|A|.

    The step between, with the probability 1 − (1 − α)ᵗ of having disagreed before t, is
    checked too: 2 (1 − (1 − α)ᵗ) max|Ā|.
    """
    for process, old, new in list(pairs())[:400]:
        alpha = bounds.total_variation(old, new).max()
        largest = np.abs(mdp.advantages(process, old)).max()
        mean = bounds.mean_advantage(process, old, new)
        slack = 1e-9 * _scale(process)
        assert np.abs(mean).max() <= 2 * alpha * largest + slack
        first, second = (bounds.state_distributions(process, pi, 20) for pi in (old, new))
        gap = np.abs((second - first) @ mean)
        disagreed = 1 - (1 - alpha) ** np.arange(20)
        assert (gap <= 2 * disagreed * np.abs(mean).max() + slack).all()
        assert (gap <= 4 * alpha * disagreed * largest + slack).all()


def test_perturbation_identity_and_the_bound_it_gives():
    """App. B: G̃ = G + γGΔG + γ²GΔGΔG̃, and η̃ − L = γ² ρ0 GΔGΔG̃ r for rewards of the state."""
    for process, old, new in list(pairs())[:400]:
        exact = mdp.resolvent(process, new)
        expanded = bounds.perturbed_resolvent(process, old, new)
        np.testing.assert_allclose(expanded, exact, atol=1e-8 / (1 - process.discount))
        rewards = np.repeat(process.rewards[:, :1], process.actions, axis=1)
        plain = mdp.FiniteMDP(process.transitions, rewards, process.initial, process.discount)
        g = mdp.resolvent(plain, old)
        delta = mdp.policy_transitions(plain, new) - mdp.policy_transitions(plain, old)
        gamma = plain.discount
        second = gamma**2 * plain.initial @ g @ delta @ g @ delta @ exact @ rewards[:, 0]
        error = mdp.expected_return(plain, new) - bounds.surrogate(plain, old, new)
        assert abs(second - error) < 1e-8 * _scale(plain) / (1 - gamma)
