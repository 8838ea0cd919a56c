"""The vine sampler against a loop over single branches."""

import gymnasium
import numpy as np
import pytest
from helpers import linear_setting

from trpo_repro import environments
from trpo_repro.environments import cartpole
from trpo_repro.policies import distributions
from trpo_repro.randomness import Key, Purpose
from trpo_repro.sampling import single_path, vine

SIZES = {
    "states": 4,
    "trunk_length": 30,
    "rollout_states": 11,
    "rollouts_per_state": 3,
    "rollout_length": 25,
    "discount": 0.9,
}


class _Counting(cartpole.CartPole):
    """Counts the rows that are stepped."""

    rows = 0

    def step(self, states, actions):
        self.rows += len(states)
        return super().step(states, actions)


def _discrete_cartpole(count=3):
    """Actions 0, 1, 2, ...: push left, nothing, push right, push harder."""

    class Discrete(cartpole.CartPole):
        action_space = gymnasium.spaces.Discrete(count)

        def step(self, states, actions):
            return super().step(states, np.asarray(actions, float)[:, None] - 1.0)

    return Discrete()


def test_is_a_pure_function():
    setting = linear_setting(cartpole.CartPole())
    first = vine.sample_vine(*setting, Key(1), **SIZES)
    vine.sample_vine(*setting, Key(2), **SIZES)
    second = vine.sample_vine(*setting, Key(1), **SIZES)
    for name in ("state_index", "actions", "q_values", "proposal_log_probs"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)
    assert first.branch_steps == second.branch_steps
    assert (vine.sample_vine(*setting, Key(2), **SIZES).q_values != first.q_values).any()


@pytest.mark.parametrize("task", ["cartpole", "Hopper-v5"])
@pytest.mark.parametrize("common", [True, False])
def test_q_values_are_those_of_branches_rolled_out_one_by_one(task, common):
    """Each branch restored and run alone, with the random numbers it is promised.

    1e-5: the policy's float32 products may round differently in batches of one row.
    """
    environment, policy, theta = linear_setting(environments.make(task, threads=1))
    states = environment.initial(5, np.random.default_rng(0))
    states = type(states)(states.simulator, np.array([0, 0, 980, 999, 3]))  # near the time limit
    shape = (5, 3, *environment.action_space.shape)
    actions = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    length, discount = 40, 0.9
    q_values, steps, _ = vine.branch_values(
        environment,
        policy,
        theta,
        Key(7),
        states,
        actions,
        length=length,
        discount=discount,
        common_random_numbers=common,
    )
    generator = Key(7).generator(Purpose.BRANCH_ACTIONS)
    draws = [policy.family.draw_noise(generator, (5 if common else 15,)) for _ in range(length - 1)]
    counted = 0
    for n in range(5):
        for k in range(3):
            state, action, total = states.select(np.array([n])), actions[n, k][None], 0.0
            for t in range(length):
                if t > 0:
                    noise = draws[t - 1][n if common else 3 * n + k][None]
                    observation = environment.observe(state).astype(np.float32)
                    action = policy.sample(theta, observation, noise)
                step = environment.step(state, action)
                counted += 1
                total += discount**t * step.rewards[0]
                state = step.states
                if step.terminated[0]:
                    break
            assert q_values[n, k] == pytest.approx(total, rel=1e-5, abs=1e-5)
    assert steps == counted


def test_equal_first_actions_have_equal_futures_under_common_random_numbers():
    environment, policy, theta = linear_setting(cartpole.CartPole())
    states = environment.initial(6, np.random.default_rng(0))
    actions = np.zeros((6, 4, 1), np.float32)
    arguments = {"length": 30, "discount": 0.99}
    shared, *_ = vine.branch_values(
        environment, policy, theta, Key(0), states, actions, **arguments
    )
    # The policy's float32 products may round differently from row to row of a batch.
    np.testing.assert_allclose(shared, np.repeat(shared[:, :1], 4, axis=1), rtol=1e-5)
    apart, *_ = vine.branch_values(
        environment,
        policy,
        theta,
        Key(0),
        states,
        actions,
        common_random_numbers=False,
        **arguments,
    )
    assert (np.abs(apart[:, 1:] - apart[:, :1]) > 1e-3).all()


def test_no_step_is_simulated_and_not_counted_or_counted_and_not_used():
    environment, policy, theta = linear_setting(_Counting())
    sample = vine.sample_vine(environment, policy, theta, Key(0), **SIZES)
    assert environment.rows == sample.trajectories.rewards.size + sample.branch_steps
    assert sample.branch_steps < 11 * 3 * 25  # some branches of this policy fell


def test_rollout_states_are_distinct_trunk_states_uniformly_chosen():
    setting = linear_setting(cartpole.CartPole())
    sample = vine.sample_vine(*setting, Key(0), **{**SIZES, "rollout_states": 120})
    np.testing.assert_array_equal(sample.state_index, np.arange(120))  # all, in order, none twice
    counts = np.zeros(120)
    for seed in range(400):
        generator = Key(seed).generator(Purpose.ROLLOUT_SET)
        counts[np.sort(generator.choice(120, 11, replace=False))] += 1
    expected = 400 * 11 / 120
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_restored_states_are_the_trunks_own():
    """The trunk's next reward follows from the restored state and the trunk's action."""
    environment, policy, theta = linear_setting(environments.make("Hopper-v5", threads=1))
    keep = np.zeros((20, 3), bool)
    keep[[2, 7, 7, 15], [0, 1, 2, 2]] = True
    paths, _, kept = single_path.sample_trajectories(
        environment, policy, theta, Key(0), steps=20, states=3, keep=keep
    )
    step = environment.step(kept, paths.actions[keep])
    np.testing.assert_array_equal(step.rewards, paths.rewards[keep])


def test_first_actions_are_independent_draws_from_q():
    _, policy, theta = linear_setting(cartpole.CartPole())
    observations = np.zeros((2000, 4), np.float32)
    generator = np.random.default_rng(0)
    actions, log_probs = vine.propose(policy, theta, observations, 4, None, generator)
    noise = actions[..., 0] - policy.mode(theta, observations[:1])[0]
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    correlation = np.corrcoef(noise.T) - np.eye(4)
    assert np.abs(correlation).max() < 5 / np.sqrt(len(noise))
    expected = -0.5 * noise**2 - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(log_probs, expected, rtol=1e-4, atol=1e-5)


def test_uniform_proposal_covers_small_action_sets_once():
    environment, policy, theta = linear_setting(_discrete_cartpole())
    observations = np.zeros((5, 4), np.float32)
    space = environment.action_space
    draw = lambda count: vine.propose(  # noqa: E731
        policy, theta, observations, count, space, np.random.default_rng(0)
    )
    every, log_probs = draw(4)
    np.testing.assert_array_equal(every, [[0, 1, 2]] * 5)
    np.testing.assert_allclose(log_probs, -np.log(3), rtol=1e-6)
    some, _ = draw(2)
    assert some.shape == (5, 2)
    assert (some[:, 0] != some[:, 1]).all()
    assert vine.enumerates_actions(policy, 3, "uniform")
    assert not vine.enumerates_actions(policy, 2, "uniform")
    assert not vine.enumerates_actions(policy, 3, "policy")


def test_uniform_draws_take_every_set_of_actions_equally_often():
    """The 20 ordered pairs of 5 actions, 4000 draws each: within 5 standard errors."""
    _, policy, theta = linear_setting(_discrete_cartpole(5))
    space = gymnasium.spaces.Discrete(5)
    pairs, _ = vine.propose(
        policy, theta, np.zeros((80_000, 4), np.float32), 2, space, np.random.default_rng(0)
    )
    counts = np.bincount(5 * pairs[:, 0] + pairs[:, 1], minlength=25).reshape(5, 5)
    assert (np.diag(counts) == 0).all()
    drawn = counts[~np.eye(5, dtype=bool)]
    assert np.abs(drawn - 4000).max() < 5 * np.sqrt(4000)


def test_a_uniform_proposal_over_a_box_is_refused():
    """It would leave out what a Gaussian draws beyond the limits (Sec. 5.2)."""
    with pytest.raises(ValueError, match="proposal=uniform is not allowed with continuous actions"):
        vine.sample_vine(*linear_setting(cartpole.CartPole()), Key(0), **SIZES, proposal="uniform")


def test_factored_actions_are_enumerated_too():
    family = distributions.FactoredCategorical((3, 2))
    assert family.all_actions().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]]
    with pytest.raises(TypeError, match="infinitely many"):
        distributions.DiagonalGaussian(1).all_actions()


def test_what_vine_cannot_do_is_one_line():
    class Forgetful(cartpole.CartPole):
        can_restore = False

    with pytest.raises(ValueError, match="vine needs to restore states, which cartpole cannot do"):
        vine.sample_vine(*linear_setting(Forgetful()), Key(0), **SIZES)
    with pytest.raises(ValueError, match="rollout_states=121 is not allowed: the trunks have 120"):
        vine.sample_vine(
            *linear_setting(cartpole.CartPole()), Key(0), **{**SIZES, "rollout_states": 121}
        )


def test_q_values_of_transformed_rewards():
    """Of signs of cart-pole's positive rewards: the discounted number of steps, in closed form
    for branches that do not fall."""
    environment, policy, theta = linear_setting(cartpole.CartPole())
    states = environment.initial(6, np.random.default_rng(0))
    actions = np.zeros((6, 2, 1), np.float32)
    arguments = (environment, policy, theta, Key(0), states, actions)
    values, steps, _ = vine.branch_values(*arguments, length=5, discount=0.9, reward=np.sign)
    assert steps == 6 * 2 * 5
    np.testing.assert_allclose(values, (1 - 0.9**5) / (1 - 0.9), rtol=1e-12)
