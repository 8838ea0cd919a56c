"""The engine on quadratics with known answers, and policy updates with TRPO's promises."""

import dataclasses

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from trpo_repro.algorithms import trust_region
from trpo_repro.algorithms.trust_region import Constraint, Curvature, Method, Outcome, StepRule
from trpo_repro.environments import tabular
from trpo_repro.estimation import returns, surrogates
from trpo_repro.policies import policy as policy_lib
from trpo_repro.randomness import Key
from trpo_repro.sampling import single_path
from trpo_repro.theory import mdp

SIZE = 6


def _quadratic(scale=1.0, **changes):
    """Maximize bᵀx − ½ xᵀHx with KL ½ (x − θ)ᵀF(x − θ): everything has a closed form."""
    generator = np.random.default_rng(0)
    basis, _ = np.linalg.qr(generator.standard_normal((SIZE, SIZE)))
    fisher = basis @ np.diag(np.geomspace(1, 20, SIZE)) @ basis.T
    hessian = np.eye(SIZE) * scale
    b = generator.standard_normal(SIZE)
    theta = tf.constant(generator.standard_normal(SIZE))
    f, h = tf.constant(fisher), tf.constant(hessian)

    def objective(x):
        return tf.tensordot(x, b, 1) - 0.5 * tf.tensordot(x, tf.linalg.matvec(h, x), 1)

    def evaluate(x):
        kl = 0.5 * tf.tensordot(x - theta, tf.linalg.matvec(f, x - theta), 1)
        return trust_region.Evaluation(objective(x), kl, 4 * kl)

    def product(v):
        return tf.linalg.matvec(f, v)

    parts = {
        "gradient": lambda: (objective(theta), b - tf.linalg.matvec(h, theta)),
        "product": product,
        "quadratic_kl": lambda s: tf.tensordot(s, product(s), 1),
        "evaluate": evaluate,
        **changes,
    }
    return theta, trust_region.Problem(**parts), fisher


def _step(theta, problem, method):
    @tf.function
    def step():
        return trust_region.trust_region_step(theta, problem, method)

    after, report = step()
    return after.numpy(), {k: v.numpy() for k, v in report._asdict().items()}


def _natural_direction(problem, fisher):
    return np.linalg.solve(fisher, problem.gradient()[1].numpy())


def test_trpo_goes_along_the_natural_gradient_to_the_kl_limit():
    """With a nearly linear objective the full step is taken: β = sqrt(2δ / sᵀAs), App. C.

    The limit is a little inside: rounding may put KL a few ulp above δ, and refuse it.
    """
    theta, problem, fisher = _quadratic(scale=1e-3)
    after, report = _step(theta, problem, Method(kl_limit=0.01, max_backtracks=1))
    direction = _natural_direction(problem, fisher)
    beta = np.sqrt(2 * 0.01 / (direction @ fisher @ direction))
    ratio = (after - theta.numpy()) / (beta * direction)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-8)
    assert ratio[0] == pytest.approx(0.8 ** report["backtracks"], rel=1e-8)
    assert report["backtracks"] <= 1
    assert report["mean_kl"] == pytest.approx(0.01 * ratio[0] ** 2, rel=1e-6)
    assert report["mean_kl"] <= 0.01


def test_truncated_natural_gradient_takes_the_whole_step_unchecked():
    theta, problem, fisher = _quadratic(scale=1e3)  # the step overshoots and lowers the objective
    method = trust_region.METHODS["truncated_natural_gradient"]
    after, report = _step(theta, problem, method)
    direction = _natural_direction(problem, fisher)
    beta = np.sqrt(2 * 0.01 / (direction @ fisher @ direction))
    np.testing.assert_allclose(after, theta.numpy() + beta * direction, rtol=1e-8)
    assert report["mean_kl"] == pytest.approx(0.01, rel=1e-8)


def test_natural_gradient_and_vanilla_take_fixed_multiples():
    theta, problem, fisher = _quadratic()
    for name, expected in {
        "natural_gradient": _natural_direction(problem, fisher),
        "vanilla_policy_gradient": problem.gradient()[1].numpy(),
    }.items():
        method = dataclasses.replace(trust_region.METHODS[name], step_size=0.3)
        after, _ = _step(theta, problem, method)
        np.testing.assert_allclose(after, theta.numpy() + 0.3 * expected, rtol=1e-8)


def test_damping_is_added_to_the_matrix():
    theta, problem, fisher = _quadratic()
    method = dataclasses.replace(
        trust_region.METHODS["natural_gradient"], step_size=1.0, damping=0.5
    )
    after, _ = _step(theta, problem, method)
    expected = np.linalg.solve(fisher + 0.5 * np.eye(SIZE), problem.gradient()[1].numpy())
    np.testing.assert_allclose(after - theta.numpy(), expected, rtol=1e-8)


def test_iterated_steps_reach_the_known_optimum():
    """H = F here, so the natural gradient points at H⁻¹b and TRPO walks there in KL steps."""
    generator = np.random.default_rng(1)
    basis, _ = np.linalg.qr(generator.standard_normal((SIZE, SIZE)))
    h = tf.constant(basis @ np.diag(np.geomspace(1, 20, SIZE)) @ basis.T)
    b = tf.constant(generator.standard_normal(SIZE))

    @tf.function
    def step(theta):
        def objective(x):
            return tf.tensordot(x, b, 1) - 0.5 * tf.tensordot(x, tf.linalg.matvec(h, x), 1)

        def evaluate(x):
            kl = 0.5 * tf.tensordot(x - theta, tf.linalg.matvec(h, x - theta), 1)
            return trust_region.Evaluation(objective(x), kl, kl)

        problem = trust_region.Problem(
            lambda: (objective(theta), b - tf.linalg.matvec(h, theta)),
            lambda v: tf.linalg.matvec(h, v),
            lambda s: tf.tensordot(s, tf.linalg.matvec(h, s), 1),
            evaluate,
        )
        after, report = trust_region.trust_region_step(theta, problem, Method(max_backtracks=60))
        return after, report.surrogate_before, report.surrogate_after

    theta = tf.zeros(SIZE, tf.float64)
    for _ in range(200):
        theta, before, after = step(theta)
        assert float(after) >= float(before)
    np.testing.assert_allclose(theta, np.linalg.solve(h, b), atol=1e-5)


def test_max_kl_binds_the_largest_divergence():
    theta, problem, _ = _quadratic(scale=1e-3)
    _, mean = _step(theta, problem, Method())
    _, largest = _step(theta, problem, Method(constraint=Constraint.MAX_KL))
    assert mean["max_kl"] > 0.01  # four times the mean in this problem
    assert largest["max_kl"] <= 0.01


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"product": lambda v: -v}, Outcome.NONPOSITIVE_CURVATURE),
        ({"product": lambda v: v * np.nan}, Outcome.NOT_FINITE),
        ({"quadratic_kl": lambda s: tf.constant(-1.0, tf.float64)}, Outcome.NONPOSITIVE_CURVATURE),
        ({"quadratic_kl": lambda s: tf.constant(np.nan, tf.float64)}, Outcome.NOT_FINITE),
        (
            {
                "gradient": lambda: (
                    tf.constant(0.0, tf.float64),
                    tf.fill([SIZE], np.float64("nan")),
                )
            },
            Outcome.NOT_FINITE,
        ),
        (
            {"evaluate": lambda x: trust_region.Evaluation(*[tf.constant(np.nan, tf.float64)] * 3)},
            Outcome.LINE_SEARCH_FAILED,
        ),
        (
            {
                "evaluate": lambda x: trust_region.Evaluation(
                    tf.constant(-1e9, tf.float64), *[tf.constant(0.0, tf.float64)] * 2
                )
            },
            Outcome.LINE_SEARCH_FAILED,
        ),
    ],
)
def test_bad_numbers_reject_the_step_and_leave_theta_bit_for_bit(changes, outcome):
    theta, problem, _ = _quadratic(**changes)
    after, report = _step(theta, problem, Method())
    assert after.tobytes() == theta.numpy().tobytes()
    assert report["outcome"] == outcome
    assert report["step_norm"] == 0


def test_fixed_step_into_not_a_number_is_rejected():
    nan = tf.constant(np.nan, tf.float64)
    theta, problem, _ = _quadratic(evaluate=lambda x: trust_region.Evaluation(nan, nan, nan))
    after, report = _step(theta, problem, trust_region.METHODS["natural_gradient"])
    assert report["outcome"] == Outcome.NOT_FINITE
    assert after.tobytes() == theta.numpy().tobytes()


def test_curvature_lost_after_convergence_is_no_reason_to_refuse():
    """The second product is negative, as rounding shows a singular matrix: x of the first stays."""
    calls = []

    def product(v):
        calls.append(v)
        return v if len(calls) == 1 else -v

    theta, problem, _ = _quadratic(scale=1e-3, product=product)
    after, report = trust_region.trust_region_step(theta, problem, Method(cg_iterations=1))
    assert int(report.outcome) == Outcome.ACCEPTED
    assert (after.numpy() != theta.numpy()).all()


# Policy updates.


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


def _rows(policy, theta, count=500, seed=0):
    generator = np.random.default_rng(seed)
    observations = generator.standard_normal((count, 3)).astype(policy.observation_dtype.name)
    actions = policy.sample(theta, observations, policy.family.draw_noise(generator, (count,)))
    first = actions[:, 0] if actions.ndim == 2 else actions
    advantages = (observations[:, 0] * first + generator.standard_normal(count)).astype("f4")
    return {"observations": observations, "actions": actions, "advantages": advantages}


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
@pytest.mark.parametrize("name", ["trpo", "max_kl", "empirical_fim"])
@pytest.mark.parametrize("seed", range(3))
def test_accepted_steps_keep_the_promise(kind, name, seed):
    """KL(old ‖ new) ≤ δ and a better surrogate, recomputed here from the policy itself."""
    policy = _policy(kind)
    theta = policy.network.initial_parameters()
    rows = _rows(policy, theta, seed=seed)
    method = trust_region.METHODS[name]
    update = trust_region.PolicyUpdate(policy, surrogates.ImportanceSampled(), method)
    after, report = update(theta, rows, np.random.default_rng(0))
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


def test_kl_is_zero_before_the_step():
    """mean_kl(θ_old, θ_old) = 0: the evaluation compares with the distribution of this θ."""
    policy = _policy(dtype="float64")
    theta = tf.constant(policy.network.initial_parameters())
    rows = {name: tf.constant(array) for name, array in _rows(policy, theta).items()}
    batch = trust_region.Batch(policy, surrogates.ImportanceSampled(), theta, rows, None, rows, 64)
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
        update = trust_region.PolicyUpdate(policy, surrogates.ImportanceSampled(), method)
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
    together = trust_region.PolicyUpdate(policy, surrogates.ImportanceSampled(), method)
    apart = trust_region.PolicyUpdate(
        policy, surrogates.ImportanceSampled(), method, separate_kl_states=True
    )
    first, _ = together(theta, rows, np.random.default_rng(0))
    second, _ = apart(theta, rows, np.random.default_rng(0), {"observations": rows["observations"]})
    np.testing.assert_allclose(first, second, rtol=1e-9, atol=1e-12)
    elsewhere, report = apart(
        theta, rows, np.random.default_rng(0), {"observations": 3 * rows["observations"]}
    )
    assert report["mean_kl"] <= 0.01
    assert np.abs(elsewhere - first).max() > 1e-6


def test_batch_length_does_not_retrace():
    policy = _policy()
    theta = policy.network.initial_parameters()
    update = trust_region.PolicyUpdate(policy, surrogates.ImportanceSampled(), Method())
    for count in (300, 500, 7):
        update(theta, _rows(policy, theta, count), np.random.default_rng(0))
    assert update._step.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("hidden_sizes", [(), (8,)])
@pytest.mark.parametrize("cg_iterations", [10, 20])
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
    update = trust_region.PolicyUpdate(
        policy, surrogates.ImportanceSampled(), Method(cg_iterations=cg_iterations)
    )
    theta = policy.network.initial_parameters()
    for i in range(60):
        paths, *_ = single_path.sample_paths(
            environment, policy, theta, Key(0, i), steps=50, states=20
        )
        advantages = returns.discounted_sums(paths.rewards, paths.ends, process.discount)
        rows = {
            "observations": paths.rows(),
            "actions": paths.actions.ravel(),
            "advantages": returns.standardize(advantages).ravel().astype(np.float32),
        }
        theta, report = update(theta, rows, np.random.default_rng(i))
        assert report["gradient_norm"] > 0
        assert report["outcome"] is Outcome.ACCEPTED


def test_weights_of_states_are_repetitions():
    """A state of weight 2 counts as two states of weight 1, in surrogate, constraint and Fisher
    matrix of each method; 1e-7: float64 policies, and standardized advantages in float32."""
    policy = _policy(dtype="float64")
    theta = policy.network.initial_parameters()
    rows = _rows(policy, theta, 60)
    weights = np.random.default_rng(0).integers(0, 4, 60)
    repeated = {name: np.repeat(array, weights, axis=0) for name, array in rows.items()}
    for name in ("trpo", "empirical_fim", "max_kl"):
        method = dataclasses.replace(trust_region.METHODS[name], fisher_fraction=1.0)
        arguments = (policy, surrogates.ImportanceSampled(), method)
        plain = trust_region.PolicyUpdate(*arguments)
        weighted = trust_region.PolicyUpdate(*arguments, weighted_states=True)
        if name == "max_kl":  # a state without weight still counts for the largest KL
            repeated = {
                name: np.concatenate([array, rows[name]]) for name, array in repeated.items()
            }
            weights = weights + 1
        first, one = plain(theta, repeated, np.random.default_rng(0))
        second, two = weighted(
            theta, {**rows, "weights": weights.astype("f4")}, np.random.default_rng(0)
        )
        np.testing.assert_allclose(first, second, atol=1e-7)
        for column in ("surrogate_before", "surrogate_after", "mean_kl", "max_kl", "entropy"):
            assert one[column] == pytest.approx(two[column], rel=1e-6)


def test_not_finite_advantages_reject_the_step():
    policy = _policy()
    theta = policy.network.initial_parameters()
    rows = _rows(policy, theta)
    rows["advantages"][3] = np.nan
    update = trust_region.PolicyUpdate(policy, surrogates.ImportanceSampled(), Method())
    after, report = update(theta, rows, np.random.default_rng(0))
    assert report["outcome"] is Outcome.NOT_FINITE
    np.testing.assert_array_equal(after, theta)


def test_table_of_methods_has_one_row_for_each_choice_of_parts():
    parts = {(m.curvature, m.constraint, m.step) for m in trust_region.METHODS.values()}
    assert len(parts) == len(trust_region.METHODS)
    assert Method() == trust_region.METHODS["trpo"]
    assert trust_region.METHODS["trpo"].curvature is Curvature.FISHER
    assert trust_region.METHODS["trpo"].step is StepRule.LINE_SEARCH
