"""Samplers and estimators on finite processes, against exact values.

Every Monte Carlo mean must lie within 5 standard errors of the exact number, and its root mean
square error must fall at the Monte Carlo rate.
"""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from helpers import linear_setting

from trpo_repro import training
from trpo_repro.config import Config
from trpo_repro.environments import tabular
from trpo_repro.estimation import returns, surrogates
from trpo_repro.policies import distributions
from trpo_repro.randomness import Key
from trpo_repro.sampling import single_path, vine
from trpo_repro.theory import bounds, mdp

PROCESS = mdp.random_mdp(0, states=4, actions=3, discount=0.8)
HORIZON = 60  # γ^60 = 1.5e-6: what is cut off is far below every standard error here


@pytest.fixture(scope="module")
def setting():
    """The process as an environment, a linear softmax policy and its exact probabilities."""
    environment = tabular.Tabular(
        PROCESS.transitions, PROCESS.rewards, PROCESS.initial, max_episode_steps=HORIZON
    )
    _, policy, theta = linear_setting(environment, output_scale=5.0)
    logits = policy.network(theta, np.eye(4, dtype=np.float32)).numpy().astype(np.float64)
    return environment, policy, theta, logits


def _branch_q(setting, repeats, seed, **arguments):
    """Returns [repeats, S, A] independent Q̂ of every state and action."""
    environment, policy, theta, _ = setting
    index = np.repeat(np.arange(4), repeats)
    states = environment.states_at(index, np.random.default_rng(seed))
    actions = np.tile(np.arange(3, dtype=np.int32), (len(index), 1))
    q_values, *_ = vine.branch_values(
        environment,
        policy,
        theta,
        Key(seed),
        states,
        actions,
        length=HORIZON,
        discount=PROCESS.discount,
        **arguments,
    )
    return q_values.reshape(4, repeats, 3).transpose(1, 0, 2)


@pytest.mark.parametrize("common", [True, False])
def test_vine_q_values_are_unbiased(setting, common):
    exact = mdp.action_values(PROCESS, mdp.softmax(setting[3]))
    drawn = _branch_q(setting, 2000, 0, common_random_numbers=common)
    error = drawn.std(axis=0) / np.sqrt(len(drawn))
    assert (np.abs(drawn.mean(axis=0) - exact) < 5 * error).all()


def test_vine_q_values_converge_at_the_monte_carlo_rate(setting):
    """16 times the samples, a quarter of the error: within 35% over 40 repetitions of 12 means."""
    exact = mdp.action_values(PROCESS, mdp.softmax(setting[3]))
    drawn = _branch_q(setting, 40 * 160, 1)
    errors = []
    for size in (10, 160):
        means = drawn[: 40 * size].reshape(40, size, 4, 3).mean(axis=1)
        errors.append(np.sqrt(np.mean((means - exact) ** 2)))
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.35)


def _paths(setting, count, seed):
    environment, policy, theta, _ = setting
    paths, *_ = single_path.sample_trajectories(
        environment, policy, theta, Key(seed), steps=HORIZON, states=count
    )
    sums = returns.discounted_sums(paths.rewards, paths.ends, PROCESS.discount)
    return paths.observations.argmax(axis=2), paths.actions, sums


def test_single_path_q_values_are_unbiased(setting):
    """Of the first 20 steps, where the cut at 60 leaves γ^40 = 1e-4: one more 1e-3 of slack."""
    exact = mdp.action_values(PROCESS, mdp.softmax(setting[3]))
    states, actions, sums = (array[:20] for array in _paths(setting, 3000, 0))
    for s in range(4):
        for a in range(3):
            drawn = sums[(states == s) & (actions == a)]
            # Steps of one path are correlated for about 1/(1 − γ) = 5 steps.
            error = drawn.std() / np.sqrt(len(drawn) / 5)
            assert abs(drawn.mean() - exact[s, a]) < 5 * error + 1e-3


def _exact_gradient(logits, weights, length):
    """Returns Σ_t w_t P(s_t = s) π(a|s) (Q(s, a) − V(s)), [S, A], with rewards summed over the rest
    of the path, or over `length` steps of a branch."""
    policy = mdp.softmax(logits)
    q_values = [np.zeros_like(PROCESS.rewards)]  # of 0, 1, ... steps to go
    for _ in range(HORIZON):
        values = (policy * q_values[-1]).sum(axis=1)
        q_values.append(PROCESS.rewards + PROCESS.discount * PROCESS.transitions @ values)
    visits = bounds.state_distributions(PROCESS, policy, HORIZON)
    total = np.zeros_like(logits)
    for t, weight in enumerate(weights):
        q = q_values[length or HORIZON - t]
        advantages = q - (policy * q).sum(axis=1, keepdims=True)
        total += weight * visits[t][:, None] * policy * advantages
    return total


@pytest.mark.parametrize("weighting", ["equal", "discounted"])
@pytest.mark.parametrize("sampler", ["single_path", "vine"])
def test_what_training_computes_is_the_exact_gradient(setting, weighting, sampler):
    """The vanilla policy gradient's step of whole iterations, as `Trainer` makes them, in the
    logits: its mean over 40 of them is the exact gradient within 5 standard errors, up to the
    positive factor by which advantages are standardized.

    With discounted weights the exact one is ∇η (eqs. 3-4, γ^60 aside); with equal ones it is
    another vector, and each fails the other's test, by 14 standard errors or more.
    """
    environment, _, _, _ = setting
    config = Config(
        task="cartpole",
        algorithm="vanilla_policy_gradient",
        sampler=sampler,
        steps_per_iteration=100 * HORIZON,
        path_length=HORIZON,
        discount=PROCESS.discount,
        state_weighting=weighting,
        hidden_sizes=(),
        step_size=1.0,
        trunks=50,
        rollout_states=2000,
        rollouts_per_state=3,
        rollout_length=15,
        proposal="uniform",
    )
    trainer = training.Trainer(config, environment)
    start = trainer.initial_state()
    size = trainer.policy.network.size
    theta = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    start = dataclasses.replace(start, theta=theta)
    logits = trainer.policy.network(theta, np.eye(4, dtype=np.float32)).numpy().astype(np.float64)
    steps = []
    for iteration in range(40):
        after, _ = trainer.iterate(dataclasses.replace(start, iteration=iteration))
        step = dict(
            zip(
                trainer.policy.network.variable_names,
                _pieces(trainer, after.theta - theta),
                strict=True,
            )
        )
        steps.append(step["output/kernel"])  # observations are one-hot: the logits' own gradient
    steps = np.array(steps, np.float64)
    error = steps.std(axis=0) / np.sqrt(len(steps))
    weights = {
        "equal": np.ones(HORIZON),
        "discounted": PROCESS.discount ** np.arange(HORIZON),
    }
    length = 15 if sampler == "vine" else None
    mean = steps.mean(axis=0)
    agreement = {}
    for name, weight in weights.items():
        exact = _exact_gradient(logits, weight, length)
        factor = (mean * exact / error**2).sum() / (exact**2 / error**2).sum()
        agreement[name] = factor > 0 and bool((np.abs(mean - factor * exact) < 5 * error).all())
    assert agreement == {name: name == weighting for name in weights}
    discounted = _exact_gradient(logits, weights["discounted"], HORIZON)
    gradient = bounds.surrogate_gradient(PROCESS, logits)
    np.testing.assert_allclose(discounted, gradient, atol=1e-4)


def _pieces(trainer, theta):
    return [piece.numpy() for piece in trainer.policy.network.unflatten(tf.constant(theta))]


def test_single_path_gradient_converges_to_the_exact_policy_gradient(setting):
    """Σ_t γᵗ ∇log π(a_t|s_t) Q̂_t, in the softmax's logits: 16 times the paths, a quarter of the
    error."""
    exact = bounds.surrogate_gradient(PROCESS, setting[3])
    states, actions, sums = _paths(setting, 6400, 2)
    policy = mdp.softmax(setting[3])
    weights = PROCESS.discount ** np.arange(len(sums))[:, None] * sums
    scores = np.eye(3)[actions] - policy[states]
    samples = np.einsum("tb,tbs,tba->bsa", weights, np.eye(4)[states], scores)
    error = samples.std(axis=0) / np.sqrt(len(samples))
    assert (np.abs(samples.mean(axis=0) - exact) < 5 * error + 1e-5).all()
    errors = []
    for size in (10, 160):
        means = samples[: 40 * size].reshape(40, size, 4, 3).mean(axis=1)
        errors.append(np.sqrt(np.mean((means - exact) ** 2)))
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.35)


@pytest.mark.parametrize("surrogate", [surrogates.ActionSum(), surrogates.SelfNormalized()])
def test_sum_over_all_actions_has_the_exact_policy_gradient(setting, surrogate):
    """Eq. 15 with exact Q, every action and ρ_π over states: ∇η by complex steps; float32 1e-5.

    Eq. 16 with q = π over all actions once is no such sum; with q uniform and every action
    once it is, as Σ_k π/q = A.
    """
    _, policy, _, logits = setting
    exact_policy = mdp.softmax(logits)
    rows = {
        "actions": tf.tile(tf.range(3)[None], [4, 1]),
        "proposal_log_probs": tf.fill([4, 3], np.float32(-np.log(3))),
        "q_values": tf.constant(mdp.action_values(PROCESS, exact_policy), tf.float32),
    }
    visits = tf.constant(mdp.state_visitation(PROCESS, exact_policy), tf.float32)
    with tf.GradientTape() as tape:
        outputs = tf.constant(logits, tf.float32)
        tape.watch(outputs)
        terms = surrogate(policy.family, outputs, outputs, rows)
        total = tf.reduce_sum(visits * terms)
    exact = np.zeros_like(logits)
    for index in np.ndindex(*logits.shape):
        moved = logits.astype(complex)
        moved[index] += 1e-30j
        exact[index] = mdp.expected_return(PROCESS, mdp.softmax(moved)).imag / 1e-30
    np.testing.assert_allclose(tape.gradient(total, outputs), exact, atol=1e-5)


def test_vine_surrogate_converges_to_the_exact_one(setting):
    """Eq. 15's mean over rollout states, at a new policy, from Monte Carlo Q-values.

    Each repetition estimates Σ_s ρ(s) Σ_a π̃(a|s) Q(s, a) = L − η + Σ ρ V from one branch a
    state and action.
    """
    old = mdp.softmax(setting[3])
    new = mdp.softmax(setting[3] + np.random.default_rng(0).standard_normal((4, 3)))
    visits = mdp.state_visitation(PROCESS, old)
    exact = bounds.surrogate(PROCESS, old, new) - mdp.expected_return(PROCESS, old)
    exact += visits @ mdp.state_values(PROCESS, old)
    estimates = np.einsum("s,sa,rsa->r", visits, new, _branch_q(setting, 3000, 3))
    error = estimates.std() / np.sqrt(len(estimates))
    assert abs(estimates.mean() - exact) < 5 * error


def test_advantages_from_exact_values_have_no_bias(setting):
    """With V exact, λ-advantages of any λ have mean A(s, a): 5 standard errors, λ = 0.5."""
    exact_policy = mdp.softmax(setting[3])
    values = mdp.state_values(PROCESS, exact_policy)
    environment, policy, theta, _ = setting
    paths, *_ = single_path.sample_trajectories(
        environment, policy, theta, Key(5), steps=HORIZON, states=1500
    )
    states = paths.observations.argmax(axis=2)
    visited = values[states]
    following = np.concatenate([visited[1:], np.zeros((1, 1500))])
    t, b = np.nonzero(paths.cut)
    following[t, b] = values[paths.cut_observations.argmax(axis=1)]
    estimates = returns.generalized_advantages(
        paths.rewards, visited, following, paths.ends, PROCESS.discount, 0.5
    )
    advantages = mdp.advantages(PROCESS, exact_policy)
    for s in range(4):
        for a in range(3):
            drawn = estimates[(states == s) & (paths.actions == a)]
            error = drawn.std() / np.sqrt(len(drawn) / 2)
            assert abs(drawn.mean() - advantages[s, a]) < 5 * error


def _mean_self_normalized_gradient(family, logits, q_values, count, repeats, seed):
    """Returns the mean and standard error of eq. 16's gradient in the logits, [A] each, with K
    uniform draws a state."""
    generator = np.random.default_rng(seed)
    actions = generator.integers(len(logits), size=(repeats, count)).astype(np.int32)
    rows = {
        "actions": tf.constant(actions),
        "proposal_log_probs": tf.fill(actions.shape, np.float32(-np.log(len(logits)))),
        "q_values": tf.constant(q_values[actions], tf.float32),
    }
    parameters = tf.constant(np.tile(logits, (repeats, 1)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        total = tf.reduce_sum(surrogates.SelfNormalized()(family, parameters, parameters, rows))
    samples = tape.gradient(total, parameters).numpy().astype(np.float64)
    return samples.mean(axis=0), samples.std(axis=0) / np.sqrt(repeats)


def test_self_normalized_estimator_is_consistent_and_its_bias_falls_as_one_over_k():
    """Eq. 16 with uniform draws of Atari's 18 actions converges to eq. 15, Σ_a π(a|s) Q(s, a).

    At K = 256 every component is within 2% of the gradient's norm and its standard error; the
    bias of a ratio estimator is of order 1/K: from K = 16 to 64 it falls to a quarter within 40%.
    """
    family = distributions.Categorical(18)
    generator = np.random.default_rng(0)
    logits, q_values = generator.standard_normal(18), generator.standard_normal(18)
    policy = mdp.softmax(logits)
    exact = policy * (q_values - policy @ q_values)
    norm = np.linalg.norm(exact)
    mean, error = _mean_self_normalized_gradient(family, logits, q_values, 256, 20_000, 1)
    assert (np.abs(mean - exact) < 0.02 * norm + 5 * error).all()
    bias = {}
    for count, repeats in ((16, 100_000), (64, 100_000)):
        mean, error = _mean_self_normalized_gradient(family, logits, q_values, count, repeats, 2)
        bias[count] = np.linalg.norm(mean - exact)
        assert bias[count] > 5 * np.linalg.norm(error)
    assert bias[16] / bias[64] == pytest.approx(4.0, rel=0.4)


@pytest.mark.parametrize(("scale", "least", "most"), [(0.3, 0.97, 1.0), (3.0, 0.3, 0.8)])
def test_four_uniform_draws_of_eighteen_are_biased_where_the_policy_is_decided(scale, least, most):
    """Why vine takes all actions on Atari (WORKSPACE.md, Departures): the mean cosine of the
    expected gradient with eq. 15's over 10 states, for near-uniform policies and decided ones."""
    family = distributions.Categorical(18)
    cosines = []
    for seed in range(10):
        generator = np.random.default_rng(seed)
        logits, q_values = scale * generator.standard_normal(18), generator.standard_normal(18)
        policy = mdp.softmax(logits)
        exact = policy * (q_values - policy @ q_values)
        mean, _ = _mean_self_normalized_gradient(family, logits, q_values, 4, 20_000, seed)
        cosines.append(mean @ exact / np.linalg.norm(mean) / np.linalg.norm(exact))
    assert least < np.mean(cosines) < most
