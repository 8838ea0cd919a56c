"""The backtracking line search: what it promises, and each way it can fail."""

import numpy as np
import pytest
import tensorflow as tf

from trpo_repro.optimization import line_search


def _search(function, acceptable, start=1.0, step=-4.0, factor=0.5, max_backtracks=10):
    @tf.function
    def search(theta):
        return line_search.backtracking_line_search(
            theta,
            tf.constant([step], tf.float64),
            function,
            acceptable,
            factor=factor,
            max_backtracks=max_backtracks,
        )

    return search(tf.constant([start], tf.float64))


def test_takes_the_first_acceptable_fraction_and_fractions_do_not_compound():
    """Steps tried are 1, 1/2, 1/4, ...: θ = −3, −1, 0; x² < 0.5 holds first at 0."""
    found = _search(lambda theta: theta[0] ** 2, lambda value: value < 0.5)
    assert bool(found.accepted)
    assert float(found.theta[0]) == 0.0
    assert int(found.backtracks) == 2
    assert float(found.evaluation) == 0.0


@pytest.mark.parametrize("max_backtracks", [0, 1, 5])
def test_failure_returns_the_start_bit_for_bit(max_backtracks):
    start = 0.1 + 0.2  # not a short binary fraction
    found = _search(
        lambda theta: theta[0], lambda value: value > 1e9, start, max_backtracks=max_backtracks
    )
    assert not bool(found.accepted)
    assert found.theta.numpy()[0].tobytes() == np.float64(start).tobytes()
    assert int(found.backtracks) == max_backtracks + 1


def test_not_a_number_is_never_acceptable():
    found = _search(
        lambda theta: tf.math.log(theta[0]), lambda value: value > -1.0, start=1.0, step=-4.0
    )
    assert bool(found.accepted)  # log of −3, −1, 0 are refused; 0.5 is the first number
    assert float(found.theta[0]) == 0.5


def test_full_step_needs_no_backtracking():
    found = _search(lambda theta: theta[0], lambda value: value < 0)
    assert float(found.theta[0]) == -3.0
    assert int(found.backtracks) == 0
