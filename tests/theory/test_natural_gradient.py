"""The natural gradient's identities by independent routes."""

import numpy as np
import pytest

from trpo_repro.theory import bounds, mdp
from trpo_repro.theory import natural_gradient as ng

PROBLEM = ng.LinearGaussian()
POINTS = np.array([[-0.3, 1.0], [-1.0, 0.5], [0.05, 2.0], [-0.8, 0.1]])


def _mean_kl(process, policy, old, new):
    """Returns Σ_s ρ_old(s) KL(π_old ‖ π_new), with the unnormalized ρ."""
    first, second = policy.probabilities(old), policy.probabilities(new)
    return mdp.state_visitation(process, first) @ bounds.kl(first, second)


def test_closed_form_return_is_the_simulated_one():
    """Mean over 200k episodes of 150 steps (γ^150 = 1e-7), within 5 standard errors."""
    generator = np.random.default_rng(0)
    k, sigma = POINTS[0]
    s, total = generator.standard_normal(200_000), 0.0
    for t in range(150):
        a = k * s + sigma * generator.standard_normal(len(s))
        total = total - PROBLEM.discount**t * (s**2 + a**2)
        s = PROBLEM.drift * s + PROBLEM.gain * a
    error = total.std() / np.sqrt(len(total))
    assert abs(total.mean() - PROBLEM.expected_return(POINTS[0])) < 5 * error


@pytest.mark.parametrize("point", POINTS)
def test_gradient_is_the_complex_step_derivative(point):
    gradient = PROBLEM.gradient(point)
    for i in range(2):
        moved = point.astype(complex)
        moved[i] += 1e-30j
        assert gradient[i] == pytest.approx(PROBLEM.expected_return(moved).imag / 1e-30, rel=1e-10)


@pytest.mark.parametrize("point", POINTS)
def test_fisher_is_the_hessian_of_the_kl_and_the_covariance_of_the_scores(point):
    """KL in closed form, differentiated by central differences (1e-4: error 1e-7); scores by
    quadrature over the action, exact for polynomials, and the second moment of s."""
    k, sigma = point
    square = (1 - PROBLEM.discount) * PROBLEM.second_moment(point)

    def kl(q):
        return np.log(q[1] / sigma) + (sigma**2 + (k - q[0]) ** 2 * square) / (2 * q[1] ** 2) - 0.5

    hessian, h = np.zeros((2, 2)), 1e-4 * sigma
    for i in range(2):
        for j in range(2):
            ei, ej = h * np.eye(2)[i], h * np.eye(2)[j]
            hessian[i, j] = (
                kl(point + ei + ej)
                - kl(point + ei - ej)
                - kl(point - ei + ej)
                + kl(point - ei - ej)
            ) / (4 * h**2)
    fisher = PROBLEM.fisher(point)
    np.testing.assert_allclose(fisher, hessian, rtol=1e-5, atol=1e-5 * np.abs(fisher).max())
    nodes, weights = np.polynomial.hermite_e.hermegauss(6)
    weights = weights / weights.sum()
    for_k, for_sigma = nodes / sigma, (nodes**2 - 1) / sigma  # ∂log π/∂k is s · for_k
    assert fisher[0, 0] == pytest.approx(square * weights @ for_k**2)
    assert fisher[1, 1] == pytest.approx(weights @ for_sigma**2)
    assert weights @ (for_k * for_sigma) == pytest.approx(0, abs=1e-9)


def _categorical_quantities(logits, sizes):
    """Returns covariance of scores and Hessian of KL of a factored categorical, by enumeration."""
    splits = np.cumsum(sizes)[:-1]

    def log_probabilities(x):
        parts = [np.log(mdp.softmax(part[None])[0]) for part in np.split(x, splits)]
        return np.array(
            [sum(p[i] for p, i in zip(parts, index, strict=True)) for index in np.ndindex(*sizes)]
        )

    steps = 1e-30j * np.eye(len(logits))
    scores = np.stack([log_probabilities(logits + step).imag / 1e-30 for step in steps], axis=1)
    base = log_probabilities(logits.astype(complex)).real
    probabilities = np.exp(base)
    covariance = scores.T @ (scores * probabilities[:, None])
    h = 1e-4
    hessian = np.zeros((len(logits),) * 2)
    for i, ei in enumerate(h * np.eye(len(logits))):
        for j, step in enumerate(steps):
            slopes = [
                -(probabilities @ log_probabilities(logits + sign * ei + step)).imag / 1e-30
                for sign in (1, -1)
            ]
            hessian[i, j] = (slopes[0] - slopes[1]) / (2 * h)
    return covariance, hessian


@pytest.mark.parametrize("sizes", [(4,), (3, 3, 2)], ids=["categorical", "factored"])
def test_covariance_of_scores_is_the_hessian_of_the_kl(sizes):
    """Central differences of step 1e-4 over complex steps: 1e-7; both equal diag(p) − ppᵀ."""
    logits = np.random.default_rng(0).standard_normal(sum(sizes))
    covariance, hessian = _categorical_quantities(logits, sizes)
    np.testing.assert_allclose(covariance, hessian, atol=1e-7)
    expected = np.zeros_like(covariance)
    start = 0
    for size in sizes:
        p = mdp.softmax(logits[None, start : start + size])[0]
        expected[start : start + size, start : start + size] = np.diag(p) - np.outer(p, p)
        start += size
    np.testing.assert_allclose(covariance, expected, atol=1e-12)


def test_constrained_steps_are_optimal():
    """Against 10k random directions scaled to the boundary of each ball."""
    generator = np.random.default_rng(0)
    gradient, fisher = PROBLEM.gradient(POINTS[0]), PROBLEM.fisher(POINTS[0])
    directions = generator.standard_normal((10_000, 2))
    circle = 0.1 * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    step = ng.euclidean_step(gradient, 0.1)
    assert np.linalg.norm(step) == pytest.approx(0.1)
    assert gradient @ step >= (circle @ gradient).max()
    lengths = np.sqrt(np.einsum("ni,ij,nj->n", directions, fisher, directions) / 2 / 0.01)
    step = ng.kl_step(gradient, fisher, 0.01)
    assert 0.5 * step @ fisher @ step == pytest.approx(0.01)
    assert gradient @ step >= (directions / lengths[:, None] @ gradient).max()


def test_linear_coordinates_do_not_change_the_natural_step():
    """φ = Aθ: step_φ = A step_θ and sᵀFs is the same, exactly; the plain gradient's is not."""
    generator = np.random.default_rng(0)
    change = generator.standard_normal((2, 2)) + 2 * np.eye(2)
    inverse = np.linalg.inv(change)
    gradient, fisher = PROBLEM.gradient(POINTS[1]), PROBLEM.fisher(POINTS[1])
    step = ng.kl_step(gradient, fisher, 0.01)
    mapped = ng.kl_step(inverse.T @ gradient, inverse.T @ fisher @ inverse, 0.01)
    np.testing.assert_allclose(mapped, change @ step, rtol=1e-10)
    plain = ng.euclidean_step(inverse.T @ gradient, 0.1)
    assert np.abs(plain - change @ ng.euclidean_step(gradient, 0.1)).max() > 1e-2


def test_nonlinear_coordinates_do_not_change_it_to_first_order():
    """ψ = (k + k³, log σ): the two end points differ by O(δ), while the steps are O(√δ).

    Quartering δ quarters the gap of the end points: a ratio of 4 within 5%.
    """
    k, sigma = POINTS[1]
    gradient, fisher = PROBLEM.gradient(POINTS[1]), PROBLEM.fisher(POINTS[1])
    inverse = np.diag([1 / (1 + 3 * k**2), sigma])  # ∂θ/∂ψ
    gaps = []
    for kl_limit in (1e-4, 2.5e-5):
        end = POINTS[1] + ng.kl_step(gradient, fisher, kl_limit)
        step = ng.kl_step(inverse @ gradient, inverse @ fisher @ inverse, kl_limit)
        there = np.array([k + k**3, np.log(sigma)]) + step
        roots = np.roots([1, 0, 1, -there[0]])
        back = np.array([roots[np.abs(roots.imag) < 1e-9].real[0], np.exp(there[1])])
        gaps.append(np.linalg.norm(back - end))
    assert gaps[0] / gaps[1] == pytest.approx(4.0, rel=0.05)
    assert gaps[0] < 0.05 * np.linalg.norm(ng.kl_step(gradient, fisher, 1e-4))


@pytest.mark.parametrize("seed", range(5))
def test_compatible_function_approximation(seed):
    """w = F⁻¹∇η exactly, and wᵀ∇log π in place of A gives ∇η: float64 least squares, 1e-8."""
    process = mdp.random_mdp(seed)
    generator = np.random.default_rng(seed)
    policy = ng.LogLinearPolicy(generator.standard_normal((5, 3, 4)))
    theta = generator.standard_normal(4)
    gradient, fisher = policy.gradient(process, theta), policy.fisher(process, theta)
    weights = ng.compatible_weights(process, policy, theta)
    np.testing.assert_allclose(weights, np.linalg.solve(fisher, gradient), atol=1e-8)
    probabilities, scores = policy.probabilities(theta), policy.scores(theta)
    visits = mdp.state_visitation(process, probabilities)
    fitted = scores @ weights
    np.testing.assert_allclose(
        np.einsum("s,sa,sa,sap->p", visits, probabilities, fitted, scores), gradient, atol=1e-8
    )
    assert np.abs(fitted - mdp.advantages(process, probabilities)).max() > 1e-3  # it is a fit


@pytest.mark.parametrize("seed", range(3))
def test_log_linear_gradient_and_fisher(seed):
    """∇η by complex steps; F as the curvature of the mean KL by second differences (1e-4)."""
    process = mdp.random_mdp(seed)
    generator = np.random.default_rng(seed)
    policy = ng.LogLinearPolicy(generator.standard_normal((5, 3, 4)))
    theta = generator.standard_normal(4)
    for i, step in enumerate(1e-30j * np.eye(4)):
        slope = mdp.expected_return(process, policy.probabilities(theta + step)).imag / 1e-30
        assert policy.gradient(process, theta)[i] == pytest.approx(slope, rel=1e-8, abs=1e-10)
    direction = generator.standard_normal(4)
    curvature = sum(
        _mean_kl(process, policy, theta, theta + sign * 1e-3 * direction) for sign in (1, -1)
    )
    expected = direction @ policy.fisher(process, theta) @ direction
    assert curvature / 1e-6 == pytest.approx(expected, rel=1e-4)


def test_both_ascents_climb_and_the_natural_one_gains_more_per_nat():
    """Along either path η rises; at equal KL the natural step gains the most (second order)."""
    start = np.array([-0.1, 1.0])
    for natural in (True, False):
        path = ng.ascend(PROBLEM, start, 0.02, 60, natural=natural)
        assert (np.diff(PROBLEM.expected_return(path)) > 0).all()
    gradient, fisher = PROBLEM.gradient(start), PROBLEM.fisher(start)
    plain = gradient * np.sqrt(2e-4 / (gradient @ fisher @ gradient))
    natural_step = ng.kl_step(gradient, fisher, 1e-4)
    gains = [
        PROBLEM.expected_return(start + step) - PROBLEM.expected_return(start)
        for step in (natural_step, plain)
    ]
    assert gains[0] > gains[1]


def test_without_noise_at_the_start_the_gradients_slope_grows_as_sigma_falls():
    """All states begin at 0: η = σ² f(k), so that ∂σ/∂k along the gradient is 2f / (σ f'), and the
    Fisher information of k is a constant: along the natural gradient it is in proportion to σ."""
    problem = ng.LinearGaussian(initial_variance=0.0)
    sigmas = np.array([1.0, 0.1, 0.01])
    points = np.stack([np.full(3, -0.3), sigmas], axis=-1)
    slopes = [
        field[:, 1] / field[:, 0]
        for field in (problem.gradient(points), problem.natural_gradient(points))
    ]
    np.testing.assert_allclose(slopes[0] * sigmas, slopes[0][0], rtol=1e-12)
    np.testing.assert_allclose(slopes[1] / sigmas, slopes[1][0], rtol=1e-12)


def test_unstable_gains_have_no_return():
    assert PROBLEM.expected_return(np.array([3.0, 1.0])) == -np.inf
