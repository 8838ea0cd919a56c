"""K-FAC's factors against dense Fisher matrices and slow definitions."""

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf

from trpo_repro.algorithms import policy_update
from trpo_repro.estimation import surrogates
from trpo_repro.optimization.trust_region import Curvature, Method, Outcome, StepRule
from trpo_repro.policies import distributions, frames, kronecker
from trpo_repro.policies import policy as policy_lib

SPACES = {
    "gaussian": gymnasium.spaces.Box(-1, 1, (2,)),
    "categorical": gymnasium.spaces.Discrete(4),
    "factored": gymnasium.spaces.MultiDiscrete([3, 2]),
}


def _vectors(kind, hidden_sizes):
    """Returns a float64 policy with θ away from its symmetric start."""
    policy = policy_lib.multilayer_perceptron_policy(
        gymnasium.spaces.Box(-np.inf, np.inf, (3,)),
        SPACES[kind],
        hidden_sizes=hidden_sizes,
        activation="tanh",
        seed=0,
        output_scale=1.0,
        dtype="float64",
    )
    theta = policy.network.initial_parameters()
    return policy, tf.constant(theta + 0.3 * np.random.default_rng(0).standard_normal(theta.shape))


def _images():
    """Returns a policy of 10 × 10 images, whose convolutions have 4 × 4 places and one."""
    policy = policy_lib.convolutional_policy(
        gymnasium.spaces.Box(0, 255, (10, 10, 2), np.uint8),
        SPACES["factored"],
        seed=0,
        stacked_frames=False,
        output_scale=1.0,
    )
    return policy, tf.constant(policy.network.initial_parameters())


def _states(count):
    return tf.constant(np.random.default_rng(1).standard_normal((count, 3)))


def _dense_fisher(policy, theta, observations):
    """Returns E_s[JᵀMJ], [P, P], by whole Jacobians."""
    with tf.GradientTape() as tape:
        tape.watch(theta)
        parameters = policy.network(theta, observations)
    jacobian = tape.jacobian(parameters, theta).numpy()
    return np.einsum("nip,nij,njq->pq", jacobian, _metric(policy, parameters), jacobian) / len(
        jacobian
    )


def _metric(policy, parameters):
    """Returns M of every state, [n, D, D], column by column."""
    size = policy.family.parameter_size
    columns = [
        policy.family.fisher_product(parameters, tf.ones_like(parameters) * unit)
        for unit in np.eye(size, dtype=parameters.dtype.as_numpy_dtype)
    ]
    return np.stack([column.numpy() for column in columns], axis=-1)


def _places(policy, layer):
    """Returns the places in θ of a layer's [inputs and bias, outputs]."""
    network = policy.network
    places = network.unflatten(tf.range(network.size))
    by_name = {
        name.rpartition("/")[2]: part.numpy()
        for name, part in zip(network.variable_names, places, strict=True)
        if name.startswith(f"{layer}/")
    }
    if layer == "gaussian":
        return by_name["log_std"][None]
    kernel = by_name["kernel"]
    return np.concatenate([kernel.reshape(-1, kernel.shape[-1]), by_name["bias"][None]])


def _mean_factors(policy, theta, observations):
    layers = kronecker.KroneckerFactors(policy)
    count = len(observations)
    sums = tf.function(layers.sums)(theta, observations, tf.ones(count, theta.dtype))
    return layers, {name: total.numpy() / count for name, total in sums.items()}


def _dense(policy, factors, damping=0.0):
    """Returns the matrix of the factors, [P, P], by np.kron, damped as Sec. 6.3 says."""
    dense = np.zeros((policy.network.size, policy.network.size))
    for layer in policy.network.layers:
        first, second = (factors[f"{layer.name}/{side}"] for side in ("input", "output"))
        if damping:
            pi = np.sqrt(np.trace(first) / len(first) / (np.trace(second) / len(second)))
            first = first + pi * np.sqrt(damping) * np.eye(len(first))
            second = second + np.sqrt(damping) / pi * np.eye(len(second))
        at = _places(policy, layer.name).ravel()
        dense[np.ix_(at, at)] = np.kron(first, second)
    return dense


@pytest.mark.parametrize("kind", SPACES)
def test_exact_for_one_dense_layer_and_one_state(kind):
    policy, theta = _vectors(kind, ())
    _, factors = _mean_factors(policy, theta, _states(1))
    exact = _dense_fisher(policy, theta, _states(1))
    np.testing.assert_allclose(_dense(policy, factors), exact, atol=1e-12)


def test_exact_for_one_dense_layer_of_means_in_any_number_of_states():
    """A Gaussian's information in its means does not depend on the state: the factors part."""
    policy, theta = _vectors("gaussian", ())
    _, factors = _mean_factors(policy, theta, _states(50))
    exact = _dense_fisher(policy, theta, _states(50))
    np.testing.assert_allclose(_dense(policy, factors), exact, atol=1e-12)


@pytest.mark.parametrize("kind", SPACES)
def test_blocks_of_one_state_are_exact_and_between_layers_there_is_nothing(kind):
    policy, theta = _vectors(kind, (5, 4))
    _, factors = _mean_factors(policy, theta, _states(1))
    exact, dense = _dense_fisher(policy, theta, _states(1)), _dense(policy, factors)
    for layer in policy.network.layers:
        at = _places(policy, layer.name).ravel()
        block = np.ix_(at, at)
        np.testing.assert_allclose(dense[block], exact[block], atol=1e-12)
        exact[block] = dense[block] = 0
    assert not dense.any()
    assert np.abs(exact).max() > 1e-3  # which K-FAC leaves out


@pytest.mark.parametrize("kind", SPACES)
def test_factors_of_many_states_by_their_definitions(kind):
    """A state at a time: activations and the chain rule of a tanh network in NumPy."""
    policy, theta = _vectors(kind, (5, 4))
    states = _states(20)
    _, factors = _mean_factors(policy, theta, states)
    metric = _metric(policy, policy.network(theta, states))
    layers = ("hidden_0", "hidden_1", "output")
    weights = {name: theta.numpy()[_places(policy, name)] for name in layers}
    expected = {name: 0.0 for name in factors if "gaussian" not in name}
    for n, state in enumerate(states.numpy()):
        inputs, slopes, value = {}, {}, state
        for name in layers:
            inputs[name] = np.append(value, 1.0)
            value = np.tanh(inputs[name] @ weights[name])
            slopes[name] = 1 - value**2
        outputs = weights["output"].shape[1]
        jacobian = np.eye(policy.family.parameter_size, outputs)  # a Gaussian's means come first
        for name in layers[::-1]:
            expected[f"{name}/input"] += np.outer(inputs[name], inputs[name]) / 20
            expected[f"{name}/output"] += jacobian.T @ metric[n] @ jacobian / 20
            before = {"output": "hidden_1", "hidden_1": "hidden_0"}.get(name)
            if before:
                jacobian = jacobian @ weights[name][:-1].T * slopes[before]
    for name, factor in expected.items():
        np.testing.assert_allclose(factors[name], factor, atol=1e-12, err_msg=name)


def test_convolution_with_one_place_is_exact_in_one_state():
    """float32: 1e-5 of the largest entry."""
    policy, theta = _images()
    image = tf.constant(np.random.default_rng(0).integers(256, size=(1, 10, 10, 2)), tf.uint8)
    _, factors = _mean_factors(policy, theta, image)
    exact, dense = _dense_fisher(policy, theta, image), _dense(policy, factors)
    for layer in ("convolution_1", "hidden_0", "output"):
        at = _places(policy, layer).ravel()
        block = np.ix_(at, at)
        scale = np.abs(exact[block]).max()
        np.testing.assert_allclose(dense[block], exact[block], atol=1e-5 * scale)


def test_convolution_by_its_slow_definition():
    """Σ over 4 × 4 places of patches, and the mean over places of JᵀMJ, a state and a place at a
    time."""
    policy, theta = _images()
    images = tf.constant(np.random.default_rng(0).integers(256, size=(3, 10, 10, 2)), tf.uint8)
    _, factors = _mean_factors(policy, theta, images)
    with tf.GradientTape() as tape:
        tape.watch(theta)
        parameters, taps = policy.network.taps(theta, images)
        inputs, outputs = taps["convolution_0"]
    jacobian = tape.batch_jacobian(parameters, outputs).numpy()  # [n, D, 4, 4, 16]
    metric = _metric(policy, parameters)
    patches, gradients = np.zeros((33, 33)), np.zeros((16, 16))
    for n in range(3):
        for row in range(4):
            for column in range(4):
                corner = slice(2 * row, 2 * row + 4), slice(2 * column, 2 * column + 4)
                patch = np.append(inputs.numpy()[n, *corner].ravel(), 1.0)
                patches += np.outer(patch, patch) / 3
                j = jacobian[n, :, row, column]
                gradients += j.T @ metric[n] @ j / 3 / 16
    np.testing.assert_allclose(factors["convolution_0/input"], patches, rtol=1e-4)
    scale = np.abs(gradients).max()
    np.testing.assert_allclose(factors["convolution_0/output"], gradients, atol=1e-5 * scale)


@pytest.mark.parametrize("kind", ["gaussian", "factored", "images"])
def test_preconditioner_is_the_inverse_of_the_damped_matrix(kind):
    """Damped by π√λ and √λ/π; 1e-4 for the float32 of images, whose 1e-2 is the damping."""
    if kind == "images":
        policy, theta = _images()
        states = tf.constant(np.random.default_rng(0).integers(256, size=(20, 10, 10, 2)), tf.uint8)
    else:
        (policy, theta), states = _vectors(kind, (5, 4)), _states(20)
    layers, factors = _mean_factors(policy, theta, states)
    vector = tf.cast(np.random.default_rng(3).standard_normal(theta.shape), theta.dtype)
    tensors = {name: tf.constant(factor) for name, factor in factors.items()}
    found = tf.function(lambda v: layers.preconditioner(tensors, 0.01)(v))(vector)
    dense = _dense(policy, factors, damping=0.01)
    error = np.linalg.norm(dense @ found.numpy() - vector.numpy()) / np.linalg.norm(vector)
    assert error < (1e-4 if kind == "images" else 1e-10)


def _rows(policy, theta, seed=0, count=300):
    generator = np.random.default_rng(seed)
    observations = generator.standard_normal((count, 3))
    actions = policy.sample(
        theta.numpy(), observations, policy.family.draw_noise(generator, (count,))
    )
    advantages = (observations[:, 0] + generator.standard_normal(count)).astype(np.float32)
    return {"observations": observations, "actions": actions, "advantages": advantages}


def _update(policy, **changes):
    names = ("chunk_size", "separate_kl_states", "weighted_states", "stacked_frames")
    shape = {name: changes.pop(name) for name in names if name in changes}
    method = Method(
        step=StepRule.FIXED,
        step_size=1.0,
        fisher_fraction=1.0,
        preconditioner="kfac",
        **{"factored_damping": 0.01, "cg_iterations": 1, **changes},
    )
    return policy_update.PolicyUpdate(policy, surrogates.ImportanceSampled(), method, **shape)


@pytest.mark.parametrize("kind", SPACES)
def test_one_product_goes_along_kfacs_own_direction(kind):
    """K⁻¹g, K from the update's own factors and g the whole gradient: 1e-6, as advantages are
    float32."""
    policy, theta = _vectors(kind, (5,))
    rows = _rows(policy, theta)
    after, _, memory = _update(policy)(theta.numpy(), rows, np.random.default_rng(0))
    with tf.GradientTape() as tape:
        tape.watch(theta)
        parameters = policy.network(theta, rows["observations"])
        log_probs = policy.family.log_prob(parameters, rows["actions"])
        mean = tf.reduce_mean(log_probs * rows["advantages"])
    expected = np.linalg.solve(_dense(policy, memory, 0.01), tape.gradient(mean, theta).numpy())
    step = after - theta.numpy()
    cosine = step @ expected / np.linalg.norm(step) / np.linalg.norm(expected)
    assert cosine == pytest.approx(1, abs=1e-6)


def test_with_enough_products_the_step_is_the_natural_gradient():
    """Of 22 unknowns, by 40 products, with and without a preconditioner."""
    policy, theta = _vectors("gaussian", (3,))
    rows = _rows(policy, theta)
    steps = []
    for preconditioner in ("none", "kfac"):
        update = _update(policy, cg_iterations=40)
        if preconditioner == "none":
            method = Method(
                step=StepRule.FIXED, step_size=1.0, fisher_fraction=1.0, cg_iterations=40
            )
            update = policy_update.PolicyUpdate(policy, surrogates.ImportanceSampled(), method)
        after, _, _ = update(theta.numpy(), rows, np.random.default_rng(0))
        steps.append(after - theta.numpy())
    np.testing.assert_allclose(steps[1], steps[0], rtol=1e-6, atol=1e-8)


def test_factors_are_a_running_mean():
    """The second iteration counts half, and from 1 − 1/k > 0.6 on 0.4 at least."""
    policy, theta = _vectors("categorical", (4,))
    update = _update(policy, factor_decay=0.6)
    memory, mean = update.initial_memory(), None
    for k in range(1, 5):
        rows = _rows(policy, theta, seed=k)
        _, _, memory = update(theta.numpy(), rows, np.random.default_rng(0), memory=memory)
        _, factors = _mean_factors(policy, theta, tf.constant(rows["observations"]))
        kept = min(1 - 1 / k, 0.6)
        mean = (
            factors if mean is None else {n: kept * mean[n] + (1 - kept) * factors[n] for n in mean}
        )
        for name, factor in mean.items():
            np.testing.assert_allclose(memory[name], factor, rtol=1e-10)
    assert memory["updates"] == 4


def test_states_count_by_their_weights():
    """Twice the weight is the state twice."""
    policy, theta = _vectors("factored", (4,))
    layers, states = kronecker.KroneckerFactors(policy), _states(6)
    weighted = layers.sums(theta, states, tf.constant([1.0, 2, 1, 1, 1, 1], tf.float64))
    doubled = layers.sums(theta, tf.concat([states, states[1:2]], 0), tf.ones(7, tf.float64))
    for name, total in weighted.items():
        np.testing.assert_allclose(total, doubled[name], rtol=1e-12)


@pytest.mark.parametrize("curvature", [Curvature.EMPIRICAL, Curvature.KL_HESSIAN])
def test_every_curvature_takes_the_factors_of_the_policys_own_actions(curvature):
    """In chunks of 64, which do not divide the 300 states."""
    policy, theta = _vectors("factored", (5,))
    rows = _rows(policy, theta)
    update = _update(policy, chunk_size=64, curvature=curvature)
    _, _, memory = update(theta.numpy(), rows, np.random.default_rng(0))
    _, factors = _mean_factors(policy, theta, tf.constant(rows["observations"]))
    for name, factor in factors.items():
        np.testing.assert_allclose(memory[name], factor, rtol=1e-10, atol=1e-14)


def test_factors_are_of_the_constraints_states_and_their_weights():
    """As of vine: states of their own, the first of which counts three times."""
    policy, theta = _vectors("gaussian", (5,))
    update = _update(policy, chunk_size=16, separate_kl_states=True, weighted_states=True)
    rows = {**_rows(policy, theta), "weights": np.ones(300, np.float32)}
    states = _states(50).numpy()
    weights = np.ones(50, np.float32)
    weights[0] = 3
    kl_batch = {"observations": states, "weights": weights}
    _, _, memory = update(theta.numpy(), rows, np.random.default_rng(0), kl_batch)
    repeated = tf.constant(np.concatenate([states, states[:1], states[:1]]))
    _, factors = _mean_factors(policy, theta, repeated)
    for name, factor in factors.items():
        np.testing.assert_allclose(memory[name], factor, rtol=1e-10, atol=1e-14)


def test_stacked_frames_have_the_factors_of_their_stacks():
    """float32 sums of equal numbers in an equal order: to the bit."""
    space = gymnasium.spaces.Box(0, 255, (4, 12, 12), np.uint8)
    policy = policy_lib.convolutional_policy(space, SPACES["factored"], seed=0)
    theta = policy.network.initial_parameters()
    generator = np.random.default_rng(0)
    store = generator.integers(256, size=(40, 12, 12)).astype(np.uint8)
    stacked = frames.StackedFrames(store, np.arange(30)[:, None].astype(np.int32) + np.arange(4))
    rows = {
        "observations": stacked,
        "actions": generator.integers([3, 2], size=(30, 2)).astype(np.int32),
        "advantages": generator.standard_normal(30).astype(np.float32),
    }
    found = []
    for fed in (rows, {**rows, "observations": stacked.stacked()}):
        update = _update(policy, chunk_size=8, stacked_frames=fed is rows, damping=0.1)
        after, _, memory = update(theta, fed, np.random.default_rng(0))
        found.append({**memory, "theta": after})
    for name, array in found[0].items():
        np.testing.assert_array_equal(array, found[1][name])


def test_a_direction_without_curvature_has_no_preconditioner():
    policy, _ = _vectors("gaussian", ())
    with pytest.raises(ValueError, match=r"preconditioner=kfac is not allowed: must be none with"):
        _update(policy, curvature=Curvature.IDENTITY)


def test_states_that_are_not_finite_change_nothing():
    policy, theta = _vectors("gaussian", (4,))
    update = _update(policy)
    _, _, memory = update(theta.numpy(), _rows(policy, theta), np.random.default_rng(0))
    rows = _rows(policy, theta)
    rows["observations"][0, 0] = np.nan
    after, report, kept = update(theta.numpy(), rows, np.random.default_rng(0), memory=memory)
    assert report["outcome"] is Outcome.NOT_FINITE
    np.testing.assert_array_equal(after, theta)
    for name, factor in kept.items():
        np.testing.assert_array_equal(factor, memory[name])
    _, _, unused = update(theta.numpy(), rows, np.random.default_rng(0))
    _, _, second = update(
        theta.numpy(), _rows(policy, theta), np.random.default_rng(0), None, unused
    )
    for name, factor in second.items():
        np.testing.assert_array_equal(factor, memory[name])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (keras.layers.Dense(4, "tanh", name="hidden"), "activation as a layer of its own"),
        (keras.layers.Dense(4, use_bias=False, name="hidden"), "must have a bias"),
        (keras.layers.LayerNormalization(name="hidden"), "must be Dense, Conv2D"),
    ],
)
def test_layers_without_a_rule_are_refused(layer, message):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2, name="output")(layer(inputs)))
    with pytest.raises(ValueError, match=f"layer hidden is not allowed with K-FAC: .*{message}"):
        kronecker.KroneckerFactors(policy_lib.Policy(model, distributions.Categorical(2)))
