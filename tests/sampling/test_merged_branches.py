"""Branches that became equal are simulated once: against all of them simulated."""

import numpy as np
import pytest
from helpers import linear_setting

from trpo_repro import environments, training
from trpo_repro.config import Config
from trpo_repro.environments import atari, tabular
from trpo_repro.policies import policy as policy_lib
from trpo_repro.randomness import Key
from trpo_repro.sampling import single_path, vine
from trpo_repro.theory import mdp


def _tabular_setting():
    process = mdp.random_mdp(0, states=4, actions=3, discount=0.8)
    environment = tabular.Tabular(process.transitions, process.rewards, process.initial)
    _, policy, theta = linear_setting(environment, output_scale=5.0)
    states = environment.states_at(np.arange(40) % 4, np.random.default_rng(0))
    actions = np.random.default_rng(1).integers(3, size=(40, 5)).astype(np.int32)
    return environment, policy, theta, Key(3), states, actions


def _atari_setting(game, decisions=60, **settings):
    """States of a game well after its start, and all its 18 actions."""
    environment = atari.Atari(game, **settings)
    policy = policy_lib.convolutional_policy(
        environment.observation_space, environment.action_space, seed=0
    )
    theta = policy.network.initial_parameters()
    keep = np.zeros((decisions, 2), bool)
    keep[30::5] = True
    *_, states = single_path.sample_trajectories(
        environment, policy, theta, Key(0), steps=decisions, states=2, keep=keep
    )
    actions = np.stack([policy.family.all_actions()] * len(states))
    return environment, policy, theta, Key(3), states, actions


def _apart(monkeypatch, environment):
    monkeypatch.setattr(environment, "fingerprints", lambda states: None)


SETTINGS = {
    "tabular": _tabular_setting,
    "pong": lambda: _atari_setting("pong"),
    "breakout": lambda: _atari_setting("breakout", sticky_probability=0.25),
}


def _but_slow(names, *slow):
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in slow)) for name in names]


@pytest.mark.parametrize("name", _but_slow(SETTINGS, "pong"))
def test_q_values_are_bit_for_bit_those_of_branches_simulated_apart(monkeypatch, name):
    arguments = SETTINGS[name]()
    limits = {"length": 15, "discount": 0.9}
    once = vine.branch_values(*arguments, **limits)
    _apart(monkeypatch, arguments[0])
    apart = vine.branch_values(*arguments, **limits)
    np.testing.assert_array_equal(once.q_values, apart.q_values)
    assert apart.merged_steps == 0
    assert once.steps + once.merged_steps == apart.steps
    assert once.steps < apart.steps / 2


@pytest.mark.parametrize("name", _but_slow(SETTINGS, "breakout"))
def test_a_state_is_done_once_its_branches_are_one(monkeypatch, name):
    """The differences of its Q-values are what they were: 1e-12 for the sums' other order."""
    arguments = SETTINGS[name]()
    limits = {"length": 15, "discount": 0.9}
    whole = vine.branch_values(*arguments, **limits)
    done = vine.branch_values(*arguments, **limits, differences_only=True)
    left_out = whole.q_values - done.q_values
    np.testing.assert_allclose(left_out, left_out[:, :1].repeat(left_out.shape[1], 1), atol=1e-12)
    assert done.steps + done.merged_steps == whole.steps + whole.merged_steps
    if name == "tabular":
        assert done.steps < whole.steps
        assert (left_out != 0).any()


def test_branches_with_random_numbers_of_their_own_never_merge():
    values = vine.branch_values(
        *_tabular_setting(), length=15, discount=0.9, common_random_numbers=False
    )
    assert values.merged_steps == 0
    assert values.steps == 40 * 5 * 15


def test_an_ended_branch_is_not_one_with_those_that_go_on():
    """Action 0 ends the episode; 1 and 2 go to the same state, whose rewards they alone earn."""

    class Ending(tabular.Tabular):
        def step(self, states, actions):
            step = super().step(states, actions)
            step.terminated[:] = np.asarray(actions) == 0
            return step

    transitions = np.ones((1, 3, 1))
    environment = Ending(transitions, np.array([[0.0, 1.0, 1.0]]), np.ones(1))
    _, policy, theta = linear_setting(environment)
    theta = theta.copy()
    theta[-3:] = [-100.0, 0.0, 0.0]  # the bias: the policy never ends it
    states = environment.states_at(np.zeros(1, int), np.random.default_rng(0))
    values = vine.branch_values(
        environment,
        policy,
        theta,
        Key(0),
        states,
        np.array([[0, 1, 2]], np.int32),
        length=4,
        discount=0.5,
        differences_only=True,
    )
    np.testing.assert_array_equal(values.q_values, [[0.0, 1.875, 1.875]])
    assert (values.steps, values.merged_steps) == (3 + 3, 3)


GAMES = ("pong", "qbert", "breakout", "seaquest", "space_invaders")


@pytest.mark.parametrize("game", _but_slow(GAMES, "pong", "breakout", "seaquest", "space_invaders"))
def test_states_with_equal_fingerprints_have_equal_futures(game):
    """Of all 18 actions' states, stepped on at random: rewards, screens and fingerprints."""
    environment, *_, states, actions = _atari_setting(game)
    many = states.repeat(actions.shape[1])
    many = environment.step(many, actions.reshape(-1, 3)).states
    generator = np.random.default_rng(0)
    pairs = 0
    for _ in range(12):
        drawn = generator.integers([3, 3, 2], size=(len(states), 3))
        step = environment.step(many, drawn.repeat(actions.shape[1], axis=0))
        many = step.states
        prints = environment.fingerprints(many)
        first = {}
        into = np.array([first.setdefault(value, i) for i, value in enumerate(prints)])
        pairs += (into != np.arange(len(into))).sum()
    assert pairs > 0
    for _ in range(12):
        drawn = generator.integers([3, 3, 2], size=(len(states), 3))
        step = environment.step(many, drawn.repeat(actions.shape[1], axis=0))
        many = step.states
        np.testing.assert_array_equal(step.rewards, step.rewards[into])
        np.testing.assert_array_equal(many.frames, many.frames[into])
        prints = environment.fingerprints(many)
        assert prints == [prints[i] for i in into]


@pytest.mark.parametrize("limit", [1, 400, 10**6])
@pytest.mark.parametrize("apart", [True, False])
def test_no_state_begins_after_the_limit_of_steps(monkeypatch, limit, apart):
    """Those that began have the Q-values that they have without a limit, and end."""
    arguments = _tabular_setting()
    if apart:
        _apart(monkeypatch, arguments[0])
    whole = vine.branch_values(*arguments, length=15, discount=0.9)
    limited = vine.branch_values(*arguments, length=15, discount=0.9, most_steps=limit)
    begun = len(limited.q_values)
    np.testing.assert_array_equal(limited.q_values, whole.q_values[:begun])
    most = limit + max(limit, 5 * 15)  # what began at one time: one state's, or the limit's
    assert min(limit, whole.steps) <= limited.steps < most
    assert (begun == 1) == (limit == 1)
    assert (begun == 40) == (limit > whole.steps)


@pytest.mark.parametrize("limit", [0, 30])
def test_a_vines_values_are_those_of_its_states(limit):
    """Branches of one step earn r(s, a), which the observations of the rollout states tell."""
    environment, policy, theta, *_ = _tabular_setting()
    sample = vine.sample_vine(
        environment,
        policy,
        theta,
        Key(5),
        states=4,
        trunk_length=30,
        rollout_states=90,
        rollouts_per_state=2,
        rollout_length=1,
        discount=0.9,
        branch_steps=limit,
    )
    assert len(sample.state_index) == len(set(sample.state_index.tolist()))
    assert (len(sample.state_index) < 90) == (limit > 0)
    states = sample.trajectories.observations.reshape(120, 4)[sample.state_index].argmax(axis=1)
    rewards = mdp.random_mdp(0, states=4, actions=3, discount=0.8).rewards
    expected = rewards[states[:, None], sample.actions]
    # A state of which both branches took one action was done before its first step.
    same = sample.actions[:, 0] == sample.actions[:, 1]
    assert same.any()
    np.testing.assert_array_equal(sample.q_values, np.where(same[:, None], 0, expected))


def test_training_reports_what_merged_and_how_many_states_tell_actions_apart():
    config = Config(
        task="pong",
        sampler="vine",
        trunks=2,
        path_length=40,
        rollout_states=6,
        rollouts_per_state=18,
        rollout_length=5,
        proposal="uniform",
        iterations=1,
    )
    trainer = training.Trainer(config, environments.make("pong"))
    after, row = trainer.iterate(trainer.initial_state())
    assert after.env_steps == 80 + 6 * 18 * 5 - row["merged_steps"]
    assert 0 <= row["informative_states"] <= 1
