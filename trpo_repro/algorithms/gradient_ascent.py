"""Penalty and clipped objective in the constraint's place: several gradient steps an iteration."""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trpo_repro.algorithms import policy_update
from trpo_repro.estimation import surrogates
from trpo_repro.optimization import chunks, trust_region
from trpo_repro.policies import policy as policy_lib
from trpo_repro.settings import Group, algorithms, setting


class Objective(enum.Enum):
    """What the gradient steps climb."""

    FIXED_PENALTY = "L(θ) − λ KL(old ‖ θ)"
    ADAPTIVE_PENALTY = "the same, with λ by dual ascent on the limit of the KL"
    CLIPPED = "L(θ) with clipped ratios (Schulman et al., 2017)"


@dataclasses.dataclass(frozen=True)
class AscentSettings(
    Group,
    title="Gradient ascent",
    readers=algorithms("fixed_penalty", "adaptive_penalty", "ppo"),
):
    ascent_steps: int = setting(40, "Steps of Adam an iteration, each on the batch", at_least=1)
    ascent_rate: float = setting(3e-3, "Learning rate of Adam", above=0)


@dataclasses.dataclass(frozen=True)
class PenaltySettings(
    Group, title="Penalty", readers=algorithms("fixed_penalty", "adaptive_penalty")
):
    multiplier: float = setting(
        1.0, "Price λ of a nat of mean KL: always, or at the start", above=0
    )


@dataclasses.dataclass(frozen=True)
class DualSettings(Group, title="Dual ascent", readers=algorithms("adaptive_penalty")):
    kl_target: float = setting(0.01, "Mean KL that the multiplier aims at, in nats", above=0)
    dual_rate: float = setting(
        0.5, "Rate κ of log λ ← log λ + κ min((KL − target) / target, 1)", above=0
    )


@dataclasses.dataclass(frozen=True)
class ClipSettings(Group, title="Clipping", readers=algorithms("ppo")):
    clip_range: float = setting(0.2, "Ratios gain nothing beyond 1 ± this", above=0)


@dataclasses.dataclass(frozen=True)
class Method(AscentSettings, PenaltySettings, DualSettings, ClipSettings):
    """A member of the family.

    Attributes:
      objective: see Objective.
    """

    objective: Objective = Objective.FIXED_PENALTY


METHODS: dict[str, Method] = {
    "fixed_penalty": Method(),
    "adaptive_penalty": Method(objective=Objective.ADAPTIVE_PENALTY),
    "ppo": Method(objective=Objective.CLIPPED),
}


class GradientAscent:
    """One compiled policy update by gradient steps on the surrogate of eq. 14.

    Attributes:
      array_names: names of the arrays that a batch must hold.
    """

    def __init__(
        self,
        policy: policy_lib.Policy,
        method: Method,
        *,
        optimizer: keras.optimizers.Optimizer | None = None,
        chunk_size: int = chunks.CHUNK_SIZE,
    ):
        """Builds the graph.

        Args:
          policy: policy whose parameters are updated.
          method: method of the family.
          optimizer: of the gradient steps, begun anew in each update; Adam when None.
          chunk_size: states that the graph holds activations of at one time.
        """
        self._policy = policy
        self._method = method
        self._chunk_size = chunk_size
        self._is_penalized = method.objective is not Objective.CLIPPED
        self._surrogate: surrogates.Surrogate = (
            surrogates.ImportanceSampled()
            if self._is_penalized
            else surrogates.Clipped(method.clip_range)
        )
        # Scratch of one update: every call writes it first and reads it last.
        self._theta = keras.Variable(
            policy.network.initial_parameters(), dtype=policy.network.dtype.name, name="theta"
        )
        self._optimizer = optimizer or keras.optimizers.Adam(method.ascent_rate)
        self._optimizer.build([self._theta])
        self._fresh_optimizer = [variable.numpy() for variable in self._optimizer.variables]
        dtype = policy.network.dtype
        batch = {
            "observations": tf.TensorSpec(
                [None, *policy.observation_shape], policy.observation_dtype
            ),
            **self._surrogate.batch_specs(policy.family),
        }
        self.array_names = tuple(batch)
        self._climb = tf.function(
            self._climb_in_graph,
            input_signature=[
                tf.TensorSpec([policy.network.size], dtype),
                batch,
                tf.TensorSpec([], dtype),
            ],
            autograph=False,
        )

    def initial_memory(self) -> dict[str, np.ndarray]:
        """Returns what the first update remembers: λ, where it changes."""
        if self._method.objective is not Objective.ADAPTIVE_PENALTY:
            return {}
        return {"multiplier": np.array(self._method.multiplier)}

    def __call__(
        self,
        theta: np.ndarray,
        batch: Mapping[str, Any],
        generator: np.random.Generator | None = None,
        kl_batch: Mapping[str, Any] | None = None,
        memory: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any], dict[str, np.ndarray]]:
        """Returns (θ', report, memory'), as `policy_update.Update` does.

        Nothing is drawn, and the KL is over the batch's states.
        """
        del generator, kl_batch
        memory = self.initial_memory() if memory is None else memory
        multiplier = float(memory.get("multiplier", self._method.multiplier))
        for variable, start in zip(self._optimizer.variables, self._fresh_optimizer, strict=True):
            variable.assign(start)
        self._theta.assign(theta)
        before, after, gradient_norm, entropy = self._climb(theta, dict(batch), multiplier)
        found = self._theta.numpy()
        outcome, kept = trust_region.Outcome.ACCEPTED, dict(memory)
        usable = np.isfinite([before.surrogate, gradient_norm]).all()
        if kept and usable:
            # A KL that is not finite is the largest violation.
            kl = np.nan_to_num(float(after.mean_kl), nan=np.inf)
            violation = min(kl / self._method.kl_target - 1, 1.0)
            kept = {"multiplier": np.array(multiplier * np.exp(self._method.dual_rate * violation))}
        if not (usable and np.isfinite(found).all() and np.isfinite([*after]).all()):
            found, outcome, after = theta, trust_region.Outcome.NOT_FINITE, before
        return (
            found,
            {
                "surrogate_before": before.surrogate.numpy(),
                "surrogate_after": after.surrogate.numpy(),
                "mean_kl": after.mean_kl.numpy(),
                "max_kl": after.max_kl.numpy(),
                "entropy": entropy.numpy(),
                "gradient_norm": gradient_norm.numpy(),
                "step_norm": np.linalg.norm(found - theta),
                "multiplier": multiplier if self._is_penalized else np.nan,
                "outcome": outcome,
            },
            kept,
        )

    def _climb_in_graph(self, theta, batch, multiplier):
        means = policy_update.ChunkedMeans(
            self._policy, self._surrogate, theta, batch, None, batch, self._chunk_size
        )
        surrogate, gradient = means.gradient()
        before = trust_region.Evaluation(
            surrogate, tf.zeros_like(surrogate), tf.zeros_like(surrogate)
        )

        def step(i):
            here = tf.convert_to_tensor(self._theta.value)
            ascent = means.penalized_gradient(here, multiplier if self._is_penalized else None)
            self._optimizer.apply([-ascent], [self._theta])
            return i + 1

        tf.while_loop(
            lambda i: i < self._method.ascent_steps,
            step,
            (tf.constant(0),),
            parallel_iterations=1,
        )
        after = means.evaluate(tf.convert_to_tensor(self._theta.value))
        return before, after, tf.norm(gradient), means.mean_entropy()
