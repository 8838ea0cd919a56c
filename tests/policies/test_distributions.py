"""Action distributions against Monte Carlo, autodiff Hessians and closed-form limits."""

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from trpo_repro.policies import distributions

FAMILIES = {
    "gaussian": distributions.DiagonalGaussian(3),
    "categorical": distributions.Categorical(5),
    "factored": distributions.FactoredCategorical((3, 3, 2)),
}


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


def _parameters(family, rows, seed):
    generator = np.random.default_rng(seed)
    return tf.constant(0.7 * generator.standard_normal((rows, family.parameter_size)))


def _samples(family, parameters, count, seed=0):
    """Returns [count, rows, ...] actions."""
    rows = parameters.shape[0]
    noise = family.draw_noise(np.random.default_rng(seed), (count, rows))
    repeated = tf.broadcast_to(parameters, (count, *parameters.shape))
    return family.sample(repeated, tf.constant(noise))


def test_kl_is_from_old_to_new_and_agrees_with_monte_carlo(family):
    """E_old[log old − log new] over 200k samples, within 5 standard errors; not its reverse."""
    old, new = _parameters(family, 2, 0), 1.5 * _parameters(family, 2, 1)
    actions = _samples(family, old, 200_000)
    ratio = (family.log_prob(old, actions) - family.log_prob(new, actions)).numpy()
    error = ratio.std(axis=0) / np.sqrt(len(ratio))
    forward, backward = family.kl(old, new).numpy(), family.kl(new, old).numpy()
    assert (np.abs(ratio.mean(axis=0) - forward) < 5 * error).all()
    assert (np.abs(ratio.mean(axis=0) - backward) > 5 * error).any()


def test_entropy_agrees_with_monte_carlo(family):
    parameters = _parameters(family, 3, 0)
    surprise = -family.log_prob(parameters, _samples(family, parameters, 100_000)).numpy()
    error = surprise.std(axis=0) / np.sqrt(len(surprise))
    assert (np.abs(surprise.mean(axis=0) - family.entropy(parameters).numpy()) < 5 * error).all()


def test_fisher_product_is_the_hessian_of_the_kl(family):
    """Second derivatives of KL(old ‖ ·) at old, by nested tapes in float64: 1e-10."""
    parameters = _parameters(family, 1, 0)
    with tf.GradientTape() as outer:
        outer.watch(parameters)
        with tf.GradientTape() as inner:
            inner.watch(parameters)
            kl = family.kl(tf.stop_gradient(parameters), parameters)
        slope = inner.gradient(kl, parameters)
    hessian = tf.squeeze(outer.jacobian(slope, parameters)).numpy()
    basis = tf.eye(family.parameter_size, dtype=tf.float64)
    columns = family.fisher_product(tf.repeat(parameters, family.parameter_size, 0), basis)
    np.testing.assert_allclose(columns.numpy(), hessian, atol=1e-10)


def test_fisher_root_times_its_transpose_is_the_fisher_matrix(family):
    parameters = _parameters(family, 4, 0)
    root = family.fisher_root(parameters)
    matrix = tf.matmul(root, root, transpose_b=True).numpy()
    for i, unit in enumerate(np.eye(family.parameter_size)):
        column = family.fisher_product(parameters, tf.ones_like(parameters) * unit)
        np.testing.assert_allclose(matrix[..., i], column, atol=1e-12)


def test_samples_have_the_densitys_probabilities(family):
    """E[π(a)^-1 1{a in A}] = |A| for discrete families; standardized moments for the normal."""
    parameters = _parameters(family, 1, 0)
    actions = _samples(family, parameters, 100_000).numpy()[:, 0]
    if isinstance(family, distributions.DiagonalGaussian):
        mean, log_std = np.split(parameters.numpy()[0], 2)
        standard = (actions - mean) / np.exp(log_std)
        assert np.abs(standard.mean(axis=0)).max() < 5 / np.sqrt(len(actions))
        assert np.abs(standard.var(axis=0) - 1).max() < 5 * np.sqrt(2 / len(actions))
    else:
        values, counts = np.unique(actions, axis=0, return_counts=True)
        expected = np.exp(family.log_prob(tf.repeat(parameters, len(values), 0), values))
        assert expected.sum() == pytest.approx(1.0, abs=1e-9)
        error = np.sqrt(expected * (1 - expected) / len(actions))
        assert (np.abs(counts / len(actions) - expected) < 5 * error).all()


def test_equal_noise_decides_equal_actions_and_close_policies_agree(family):
    """App. H: an action is a function of the noise, continuous (or mostly constant) in θ."""
    parameters = _parameters(family, 2, 0)
    first, second = (_samples(family, parameters, 1000, seed=3).numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)
    nudged = _samples(family, parameters + 1e-4, 1000, seed=3).numpy()
    # A shift of 1e-4 in each of at most 8 logits moves each of at most 4 thresholds by less.
    assert np.mean(np.abs(nudged - first) > 1e-3) < 0.01


def test_mode_has_the_highest_probability(family):
    parameters = _parameters(family, 4, 0)
    best = family.log_prob(parameters, family.mode(parameters)).numpy()
    others = family.log_prob(parameters, _samples(family, parameters, 200)).numpy()
    assert (best >= others.max(axis=0) - 1e-12).all()


def test_categorical_edges_of_the_uniform_are_legal_actions():
    family = distributions.Categorical(3)
    logits = tf.constant([[0.0, 0.0, -40.0]] * 2)
    actions = family.sample(logits, tf.constant([0.0, np.nextafter(np.float32(1), np.float32(0))]))
    np.testing.assert_array_equal(actions.numpy()[0], 0)
    assert actions.numpy()[1] <= 2


def test_factored_categorical_is_the_product_of_its_factors():
    family = FAMILIES["factored"]
    parameters = _parameters(family, 2, 0)
    parts = tf.split(parameters, family.sizes, axis=-1)
    actions = tf.constant([[0, 2, 1], [1, 1, 0]])
    expected = sum(
        distributions.Categorical(size).log_prob(part, actions[:, i])
        for i, (size, part) in enumerate(zip(family.sizes, parts, strict=True))
    )
    np.testing.assert_allclose(family.log_prob(parameters, actions), expected, rtol=1e-12)
    assert family.distribution(parameters).event_shape == (3,)


def test_spaces_choose_families():
    spaces = gymnasium.spaces
    assert distributions.for_space(spaces.Box(-1, 1, (2,))).parameter_size == 4
    assert distributions.for_space(spaces.Discrete(4)).parameter_size == 4
    assert distributions.for_space(spaces.MultiDiscrete([3, 3, 2])).sizes == (3, 3, 2)
    with pytest.raises(ValueError, match="allowed: Box, Discrete, MultiDiscrete"):
        distributions.for_space(spaces.MultiBinary(3))
