"""The single-path sampler against a loop over one environment at a time."""

import numpy as np
import pytest
from helpers import linear_setting

from trpo_repro import environments
from trpo_repro.environments import cartpole
from trpo_repro.policies import policy as policy_lib
from trpo_repro.randomness import Key, Purpose
from trpo_repro.sampling import single_path


def _sample(environment, policy, theta, **changes):
    arguments = {"steps": 60, "states": 5, "key": Key(3), **changes}
    return single_path.sample_trajectories(environment, policy, theta, **arguments)


def _arrays(trajectories):
    return {name: np.asarray(array) for name, array in vars(trajectories).items()}


def test_is_a_pure_function():
    setting = linear_setting(cartpole.CartPole(15))
    first, first_states, _ = _sample(*setting)
    _sample(*setting, key=Key(4))
    second, second_states, _ = _sample(*setting)
    for name, array in _arrays(first).items():
        np.testing.assert_array_equal(array, _arrays(second)[name], err_msg=name)
    np.testing.assert_array_equal(first_states.simulator, second_states.simulator)
    assert (_sample(*setting, key=Key(4))[0].actions != first.actions).any()


def test_every_transition_is_the_environments():
    """Replayed one row and one step at a time; cut observations are those before the reset."""
    environment, policy, theta = linear_setting(cartpole.CartPole(15))
    paths, final, _ = _sample(environment, policy, theta)
    assert paths.terminated.any()
    assert paths.truncated.any()
    cut_observations = iter(paths.cut_observations)
    cut_at = np.zeros_like(paths.cut)
    noise = Key(3).generator(Purpose.INITIAL_STATES)
    states = environment.initial(5, noise)
    for t in range(len(paths.rewards)):
        rows = [states.select(np.array([b])) for b in range(5)]
        for b, row in enumerate(rows):
            np.testing.assert_array_equal(
                paths.observations[t, b], environment.observe(row)[0].astype(np.float32)
            )
            assert paths.elapsed[t, b] == row.elapsed[0]
            step = environment.step(row, paths.actions[t, b][None])
            assert step.rewards[0] == paths.rewards[t, b]
            assert step.terminated[0] == paths.terminated[t, b]
            assert step.truncated[0] == paths.truncated[t, b]
            last = t == len(paths.rewards) - 1
            if step.truncated[0] or (last and not step.terminated[0]):
                expected = environment.observe(step.states)[0].astype(np.float32)
                np.testing.assert_array_equal(next(cut_observations), expected)
                cut_at[t, b] = True
            rows[b] = step.states
        states = type(states).concatenate(rows)
        ended = np.flatnonzero(paths.terminated[t] | paths.truncated[t])
        if len(ended):
            states = states.replace_at(ended, environment.initial(len(ended), noise))
    assert next(cut_observations, None) is None
    np.testing.assert_array_equal(paths.cut, cut_at)
    np.testing.assert_array_equal(final.simulator, states.simulator)


def test_going_on_from_states_continues_them():
    environment, policy, theta = linear_setting(cartpole.CartPole(15))
    _, states, _ = _sample(environment, policy, theta, steps=7)
    paths, *_ = _sample(environment, policy, theta, states=states, key=Key(9))
    np.testing.assert_array_equal(
        paths.observations[0], environment.observe(states).astype(np.float32)
    )
    np.testing.assert_array_equal(paths.elapsed[0], states.elapsed)


def test_actions_have_the_policys_distribution():
    """Mean and deviation of the noise (action − mean) / σ over 20k draws, 5 standard errors."""
    environment, policy, theta = linear_setting(cartpole.CartPole(15))
    paths, *_ = _sample(environment, policy, theta, steps=40, states=500)
    mean = policy.mode(theta, paths.observations.reshape(-1, 4)).reshape(40, 500)
    noise = paths.actions[..., 0] - mean  # the initial deviation is 1
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert abs(noise.var() - 1) < 5 * np.sqrt(2 / noise.size)
    lag = np.mean(noise[1:] * noise[:-1])
    assert abs(lag) < 5 / np.sqrt(noise.size)


def test_policy_sees_normalized_observations():
    environment, policy, theta = linear_setting(cartpole.CartPole(15))
    theta = theta + 0.5
    plain, *_ = _sample(environment, policy, theta, steps=1)
    shifted, *_ = _sample(environment, policy, theta, steps=1, normalize=lambda x: x + 1.0)
    np.testing.assert_array_equal(plain.observations, shifted.observations)
    weights = policy.mode(theta, np.ones((1, 4), np.float32)) - policy.mode(
        theta, np.zeros((1, 4), np.float32)
    )
    np.testing.assert_allclose(
        shifted.actions - plain.actions, np.broadcast_to(weights, (1, 5, 1)), rtol=1e-5
    )


@pytest.mark.parametrize("task", ["Hopper-v5", "InvertedDoublePendulum-v5"])
def test_mujoco_paths_sampled_in_two_parts_are_the_same_paths(task):
    """Sampling 4 steps is sampling 2 and going on, with noise too small for float32 to notice."""
    environment = environments.make(task, threads=2)
    policy = policy_lib.multilayer_perceptron_policy(
        environment.observation_space,
        environment.action_space,
        hidden_sizes=(8,),
        activation="tanh",
        seed=0,
        initial_log_std=-20.0,
    )
    theta = policy.network.initial_parameters()

    def sample(key, steps, states):
        return single_path.sample_trajectories(
            environment, policy, theta, key, steps=steps, states=states
        )

    whole, *_ = sample(Key(0), 4, 6)
    first, middle, _ = sample(Key(0), 2, 6)
    second, *_ = sample(Key(1), 2, middle)
    assert not whole.ends[:-1].any()
    halves = np.concatenate([first.observations, second.observations])
    np.testing.assert_allclose(halves, whole.observations, atol=1e-5)


def test_not_finite_numbers_are_noticed():
    paths, *_ = _sample(*linear_setting(cartpole.CartPole(15)))
    assert paths.finite
    paths.rewards[3, 2] = np.nan
    assert not paths.finite
