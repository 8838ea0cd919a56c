"""From samples to batches: what is bootstrapped, weighted and centered."""

import dataclasses

import numpy as np
from helpers import linear_setting

from trpo_repro.environments import cartpole
from trpo_repro.estimation import estimators
from trpo_repro.randomness import Key
from trpo_repro.sampling import single_path, vine


def test_next_values_bootstrap_cuts_and_not_terminations():
    class _Constant:
        def predict(self, state, observations, elapsed):
            return observations[:, 0].astype(np.float64) + elapsed

    shape = (3, 2)
    terminated = np.array([[False, True], [False, False], [False, False]])
    truncated = np.array([[False, False], [True, False], [False, False]])
    elapsed = np.array([[5, 9], [6, 0], [0, 1]])
    cut = np.array([[100.0], [200.0], [300.0]], np.float32)  # (1, 0), (2, 0), (2, 1)
    zeros = np.zeros((*shape, 1), np.float32)
    paths = single_path.Trajectories(
        zeros, zeros, np.zeros(shape), terminated, truncated, elapsed, cut
    )
    values = np.arange(6.0).reshape(shape)
    next_values = estimators.bootstrapped_values(_Constant(), {}, paths, values, np.asarray)
    np.testing.assert_array_equal(next_values, [[2.0, 0.0], [107.0, 5.0], [201.0, 302.0]])


def test_states_are_weighted_by_their_time_in_the_episode():
    """An untrained cart-pole falls within 200 steps: times start again inside the paths."""
    paths, *_ = single_path.sample_trajectories(
        *linear_setting(cartpole.CartPole()), Key(0), steps=200, states=3
    )
    states = estimators.state_arrays(paths, lambda x: 2 * x, 0.9)
    np.testing.assert_array_equal(states["observations"].reshape(200, 3, 4), 2 * paths.observations)
    time = np.zeros(3, int)
    for t in range(200):
        np.testing.assert_allclose(states["weights"].reshape(200, 3)[t], 0.9**time, rtol=1e-6)
        time = np.where(paths.terminated[t] | paths.truncated[t], 0, time + 1)


def test_q_values_of_a_state_have_mean_zero_and_its_own_observation():
    sample = vine.sample_vine(
        *linear_setting(cartpole.CartPole()),
        Key(0),
        states=2,
        trunk_length=50,
        rollout_states=9,
        rollouts_per_state=3,
        rollout_length=5,
        discount=0.9,
    )
    states = estimators.state_arrays(sample.trajectories, np.asarray)
    rows = estimators.vine_batch(sample, states)
    np.testing.assert_allclose(rows["q_values"].sum(axis=1), 0.0, atol=1e-12)
    differences = np.diff(rows["q_values"], axis=1)
    np.testing.assert_allclose(differences, np.diff(sample.q_values, axis=1), atol=1e-12)
    t, b = np.divmod(sample.state_index, 2)
    np.testing.assert_array_equal(rows["observations"], sample.trajectories.observations[t, b])
    # The mean of equal numbers is rounded; what it leaves is not a direction.
    equal = dataclasses.replace(sample, q_values=np.full((9, 18), 0.99**7))
    np.testing.assert_array_equal(estimators.vine_batch(equal, states)["q_values"], 0.0)
