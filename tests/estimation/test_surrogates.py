"""Surrogates by hand-computed numbers and limits."""

import numpy as np
import pytest
import tensorflow as tf

from trpo_repro.estimation import surrogates
from trpo_repro.policies import distributions


def test_importance_sampled_terms_are_ratio_times_advantage():
    """Probabilities 1/2 and 3/4 for action 0: ratios 3/2 and 1/2, by hand."""
    family = distributions.Categorical(2)
    old, new = np.log([[0.5, 0.5]] * 2), np.log([[0.75, 0.25]] * 2)
    rows = {"actions": tf.constant([0, 1]), "advantages": tf.constant([2.0, 10.0])}
    terms = surrogates.ImportanceSampled()(family, tf.constant(old), tf.constant(new), rows)
    np.testing.assert_allclose(terms, [3.0, 5.0], rtol=1e-6)


def test_gradient_at_the_old_policy_is_the_score_times_advantage():
    """∇L = Σ Â ∇log π (Sec. 2): the gradient of a softmax's log is 1{a} − π."""
    family = distributions.Categorical(3)
    logits = tf.constant(np.random.default_rng(0).standard_normal((4, 3)))
    rows = {"actions": tf.constant([0, 1, 2, 0]), "advantages": tf.constant([1.0, -2, 3, 0.5])}
    with tf.GradientTape() as tape:
        tape.watch(logits)
        terms = surrogates.ImportanceSampled()(family, tf.stop_gradient(logits), logits, rows)
    one_hot = np.eye(3)[[0, 1, 2, 0]]
    expected = (one_hot - tf.nn.softmax(logits)) * rows["advantages"].numpy()[:, None]
    np.testing.assert_allclose(tape.gradient(terms, logits), expected, atol=1e-7)


# Vine's estimators.

ROWS, ACTIONS = 5, 4


def _vine_setting(kind, seed=0):
    generator = np.random.default_rng(seed)
    family = {
        "gaussian": distributions.DiagonalGaussian(2),
        "categorical": distributions.Categorical(3),
    }[kind]
    old = tf.constant(0.5 * generator.standard_normal((ROWS, family.parameter_size)))
    noise = tf.constant(family.draw_noise(generator, (ROWS, ACTIONS)))
    actions = family.sample(tf.repeat(old[:, None], ACTIONS, axis=1), noise)
    rows = {
        "actions": actions,
        "proposal_log_probs": tf.constant(generator.standard_normal((ROWS, ACTIONS))),
        "q_values": tf.constant(generator.standard_normal((ROWS, ACTIONS))),
    }
    return family, old, rows


def _scores(family, parameters, actions):
    """Returns ∂log π(aₖ|sₙ)/∂parametersₙ, [N, K, D], in closed form."""
    if isinstance(family, distributions.Categorical):
        one_hot = np.eye(family.parameter_size)[actions.numpy()]
        return one_hot - tf.nn.softmax(parameters).numpy()[:, None]
    mean, log_std = np.split(parameters.numpy()[:, None], 2, axis=-1)
    standard = (actions.numpy() - mean) / np.exp(log_std)
    return np.concatenate([standard / np.exp(log_std), standard**2 - 1], axis=-1)


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_self_normalized_gradient_is_eq_65(kind):
    """Σ_k w̃ₖ ∇log π(aₖ) (Q̂ₖ − L̂): the estimator is its own baseline (App. I), by NumPy."""
    family, old, rows = _vine_setting(kind)
    with tf.GradientTape() as tape:
        tape.watch(old)
        terms = surrogates.SelfNormalized()(family, old, old, rows)
    log_probs = surrogates.SelfNormalized().log_probs(family, old, rows).numpy()
    ratios = np.exp(log_probs - rows["proposal_log_probs"].numpy())
    weights = ratios / ratios.sum(axis=1, keepdims=True)
    estimate = (weights * rows["q_values"].numpy()).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(terms, estimate[:, 0], rtol=1e-6)
    centered = weights * (rows["q_values"].numpy() - estimate)
    expected = (centered[..., None] * _scores(family, old, rows["actions"])).sum(axis=1)
    np.testing.assert_allclose(tape.gradient(terms, old), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("surrogate", [surrogates.SelfNormalized(), surrogates.ActionSum()])
@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_gradients_are_finite_differences(surrogate, kind):
    """Central differences of step 1e-4 in float64: error of order 1e-8."""
    family, old, rows = _vine_setting(kind)
    direction = np.random.default_rng(1).standard_normal(old.shape)
    with tf.GradientTape() as tape:
        tape.watch(old)
        total = tf.reduce_sum(surrogate(family, old, old, rows))
    slope = np.sum(tape.gradient(total, old) * direction)
    ends = [
        float(tf.reduce_sum(surrogate(family, old, old + sign * 1e-4 * direction, rows)))
        for sign in (1, -1)
    ]
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-5, abs=1e-7)


def test_two_branches_by_hand():
    """One state, actions 0 and 1, q = (1/2, 1/2), π = (3/4, 1/4), Q = (2, 10): 3/4·2 + 1/4·10."""
    family = distributions.Categorical(2)
    new = tf.constant(np.log([[0.75, 0.25]]))
    rows = {
        "actions": tf.constant([[0, 1]]),
        "proposal_log_probs": tf.constant(np.log([[0.5, 0.5]])),
        "q_values": tf.constant([[2.0, 10.0]]),
    }
    for surrogate in (surrogates.SelfNormalized(), surrogates.ActionSum()):
        assert float(surrogate(family, new, new, rows)[0]) == pytest.approx(4.0)
    # Action 0 three times among K = 4 and drawn with 3/4: weights π/q = 1 each, mean of Q.
    rows = {
        "actions": tf.constant([[0, 0, 0, 1]]),
        "proposal_log_probs": tf.constant(np.log([[0.75, 0.75, 0.75, 0.25]])),
        "q_values": tf.constant([[1.0, 2.0, 3.0, 10.0]]),
    }
    assert float(surrogates.SelfNormalized()(family, new, new, rows)[0]) == pytest.approx(4.0)


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_a_constant_added_to_a_states_q_values_changes_nothing(kind):
    """Neither the gradient nor, at any θ, the difference from θ_old; float64: 1e-9."""
    family, old, rows = _vine_setting(kind)
    new = old + 0.3
    moved = {
        **rows,
        "q_values": rows["q_values"] + 100.0 * tf.range(ROWS, dtype=tf.float64)[:, None],
    }
    values = []
    for given in (rows, moved):
        with tf.GradientTape() as tape:
            tape.watch(new)
            terms = surrogates.SelfNormalized()(family, old, new, given)
        change = terms - surrogates.SelfNormalized()(family, old, old, given)
        values.append((change.numpy(), tape.gradient(terms, new).numpy()))
    np.testing.assert_allclose(values[0][0], values[1][0], atol=1e-9)
    np.testing.assert_allclose(values[0][1], values[1][1], atol=1e-9)


def test_sum_over_all_actions_is_exact():
    """Eq. 15 with K = all actions is Σ_a π_θ(a|s) Q(s, a), and eq. 16 with them is the same."""
    family, old, rows = _vine_setting("categorical")
    rows = {
        "actions": tf.constant([[0, 1, 2]] * ROWS),
        "proposal_log_probs": tf.fill([ROWS, 3], tf.constant(-np.log(3.0), tf.float64)),
        "q_values": rows["q_values"][:, :3],
    }
    expected = np.sum(tf.nn.softmax(old).numpy() * rows["q_values"].numpy(), axis=1)
    for surrogate in (surrogates.ActionSum(), surrogates.SelfNormalized()):
        np.testing.assert_allclose(surrogate(family, old, old, rows), expected, rtol=1e-9)
