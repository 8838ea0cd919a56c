"""Our environments as Gymnasium's vector environments, against Gymnasium's own."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from trpo_repro import environments
from trpo_repro.environments import vector

MODES = (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP)


class _Given(gymnasium.Env):
    """One of our environments as a single one of Gymnasium's, which begins in given states."""

    def __init__(self, starts, limit):
        self._environment = environments.cartpole.CartPole(max_episode_steps=limit)
        self.observation_space = self._environment.observation_space
        self.action_space = self._environment.action_space
        self._starts = starts

    def reset(self, *, seed=None, options=None):
        self._states = self._starts.pop(0)
        return self._environment.observe(self._states)[0], {}

    def step(self, action):
        step = self._environment.step(self._states, action[None])
        self._states = step.states
        observation = self._environment.observe(step.states)[0]
        return observation, step.rewards[0], step.terminated[0], step.truncated[0], {}


@pytest.mark.parametrize("mode", MODES)
def test_is_gymnasiums_vector_environment_of_the_same_ones(mode):
    """One environment, whose episodes begin in the same states: observations, rewards, ends and
    final observations of 100 steps are equal, whether the pole falls or time is up."""
    limit = 12
    ours = vector.RestorableVectorEnv(
        environments.cartpole.CartPole(max_episode_steps=limit), 1, autoreset_mode=mode
    )
    generator = np.random.default_rng(5)
    starts = [ours.environment.initial(1, generator) for _ in range(60)]
    theirs = gymnasium.vector.SyncVectorEnv([lambda: _Given(starts, limit)], autoreset_mode=mode)
    first, _ = ours.reset(seed=5)
    np.testing.assert_array_equal(first, theirs.reset()[0])
    actions = np.random.default_rng(6).uniform(-1, 1, (100, 1, 1)).astype(np.float32)
    actions[30:60] = 1.0  # falls
    ends = []
    for action in actions:
        *mine, information = ours.step(action)
        *other, known = theirs.step(action)
        for one, two in zip(mine, other, strict=True):
            np.testing.assert_array_equal(one, two)
        assert information.keys() == known.keys() - {"final_info", "_final_info"}
        if "final_obs" in information:
            np.testing.assert_array_equal(information["final_obs"][0], known["final_obs"][0])
            np.testing.assert_array_equal(information["_final_obs"], known["_final_obs"])
        ends.append((bool(mine[2][0]), bool(mine[3][0])))
    assert {(True, False), (False, True)} <= set(ends)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("task", ["cartpole", "Hopper-v5", "pong"])
def test_restored_it_continues_bit_for_bit(task, mode):
    environment = vector.RestorableVectorEnv(environments.make(task), 3, autoreset_mode=mode)
    environment.reset(seed=1)
    environment.action_space.seed(1)
    for _ in range(15):
        environment.step(environment.action_space.sample())
    state = environment.state
    actions = [environment.action_space.sample() for _ in range(25)]
    first = [environment.step(action)[:4] for action in actions]
    before = environment.restore(state)
    assert before.shape == environment.observation_space.shape
    for action, expected in zip(actions, first, strict=True):
        for one, two in zip(environment.step(action)[:4], expected, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("task", ["cartpole", "Swimmer-v5", "breakout", "Acrobot-v1"])
def test_keeps_to_its_spaces(task):
    environment = vector.RestorableVectorEnv(
        environments.make(task), 2, autoreset_mode=AutoresetMode.SAME_STEP
    )
    wrapped = gymnasium.wrappers.vector.RecordEpisodeStatistics(environment)
    observations, _ = wrapped.reset(seed=3)
    again, _ = environment.reset(seed=3)
    np.testing.assert_array_equal(observations, again)
    for _ in range(30):
        assert environment.observation_space.contains(observations)
        observations, rewards, terminated, truncated, _ = wrapped.step(
            environment.action_space.sample()
        )
        assert rewards.shape == terminated.shape == truncated.shape == (2,)
        assert rewards.dtype == np.float64
    assert environment.render() is None


def test_misuse_is_an_error():
    environment = vector.RestorableVectorEnv(
        environments.cartpole.CartPole(max_episode_steps=1),
        2,
        autoreset_mode=AutoresetMode.DISABLED,
    )
    actions = np.zeros((2, 1), np.float32)
    with pytest.raises(RuntimeError, match="call reset before step"):
        environment.step(actions)
    environment.reset(seed=0)
    small = vector.RestorableVectorEnv(environment.environment, 1)
    small.reset(seed=0)
    with pytest.raises(ValueError, match="a state of 1 environments: must be 2"):
        environment.restore(small.state)
    environment.step(actions)
    with pytest.raises(RuntimeError, match=r"environments \[0, 1\] ended: reset them"):
        environment.step(actions)
    environment.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(RuntimeError, match=r"environments \[1\] ended"):
        environment.step(actions)
    with pytest.raises(ValueError, match="1 actions: must be 2"):
        environment.step(actions[:1])
    with pytest.raises(ValueError, match=r"reset_mask of shape \(3,\): must be \(2,\)"):
        environment.reset(options={"reset_mask": np.ones(3, bool)})
    with pytest.raises(ValueError, match=r"seed=\[1, None\] is not allowed"):
        environment.reset(seed=[1, None])
    other = vector.RestorableVectorEnv(environments.make("Hopper-v5"), 2)
    other.reset(seed=0)
    with pytest.raises(ValueError, match="a state of Hopper-v5: must be of cartpole"):
        environment.restore(other.state)
    with pytest.raises(ValueError, match="must be rgb_array or None"):
        vector.RestorableVectorEnv(environment.environment, 1, render_mode="human")
    live = vector.RestorableVectorEnv(environments.make("CartPole-v1"), 1)
    live.reset(seed=0)
    with pytest.raises(ValueError, match="CartPole-v1 cannot restore states"):
        live.restore(live.state)


def test_actions_of_its_space_are_those_of_an_environment_that_counts_from_3():
    """Image-v0 asserts that its actions are 3 or 4, and rewards one of them."""
    environment = vector.RestorableVectorEnv(environments.make("toys:Image-v0"), 4)
    environment.reset(seed=0)
    assert environment.single_action_space == gymnasium.spaces.Discrete(2)
    rewards = [environment.step(np.full(4, action))[1] for action in (0, 1) * 20]
    assert 0.3 < np.mean(rewards) < 0.7


def test_a_peers_loop_learns_on_it():
    """Random search of linear policies, as a peer writes it: the best of 60 balances the pole for
    500 steps, where the first falls at about 25."""
    environment = vector.RestorableVectorEnv(environments.make("cartpole"), 60)
    observations, _ = environment.reset(seed=0)
    weights = np.random.default_rng(0).standard_normal((60, 4)) * [1, 1, 10, 3]
    alive, lengths = np.ones(60, bool), np.zeros(60, int)
    for _ in range(500):
        actions = np.einsum("bo,bo->b", weights, observations)[:, None].astype(np.float32)
        observations, _, terminated, truncated, _ = environment.step(actions)
        lengths += alive
        alive &= ~(terminated | truncated)
    assert lengths.max() == 500
    assert np.median(lengths) < 100


def test_a_planner_looks_ahead_and_returns():
    environment = vector.RestorableVectorEnv(environments.make("Hopper-v5"), 4)
    environment.reset(seed=0)
    root = environment.state
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 3)).astype(np.float32)
    first = environment.step(actions)[1]
    environment.restore(root)
    np.testing.assert_array_equal(environment.step(actions)[1], first)
