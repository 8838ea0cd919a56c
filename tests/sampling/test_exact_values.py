"""Samplers and estimators on finite processes, against exact values.

Every Monte Carlo mean must lie within 5 standard errors of the exact number, and its root mean
square error must fall at the Monte Carlo rate.
"""

import numpy as np
import pytest
import tensorflow as tf

from trpo_repro.environments import tabular
from trpo_repro.estimation import returns, surrogates
from trpo_repro.policies import policy as policy_lib
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
    policy = policy_lib.multilayer_perceptron_policy(
        environment.observation_space,
        environment.action_space,
        hidden_sizes=(),
        activation="tanh",
        seed=0,
        output_scale=5.0,
    )
    theta = policy.network.initial_parameters()
    logits = policy.network(theta, np.eye(4, dtype=np.float32)).numpy().astype(np.float64)
    return environment, policy, theta, logits


def _branch_q(setting, repeats, seed, **arguments):
    """Returns [repeats, S, A] independent Q̂ of every state and action."""
    environment, policy, theta, _ = setting
    index = np.repeat(np.arange(4), repeats)
    states = environment.states_at(index, np.random.default_rng(seed))
    actions = np.tile(np.arange(3, dtype=np.int32), (len(index), 1))
    q_values, _ = vine.branch_values(
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
    paths, *_ = single_path.sample_paths(
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


def _gradient_samples(setting, states, actions, sums):
    """Returns [B, S, A]: Σ_t γᵗ ∇log π(a_t|s_t) Q̂_t of each path, in the softmax's logits."""
    policy = mdp.softmax(setting[3])
    weights = PROCESS.discount ** np.arange(len(sums))[:, None] * sums
    scores = np.eye(3)[actions] - policy[states]
    return np.einsum("tb,tbs,tba->bsa", weights, np.eye(4)[states], scores)


def test_single_path_gradient_converges_to_the_exact_policy_gradient(setting):
    exact = bounds.surrogate_gradient(PROCESS, setting[3])
    samples = _gradient_samples(setting, *_paths(setting, 6400, 2))
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
    paths, *_ = single_path.sample_paths(
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
