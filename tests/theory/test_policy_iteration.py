"""Exact policy optimization: optimality against general solvers, and monotone improvement."""

import itertools

import numpy as np
import pytest
from scipy import optimize

from trpo_repro.theory import bounds, mdp
from trpo_repro.theory import policy_iteration as pi

PROCESSES = {
    "random": mdp.random_mdp(0),
    "near-sighted": mdp.random_mdp(1, discount=0.3),
    "far-sighted": mdp.random_mdp(2, discount=0.99),
    "chain": mdp.chain(),
    "grid": mdp.grid_world(),
}


@pytest.fixture(params=PROCESSES)
def process(request):
    return PROCESSES[request.param]


def _start(process):
    return mdp.softmax(np.random.default_rng(0).standard_normal(process.rewards.shape))


def _optimum(process):
    """Returns the best η by value iteration: independent of any policy update here."""
    values = np.zeros(process.states)
    for _ in range(4000):
        values = (process.rewards + process.discount * process.transitions @ values).max(axis=1)
    return process.initial @ values


def test_policy_iteration_finds_the_optimum(process):
    *_, last = pi.run(process, _start(process), pi.greedy, 30)
    assert last.expected_return == pytest.approx(_optimum(process), abs=1e-8)


@pytest.mark.parametrize("name", ["greedy", "conservative", "algorithm_1"])
def test_returns_never_fall(process, name):
    """Asserted along the run; 1e-11 of the scale of returns is the rounding of two solves."""
    scale = np.abs(process.rewards).max() / (1 - process.discount)
    iterations = 10 if name == "algorithm_1" else 60  # of which each takes long
    points = list(pi.run(process, _start(process), getattr(pi, name), iterations))
    returns = np.array([point.expected_return for point in points])
    assert (np.diff(returns) >= -1e-11 * scale).all()
    if name == "algorithm_1":
        for old, new in itertools.pairwise(points):
            # Eq. 10's premise: the lower bound is at least its value at the old policy, η.
            bound = bounds.kl_bound(process, old.policy, new.policy)
            assert bound >= old.expected_return - 1e-11 * scale


def test_conservative_step_maximizes_its_bound(process):
    old = _start(process)
    best = pi.greedy(process, old)
    new = pi.conservative(process, old)
    s, a = np.argwhere(best != old)[0]
    alpha = (new - old)[s, a] / (best - old)[s, a]
    here = bounds.mixture_bound(process, old, best, alpha)
    grid = [bounds.mixture_bound(process, old, best, x) for x in np.linspace(0, 1, 2001)]
    assert here >= max(grid) - 1e-12


def _slsqp(process, old, objective, constraint=None):
    """Maximizes over policies in softmax logits by SciPy's SLSQP: knows none of our structure."""
    shape = old.shape
    constraints = []
    if constraint is not None:
        constraints = [{"type": "ineq", "fun": lambda x: constraint(mdp.softmax(x.reshape(shape)))}]
    result = optimize.minimize(
        lambda x: -objective(mdp.softmax(x.reshape(shape))),
        np.log(old).ravel(),
        method="SLSQP",
        constraints=constraints,
        options={"maxiter": 2000, "ftol": 1e-14},
    )
    return -result.fun


SMALL = mdp.random_mdp(5, states=3, actions=3, discount=0.6)


def test_mean_kl_trpo_solves_eq_12():
    old = _start(SMALL)
    rho = mdp.state_visitation(SMALL, old) * (1 - SMALL.discount)
    new = pi.mean_kl_trpo(0.01)(SMALL, old)
    assert rho @ bounds.kl(old, new) == pytest.approx(0.01, rel=1e-9)
    best = _slsqp(
        SMALL,
        old,
        lambda policy: bounds.surrogate(SMALL, old, policy),
        lambda policy: 0.01 - rho @ bounds.kl(old, policy),
    )
    # SLSQP meets its constraint to about 1e-10 of KL: 1e-6 of L here.
    assert bounds.surrogate(SMALL, old, new) == pytest.approx(best, abs=1e-6)


def test_max_kl_trpo_solves_eq_11():
    old = _start(SMALL)
    new = pi.max_kl_trpo(0.01)(SMALL, old)
    np.testing.assert_allclose(bounds.kl(old, new), 0.01, rtol=1e-9)
    best = _slsqp(
        SMALL,
        old,
        lambda policy: bounds.surrogate(SMALL, old, policy),
        lambda policy: 0.01 - bounds.kl(old, policy),
    )
    assert bounds.surrogate(SMALL, old, new) == pytest.approx(best, abs=1e-6)


def test_algorithm_1_solves_its_penalized_problem():
    """The maximum over d of [best L under max KL ≤ d] − C d, by a fine search and by SLSQP."""
    old = _start(SMALL)
    new = pi.algorithm_1(SMALL, old)
    penalty = bounds.penalty_coefficient(SMALL, old)
    value = bounds.kl_bound(SMALL, old, new)
    reached = bounds.kl(old, new).max()

    def inner(log_d):
        best = pi.max_kl_trpo(np.exp(log_d))(SMALL, old)
        return bounds.surrogate(SMALL, old, best) - penalty * np.exp(log_d)

    around = np.log(reached) + np.linspace(-1, 1, 41)
    assert value >= max(inner(x) for x in around) - 1e-12
    generator = np.random.default_rng(0)
    for size in (1e-4, 1e-3, 1e-2):
        for _ in range(200):
            nearby = new * np.exp(size * generator.standard_normal(new.shape))
            nearby /= nearby.sum(axis=1, keepdims=True)
            assert bounds.kl_bound(SMALL, old, nearby) <= value + 1e-13


@pytest.mark.parametrize("multiplier", [0.01, 1.0, 100.0])
def test_penalized_surrogate_is_maximized(multiplier):
    old = _start(SMALL)
    rho = mdp.state_visitation(SMALL, old)
    advantage = mdp.advantages(SMALL, old)

    def objective(policy):
        return rho @ ((policy * advantage).sum(axis=1) - multiplier * bounds.kl(old, policy))

    new = pi.penalized(SMALL, old, multiplier)
    assert objective(new) >= _slsqp(SMALL, old, objective) - 1e-9


@pytest.mark.parametrize("update", [pi.max_kl_trpo(0.01), pi.mean_kl_trpo(0.01)])
def test_trpo_keeps_its_constraint_and_reaches_the_optimum(process, update):
    points = list(pi.run(process, _start(process), update, 60))
    bound = max(min(point.max_kl, point.mean_kl) for point in points)
    assert bound <= 0.01 * (1 + 1e-9)
    scale = np.abs(process.rewards).max() / (1 - process.discount)
    assert points[-1].expected_return == pytest.approx(_optimum(process), abs=1e-6 * scale)


def test_dual_ascent_holds_the_kl_near_its_limit():
    """Steps 6 to 25 of a long chain: within 20% of δ, below it as λ has to keep falling."""
    process = mdp.chain(30, discount=0.99)
    update = pi.DualAscent(0.001, multiplier=100.0)
    points = list(pi.run(process, _start(process), update, 25))
    assert np.mean([point.mean_kl for point in points[6:]]) == pytest.approx(0.001, rel=0.2)


def test_steps_forced_by_c_are_tiny_beside_eq_12s():
    """Claim C8: at γ = 0.99 Algorithm 1's steps have a thousandth of δ = 0.01 or less."""
    process = PROCESSES["far-sighted"]
    points = list(pi.run(process, _start(process), pi.algorithm_1, 20))
    assert max(point.max_kl for point in points) < 1e-5


def test_natural_flow_follows_the_pseudo_inverse_of_the_fisher_matrix(process):
    """The step in logits is F⁺∇η, by a dense F, up to a constant in each state."""
    policy, step_size = _start(process), 0.05
    gradient = bounds.surrogate_gradient(process, np.log(policy))
    direction = np.zeros_like(gradient)
    for s, rho in enumerate(mdp.state_visitation(process, policy)):
        fisher = rho * (np.diag(policy[s]) - np.outer(policy[s], policy[s]))
        direction[s] = np.linalg.pinv(fisher, hermitian=True) @ gradient[s]
    new = pi.gradient_flow(step_size, natural=True)(process, policy)
    # F's least eigenvalue but for the null one is above 9e-4: its inverse keeps twelve digits.
    expected = mdp.softmax(np.log(policy) + step_size * direction)
    np.testing.assert_allclose(new, expected, atol=1e-9)


@pytest.mark.parametrize("natural", [True, False])
def test_gradient_flows_never_lower_the_return(process, natural):
    """300 updates, after which the natural flow's policies are almost deterministic."""
    points = list(pi.run(process, _start(process), pi.gradient_flow(0.05, natural=natural), 300))
    returns = np.array([point.expected_return for point in points])
    scale = np.abs(process.rewards).max() / (1 - process.discount)
    assert (np.diff(returns) >= -1e-11 * scale).all()  # the rounding of two solves
    assert (np.diff(returns[:51]) > 0).all()


def test_deterministic_policies_have_nowhere_to_go():
    process = PROCESSES["random"]
    *_, last = pi.run(process, _start(process), pi.greedy, 30)
    for update in (pi.max_kl_trpo(0.01), pi.mean_kl_trpo(0.01), pi.algorithm_1, pi.conservative):
        np.testing.assert_allclose(update(process, last.policy), last.policy, atol=1e-12)


def test_bad_policies_are_refused():
    with pytest.raises(ValueError, match="policy, state 0"):
        next(pi.run(SMALL, np.ones((3, 3)), pi.greedy, 1))
