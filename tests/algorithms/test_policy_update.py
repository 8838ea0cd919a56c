"""Policy updates: TRPO's promises, recomputed from the policy itself."""

import dataclasses
import functools

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from trpo_repro.algorithms import policy_update
from trpo_repro.environments import tabular
from trpo_repro.estimation import returns, surrogates
from trpo_repro.optimization import trust_region
from trpo_repro.optimization.trust_region import Constraint, Method, Outcome
from trpo_repro.policies import policy as policy_lib
from trpo_repro.randomness import Key
from trpo_repro.sampling import single_path
from trpo_repro.theory import mdp


@functools.cache
def _policy(kind="gaussian", dtype="float32"):
    spaces = gymnasium.spaces
    space = spaces.Box(-1, 1, (2,)) if kind == "gaussian" else spaces.Discrete(4)
    return policy_lib.multilayer_perceptron_policy(
        spaces.Box(-np.inf, np.inf, (3,)),
        space,
        hidden_sizes=(8,),
        activation="softplus",
        seed=0,
        output_scale=1.0,
        dtype=dtype,
    )


@functools.cache  # a second or two to make the graph
def _update(policy, method, **options):
    return policy_update.PolicyUpdate(policy, surrogates.ImportanceSampled(), method, **options)


def _rows(policy, theta, count=500, seed=0):
    generator = np.random.default_rng(seed)
    observations = generator.standard_normal((count, 3)).astype(policy.observation_dtype.name)
    actions = policy.sample(theta, observations, policy.family.draw_noise(generator, (count,)))
    first = actions[:, 0] if actions.ndim == 2 else actions
    advantages = (observations[:, 0] * first + generator.standard_normal(count)).astype("f4")
    return {"observations": observations, "actions": actions, "advantages": advantages}


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
@pytest.mark.parametrize("name", ["trpo", "max_kl", "empirical_fim"])
def test_accepted_steps_keep_the_promise(kind, name):
    """KL(old ‖ new) ≤ δ and a better surrogate, recomputed here from the policy itself."""
    policy = _policy(kind)
    theta = policy.network.initial_parameters()
    method = trust_region.METHODS[name]
    update = _update(policy, method)
    for seed in range(3):
        _assert_the_promise(policy, update, method, theta, _rows(policy, theta, seed=seed))


def _assert_the_promise(policy, update, method, theta, rows):
    after, report, _ = update(theta, rows, np.random.default_rng(0))
    assert report["outcome"] is Outcome.ACCEPTED
    old, new = (policy.network(x, rows["observations"]) for x in (theta, after))
    kl = policy.family.kl(old, new).numpy()
    bound = kl.max() if method.constraint is Constraint.MAX_KL else kl.mean()
    assert bound <= 0.01 * (1 + 1e-4)  # float32 sums in another order
    assert kl.mean() == pytest.approx(report["mean_kl"], rel=1e-3)
    assert kl.max() == pytest.approx(report["max_kl"], rel=1e-3)
    ratio = np.exp(
        policy.family.log_prob(new, rows["actions"]) - policy.family.log_prob(old, rows["actions"])
    )
    surrogate = np.mean(ratio * rows["advantages"])
    assert surrogate == pytest.approx(report["surrogate_after"], rel=1e-3, abs=1e-6)
    assert surrogate > rows["advantages"].mean()


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_the_other_direction_limits_the_other_divergence(kind):
    """KL(new ‖ old) is what is reported and limited; the step's first candidate is the same, since
    the curvature at θ_old is."""
    policy = _policy(kind, dtype="float64")
    theta = policy.network.initial_parameters()
    rows = _rows(policy, theta)
    steps = {}
    for direction in ("old_new", "new_old"):
        for rule in (trust_region.StepRule.LINE_SEARCH, trust_region.StepRule.KL_LIMIT):
            method = Method(kl_limit=0.05, kl_direction=direction, step=rule, fisher_fraction=1.0)
            update = _update(policy, method)
            after, report, _ = update(theta, rows, np.random.default_rng(0))
            old, new = (policy.network(x, rows["observations"]) for x in (theta, after))
            pair = (old, new) if direction == "old_new" else (new, old)
            kl = policy.family.kl(*pair).numpy()
            assert report["mean_kl"] == pytest.approx(kl.mean(), rel=1e-9)
            assert report["max_kl"] == pytest.approx(kl.max(), rel=1e-9)
            if rule is trust_region.StepRule.LINE_SEARCH:
                assert kl.mean() <= 0.05
            steps[direction, rule] = after - theta
    first, second = (steps[d, trust_region.StepRule.KL_LIMIT] for d in ("old_new", "new_old"))
    np.testing.assert_array_equal(first, second)


def test_natural_gradient_is_the_compatible_least_squares_fit():
    """w of the fit of Q̂ by wᵀ∇log π on the batch, against conjugate gradient's A⁻¹g with the
    empirical Fisher matrix: the normal equations are A w = g."""
    policy = policy_lib.multilayer_perceptron_policy(
        gymnasium.spaces.Box(-np.inf, np.inf, (3,)),
        gymnasium.spaces.Box(-1, 1, (2,)),
        hidden_sizes=(),
        activation="tanh",
        seed=0,
        output_scale=1.0,
        dtype="float64",
    )
    theta = policy.network.initial_parameters()
    rows = _rows(policy, theta, 60)
    method = Method(
        curvature=trust_region.Curvature.EMPIRICAL,
        step=trust_region.StepRule.FIXED,
        step_size=1.0,
        fisher_fraction=1.0,
        cg_iterations=30,
    )
    update = _update(policy, method)
    after, _, _ = update(theta, rows, np.random.default_rng(0))
    scores = []
    for n in range(60):
        at = tf.constant(theta)
        with tf.GradientTape() as tape:
            tape.watch(at)
            parameters = policy.network(at, rows["observations"][n : n + 1])
            log_prob = policy.family.log_prob(parameters, rows["actions"][n : n + 1])
        scores.append(tape.gradient(log_prob, at).numpy())
    fit = np.linalg.lstsq(np.array(scores), rows["advantages"].astype(float), rcond=None)[0]
    np.testing.assert_allclose(after - theta, fit, atol=1e-8)


def test_an_adapting_limit_is_remembered():
    """Of a surrogate that is nearly linear in the step all that was predicted comes: δ is 0.01,
    0.04 and 0.16, although the first candidate's KL is often above it; then the ratio decides."""
    policy = _policy()
    theta = policy.network.initial_parameters()
    method = Method(adapt_kl_limit=True, fisher_fraction=1.0)
    update = _update(policy, method)
    memory, reports = update.initial_memory(), []
    for seed in range(3):
        rows = _rows(policy, theta, seed=seed)
        theta, report, memory = update(theta, rows, np.random.default_rng(0), memory=memory)
        reports.append(report)
        assert report["mean_kl"] <= report["kl_limit"]
    assert [report["kl_limit"] for report in reports] == pytest.approx([0.01, 0.04, 0.16])
    assert all(report["improvement_ratio"] > 0.75 for report in reports[:2])
    assert any(report["backtracks"] for report in reports)


def test_kl_is_zero_before_the_step():
    """mean_kl(θ_old, θ_old) = 0: the evaluation compares with the distribution of this θ."""
    policy = _policy(dtype="float64")
    theta = tf.constant(policy.network.initial_parameters())
    rows = {name: tf.constant(array) for name, array in _rows(policy, theta).items()}
    batch = policy_update.ChunkedMeans(
        policy, surrogates.ImportanceSampled(), theta, rows, None, rows, 64
    )
    at = batch.evaluate(theta)
    assert abs(float(at.mean_kl)) < 1e-15
    assert float(at.max_kl) < 1e-15
    assert float(at.surrogate) == pytest.approx(rows["advantages"].numpy().mean(), abs=1e-7)


def test_subsampling_touches_the_fisher_product_only():
    """Surrogate and its gradient are those of all rows; a tenth of the states changes neither."""
    policy = _policy()
    theta = policy.network.initial_parameters()
    rows = _rows(policy, theta)
    reports = []
    for fraction in (1.0, 0.1):
        method = dataclasses.replace(trust_region.METHODS["trpo"], fisher_fraction=fraction)
        update = _update(policy, method)
        reports.append(update(theta, rows, np.random.default_rng(0))[1])
    for name in ("surrogate_before", "gradient_norm", "entropy"):
        assert reports[0][name] == reports[1][name]
    assert reports[0]["step_norm"] != reports[1]["step_norm"]


def test_separate_states_carry_constraint_and_curvature():
    """With the surrogate's own states given separately, nothing changes but rounding."""
    policy = _policy(dtype="float64")
    theta = policy.network.initial_parameters()
    rows = _rows(policy, theta)
    method = dataclasses.replace(trust_region.METHODS["trpo"], fisher_fraction=1.0)
    together = _update(policy, method)
    apart = _update(policy, method, separate_kl_states=True)
    first, _, _ = together(theta, rows, np.random.default_rng(0))
    second, _, _ = apart(
        theta, rows, np.random.default_rng(0), {"observations": rows["observations"]}
    )
    np.testing.assert_allclose(first, second, rtol=1e-9, atol=1e-12)
    elsewhere, report, _ = apart(
        theta, rows, np.random.default_rng(0), {"observations": 3 * rows["observations"]}
    )
    assert report["mean_kl"] <= 0.01
    assert np.abs(elsewhere - first).max() > 1e-6


def test_batch_length_does_not_retrace():
    policy = _policy()
    theta = policy.network.initial_parameters()
    update = _update(policy, Method())
    for count in (300, 500, 7):
        update(theta, _rows(policy, theta, count), np.random.default_rng(0))
    assert update._step.experimental_get_tracing_count() == 1


@pytest.mark.parametrize(
    ("hidden_sizes", "cg_iterations"),
    [
        ((), 20),
        ((8,), 20),
        pytest.param((), 10, marks=pytest.mark.slow),
        pytest.param((8,), 10, marks=pytest.mark.slow),
    ],
)
def test_every_step_on_a_discrete_process_is_accepted(hidden_sizes, cg_iterations):
    """60 updates in float32: a softmax's Fisher matrix is singular, and conjugate gradient meets
    rounding where its direction has no curvature. No gradient here is zero."""
    process = mdp.random_mdp(0, states=4, actions=3, discount=0.8)
    environment = tabular.Tabular(
        process.transitions, process.rewards, process.initial, max_episode_steps=50
    )
    policy = policy_lib.multilayer_perceptron_policy(
        environment.observation_space,
        environment.action_space,
        hidden_sizes=hidden_sizes,
        activation="tanh",
        seed=0,
    )
    update = _update(policy, Method(cg_iterations=cg_iterations))
    theta = policy.network.initial_parameters()
    for i in range(60):
        paths, *_ = single_path.sample_trajectories(
            environment, policy, theta, Key(0, i), steps=50, states=20
        )
        advantages = returns.discounted_sums(paths.rewards, paths.ends, process.discount)
        rows = {
            "observations": paths.flat_observations(),
            "actions": paths.actions.ravel(),
            "advantages": returns.standardize(advantages).ravel().astype(np.float32),
        }
        theta, report, _ = update(theta, rows, np.random.default_rng(i))
        assert report["gradient_norm"] > 0
        assert report["outcome"] is Outcome.ACCEPTED


def test_weights_of_states_are_repetitions():
    """A state of weight 2 counts as two states of weight 1, in surrogate, constraint and Fisher
    matrix of each method, and one of weight 1 as one without weights; 1e-7: float64 policies, and
    standardized advantages in float32."""
    policy = _policy(dtype="float64")
    theta = policy.network.initial_parameters()
    rows = _rows(policy, theta, 60)
    weights = np.random.default_rng(0).integers(0, 4, 60)

    def assert_same(first, second):
        np.testing.assert_allclose(first[0], second[0], atol=1e-7)
        for column in ("surrogate_before", "surrogate_after", "mean_kl", "max_kl", "entropy"):
            assert first[1][column] == pytest.approx(second[1][column], rel=1e-6)

    for name in ("trpo", "empirical_fim", "max_kl"):
        method = dataclasses.replace(trust_region.METHODS[name], fisher_fraction=1.0)
        update = _update(policy, method, weighted_states=True)
        if name == "max_kl":  # a state without weight still counts for the largest KL
            weights = weights + 1
        repeated = {name: np.repeat(array, weights, axis=0) for name, array in rows.items()}
        ones = {**repeated, "weights": np.ones(weights.sum(), "f4")}
        once = update(theta, ones, np.random.default_rng(0))
        weighted = {**rows, "weights": weights.astype("f4")}
        assert_same(once, update(theta, weighted, np.random.default_rng(0)))
    plain = _update(policy, method)
    assert_same(once, plain(theta, repeated, np.random.default_rng(0)))


def test_not_finite_advantages_reject_the_step():
    policy = _policy()
    theta = policy.network.initial_parameters()
    rows = _rows(policy, theta)
    rows["advantages"][3] = np.nan
    update = _update(policy, Method())
    after, report, _ = update(theta, rows, np.random.default_rng(0))
    assert report["outcome"] is Outcome.NOT_FINITE
    np.testing.assert_array_equal(after, theta)
