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
        "epochs": 100,
        "minibatch_size": 64,
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


@pytest.mark.parametrize("discount", [0.9, 0.99, 0.9999])
def test_one_learning_rate_serves_every_horizon(discount):
    """Returns of 300 steps whose reward is 1 plus a sine: their mean is 10, 95 and 296 by γ. Five
    fits of 20 passes at Adam's 1e-3 explain 90% of a fresh sample."""
    generator = np.random.default_rng(0)
    baseline = _network(epochs=20, learning_rate=1e-3, hidden_sizes=(64, 64))
    state = baseline.initial_state()
    horizon = np.arange(300)

    def sample():
        phase = generator.uniform(-np.pi, np.pi, 2000)
        rewards = 1 + np.sin(phase[:, None] + 0.02 * horizon)
        targets = rewards @ discount**horizon
        observations = np.stack([np.sin(phase), np.cos(phase), phase], axis=1).astype("f4")
        return observations, np.zeros(2000, np.int64), targets

    for i in range(5):
        state = baseline.fit(state, *sample(), np.random.default_rng(i))
    observations, elapsed, targets = sample()
    values = baseline.predict(state, observations, elapsed)
    assert np.var(targets - values) < 0.1 * np.var(targets)


def test_target_statistics_are_those_of_the_weighted_targets():
    """The second fit's mean and deviation, from a list of all targets with their weights."""
    observations, elapsed = _data()
    baseline = _network(epochs=1)
    first, second = np.linspace(0, 10, 600), np.linspace(100, 500, 600)
    state = baseline.initial_state()
    for i, targets in enumerate((first, second)):
        state = baseline.fit(state, observations, elapsed, targets, np.random.default_rng(i))
    weights = np.repeat([baselines.TARGET_MEMORY, 1.0], 600)
    targets = np.concatenate([first, second])
    mean = np.average(targets, weights=weights)
    deviation = np.sqrt(np.average((targets - mean) ** 2, weights=weights))
    np.testing.assert_allclose(baselines._moments(state["target_sums"]), (mean, deviation))


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
