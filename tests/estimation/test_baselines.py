"""Value functions on targets that they can represent exactly or nearly."""

import numpy as np
import pytest

from trpo_repro.estimation import baselines


def _data(rows=600):
    generator = np.random.default_rng(0)
    observations = generator.standard_normal((rows, 3)).astype(np.float32)
    elapsed = generator.integers(0, 1000, rows)
    return observations, elapsed


def _network(**changes):
    arguments = {
        "hidden_sizes": (32,),
        "activation": "tanh",
        "discount": 0.99,
        "epochs": 100,
        "minibatch_rows": 64,
        "learning_rate": 3e-3,
        "seed": 0,
        **changes,
    }
    return baselines.NetworkBaseline(3, **arguments)


def test_linear_baseline_recovers_a_target_in_its_span():
    """The ridge of 1e-5 beside 600 rows of unit features: 1e-4 relative."""
    observations, elapsed = _data()
    t = elapsed / 100
    targets = 3 * observations[:, 0] - observations[:, 1] ** 2 + 0.1 * t**2 + 7
    baseline = baselines.LinearBaseline(3)
    state = baseline.initial_state()
    np.testing.assert_array_equal(baseline.predict(state, observations, elapsed), 0.0)
    fitted = baseline.fit(state, observations, elapsed, targets, None)
    values = baseline.predict(fitted, observations, elapsed)
    np.testing.assert_allclose(values, targets, atol=1e-4 * np.abs(targets).max())


def test_network_baseline_explains_a_smooth_target():
    observations, elapsed = _data()
    targets = 100 * np.sin(observations[:, 0]) + 50 * observations[:, 1]
    baseline = _network()
    generator = np.random.default_rng(0)
    state = baseline.initial_state()
    fitted = baseline.fit(state, observations, elapsed, targets, generator)
    error = targets - baseline.predict(fitted, observations, elapsed)
    assert np.var(error) < 0.02 * np.var(targets)


def test_fit_is_a_function_of_state_and_generator():
    """A second fit from the same state is bit-identical; the first changes no state."""
    observations, elapsed = _data()
    targets = observations[:, 0] * 10.0
    baseline = _network(epochs=2)
    state = baseline.initial_state()
    kept = {name: array.copy() for name, array in state.items()}
    once = baseline.fit(state, observations, elapsed, targets, np.random.default_rng(1))
    baseline.fit(once, observations, elapsed, targets, np.random.default_rng(2))
    again = _network(epochs=2).fit(state, observations, elapsed, targets, np.random.default_rng(1))
    for name, array in kept.items():
        np.testing.assert_array_equal(state[name], array)
        np.testing.assert_array_equal(once[name], again[name])
    assert (once["weights"] != state["weights"]).any()


def test_fewer_rows_than_a_minibatch_still_fit():
    observations, elapsed = _data(10)
    baseline = _network(epochs=1)
    state = baseline.initial_state()
    fitted = baseline.fit(state, observations, elapsed, np.ones(10), np.random.default_rng(0))
    assert (fitted["weights"] != state["weights"]).any()


@pytest.mark.parametrize("rows", [1, 5000])
def test_predictions_have_one_value_a_row(rows):
    observations, elapsed = _data(rows)
    for baseline in (_network(), baselines.LinearBaseline(3)):
        values = baseline.predict(baseline.initial_state(), observations, elapsed)
        assert values.shape == (rows,)
        assert values.dtype == np.float64
