"""One suite for every environment: a batch of states is a value."""

import dataclasses
import functools
import io

import gymnasium
import numpy as np
import pytest

from trpo_repro import environments
from trpo_repro.environments import atari, mujoco, tabular
from trpo_repro.theory import mdp

STEPS = 12


GAMES = ("pong", "qbert", "breakout", "breakout, sticky")
TASKS = ("cartpole", *mujoco.TASKS, *GAMES, "tabular")


@pytest.fixture(params=TASKS)
def environment(request):
    if request.param in GAMES:
        return _atari(request.param)
    if request.param == "tabular":
        process = mdp.random_mdp(0)
        return tabular.Tabular(process.transitions, process.rewards, process.initial)
    return environments.make(request.param, threads=2)


@functools.cache  # ROMs are slow to load; an environment has no state to share
def _atari(name):
    game, _, sticky = name.partition(", ")
    return atari.Atari(game, sticky_probability=0.25 if sticky else 0.0)


def _random_actions(environment, batch_size, generator):
    """Actions of a wide normal: many lie outside the bounds. Discrete ones are uniform."""
    space = environment.action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        return generator.integers(space.n, size=batch_size)
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        return generator.integers(space.nvec, size=(batch_size, len(space.nvec)))
    return 2.0 * generator.standard_normal((batch_size, *environment.action_space.shape))


def _advance(environment, states, actions):
    """Returns all steps from one action sequence [T, B, ...]."""
    steps = []
    for action in actions:
        steps.append(environment.step(states, action))
        states = steps[-1].states
    return steps


def _assert_equal(first, second):
    for name, array in first.to_arrays().items():
        np.testing.assert_array_equal(array, second.to_arrays()[name], err_msg=name)


def _assert_same_step(first, second):
    _assert_equal(first.states, second.states)
    for name in ("rewards", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


def test_shapes_and_dtypes_follow_the_spaces(environment):
    generator = np.random.default_rng(0)
    states = environment.initial(5, generator)
    assert len(states) == 5
    observations = environment.observe(states)
    assert observations.shape == (5, *environment.observation_space.shape)
    assert observations.dtype == environment.observation_space.dtype
    step = environment.step(states, _random_actions(environment, 5, generator))
    assert step.rewards.shape == step.terminated.shape == step.truncated.shape == (5,)
    assert step.rewards.dtype == np.float64
    assert step.terminated.dtype == step.truncated.dtype == bool
    np.testing.assert_array_equal(step.states.elapsed, 1)


def test_equal_generators_give_equal_episodes(environment):
    first, second = (environment.initial(4, np.random.default_rng(7)) for _ in range(2))
    _assert_equal(first, second)
    actions = np.stack(
        [_random_actions(environment, 4, np.random.default_rng(t)) for t in range(STEPS)]
    )
    for one, other in zip(
        _advance(environment, first, actions), _advance(environment, second, actions), strict=True
    ):
        _assert_same_step(one, other)


def test_step_leaves_its_arguments_alone(environment):
    states = environment.initial(3, np.random.default_rng(0))
    before = states.repeat(1)
    actions = _random_actions(environment, 3, np.random.default_rng(1))
    given = actions.copy()
    environment.step(states, actions)
    _assert_equal(states, before)
    np.testing.assert_array_equal(actions, given)


def test_restored_state_continues_bit_for_bit(environment):
    generator = np.random.default_rng(0)
    states = environment.initial(3, generator)
    actions = np.stack([_random_actions(environment, 3, generator) for _ in range(STEPS)])
    steps = _advance(environment, states, actions)
    middle = steps[STEPS // 2 - 1].states
    file = io.BytesIO()
    np.savez(file, **middle.to_arrays())
    file.seek(0)
    restored = environment.states_type.from_arrays(dict(np.load(file)))
    assert type(restored) is type(middle)
    environment.step(environment.initial(9, generator), _random_actions(environment, 9, generator))
    for one, other in zip(
        steps[STEPS // 2 :],
        _advance(environment, restored, actions[STEPS // 2 :]),
        strict=True,
    ):
        _assert_same_step(one, other)


def test_rows_do_not_touch_each_other(environment):
    generator = np.random.default_rng(0)
    states = environment.initial(6, generator)
    actions = _random_actions(environment, 6, generator)
    whole = environment.step(states, actions)
    rows = np.array([4, 1])
    part = environment.step(states.select(rows), actions[rows])
    _assert_equal(part.states, whole.states.select(rows))
    np.testing.assert_array_equal(part.rewards, whole.rewards[rows])


def test_select_repeat_concatenate_and_replace(environment):
    states = environment.initial(3, np.random.default_rng(0))
    repeated = states.repeat(2)
    assert len(repeated) == 6
    _assert_equal(repeated.select(np.array([0, 2, 4])), states)
    _assert_equal(repeated.select(np.array([1, 3, 5])), states)
    _assert_equal(states.select(np.array([True, False, True])), states.select(np.array([0, 2])))
    joined = type(states).concatenate([states.select(np.array([2])), states])
    _assert_equal(joined.select(np.array([1, 2, 3])), states)
    other = environment.initial(1, np.random.default_rng(1))
    replaced = states.replace_at(np.array([1]), other)
    _assert_equal(replaced.select(np.array([1])), other)
    _assert_equal(replaced.select(np.array([0, 2])), states.select(np.array([0, 2])))


def test_equal_states_and_actions_have_equal_futures(environment):
    """Branches of one state differ only by their actions."""
    states = environment.initial(1, np.random.default_rng(0)).repeat(3)
    actions = np.repeat(_random_actions(environment, 1, np.random.default_rng(1)), 3, axis=0)
    step = environment.step(states, actions)
    observations = environment.observe(step.states)
    assert (observations == observations[:1]).all()
    assert len(np.unique(step.rewards)) == 1


def test_time_limit_truncates_but_does_not_terminate(environment):
    states = environment.initial(2, np.random.default_rng(0))
    limit = environment.max_episode_steps
    late = dataclasses.replace(states, elapsed=np.array([limit - 2, limit - 1]))
    late = type(states).from_arrays(late.to_arrays())
    step = environment.step(late, np.zeros((2, *environment.action_space.shape), int))
    assert limit == (27_000 if environment.frame_stack > 1 else 1000)
    np.testing.assert_array_equal(step.terminated, False)
    np.testing.assert_array_equal(step.truncated, [False, True])


def test_unknown_task_names_the_known_ones():
    with pytest.raises(ValueError, match="unknown task 'hoper'; known: cartpole, swimmer"):
        environments.make("hoper")


def test_not_a_number_is_passed_on_and_ends_no_episode_in_silence(environment):
    """A state that is none gives rewards or observations that are none, for the caller to see."""
    states = environment.initial(3, np.random.default_rng(0))
    if isinstance(environment, (tabular.Tabular, atari.Atari)):
        pytest.skip("states of a finite process are indices, an emulator's are whole numbers")
    broken = states.simulator.copy()
    broken[1, :4] = np.nan
    actions = np.zeros((3, *environment.action_space.shape))
    step = environment.step(type(states)(broken, states.elapsed), actions)
    observations = environment.observe(step.states)
    assert not (np.isfinite(step.rewards[1]) and np.isfinite(observations[1]).all())
    assert np.isfinite(step.rewards[[0, 2]]).all()
    assert np.isfinite(observations[[0, 2]]).all()
    again = environment.step(states, actions)  # scratch memory holds nothing over
    assert np.isfinite(environment.observe(again.states)).all()
