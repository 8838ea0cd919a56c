"""Conjugate gradient against dense solves, and the ways it can fail."""

import numpy as np
import pytest
import tensorflow as tf

from trpo_repro.optimization import conjugate_gradient


def _spd(size, condition, seed):
    generator = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(generator.standard_normal((size, size)))
    return basis @ np.diag(np.geomspace(1.0, condition, size)) @ basis.T


def _solve(matrix, b, iterations, **arguments):
    matrix = tf.constant(matrix)

    @tf.function
    def solve(b):
        return conjugate_gradient.conjugate_gradient(
            lambda v: tf.linalg.matvec(matrix, v), b, iterations=iterations, **arguments
        )

    return solve(tf.constant(b))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("size", "condition"), [(1, 1.0), (5, 100.0), (8, 10.0)])
def test_exact_in_as_many_iterations_as_unknowns(size, condition, seed):
    """1e-8: float64 rounding, magnified as directions lose conjugacy; so the systems are small."""
    matrix, b = _spd(size, condition, seed), np.random.default_rng(seed).standard_normal(size)
    solution = _solve(matrix, b, size)
    expected = np.linalg.solve(matrix, b)
    np.testing.assert_allclose(solution.x, expected, atol=1e-8 * np.linalg.norm(expected))
    assert bool(solution.positive)
    assert int(solution.iterations) <= size


def test_exact_in_as_many_iterations_as_distinct_eigenvalues():
    basis, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((40, 40)))
    matrix = basis @ np.diag(np.repeat([1.0, 3.0, 10.0, 50.0], 10)) @ basis.T
    b = np.random.default_rng(1).standard_normal(40)
    np.testing.assert_allclose(_solve(matrix, b, 4).x, np.linalg.solve(matrix, b), atol=1e-10)
    assert np.linalg.norm(matrix @ _solve(matrix, b, 3).x.numpy() - b) > 1e-3


def test_reported_residual_is_the_true_one():
    matrix, b = _spd(30, 1e3, 0), np.random.default_rng(0).standard_normal(30)
    for iterations in (1, 5, 10):
        solution = _solve(matrix, b, iterations)
        true = np.linalg.norm(b - matrix @ solution.x.numpy()) / np.linalg.norm(b)
        assert float(solution.relative_residual) == pytest.approx(true, rel=1e-6)
        assert int(solution.iterations) == iterations


def test_error_in_the_a_norm_obeys_the_chebyshev_bound():
    """‖x_k − x‖_A ≤ 2 ((√κ − 1)/(√κ + 1))^k ‖x‖_A."""
    condition = 50.0
    matrix, b = _spd(40, condition, 1), np.random.default_rng(1).standard_normal(40)
    x = np.linalg.solve(matrix, b)
    rate = (np.sqrt(condition) - 1) / (np.sqrt(condition) + 1)

    def a_norm(v):
        return np.sqrt(v @ matrix @ v)

    for k in range(1, 15):
        error = a_norm(_solve(matrix, b, k).x.numpy() - x)
        assert error <= 2 * rate**k * a_norm(x) * (1 + 1e-9)


def test_starts_from_zero_and_zero_needs_no_iteration():
    solution = _solve(np.eye(3), np.zeros(3), 10)
    np.testing.assert_array_equal(solution.x, 0.0)
    assert int(solution.iterations) == 0
    assert float(solution.relative_residual) == 0.0


def test_stops_at_the_tolerance():
    solution = _solve(_spd(30, 10.0, 0), np.ones(30), 30, tolerance=1e-2)
    assert float(solution.relative_residual) <= 1e-2
    assert int(solution.iterations) < 15


@pytest.mark.parametrize(
    ("matrix", "finite"),
    [(-np.eye(3), True), (np.zeros((3, 3)), True), (np.full((3, 3), np.nan), False)],
)
def test_a_first_direction_without_positive_curvature_is_reported(matrix, finite):
    solution = _solve(matrix, np.ones(3), 10)
    assert not bool(solution.positive)
    assert bool(solution.finite) == finite
    np.testing.assert_array_equal(solution.x, 0.0)


def test_later_nonpositive_curvature_keeps_the_iterate_and_its_residual():
    """Diagonal (1, 4, −5), started along (2, 1, 0.1): the first curvatures are positive, a later
    one is not."""
    matrix, b = np.diag([1.0, 4.0, -5.0]), np.array([2.0, 1.0, 0.1])
    solution = _solve(matrix, b, 10)
    assert bool(solution.positive)
    assert bool(solution.finite)
    assert int(solution.iterations) < 10
    true = np.linalg.norm(b - matrix @ solution.x.numpy()) / np.linalg.norm(b)
    assert float(solution.relative_residual) == pytest.approx(true, rel=1e-12)
    assert true < 1


def test_a_singular_matrix_is_solved_in_its_range():
    """A softmax's Fisher matrix has a null vector; float32 meets it as rounding."""
    p = np.array([0.7, 0.2, 0.06, 0.04])
    matrix = np.float32(np.diag(p) - np.outer(p, p))
    b = np.float32(matrix @ np.array([1.0, -2.0, 0.5, 3.0]))
    solution = _solve(matrix, b, 20)
    assert bool(solution.positive)
    np.testing.assert_allclose(matrix @ solution.x.numpy(), b, atol=1e-6)


def test_a_product_that_becomes_infinite_is_reported():
    """The second product is infinite, the first is not."""

    @tf.function
    def solve(b):
        return conjugate_gradient.conjugate_gradient(
            lambda v: v * tf.where(v[0] > 0.9, tf.constant([1.0, 2.0], v.dtype), np.inf),
            b,
            iterations=5,
        )

    solution = solve(tf.constant([1.0, 1.0], tf.float64))
    assert not bool(solution.finite)
    assert np.isfinite(solution.x.numpy()).all()


def _preconditioned(matrix, b, iterations, inverse):
    inverse = tf.constant(inverse)
    return _solve(matrix, b, iterations, preconditioner=lambda v: tf.linalg.matvec(inverse, v))


def test_preconditioned_by_the_matrix_itself_one_product_is_enough():
    matrix, b = _spd(30, 1e4, 2), np.random.default_rng(2).standard_normal(30)
    solution = _preconditioned(matrix, b, 5, np.linalg.inv(matrix))
    assert int(solution.iterations) <= 2  # the residual of the first is rounding
    expected = np.linalg.solve(matrix, b)
    np.testing.assert_allclose(solution.x, expected, atol=1e-8 * np.linalg.norm(expected))


def test_preconditioned_first_iterate_is_the_best_multiple_of_the_solved_right_side():
    """α K⁻¹b with α = (bᵀK⁻¹b) / ((K⁻¹b)ᵀA K⁻¹b), the least of ½xᵀAx − bᵀx along K⁻¹b."""
    matrix, near = _spd(10, 50.0, 3), _spd(10, 20.0, 4)
    b = np.random.default_rng(3).standard_normal(10)
    direction = np.linalg.solve(near, b)
    expected = direction * (b @ direction) / (direction @ matrix @ direction)
    solution = _preconditioned(matrix, b, 1, np.linalg.inv(near))
    np.testing.assert_allclose(solution.x, expected, rtol=1e-10)


def test_preconditioned_iterates_are_the_plain_ones_of_the_split_system():
    """CG on L⁻¹A L⁻ᵀ y = L⁻¹b, K = LLᵀ, x = L⁻ᵀy: the textbook's equivalence, at every k."""
    matrix, near = _spd(12, 200.0, 5), _spd(12, 30.0, 6)
    b = np.random.default_rng(5).standard_normal(12)
    root = np.linalg.inv(np.linalg.cholesky(near))
    for k in (1, 2, 4, 7):
        split = _solve(root @ matrix @ root.T, root @ b, k).x.numpy()
        found = _preconditioned(matrix, b, k, np.linalg.inv(near)).x
        np.testing.assert_allclose(found, root.T @ split, rtol=1e-8, atol=1e-10)


def test_a_multiple_of_the_preconditioner_changes_nothing():
    matrix, near = _spd(12, 200.0, 5), _spd(12, 30.0, 6)
    b = np.random.default_rng(5).standard_normal(12)
    for k in (1, 3, 6):
        first = _preconditioned(matrix, b, k, np.linalg.inv(near)).x
        second = _preconditioned(matrix, b, k, 1e3 * np.linalg.inv(near)).x
        np.testing.assert_allclose(second, first, rtol=1e-10)
