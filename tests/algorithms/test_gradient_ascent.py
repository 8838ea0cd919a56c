"""Penalty and clipping: their optima and limits by other routes."""

import dataclasses

import gymnasium
import keras
import numpy as np
import pytest
from scipy import optimize

from trpo_repro import training
from trpo_repro.algorithms import gradient_ascent, policy_update
from trpo_repro.algorithms.gradient_ascent import METHODS
from trpo_repro.config import Config
from trpo_repro.environments import cartpole
from trpo_repro.estimation import surrogates
from trpo_repro.optimization import trust_region
from trpo_repro.optimization.trust_region import Outcome
from trpo_repro.policies import policy as policy_lib


def _policy(space, inputs=2, dtype="float64"):
    return policy_lib.multilayer_perceptron_policy(
        gymnasium.spaces.Box(-np.inf, np.inf, (inputs,)),
        space,
        hidden_sizes=(),
        activation="tanh",
        seed=0,
        output_scale=1.0,
        dtype=dtype,
    )


def _rows(policy, theta, count=200):
    generator = np.random.default_rng(0)
    observations = generator.standard_normal((count, *policy.observation_shape))
    noise = policy.family.draw_noise(generator, (count,))
    return {
        "observations": observations.astype(policy.observation_dtype.name),
        "actions": policy.sample(theta, observations, noise),
        "advantages": generator.standard_normal(count).astype(np.float32),
    }


def test_a_penalized_bandit_is_at_its_optimum():
    """One state, three actions: p = λ q / (μ − A) with μ such that Σ p = 1. 1e-6 is where Adam's
    steps, of 1e-3 at first, end in 5000."""
    policy = _policy(gymnasium.spaces.Discrete(3), inputs=1)
    theta = policy.network.initial_parameters()
    state = np.ones((1, 1))
    old = np.exp([policy.log_prob(theta, state, np.array([a], np.int32))[0] for a in range(3)])
    counts = np.array([5, 3, 2])  # a batch of ten in which an action's share is not π_old
    gains = np.array([1.0, -0.5, 0.3])
    rows = {
        "observations": np.ones((10, 1)),
        "actions": np.repeat(np.arange(3), counts).astype(np.int32),
        "advantages": np.repeat(gains, counts).astype(np.float32),
    }
    method = dataclasses.replace(
        METHODS["fixed_penalty"], multiplier=0.7, ascent_steps=5000, ascent_rate=1e-3
    )
    update = gradient_ascent.GradientAscent(policy, method)
    after, report, memory = update(theta, rows)
    slope = counts / 10 * gains / old  # of L in p, action by action
    mu = optimize.brentq(
        lambda x: (0.7 * old / (x - slope)).sum() - 1, slope.max() + 1e-9, slope.max() + 10
    )
    expected = 0.7 * old / (mu - slope)
    found = np.exp([policy.log_prob(after, state, np.array([a], np.int32))[0] for a in range(3)])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert report["mean_kl"] == pytest.approx((old * np.log(old / found)).sum(), rel=1e-6)
    assert report["surrogate_after"] == pytest.approx((found * slope).sum(), rel=1e-6)
    assert report["outcome"] is Outcome.ACCEPTED
    assert memory == {}


def test_at_the_dual_optimum_the_penalty_takes_the_constrained_step():
    """For a small δ, where L is linear and KL quadratic: with λ = sqrt(gᵀA⁻¹g / 2δ) both steps are
    A⁻¹g / λ, here to 1%, of which sqrt(δ) = 0.1% are the models' and the rest the optimizer's."""
    policy = _policy(gymnasium.spaces.Box(-1, 1, (1,)))
    theta = policy.network.initial_parameters()
    rows = _rows(policy, theta)
    delta = 1e-6
    method = trust_region.Method(
        kl_limit=delta, fisher_fraction=1.0, cg_iterations=20, step=trust_region.StepRule.KL_LIMIT
    )
    constrained, report, _ = policy_update.PolicyUpdate(
        policy, surrogates.ImportanceSampled(), method
    )(theta, rows, np.random.default_rng(0))
    step = constrained - theta
    # gᵀs = β gᵀA⁻¹g = 2δλ for s = A⁻¹g / λ; what L gained is gᵀs.
    gain = report["surrogate_after"] - report["surrogate_before"]
    multiplier = gain / (2 * delta)
    penalized, _, _ = gradient_ascent.GradientAscent(
        policy,
        dataclasses.replace(METHODS["fixed_penalty"], multiplier=multiplier, ascent_steps=3000),
        optimizer=keras.optimizers.SGD(0.3 / multiplier),
    )(theta, rows)
    np.testing.assert_allclose(penalized - theta, step, atol=0.01 * np.abs(step).max())


@pytest.mark.parametrize("space", [gymnasium.spaces.Box(-1, 1, (2,)), gymnasium.spaces.Discrete(4)])
def test_one_unclipped_step_is_the_vanilla_gradients(space):
    policy = _policy(space)
    theta = policy.network.initial_parameters()
    rows = _rows(policy, theta)
    method = dataclasses.replace(METHODS["ppo"], clip_range=1e9, ascent_steps=1)
    ppo, _, _ = gradient_ascent.GradientAscent(
        policy, method, optimizer=keras.optimizers.SGD(0.25)
    )(theta, rows)
    vanilla = dataclasses.replace(trust_region.METHODS["vanilla_policy_gradient"], step_size=0.25)
    expected, _, _ = policy_update.PolicyUpdate(policy, surrogates.ImportanceSampled(), vanilla)(
        theta, rows, np.random.default_rng(0)
    )
    np.testing.assert_allclose(ppo, expected, atol=1e-12)  # float64


def test_ratios_end_where_they_are_clipped():
    """Two actions of one state, one good and one bad: the steps end as soon as both ratios are
    clipped, within the step of 0.02 that takes the second one there."""
    policy = _policy(gymnasium.spaces.Discrete(2), inputs=1)
    theta = policy.network.initial_parameters()
    rows = {
        "observations": np.ones((2, 1)),
        "actions": np.array([0, 1], np.int32),
        "advantages": np.array([1.0, -1.0], np.float32),
    }
    method = dataclasses.replace(METHODS["ppo"], ascent_steps=500)
    after, report, _ = gradient_ascent.GradientAscent(
        policy, method, optimizer=keras.optimizers.SGD(0.05)
    )(theta, rows)
    log_probs = [policy.log_prob(x, rows["observations"], rows["actions"]) for x in (theta, after)]
    ratio = np.exp(log_probs[1] - log_probs[0])
    assert 0 <= min(ratio[0] - 1.2, 0.8 - ratio[1]) < 0.02
    assert report["surrogate_after"] == pytest.approx(
        (min(ratio[0], 1.2) - max(ratio[1], 0.8)) / 2, abs=1e-9
    )


def test_the_multiplier_follows_the_violation():
    """Far above the target λ grows by exp(κ), where the violation is cut; far below it falls by as
    much; and between by what the violation is."""
    policy = _policy(gymnasium.spaces.Box(-1, 1, (1,)))
    theta = policy.network.initial_parameters()
    rows = _rows(policy, theta)
    for target, factor in ((1e-9, np.exp(0.5)), (1e3, np.exp(-0.5))):
        method = dataclasses.replace(METHODS["adaptive_penalty"], kl_target=target)
        update = gradient_ascent.GradientAscent(policy, method)
        _, report, memory = update(theta, rows, memory={"multiplier": np.array(3.0)})
        assert report["multiplier"] == 3.0
        assert memory["multiplier"] == pytest.approx(3 * factor, rel=1e-6)
    near = float(report["mean_kl"]) / 1.3
    method = dataclasses.replace(METHODS["adaptive_penalty"], kl_target=near)
    between = gradient_ascent.GradientAscent(policy, method)
    _, _, memory = between(theta, rows, memory={"multiplier": np.array(3.0)})
    assert memory["multiplier"] == pytest.approx(3 * np.exp(0.5 * 0.3), rel=1e-6)
    again = update(theta, rows, memory=update.initial_memory())
    assert again[1]["multiplier"] == 1.0
    np.testing.assert_array_equal(again[0], update(theta, rows)[0])  # Adam begins anew


@pytest.mark.parametrize("name", METHODS)
def test_numbers_that_are_not_finite_refuse_the_update(name):
    policy = _policy(gymnasium.spaces.Box(-1, 1, (1,)))
    theta = policy.network.initial_parameters()
    rows = _rows(policy, theta)
    rows["advantages"][3] = np.nan
    update = gradient_ascent.GradientAscent(policy, METHODS[name])
    after, report, memory = update(theta, rows)
    assert report["outcome"] is Outcome.NOT_FINITE
    np.testing.assert_array_equal(after, theta)
    assert memory == update.initial_memory()


@pytest.mark.parametrize(
    "name", [pytest.param("fixed_penalty", marks=pytest.mark.slow), "adaptive_penalty", "ppo"]
)
def test_the_pole_is_balanced_longer(name):
    """Ten iterations of 5000 steps; over seeds 0 to 4 the return grew at least 1.8-fold. Episodes
    end with their paths, at 200 steps: shorter paths are fewer calls of the policy."""
    config = Config(
        task="cartpole",
        algorithm=name,
        iterations=10,
        steps_per_iteration=5000,
        path_length=200,
        hidden_sizes=(),
    )
    trainer = training.Trainer(config, cartpole.CartPole(max_episode_steps=200))
    rows = [row for _, row in training.iterations(trainer, trainer.initial_state())]
    assert rows[-1]["return_mean"] > 1.5 * rows[0]["return_mean"]
    assert all(row["outcome"] == "accepted" for row in rows)
