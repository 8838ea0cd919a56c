"""Surrogates by hand-computed numbers and limits."""

import numpy as np
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
