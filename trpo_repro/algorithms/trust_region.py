"""The trust-region family: one engine, exchangeable parts.

`trust_region_step` knows callables over flat vectors; `PolicyUpdate` makes these callables
from a policy, a surrogate and a batch, and compiles the whole step into one graph.
"""

import dataclasses
import enum
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trpo_repro.estimation import surrogates
from trpo_repro.optimization import chunks, conjugate_gradient, curvature, line_search
from trpo_repro.policies import policy as policy_lib
from trpo_repro.settings import Group, setting


class Curvature(enum.Enum):
    """The matrix A of the step direction A⁻¹g."""

    FISHER = "analytic Fisher matrix, JᵀMJ"
    KL_HESSIAN = "Hessian of the mean KL by nested tapes"
    EMPIRICAL = "covariance of the scores of sampled actions"
    IDENTITY = "identity"


class Constraint(enum.Enum):
    """What is held below the KL limit."""

    MEAN_KL = "mean over states of KL(old ‖ new), eq. 12"
    MAX_KL = "largest KL(old ‖ new) of a state, eq. 11"


class StepRule(enum.Enum):
    """How far to go along the step direction."""

    LINE_SEARCH = "backtrack from the KL limit until surrogate and KL agree"
    KL_LIMIT = "to the KL limit of the quadratic model, unchecked"
    FIXED = "a fixed multiple of the direction"


@dataclasses.dataclass(frozen=True)
class KLLimitSettings(Group, title="Trust region", readers="the algorithms with a KL limit"):
    kl_limit: float = setting(0.01, "Trust region size δ, in nats", above=0)

    @staticmethod
    def is_read(config):
        return _row_has(config, lambda row: row.step is not StepRule.FIXED)


@dataclasses.dataclass(frozen=True)
class CurvatureSettings(
    Group, title="Step direction", readers="the algorithms with a Fisher matrix"
):
    cg_iterations: int = setting(10, "Conjugate gradient iterations k", at_least=1)
    damping: float = setting(0.0, "Multiple of the identity added to the Fisher matrix", at_least=0)
    fisher_fraction: float = setting(
        0.1, "Fraction of states used in Fisher-vector products", above=0, at_most=1
    )

    @staticmethod
    def is_read(config):
        return _row_has(config, lambda row: row.curvature is not Curvature.IDENTITY)


@dataclasses.dataclass(frozen=True)
class LineSearchSettings(Group, title="Line search", readers="the algorithms with a line search"):
    backtrack_factor: float = setting(
        0.8, "Factor by which the line search shrinks a refused step", above=0, below=1
    )
    max_backtracks: int = setting(
        15, "Steps that the line search may refuse before it gives up", at_least=0
    )

    @staticmethod
    def is_read(config):
        return _row_has(config, lambda row: row.step is StepRule.LINE_SEARCH)


@dataclasses.dataclass(frozen=True)
class FixedStepSettings(Group, title="Fixed step", readers="the algorithms with a fixed step"):
    step_size: float = setting(0.1, "Step 1/λ along the step direction", above=0)

    @staticmethod
    def is_read(config):
        return _row_has(config, lambda row: row.step is StepRule.FIXED)


@dataclasses.dataclass(frozen=True)
class StateWeightingSettings(Group, title="State weighting", readers="the trust-region family"):
    state_weighting: str = setting(
        "equal",
        "Weights of states in the surrogate, the mean KL and the Fisher matrix; discounted is γᵗ "
        "for a state t steps into its episode (eqs. 3, 12 and 14)",
        choices=("equal", "discounted"),
    )

    @staticmethod
    def is_read(config):
        return config.algorithm in METHODS


def _row_has(config, condition: "Callable[[Method], bool]") -> bool:
    return config.algorithm in METHODS and condition(METHODS[config.algorithm])


@dataclasses.dataclass(frozen=True)
class Method(KLLimitSettings, CurvatureSettings, LineSearchSettings, FixedStepSettings):
    """A member of the family: a row of its table, and the numbers of the parts.

    Attributes:
      curvature: see Curvature.
      constraint: see Constraint; the fixed step has none.
      step: see StepRule.
    """

    curvature: Curvature = Curvature.FISHER
    constraint: Constraint = Constraint.MEAN_KL
    step: StepRule = StepRule.LINE_SEARCH


METHODS: dict[str, Method] = {
    "trpo": Method(),
    "max_kl": Method(constraint=Constraint.MAX_KL),
    "empirical_fim": Method(curvature=Curvature.EMPIRICAL),
    "truncated_natural_gradient": Method(step=StepRule.KL_LIMIT),
    "natural_gradient": Method(step=StepRule.FIXED),
    "vanilla_policy_gradient": Method(curvature=Curvature.IDENTITY, step=StepRule.FIXED),
}


class Outcome(enum.IntEnum):
    """What became of a step; all but ACCEPTED leave θ bit for bit as it was."""

    ACCEPTED = 0
    LINE_SEARCH_FAILED = 1
    NONPOSITIVE_CURVATURE = 2
    NOT_FINITE = 3


class Evaluation(NamedTuple):
    """Objective and divergences at a candidate, scalars."""

    surrogate: tf.Tensor
    mean_kl: tf.Tensor
    max_kl: tf.Tensor


class Problem(NamedTuple):
    """What the engine may ask about an objective near θ.

    Attributes:
      gradient: () → (objective, [P] gradient) at θ.
      product: [P] v → A v.
      quadratic_kl: [P] s → sᵀA s in the metric of the constraint: twice the KL of step s.
      evaluate: [P] θ' → Evaluation.
    """

    gradient: Callable[[], tuple[tf.Tensor, tf.Tensor]]
    product: Callable[[tf.Tensor], tf.Tensor]
    quadratic_kl: Callable[[tf.Tensor], tf.Tensor]
    evaluate: Callable[[tf.Tensor], Evaluation]


class Report(NamedTuple):
    """Scalars about one step; see WORKSPACE.md, Metrics. KLs are those of the last candidate."""

    surrogate_before: tf.Tensor
    surrogate_after: tf.Tensor
    mean_kl: tf.Tensor
    max_kl: tf.Tensor
    gradient_norm: tf.Tensor
    step_norm: tf.Tensor
    cg_residual: tf.Tensor
    backtracks: tf.Tensor
    outcome: tf.Tensor


def trust_region_step(
    theta: tf.Tensor, problem: Problem, method: Method
) -> tuple[tf.Tensor, Report]:
    """Returns (θ', report): one maximizing step of `method` from θ (Sec. 6, App. C)."""
    before, gradient = problem.gradient()
    gradient_finite = tf.reduce_all(tf.math.is_finite(gradient))
    gradient = tf.where(gradient_finite, gradient, tf.zeros_like(gradient))

    if method.curvature is Curvature.IDENTITY:
        direction, residual = gradient, tf.zeros_like(before)
        positive = finite = tf.constant(True)
    else:
        damping = tf.constant(method.damping, theta.dtype)
        solution = conjugate_gradient.conjugate_gradient(
            lambda v: problem.product(v) + damping * v, gradient, iterations=method.cg_iterations
        )
        direction, residual = solution.x, solution.relative_residual
        positive = solution.positive
        finite = solution.finite & tf.reduce_all(tf.math.is_finite(direction))

    if method.step is StepRule.FIXED:
        step = tf.constant(method.step_size, theta.dtype) * direction
    else:
        quadratic = problem.quadratic_kl(direction)
        # A zero gradient leaves a zero direction: no step, and no defect of the curvature.
        still = tf.reduce_all(tf.equal(direction, 0))
        positive &= (quadratic > 0) | still
        finite &= tf.math.is_finite(quadratic)
        ratio = tf.math.divide_no_nan(2 * tf.constant(method.kl_limit, theta.dtype), quadratic)
        step = tf.sqrt(tf.maximum(ratio, 0)) * direction

    usable = gradient_finite & positive & finite
    step = tf.where(usable, step, tf.zeros_like(step))

    def acceptable(at: Evaluation) -> tf.Tensor:
        kl = at.max_kl if method.constraint is Constraint.MAX_KL else at.mean_kl
        return (at.surrogate > before) & (kl <= tf.constant(method.kl_limit, kl.dtype)) | ~usable

    if method.step is StepRule.LINE_SEARCH:
        search = line_search.backtracking_line_search(
            theta,
            step,
            problem.evaluate,
            acceptable,
            factor=method.backtrack_factor,
            max_backtracks=method.max_backtracks,
        )
    else:
        at = problem.evaluate(theta + step)
        search = line_search.Search(theta + step, tf.constant(True), tf.constant(0), at)
    at = search.evaluation
    evaluation_finite = tf.reduce_all(tf.math.is_finite(tf.stack(tf.nest.flatten(at))))
    if method.step is not StepRule.LINE_SEARCH:
        finite &= evaluation_finite

    outcome = tf.where(search.accepted, int(Outcome.ACCEPTED), int(Outcome.LINE_SEARCH_FAILED))
    outcome = tf.where(positive, outcome, int(Outcome.NONPOSITIVE_CURVATURE))
    outcome = tf.where(gradient_finite & finite, outcome, int(Outcome.NOT_FINITE))
    accepted = tf.equal(outcome, int(Outcome.ACCEPTED))
    theta_after = tf.where(accepted, search.theta, theta)
    report = Report(
        surrogate_before=before,
        surrogate_after=tf.where(accepted, at.surrogate, before),
        mean_kl=at.mean_kl,
        max_kl=at.max_kl,
        gradient_norm=tf.norm(gradient),
        step_norm=tf.norm(theta_after - theta),
        cg_residual=residual,
        backtracks=search.backtracks,
        outcome=outcome,
    )
    return theta_after, report


class PolicyUpdate:
    """One compiled policy update: surrogate, constraint and curvature over a batch in chunks.

    Attributes:
      row_names: what a batch's rows must hold.
    """

    def __init__(
        self,
        policy: policy_lib.Policy,
        surrogate: surrogates.Surrogate,
        method: Method,
        *,
        separate_kl_states: bool = False,
        weighted_states: bool = False,
        stacked_frames: bool = False,
        chunk_rows: int = chunks.CHUNK_ROWS,
    ):
        """Builds the graph; nothing is traced until the first call.

        Args:
          policy: whose parameters are updated.
          surrogate: objective.
          method: of the family.
          separate_kl_states: the constraint's states are not the surrogate's.
          weighted_states: rows hold `weights`, which every mean over states is taken with.
          stacked_frames: observations are `frames.StackedFrames`.
          chunk_rows: rows that the graph holds activations of at one time.
        """
        self._policy = policy
        self._surrogate = surrogate
        self._method = method
        self._separate = separate_kl_states
        self._stacked = stacked_frames
        self._chunk_rows = chunk_rows
        shape, dtype = policy.observation_shape, policy.observation_dtype
        observations = tf.TensorSpec([None, *shape], dtype, "observations")
        store = tf.TensorSpec([0], dtype)
        if stacked_frames:
            observations = tf.TensorSpec([None, shape[0]], tf.int32, "observations")
            store = tf.TensorSpec([None, *shape[1:]], dtype)
        states = {"observations": observations}
        if weighted_states:
            states["weights"] = tf.TensorSpec([None], tf.float32, "weights")
        rows = {**states, **surrogate.row_specs(policy.family)}
        self._state_names = tuple(states)
        self.row_names = tuple(rows)
        self._step = tf.function(
            self._step_in_graph,
            input_signature=[
                tf.TensorSpec([policy.network.size], policy.network.dtype, "theta"),
                rows,
                states,
                rows if method.curvature is Curvature.EMPIRICAL else states,
                store,
            ],
        )

    def __call__(
        self,
        theta: np.ndarray,
        rows: Mapping[str, Any],
        generator: np.random.Generator,
        kl_rows: Mapping[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Returns (θ', report by name).

        Args:
          theta: [P], the parameters that the rows were sampled with.
          rows: `observations` [N, ...], what the surrogate reads, [N, ...], and, with
            weighted_states, `weights` [N] ≥ 0.
          generator: chooses the states of the Fisher matrix.
          kl_rows: with separate_kl_states, `observations` [M, ...], and `weights` [M], of the
            constraint's states; stacked frames have the store of the rows'.
        """
        if self._separate == (kl_rows is None):
            raise ValueError("kl_rows go with separate_kl_states, and only with it")
        store = np.zeros(0, self._policy.observation_dtype.as_numpy_dtype)
        if self._stacked:
            store = rows["observations"].frames
            rows = {**rows, "observations": rows["observations"].index}
            if kl_rows is not None:
                kl_rows = {**kl_rows, "observations": kl_rows["observations"].index}
        states = {name: rows[name] for name in self._state_names} if kl_rows is None else kl_rows
        # What the graph does not read when surrogate and constraint share their states.
        apart = {name: array[:0] for name, array in states.items()} if kl_rows is None else states
        source = rows if self._method.curvature is Curvature.EMPIRICAL else states
        chosen = self._choose(len(source["observations"]), generator)
        fisher = {name: array[chosen] for name, array in source.items()}
        after, report, entropy = self._step(theta, dict(rows), dict(apart), fisher, store)
        values = {name: value.numpy() for name, value in report._asdict().items()}
        values["entropy"] = entropy.numpy()
        values["outcome"] = Outcome(int(values["outcome"]))
        return after.numpy(), values

    def _choose(self, size: int, generator: np.random.Generator) -> np.ndarray | slice:
        count = int(np.ceil(self._method.fisher_fraction * size))
        if count >= size:
            return slice(None)
        return np.sort(generator.choice(size, count, replace=False))

    def _step_in_graph(self, theta, rows, kl_rows, fisher, store):
        batch = Batch(
            self._policy,
            self._surrogate,
            theta,
            rows,
            kl_rows if self._separate else None,
            fisher,
            self._chunk_rows,
            store if self._stacked else None,
        )
        products = {
            Curvature.FISHER: batch.fisher_product,
            Curvature.KL_HESSIAN: batch.kl_hessian_product,
            Curvature.EMPIRICAL: batch.empirical_product,
            Curvature.IDENTITY: lambda v: v,
        }
        product = products[self._method.curvature]
        quadratic_kl = batch.largest_quadratic_kl
        if self._method.constraint is Constraint.MEAN_KL:
            quadratic_kl = lambda s: tf.tensordot(s, product(s), 1)  # noqa: E731
        problem = Problem(batch.gradient, product, quadratic_kl, batch.evaluate)
        return (*trust_region_step(theta, problem, self._method), batch.mean_entropy())


class Batch:
    """Chunked means over one batch, as functions of flat vectors; lives while a graph is traced.

    Means over states are weighted where rows hold `weights`.
    """

    def __init__(self, policy, surrogate, theta, rows, kl_rows, fisher, chunk_rows, frames=None):
        self._network = policy.network
        if frames is not None:  # then observations are indices of frames, [n, F]
            self._network = lambda theta, index: policy.network(theta, tf.gather(frames, index))
        self._family = policy.family
        self._surrogate = surrogate
        self._theta = theta
        self._fisher = fisher
        self._chunk_rows = chunk_rows
        self._rows = self._with_old(rows)
        self._kl_rows = None if kl_rows is None else self._with_old(kl_rows)

    def gradient(self):
        """Returns (L, ∇L) at θ_old."""

        def of_chunk(chunk):
            with tf.GradientTape() as tape:
                tape.watch(self._theta)
                parameters = self._network(self._theta, chunk["observations"])
                total = self._surrogate_sum(parameters, chunk)
            return total, tape.gradient(total, self._theta)

        return self._mean(of_chunk, self._rows, (self._zero, tf.zeros_like(self._theta)))

    def evaluate(self, theta):
        """Returns the Evaluation at θ."""
        shared = self._kl_rows is None

        def of_chunk(chunk):
            parameters = self._network(theta, chunk["observations"])
            surrogate = self._surrogate_sum(parameters, chunk)
            return (surrogate, *self._kl(parameters, chunk)) if shared else (surrogate,)

        def kl_of_chunk(chunk):
            return self._kl(self._network(theta, chunk["observations"]), chunk)

        def fold(folded, result):
            sums = chunks.add(folded[:-1], result[:-1])
            return (*sums, tf.maximum(folded[-1], result[-1]))

        if shared:
            surrogate, kl, max_kl = self._reduce(of_chunk, self._rows, (self._zero,) * 3, fold)
            kl_weight = self._weight(self._rows)
        else:
            (surrogate,) = self._reduce(of_chunk, self._rows, (self._zero,))
            kl, max_kl = self._reduce(kl_of_chunk, self._kl_rows, (self._zero,) * 2, fold)
            kl_weight = self._weight(self._kl_rows)
        return Evaluation(surrogate / self._weight(self._rows), kl / kl_weight, max_kl)

    def mean_entropy(self):
        """Returns the mean entropy of the old policy over the surrogate's states, in nats."""

        def of_chunk(chunk):
            return _weighted_sum(self._family.entropy(chunk["old"]), chunk)

        rows = {name: self._rows[name] for name in ("old", "weights") if name in self._rows}
        return self._mean(of_chunk, rows, self._zero)

    def fisher_product(self, vector):
        """Returns (1/n) Σ JᵀMJ v."""

        def of_chunk(chunk):
            def metric(parameters, tangent):
                return _weighted(self._family.fisher_product(parameters, tangent), chunk)

            return curvature.fisher_vector_product(
                lambda theta: self._network(theta, chunk["observations"]),
                metric,
                self._theta,
                vector,
            )

        return self._mean(of_chunk, self._fisher, tf.zeros_like(vector))

    def kl_hessian_product(self, vector):
        """Returns the Hessian of the mean KL(old ‖ θ) at θ_old, times v."""

        def of_chunk(chunk):
            old = tf.stop_gradient(self._network(self._theta, chunk["observations"]))
            return curvature.hessian_vector_product(
                lambda theta: _weighted_sum(
                    self._family.kl(old, self._network(theta, chunk["observations"])), chunk
                ),
                self._theta,
                vector,
            )

        return self._mean(of_chunk, self._fisher, tf.zeros_like(vector))

    def empirical_product(self, vector):
        """Returns (1/n) Σ ∇log π ∇log πᵀ v over the sampled actions, a mean over each state's."""

        def of_chunk(chunk):
            def log_probs(theta):
                parameters = self._network(theta, chunk["observations"])
                return self._surrogate.log_probs(self._family, parameters, chunk)

            def metric(scores, tangent):
                count = tf.size(scores) / tf.maximum(tf.shape(scores)[0], 1)  # actions a state
                return _weighted(tangent, chunk) / tf.cast(count, tangent.dtype)

            return curvature.fisher_vector_product(log_probs, metric, self._theta, vector)

        return self._mean(of_chunk, self._fisher, tf.zeros_like(vector))

    def largest_quadratic_kl(self, vector):
        """Returns max over states of vᵀJᵀMJ v: twice the largest KL of a small step v."""

        def of_chunk(chunk):
            with tf.autodiff.ForwardAccumulator(self._theta, vector) as accumulator:
                parameters = self._network(self._theta, chunk["observations"])
            tangent = accumulator.jvp(parameters)
            product = self._family.fisher_product(parameters, tangent)
            return tf.reduce_max(tf.reduce_sum(tangent * product, axis=-1))

        return self._reduce(of_chunk, self._fisher, self._zero, tf.maximum)

    @property
    def _zero(self):
        return tf.zeros([], self._theta.dtype)

    def _with_old(self, rows):
        old = chunks.chunked_map(
            lambda observations: self._network(self._theta, observations),
            rows["observations"],
            self._theta.dtype,
            (self._family.parameter_size,),
            chunk_rows=self._chunk_rows,
        )
        return {**rows, "old": old}

    def _surrogate_sum(self, parameters, chunk):
        terms = self._surrogate(self._family, chunk["old"], parameters, chunk)
        return _weighted_sum(terms, chunk)

    def _kl(self, parameters, chunk):
        kl = self._family.kl(chunk["old"], parameters)
        return _weighted_sum(kl, chunk), tf.reduce_max(kl)

    def _weight(self, rows):
        if "weights" in rows:
            return tf.reduce_sum(tf.cast(rows["weights"], self._theta.dtype))
        return tf.cast(chunks.row_count(rows), self._theta.dtype)

    def _reduce(self, function, rows, initial, combine=chunks.add):
        return chunks.chunked_reduce(
            function, rows, initial, combine=combine, chunk_rows=self._chunk_rows
        )

    def _mean(self, function, rows, initial):
        sums = self._reduce(function, rows, initial)
        return tf.nest.map_structure(lambda total: total / self._weight(rows), sums)


def _weighted(values, chunk):
    """Returns [n, ...] values times the [n] weights of their states, where there are any."""
    if "weights" not in chunk:
        return values
    weights = tf.cast(chunk["weights"], values.dtype)
    return values * tf.reshape(weights, [-1, *[1] * (values.shape.rank - 1)])


def _weighted_sum(values, chunk):
    return tf.reduce_sum(_weighted(values, chunk))
