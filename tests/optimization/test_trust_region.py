"""The engine on quadratics with known answers, and each way to fail."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from trpo_repro.optimization import trust_region
from trpo_repro.optimization.trust_region import Constraint, Curvature, Method, Outcome, StepRule

SIZE = 6


def _quadratic(scale=1.0, **changes):
    """Maximize bᵀx − ½ xᵀHx with KL ½ (x − θ)ᵀF(x − θ): everything has a closed form."""
    generator = np.random.default_rng(0)
    basis, _ = np.linalg.qr(generator.standard_normal((SIZE, SIZE)))
    fisher = basis @ np.diag(np.geomspace(1, 20, SIZE)) @ basis.T
    hessian = np.eye(SIZE) * scale
    b = generator.standard_normal(SIZE)
    theta = tf.constant(generator.standard_normal(SIZE))
    f, h = tf.constant(fisher), tf.constant(hessian)

    def objective(x):
        return tf.tensordot(x, b, 1) - 0.5 * tf.tensordot(x, tf.linalg.matvec(h, x), 1)

    def evaluate(x):
        kl = 0.5 * tf.tensordot(x - theta, tf.linalg.matvec(f, x - theta), 1)
        return trust_region.Evaluation(objective(x), kl, 4 * kl)

    def product(v):
        return tf.linalg.matvec(f, v)

    parts = {
        "gradient": lambda: (objective(theta), b - tf.linalg.matvec(h, theta)),
        "product": product,
        "quadratic_kl": lambda s: tf.tensordot(s, product(s), 1),
        "evaluate": evaluate,
        **changes,
    }
    return theta, trust_region.Problem(**parts), fisher


def _step(theta, problem, method):
    @tf.function
    def step():
        return trust_region.trust_region_step(theta, problem, method)

    after, report = step()
    return after.numpy(), {k: v.numpy() for k, v in report._asdict().items()}


def _natural_direction(problem, fisher):
    return np.linalg.solve(fisher, problem.gradient()[1].numpy())


def test_trpo_goes_along_the_natural_gradient_to_the_kl_limit():
    """With a nearly linear objective the full step is taken: β = sqrt(2δ / sᵀAs), App. C."""
    theta, problem, fisher = _quadratic(scale=1e-3)
    after, report = _step(theta, problem, Method(kl_limit=0.01, max_backtracks=1))
    direction = _natural_direction(problem, fisher)
    beta = np.sqrt(2 * 0.01 / (direction @ fisher @ direction))
    ratio = (after - theta.numpy()) / (beta * direction)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-8)
    assert ratio[0] == pytest.approx(0.8 ** report["backtracks"], rel=1e-8)
    assert report["backtracks"] <= 1
    assert report["mean_kl"] == pytest.approx(0.01 * ratio[0] ** 2, rel=1e-6)
    assert report["mean_kl"] <= 0.01


def test_truncated_natural_gradient_takes_the_whole_step_unchecked():
    theta, problem, fisher = _quadratic(scale=1e3)  # the step overshoots and lowers the objective
    method = trust_region.METHODS["truncated_natural_gradient"]
    after, report = _step(theta, problem, method)
    direction = _natural_direction(problem, fisher)
    beta = np.sqrt(2 * 0.01 / (direction @ fisher @ direction))
    np.testing.assert_allclose(after, theta.numpy() + beta * direction, rtol=1e-8)
    assert report["mean_kl"] == pytest.approx(0.01, rel=1e-8)


def test_natural_gradient_and_vanilla_take_fixed_multiples():
    theta, problem, fisher = _quadratic()
    for name, expected in {
        "natural_gradient": _natural_direction(problem, fisher),
        "vanilla_policy_gradient": problem.gradient()[1].numpy(),
    }.items():
        method = dataclasses.replace(trust_region.METHODS[name], step_size=0.3)
        after, _ = _step(theta, problem, method)
        np.testing.assert_allclose(after, theta.numpy() + 0.3 * expected, rtol=1e-8)


def test_improvement_ratio_is_actual_over_predicted():
    """Of bᵀx − ½ xᵀHx a step s gains gᵀs − ½ sᵀHs where the linear model predicts gᵀs."""
    theta, problem, _ = _quadratic(scale=2.0)
    method = Method(kl_limit=0.01)
    after, report = _step(theta, problem, method)
    step, gradient = after - theta.numpy(), problem.gradient()[1].numpy()
    expected = 1 - 0.5 * 2.0 * step @ step / (gradient @ step)
    assert report["improvement_ratio"] == pytest.approx(expected, rel=1e-9)
    refused = dataclasses.replace(method, max_backtracks=0, kl_limit=1e4)
    assert np.isnan(_step(theta, problem, refused)[1]["improvement_ratio"])


@pytest.mark.parametrize(
    ("limit", "outcome", "ratio", "expected"),
    [
        (0.01, Outcome.ACCEPTED, 0.9, 0.04),  # twice the radius
        (0.01, Outcome.ACCEPTED, 0.5, 0.01),
        (0.01, Outcome.ACCEPTED, 0.2, 0.01 / 16),  # a quarter of the radius
        (0.01, Outcome.LINE_SEARCH_FAILED, np.nan, 0.01 / 16),
        (0.01, Outcome.NOT_FINITE, np.nan, 0.01),
        (0.01, Outcome.NONPOSITIVE_CURVATURE, np.nan, 0.01),
        (0.01, Outcome.ZERO_GRADIENT, np.nan, 0.01),
        (0.5, Outcome.ACCEPTED, 0.9, 1.0),
        (0.0002, Outcome.ACCEPTED, 0.1, 0.0001),
    ],
)
def test_the_limit_adapts_as_nocedal_and_wright_say(limit, outcome, ratio, expected):
    adapted = trust_region.adapted_kl_limit(limit, outcome, ratio, first=0.01)
    assert adapted == pytest.approx(expected)


def test_damping_is_added_to_the_matrix():
    theta, problem, fisher = _quadratic()
    method = dataclasses.replace(
        trust_region.METHODS["natural_gradient"], step_size=1.0, damping=0.5
    )
    after, _ = _step(theta, problem, method)
    expected = np.linalg.solve(fisher + 0.5 * np.eye(SIZE), problem.gradient()[1].numpy())
    np.testing.assert_allclose(after - theta.numpy(), expected, rtol=1e-8)


def test_iterated_steps_reach_the_known_optimum():
    """H = F here, so the natural gradient points at H⁻¹b and TRPO walks there in KL steps."""
    generator = np.random.default_rng(1)
    basis, _ = np.linalg.qr(generator.standard_normal((SIZE, SIZE)))
    h = tf.constant(basis @ np.diag(np.geomspace(1, 20, SIZE)) @ basis.T)
    b = tf.constant(generator.standard_normal(SIZE))

    @tf.function
    def step(theta):
        def objective(x):
            return tf.tensordot(x, b, 1) - 0.5 * tf.tensordot(x, tf.linalg.matvec(h, x), 1)

        def evaluate(x):
            kl = 0.5 * tf.tensordot(x - theta, tf.linalg.matvec(h, x - theta), 1)
            return trust_region.Evaluation(objective(x), kl, kl)

        problem = trust_region.Problem(
            lambda: (objective(theta), b - tf.linalg.matvec(h, theta)),
            lambda v: tf.linalg.matvec(h, v),
            lambda s: tf.tensordot(s, tf.linalg.matvec(h, s), 1),
            evaluate,
        )
        after, report = trust_region.trust_region_step(theta, problem, Method(max_backtracks=60))
        return after, report.surrogate_before, report.surrogate_after

    theta = tf.zeros(SIZE, tf.float64)
    for _ in range(200):
        theta, before, after = step(theta)
        assert float(after) >= float(before)
    np.testing.assert_allclose(theta, np.linalg.solve(h, b), atol=1e-5)


def test_max_kl_binds_the_largest_divergence():
    theta, problem, _ = _quadratic(scale=1e-3)
    _, mean = _step(theta, problem, Method())
    _, largest = _step(theta, problem, Method(constraint=Constraint.MAX_KL))
    assert mean["max_kl"] > 0.01  # four times the mean in this problem
    assert largest["max_kl"] <= 0.01


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"product": lambda v: -v}, Outcome.NONPOSITIVE_CURVATURE),
        ({"product": lambda v: v * np.nan}, Outcome.NOT_FINITE),
        ({"quadratic_kl": lambda s: tf.constant(-1.0, tf.float64)}, Outcome.NONPOSITIVE_CURVATURE),
        ({"quadratic_kl": lambda s: tf.constant(np.nan, tf.float64)}, Outcome.NOT_FINITE),
        (
            {
                "gradient": lambda: (
                    tf.constant(0.0, tf.float64),
                    tf.fill([SIZE], np.float64("nan")),
                )
            },
            Outcome.NOT_FINITE,
        ),
        (
            {"evaluate": lambda x: trust_region.Evaluation(*[tf.constant(np.nan, tf.float64)] * 3)},
            Outcome.LINE_SEARCH_FAILED,
        ),
        (
            {
                "evaluate": lambda x: trust_region.Evaluation(
                    tf.constant(-1e9, tf.float64), *[tf.constant(0.0, tf.float64)] * 2
                )
            },
            Outcome.LINE_SEARCH_FAILED,
        ),
    ],
)
def test_bad_numbers_reject_the_step_and_leave_theta_bit_for_bit(changes, outcome):
    theta, problem, _ = _quadratic(**changes)
    after, report = _step(theta, problem, Method())
    assert after.tobytes() == theta.numpy().tobytes()
    assert report["outcome"] == outcome
    assert report["step_norm"] == 0


def test_fixed_step_into_not_a_number_is_rejected():
    nan = tf.constant(np.nan, tf.float64)
    theta, problem, _ = _quadratic(evaluate=lambda x: trust_region.Evaluation(nan, nan, nan))
    after, report = _step(theta, problem, trust_region.METHODS["natural_gradient"])
    assert report["outcome"] == Outcome.NOT_FINITE
    assert after.tobytes() == theta.numpy().tobytes()


@pytest.mark.parametrize("name", trust_region.METHODS)
def test_a_gradient_of_zero_is_no_step_of_any_method(name):
    """As where all Q-values are equal. Nothing is searched: one evaluation, at θ."""
    theta, problem, _ = _quadratic()
    points = []

    def evaluate(x):
        points.append(x)
        return problem.evaluate(x)

    still = problem._replace(
        gradient=lambda: (tf.constant(0.0, tf.float64), tf.zeros([SIZE], tf.float64)),
        evaluate=evaluate,
    )
    after, report = trust_region.trust_region_step(theta, still, trust_region.METHODS[name])
    assert int(report.outcome) == Outcome.ZERO_GRADIENT
    assert after.numpy().tobytes() == theta.numpy().tobytes()
    assert [point.numpy().tobytes() for point in points] == [theta.numpy().tobytes()]
    assert np.isnan(float(report.improvement_ratio))


def test_curvature_lost_after_convergence_is_no_reason_to_refuse():
    """The second product is negative, as rounding shows a singular matrix: x of the first stays."""
    calls = []

    theta, problem, fisher = _quadratic(scale=1e-3)

    def product(v):
        calls.append(v)
        return tf.linalg.matvec(tf.constant(fisher), v) * (1 if len(calls) == 1 else -1)

    theta, problem, _ = _quadratic(scale=1e-3, product=product)
    after, report = trust_region.trust_region_step(theta, problem, Method(cg_iterations=10))
    assert len(calls) == 2
    assert float(report.cg_residual) > 0
    assert int(report.outcome) == Outcome.ACCEPTED
    assert (after.numpy() != theta.numpy()).all()


def test_table_of_methods_has_one_row_for_each_choice_of_parts():
    parts = {(m.curvature, m.constraint, m.step) for m in trust_region.METHODS.values()}
    assert len(parts) == len(trust_region.METHODS)
    assert Method() == trust_region.METHODS["trpo"]
    assert trust_region.METHODS["trpo"].curvature is Curvature.FISHER
    assert trust_region.METHODS["trpo"].step is StepRule.LINE_SEARCH
