"""Fisher-vector products, column by column, against one dense Fisher matrix."""

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from trpo_repro.algorithms import policy_update
from trpo_repro.estimation import surrogates
from trpo_repro.optimization import curvature, trust_region
from trpo_repro.policies import policy as policy_lib

SPACES = {
    "gaussian": gymnasium.spaces.Box(-1, 1, (2,)),
    "categorical": gymnasium.spaces.Discrete(4),
    "factored": gymnasium.spaces.MultiDiscrete([3, 2]),
}
TOLERANCE = 1e-8  # float64; sums over 11 states of numbers of order one


@pytest.fixture(params=SPACES, scope="module")
def setting(request):
    """A small float64 policy, θ away from its symmetric start, and 11 states with actions."""
    policy = policy_lib.multilayer_perceptron_policy(
        gymnasium.spaces.Box(-np.inf, np.inf, (3,)),
        SPACES[request.param],
        hidden_sizes=(5,),
        activation="softplus",
        seed=0,
        output_scale=1.0,
        dtype="float64",
    )
    generator = np.random.default_rng(0)
    theta = policy.network.initial_parameters()
    theta = theta + 0.3 * generator.standard_normal(theta.shape)
    observations = generator.standard_normal((11, 3))
    actions = policy.sample(theta, observations, policy.family.draw_noise(generator, (11,)))
    return policy, tf.constant(theta), tf.constant(observations), actions


def _scores(policy, theta, observations, actions):
    """Returns ∂log π(aₙ|sₙ)/∂θ, [N, P], one tape a sample."""
    rows = []
    for n in range(len(observations)):
        with tf.GradientTape() as tape:
            tape.watch(theta)
            parameters = policy.network(theta, observations[n : n + 1])
            log_prob = policy.family.log_prob(parameters, actions[n : n + 1])
        rows.append(tape.gradient(log_prob, theta).numpy())
    return np.stack(rows)


def _dense_fisher(policy, theta, observations):
    """Returns E_s E_a[∇log π ∇log πᵀ], the inner expectation exact: no JᵀMJ, no KL.

    Discrete actions are summed over; Gaussian ones integrated by Gauss-Hermite quadrature,
    exact here because scores are quadratic in the noise.
    """
    family = policy.family
    parameters = policy.network(theta, observations)
    if hasattr(family, "sizes"):
        grids = np.stack(np.meshgrid(*map(np.arange, family.sizes), indexing="ij"), -1)
        choices = grids.reshape(-1, len(family.sizes)).astype(np.int32)
        choices = choices if family.action_shape else choices[:, 0]
        outcomes = [(np.repeat(c[None], len(observations), 0), None) for c in choices]
    else:
        nodes, weights = np.polynomial.hermite_e.hermegauss(3)
        weights = weights / weights.sum()
        outcomes = []
        for i, first in enumerate(nodes):
            for j, second in enumerate(nodes):
                noise = np.tile([first, second], (len(observations), 1))
                outcomes.append((family.sample(parameters, noise), weights[i] * weights[j]))
    total = np.zeros((theta.shape[0], theta.shape[0]))
    for actions, weight in outcomes:
        probability = np.exp(family.log_prob(parameters, actions)) if weight is None else weight
        scores = _scores(policy, theta, observations, actions)
        total += scores.T @ (scores * np.broadcast_to(probability, len(scores))[:, None])
    return total / len(observations)


@pytest.fixture(scope="module")
def dense(setting):
    return _dense_fisher(*setting[:3])


def _columns(product, size):
    return np.stack([product(column).numpy() for column in tf.eye(size, dtype=tf.float64)], axis=1)


def _product(setting, kind, chunk_size=7, kl_direction="old_new"):
    """Returns the engine's own chunked product for a kind of curvature, as a dense matrix."""
    policy, theta, observations, actions = setting
    rows = {
        "observations": observations,
        "actions": tf.constant(actions),
        "advantages": tf.zeros(len(observations)),
    }
    fisher = rows if kind is trust_region.Curvature.EMPIRICAL else {"observations": observations}
    batch = policy_update.ChunkedMeans(
        policy,
        surrogates.ImportanceSampled(),
        theta,
        rows,
        None,
        fisher,
        chunk_size,
        kl_direction=kl_direction,
    )
    product = {
        trust_region.Curvature.FISHER: batch.fisher_product,
        trust_region.Curvature.KL_HESSIAN: batch.kl_hessian_product,
        trust_region.Curvature.EMPIRICAL: batch.empirical_product,
    }[kind]
    return _columns(tf.function(product), theta.shape[0])


@pytest.mark.parametrize("kind", [trust_region.Curvature.FISHER, trust_region.Curvature.KL_HESSIAN])
def test_analytic_products_equal_the_dense_fisher_matrix(setting, dense, kind):
    np.testing.assert_allclose(_product(setting, kind), dense, atol=TOLERANCE)


def test_both_divergences_have_the_same_curvature(setting, dense):
    """The Hessian of KL(new ‖ old) at θ_old is the Fisher matrix too; third derivatives differ."""
    product = _product(setting, trust_region.Curvature.KL_HESSIAN, kl_direction="new_old")
    np.testing.assert_allclose(product, dense, atol=TOLERANCE)


def test_empirical_product_equals_the_dense_covariance_of_scores(setting):
    scores = _scores(*setting)
    dense = scores.T @ scores / len(scores)
    matrix = _product(setting, trust_region.Curvature.EMPIRICAL)
    np.testing.assert_allclose(matrix, dense, atol=TOLERANCE)


def test_empirical_product_of_many_weighted_actions_a_state(setting):
    """As vine has them: a mean over each state's K scores, then a weighted mean over states."""
    policy, theta, observations, _ = setting
    count, weights = 3, np.linspace(0.5, 2.0, len(observations))
    repeated = tf.repeat(observations, count, axis=0)
    noise = policy.family.draw_noise(np.random.default_rng(5), (len(repeated),))
    actions = policy.family.sample(policy.network(theta, repeated), tf.constant(noise))
    shape = (len(observations), count)
    rows = {
        "observations": observations,
        "weights": tf.constant(weights, tf.float32),
        "actions": tf.reshape(actions, (*shape, *policy.family.action_shape)),
        "proposal_log_probs": tf.zeros(shape),
        "q_values": tf.zeros(shape),
    }
    batch = policy_update.ChunkedMeans(
        policy, surrogates.SelfNormalized(), theta, rows, None, rows, chunk_size=4
    )
    scores = _scores(policy, theta, repeated, actions).reshape(*shape, -1)
    dense = np.einsum("n,nkp,nkq->pq", weights, scores, scores) / count / weights.sum()
    matrix = _columns(tf.function(batch.empirical_product), theta.shape[0])
    np.testing.assert_allclose(matrix, dense, atol=1e-7)  # weights are float32


def test_empirical_matrix_converges_to_the_analytic_one(setting, dense):
    """The mean over 80 resamplings covariances is within 5 standard errors of the dense matrix."""
    policy, theta, observations, _ = setting
    count = 80
    repeated = tf.tile(observations, [count, 1])
    noise = policy.family.draw_noise(np.random.default_rng(1), (len(repeated),))
    actions = policy.family.sample(policy.network(theta, repeated), tf.constant(noise))
    with tf.GradientTape() as tape:
        tape.watch(theta)
        log_probs = policy.family.log_prob(policy.network(theta, repeated), actions)
    scores = tape.jacobian(log_probs, theta).numpy()
    products = np.einsum("np,nq->npq", scores, scores)
    error = products.std(axis=0) / np.sqrt(len(products))
    gap = np.abs(products.mean(axis=0) - dense)
    assert (gap <= 5 * error + 1e-12).all()


def test_every_parameter_has_information(setting):
    """log-std included: no variable is left out of the step."""
    assert (np.diag(_product(setting, trust_region.Curvature.FISHER)) > 1e-6).all()


@pytest.mark.parametrize("chunk_size", [1, 11, 1000])
def test_chunk_size_does_not_matter(setting, chunk_size):
    whole = _product(setting, trust_region.Curvature.FISHER)
    chunked = _product(setting, trust_region.Curvature.FISHER, chunk_size)
    np.testing.assert_allclose(chunked, whole, atol=TOLERANCE)


def test_largest_quadratic_kl_is_the_largest_of_one_state(setting):
    policy, theta, observations, actions = setting
    vector = tf.constant(np.random.default_rng(2).standard_normal(theta.shape))
    rows = {"observations": observations, "actions": actions, "advantages": tf.zeros(11)}
    batch = policy_update.ChunkedMeans(
        policy, surrogates.ImportanceSampled(), theta, rows, None, {"observations": observations}, 7
    )
    single = [
        vector.numpy() @ _dense_fisher(policy, theta, observations[n : n + 1]) @ vector.numpy()
        for n in range(len(observations))
    ]
    assert float(batch.largest_quadratic_kl(vector)) == pytest.approx(max(single), rel=1e-8)


def test_hessian_vector_product_of_a_known_function():
    """f(x) = Σ xᵢ⁴: the Hessian is 12 diag(x²)."""
    x, v = tf.constant([1.0, -2.0, 3.0]), tf.constant([1.0, 1.0, -1.0])
    product = curvature.hessian_vector_product(lambda y: tf.reduce_sum(y**4), x, v)
    np.testing.assert_allclose(product, [12.0, 48.0, -108.0], rtol=1e-6)
