"""The trust-region family: one engine over callables of flat vectors, with exchangeable parts."""

import dataclasses
import enum
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from trpo_repro.optimization import conjugate_gradient, line_search
from trpo_repro.settings import Group, Readers, setting


class Curvature(enum.Enum):
    """The matrix A of the step direction A⁻¹g."""

    FISHER = "analytic Fisher matrix, JᵀMJ"
    KL_HESSIAN = "Hessian of the mean KL by nested tapes"
    EMPIRICAL = "second moment of the scores of sampled actions"
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


def _family_with(part: str, has_part: "Callable[[Method], bool]") -> Readers:
    """Returns the runs of the algorithms whose row of METHODS has a part."""
    return Readers(
        f"the algorithms with {part}",
        lambda config: config.algorithm in METHODS and has_part(METHODS[config.algorithm]),
    )


@dataclasses.dataclass(frozen=True)
class KLLimitSettings(
    Group,
    title="Trust region",
    readers=_family_with("a KL limit", lambda row: row.step is not StepRule.FIXED),
):
    kl_limit: float = setting(0.01, "Trust region size δ, in nats", above=0, at_most=10)


@dataclasses.dataclass(frozen=True)
class CurvatureSettings(
    Group,
    title="Step direction",
    readers=_family_with("a Fisher matrix", lambda row: row.curvature is not Curvature.IDENTITY),
):
    cg_iterations: int = setting(10, "Conjugate gradient iterations k", at_least=1)
    damping: float = setting(0.0, "Multiple of the identity added to the Fisher matrix", at_least=0)
    fisher_fraction: float = setting(
        0.1, "Fraction of states used in Fisher-vector products", above=0, at_most=1
    )
    preconditioner: str = setting(
        "none",
        "Preconditioner of conjugate gradient: none, or K-FAC's Kronecker factors, whose own "
        "direction is that of cg_iterations=1",
        choices=("none", "kfac"),
    )


@dataclasses.dataclass(frozen=True)
class KroneckerSettings(
    Group,
    title="Kronecker factors",
    readers=Readers("preconditioner=kfac", lambda config: config.preconditioner == "kfac"),
):
    factored_damping: float = setting(
        1e-2, "λ of the preconditioner: √λ is shared between the two factors of a layer", above=0
    )
    factor_decay: float = setting(
        0.95,
        "Weight of the iterations before in the running mean of the factors; of iteration k at "
        "most 1 − 1/k",
        at_least=0,
        below=1,
    )


@dataclasses.dataclass(frozen=True)
class LineSearchSettings(
    Group,
    title="Line search",
    readers=_family_with("a line search", lambda row: row.step is StepRule.LINE_SEARCH),
):
    backtrack_factor: float = setting(
        0.8, "Factor by which the line search shrinks a refused step", above=0, below=1
    )
    max_backtracks: int = setting(
        15, "Times that the line search shrinks a refused step before it gives up", at_least=0
    )
    kl_direction: str = setting(
        "old_new",
        "Divergence that the line search limits: the paper's KL(old ‖ new), or KL(new ‖ old)",
        choices=("old_new", "new_old"),
    )
    adapt_kl_limit: bool = setting(
        False,
        "Change δ by how well the linear model predicts the surrogate (Nocedal and Wright, "
        "Algorithm 4.1): a study, by which cart-pole and swimmer hardly learn, question Q2",
    )


@dataclasses.dataclass(frozen=True)
class FixedStepSettings(
    Group,
    title="Fixed step",
    readers=_family_with("a fixed step", lambda row: row.step is StepRule.FIXED),
):
    step_size: float = setting(0.1, "Step 1/λ along the step direction", above=0)


@dataclasses.dataclass(frozen=True)
class StateWeightingSettings(
    Group,
    title="State weighting",
    readers=Readers("the trust-region family", lambda config: config.algorithm in METHODS),
):
    state_weighting: str = setting(
        "equal",
        "Weights of states in the surrogate, the mean KL and the Fisher matrix; discounted is γᵗ "
        "for a state t steps into its episode (eqs. 3, 12 and 14)",
        choices=("equal", "discounted"),
    )


@dataclasses.dataclass(frozen=True)
class Method(
    KLLimitSettings,
    CurvatureSettings,
    KroneckerSettings,
    LineSearchSettings,
    FixedStepSettings,
):
    """A member of the family: a row of its table, and the numbers of the parts.

    Attributes:
      curvature: see Curvature.
      constraint: see Constraint; the fixed step has none.
      step: see StepRule.
    """

    curvature: Curvature = Curvature.FISHER
    constraint: Constraint = Constraint.MEAN_KL
    step: StepRule = StepRule.LINE_SEARCH


ADAPTED_RANGE = 100.0  # a δ that adapts stays within this factor of the first, both ways

METHODS: dict[str, Method] = {
    "trpo": Method(),
    "max_kl": Method(constraint=Constraint.MAX_KL),
    "kl_hessian": Method(curvature=Curvature.KL_HESSIAN),
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
    ZERO_GRADIENT = 4


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
      preconditioner: [P] v → K⁻¹v, K near A; or None.
    """

    gradient: Callable[[], tuple[tf.Tensor, tf.Tensor]]
    product: Callable[[tf.Tensor], tf.Tensor]
    quadratic_kl: Callable[[tf.Tensor], tf.Tensor]
    evaluate: Callable[[tf.Tensor], Evaluation]
    preconditioner: Callable[[tf.Tensor], tf.Tensor] | None = None


class Report(NamedTuple):
    """Scalars about one step; see WORKSPACE.md, Metrics. KLs are those of the last candidate; the
    ratio is NaN where no step was accepted."""

    surrogate_before: tf.Tensor
    surrogate_after: tf.Tensor
    mean_kl: tf.Tensor
    max_kl: tf.Tensor
    improvement_ratio: tf.Tensor
    gradient_norm: tf.Tensor
    step_norm: tf.Tensor
    cg_residual: tf.Tensor
    backtracks: tf.Tensor
    outcome: tf.Tensor


def trust_region_step(
    theta: tf.Tensor, problem: Problem, method: Method, kl_limit: tf.Tensor | None = None
) -> tuple[tf.Tensor, Report]:
    """Returns (θ', report): one maximizing step of `method` from θ (Sec. 6, App. C).

    The limit δ is `kl_limit`, or the method's when None.

    Algorithm 1's exact step, made practical: the direction A⁻¹g by conjugate gradient, its length
    from the KL limit, and a search for a point that keeps surrogate and limit.
    """
    if kl_limit is None:
        kl_limit = tf.constant(method.kl_limit, theta.dtype)
    before, gradient = problem.gradient()
    gradient_finite = tf.reduce_all(tf.math.is_finite(gradient))
    zero_gradient = tf.reduce_all(tf.equal(gradient, 0))
    gradient = tf.where(gradient_finite, gradient, tf.zeros_like(gradient))
    direction = _direction(problem, gradient, method)
    step = _full_step(problem, direction, method, kl_limit)
    positive, finite = step.positive, step.finite & gradient_finite
    usable = positive & finite & ~zero_gradient
    full_step = tf.where(usable, step.x, tf.zeros_like(step.x))
    search = _search(theta, full_step, usable, before, problem, method, kl_limit)
    at = search.evaluation
    if method.step is not StepRule.LINE_SEARCH:  # which refuses what is not finite
        finite &= tf.reduce_all(tf.math.is_finite(tf.stack(tf.nest.flatten(at))))

    outcome = tf.where(search.accepted, int(Outcome.ACCEPTED), int(Outcome.LINE_SEARCH_FAILED))
    outcome = tf.where(positive, outcome, int(Outcome.NONPOSITIVE_CURVATURE))
    outcome = tf.where(zero_gradient, int(Outcome.ZERO_GRADIENT), outcome)
    outcome = tf.where(finite, outcome, int(Outcome.NOT_FINITE))
    accepted = tf.equal(outcome, int(Outcome.ACCEPTED))
    theta_after = tf.where(accepted, search.theta, theta)
    predicted = tf.tensordot(gradient, theta_after - theta, 1)
    report = Report(
        surrogate_before=before,
        surrogate_after=tf.where(accepted, at.surrogate, before),
        mean_kl=at.mean_kl,
        max_kl=at.max_kl,
        improvement_ratio=(tf.where(accepted, at.surrogate, before) - before) / predicted,
        gradient_norm=tf.norm(gradient),
        step_norm=tf.norm(theta_after - theta),
        cg_residual=direction.residual,
        backtracks=search.backtracks,
        outcome=outcome,
    )
    return theta_after, report


def adapted_kl_limit(
    kl_limit: float, outcome: Outcome, improvement_ratio: float, first: float
) -> float:
    """Returns the next δ: Nocedal and Wright (2006), Algorithm 4.1, for the radius sqrt(2δ).

    The radius becomes a quarter where the line search failed, or less than a quarter of the
    improvement came that was predicted; it doubles where more than three quarters came. The
    algorithm asks besides that the step went to the limit, as the line search's first candidate
    always does by the model of the KL: that the KL itself is a hair above δ, and the step shorter,
    says nothing against a larger one. What has no step for another reason says nothing of the
    radius.

    Args:
      kl_limit: δ of the step.
      outcome: what became of it.
      improvement_ratio: actual over predicted improvement, ρ; NaN without a step.
      first: δ of the first step; the next stays within ADAPTED_RANGE of it.
    """
    if outcome is Outcome.LINE_SEARCH_FAILED or improvement_ratio < 0.25:
        return max(kl_limit / 16, first / ADAPTED_RANGE)
    if improvement_ratio > 0.75:
        return min(4 * kl_limit, first * ADAPTED_RANGE)
    return kl_limit


class _Vector(NamedTuple):
    """A direction or step [P], whether its curvature is positive and all is finite."""

    x: tf.Tensor
    positive: tf.Tensor
    finite: tf.Tensor
    residual: tf.Tensor


def _direction(problem: Problem, gradient: tf.Tensor, method: Method) -> _Vector:
    """Returns A⁻¹g (App. C)."""
    if method.curvature is Curvature.IDENTITY:
        true = tf.constant(True)
        return _Vector(gradient, true, true, tf.zeros([], gradient.dtype))
    damping = tf.constant(method.damping, gradient.dtype)
    solution = conjugate_gradient.conjugate_gradient(
        lambda v: problem.product(v) + damping * v,
        gradient,
        iterations=method.cg_iterations,
        preconditioner=problem.preconditioner,
    )
    finite = solution.finite & tf.reduce_all(tf.math.is_finite(solution.x))
    return _Vector(solution.x, solution.positive, finite, solution.relative_residual)


def _full_step(
    problem: Problem, direction: _Vector, method: Method, kl_limit: tf.Tensor
) -> _Vector:
    """Returns the direction at the length β = sqrt(2δ / sᵀAs) of App. C, or the fixed one."""
    x = direction.x
    if method.step is StepRule.FIXED:
        return direction._replace(x=tf.constant(method.step_size, x.dtype) * x)
    quadratic = problem.quadratic_kl(x)
    ratio = tf.math.divide_no_nan(2 * kl_limit, quadratic)
    return direction._replace(
        x=tf.sqrt(tf.maximum(ratio, 0)) * x,
        positive=direction.positive & (quadratic > 0),
        finite=direction.finite & tf.math.is_finite(quadratic),
    )


def _search(
    theta, step, usable, before, problem: Problem, method: Method, kl_limit
) -> line_search.LineSearchResult:
    """Returns the point that the step rule goes to; a step that is not usable ends at once."""
    if method.step is not StepRule.LINE_SEARCH:
        at = problem.evaluate(theta + step)
        return line_search.LineSearchResult(theta + step, tf.constant(True), tf.constant(0), at)

    def acceptable(at: Evaluation) -> tf.Tensor:
        kl = at.max_kl if method.constraint is Constraint.MAX_KL else at.mean_kl
        return (at.surrogate > before) & (kl <= kl_limit) | ~usable

    return line_search.backtracking_line_search(
        theta,
        step,
        problem.evaluate,
        acceptable,
        factor=method.backtrack_factor,
        max_backtracks=method.max_backtracks,
    )
