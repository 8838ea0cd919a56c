"""Exact quantities against slow sums, and bad input."""

import numpy as np
import pytest

from trpo_repro.theory import bounds, mdp


@pytest.fixture(params=["random", "chain", "grid"])
def process(request):
    return {"random": mdp.random_mdp(3), "chain": mdp.chain(), "grid": mdp.grid_world()}[
        request.param
    ]


def test_values_and_visitation_are_the_sums_that_define_them(process):
    """Truncated at 600 steps: the rest is at most γ^600 · max|r| / (1 − γ) < 1e-12."""
    policy = mdp.softmax(np.random.default_rng(0).standard_normal(process.rewards.shape))
    matrix = mdp.policy_transitions(process, policy)
    reward = (policy * process.rewards).sum(axis=1)
    visits, values = np.zeros(process.states), np.zeros(process.states)
    law, power = process.initial.copy(), np.eye(process.states)
    for t in range(600):
        visits += process.discount**t * law
        values += process.discount**t * power @ reward
        law, power = law @ matrix, power @ matrix
    np.testing.assert_allclose(mdp.state_visitation(process, policy), visits, atol=1e-11)
    np.testing.assert_allclose(mdp.state_values(process, policy), values, atol=1e-11)
    assert mdp.expected_return(process, policy) == pytest.approx(visits @ reward, abs=1e-10)
    assert visits.sum() == pytest.approx(1 / (1 - process.discount))
    np.testing.assert_allclose(
        mdp.resolvent(process, policy).T @ process.initial, visits, atol=1e-11
    )


def test_bellman_equations(process):
    policy = mdp.softmax(np.random.default_rng(1).standard_normal(process.rewards.shape))
    q, v = mdp.action_values(process, policy), mdp.state_values(process, policy)
    np.testing.assert_allclose((policy * q).sum(axis=1), v, atol=1e-12)
    advantage = mdp.advantages(process, policy)
    np.testing.assert_allclose((policy * advantage).sum(axis=1), 0.0, atol=1e-12)


def test_bad_input_says_which_state():
    good = mdp.random_mdp(0)
    transitions = good.transitions.copy()
    transitions[2, 1, 0] += 0.1
    with pytest.raises(ValueError, match="transitions of action 1, state 2: "):
        mdp.FiniteMDP(transitions, good.rewards, good.initial, 0.9)
    transitions = good.transitions.copy()
    transitions[4, 0] = np.nan
    with pytest.raises(ValueError, match="action 0, state 4"):
        mdp.FiniteMDP(transitions, good.rewards, good.initial, 0.9)
    for discount in (0.0, 1.0, -1.0, np.nan):
        with pytest.raises(ValueError, match=r"must be in \(0, 1\)"):
            mdp.FiniteMDP(good.transitions, good.rewards, good.initial, discount)
    with pytest.raises(ValueError, match="initial distribution sums to"):
        mdp.FiniteMDP(good.transitions, good.rewards, 2 * good.initial, 0.9)
    with pytest.raises(ValueError, match="transitions have shape"):
        mdp.FiniteMDP(good.transitions[:, :2], good.rewards, good.initial, 0.9)
    with pytest.raises(ValueError, match="rewards, state"):
        mdp.FiniteMDP(good.transitions, good.rewards * np.inf, good.initial, 0.9)
    policy = np.full((5, 3), 1 / 3)
    policy[3] = [0.5, 0.6, -0.1]
    with pytest.raises(ValueError, match="policy, state 3"):
        mdp.check_policy(good, policy)
    with pytest.raises(ValueError, match="policy, state 3"):
        mdp.advantages(good, policy)
    with pytest.raises(ValueError, match="policy has shape"):
        mdp.check_policy(good, policy[:2])


def test_kl_needs_support_and_says_where_it_lacks():
    old, new = np.array([[0.5, 0.5], [0.3, 0.7]]), np.array([[0.5, 0.5], [0.0, 1.0]])
    with pytest.raises(ValueError, match="state 1: action 0 has support under old"):
        bounds.kl(old, new)
    np.testing.assert_allclose(bounds.kl(new, old), [0.0, -np.log(0.7)])
