"""Policy search by weighted maximum likelihood: RWR and REPS.

Both fit the policy to its own actions, weighted by exp((Q̂ − V(s)) / T), and differ in where V and
T come from. In reward-weighted regression (Peters and Schaal 2007) T is a constant, and V is 0 as
in the original, or a fitted baseline. Relative entropy policy search (Peters, Mülling and Altün
2010) takes both from one dual function: the weighted samples stay within ε nats of the plain ones
and keep their mean features of states, so that differences between states that are linear in the
features use up nothing of ε.
Here every state of the sample is a context with a Monte Carlo return. The original has one-step
Bellman errors, and maximizes the average reward of a process that restarts: in that, an episode
that ends early would cost nothing.
"""

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from scipy import optimize

from trpo_repro.algorithms import policy_update
from trpo_repro.estimation import baselines, surrogates
from trpo_repro.optimization import chunks, trust_region
from trpo_repro.policies import policy as policy_lib
from trpo_repro.settings import Group, algorithms, setting


class Weighting(enum.Enum):
    """Where the weights of the samples come from."""

    TEMPERATURE = "exp(advantage / T) at a constant T"
    RELATIVE_ENTROPY = "the dual of a bound on their relative entropy to equal weights"


@dataclasses.dataclass(frozen=True)
class TemperatureSettings(Group, title="Reward-weighted regression", readers=algorithms("rwr")):
    temperature: float = setting(
        1.0, "T of the weights exp(A / T), in standard deviations of the advantages A", above=0
    )


@dataclasses.dataclass(frozen=True)
class RelativeEntropySettings(
    Group, title="Relative entropy policy search", readers=algorithms("reps")
):
    relative_entropy: float = setting(
        0.5, "Bound ε on the relative entropy of the weights, in nats", above=0
    )


@dataclasses.dataclass(frozen=True)
class RegressionSettings(Group, title="Weighted regression", readers=algorithms("rwr", "reps")):
    regression_steps: int = setting(25, "L-BFGS steps of a fit that has no closed form", at_least=1)
    min_std: float = setting(
        1e-3, "Least standard deviation of a Gaussian policy after a fit, in action units", above=0
    )


@dataclasses.dataclass(frozen=True)
class Method(TemperatureSettings, RelativeEntropySettings, RegressionSettings):
    """A member of the family.

    Attributes:
      weighting: see Weighting.
    """

    weighting: Weighting = Weighting.TEMPERATURE


METHODS: dict[str, Method] = {
    "rwr": Method(),
    "reps": Method(weighting=Weighting.RELATIVE_ENTROPY),
}


def exponential_weights(advantages: np.ndarray, temperature: float) -> np.ndarray:
    """Returns [N] weights proportional to exp(A / T) that sum to 1."""
    weights = np.exp((advantages - advantages.max()) / temperature)
    return weights / weights.sum()


def relative_entropy_weights(
    returns: np.ndarray, features: np.ndarray, bound: float
) -> tuple[np.ndarray, float]:
    """Returns the weights of REPS, [N], that sum to 1, and the temperature η.

    They maximize Σ w Q̂ subject to KL(w ‖ 1/N) ≤ ε and Σ w φ = mean φ, and minimize the dual
    g(η, v) = ηε + vᵀ mean φ + η log mean exp((Q̂ − vᵀφ) / η) over η > 0 and v
    (Peters, Mülling and Altün 2010, Sec. 2). If no weights that keep the mean features are ε away,
    η is 1e-6 standard deviations of the returns. Weights whose search did not end are warned of.

    Args:
      returns: [N] Q̂.
      features: [N, F] φ of the states.
      bound: ε, in nats.
    """
    scale = float(returns.std())
    if scale == 0:
        return np.full(len(returns), 1 / len(returns)), 1.0
    scaled = (returns - returns.mean()) / scale
    centered = features - features.mean(axis=0)  # takes vᵀ mean φ out of the dual
    deviations = centered.std(axis=0)
    centered = centered / np.where(deviations > 0, deviations, 1.0)

    def tilted(x):
        """Returns (δ / η, log mean exp(δ / η), weights) with δ = Q̂ − vᵀφ."""
        exponents = (scaled - centered @ x[1:]) / x[0]
        highest = exponents.max()
        weights = np.exp(exponents - highest)
        return exponents, highest + math.log(weights.mean()), weights / weights.sum()

    def dual(x):
        exponents, log_mean, weights = tilted(x)
        slope = bound + log_mean - weights @ exponents
        return x[0] * (bound + log_mean), np.concatenate([[slope], -(weights @ centered)])

    start = np.concatenate([[1.0], np.linalg.lstsq(centered, scaled, rcond=None)[0]])
    result = optimize.minimize(
        dual,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(1e-6, None), *[(None, None)] * centered.shape[1]],
        options={"maxiter": 500, "ftol": 1e-15, "gtol": 1e-8},
    )
    if not result.success:
        logging.warning("the dual of REPS is not at its minimum: %s", result.message)
    return tilted(result.x)[2], scale * float(result.x[0])


class WeightedRegression:
    """One policy update: weights from advantages, then the weighted maximum likelihood.

    For a linear-Gaussian policy this is weighted least squares; for any other L-BFGS climbs from
    the old parameters.

    Attributes:
      array_names: names of the arrays that a batch must hold; REPS takes returns for `advantages`.
    """

    def __init__(
        self, policy: policy_lib.Policy, method: Method, chunk_size: int = chunks.CHUNK_SIZE
    ):
        """Args: of `policy_update.PolicyUpdate`, by the same names."""
        self._policy = policy
        self._method = method
        self._chunk_size = chunk_size
        self._closed_form = _is_linear_gaussian(policy)
        surrogate = surrogates.ImportanceSampled()
        theta = tf.TensorSpec([policy.network.size], policy.network.dtype)
        batch = {
            "observations": tf.TensorSpec(
                [None, *policy.observation_shape], policy.observation_dtype
            ),
            **surrogate.batch_specs(policy.family),
        }
        self.array_names = tuple(batch)

        def compare(old, new, batch):
            means = policy_update.ChunkedMeans(
                policy, surrogate, old, batch, None, batch, chunk_size
            )
            return means.evaluate(old), means.evaluate(new), means.mean_entropy()

        weighted = {
            "observations": batch["observations"],
            "actions": batch["actions"],
            "weights": tf.TensorSpec([None], tf.float32),
        }
        self._specs = weighted
        self._compare = tf.function(compare, input_signature=[theta, theta, batch], autograph=False)
        self._loss = tf.function(
            self._loss_in_graph, input_signature=[theta, weighted], autograph=False
        )

    def initial_memory(self) -> dict[str, np.ndarray]:
        """Returns nothing: an update remembers nothing of the one before."""
        return {}

    def __call__(
        self,
        theta: np.ndarray,
        batch: Mapping[str, np.ndarray],
        generator: np.random.Generator | None = None,
        kl_batch: Mapping[str, np.ndarray] | None = None,
        memory: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any], dict[str, np.ndarray]]:
        """Returns (θ', report, {}), as `policy_update.Update` does; nothing is drawn or limited."""
        del generator, kl_batch, memory
        fitted, outcome = theta, trust_region.Outcome.NOT_FINITE
        # LAPACK does not return from numbers that are not finite.
        if all(np.isfinite(array).all() for array in batch.values()):
            weights = self._weights(batch).astype(np.float32)
            found = self.fit(theta, batch["observations"], batch["actions"], weights)
            if np.isfinite(found).all():
                fitted, outcome = found, trust_region.Outcome.ACCEPTED
        before, after, entropy = self._compare(theta, fitted, dict(batch))
        report = {
            "surrogate_before": before.surrogate.numpy(),
            "surrogate_after": after.surrogate.numpy(),
            "mean_kl": after.mean_kl.numpy(),
            "max_kl": after.max_kl.numpy(),
            "entropy": entropy.numpy(),
            "step_norm": np.linalg.norm(fitted - theta),
            "outcome": outcome,
        }
        return fitted, report, {}

    def _weights(self, batch):
        """Returns the weights of the batch's actions, [N], that sum to 1."""
        advantages = batch["advantages"].astype(np.float64)
        if self._method.weighting is Weighting.TEMPERATURE:
            return exponential_weights(advantages, self._method.temperature)
        features = baselines.quadratic_features(batch["observations"])
        return relative_entropy_weights(advantages, features, self._method.relative_entropy)[0]

    def fit(
        self,
        theta: np.ndarray,
        observations: np.ndarray,
        actions: np.ndarray,
        weights: np.ndarray,
    ) -> np.ndarray:
        """Returns argmax Σ w log π(a|s), [P]: in closed form, or searched from θ.

        Args:
          theta: [P].
          observations: [N, ...].
          actions: [N, ...].
          weights: [N].
        """
        if self._closed_form:
            return self._least_squares(observations, actions, weights).astype(theta.dtype)
        arrays = {"observations": observations, "actions": actions, "weights": weights}
        tensors = {
            name: tf.convert_to_tensor(array, self._specs[name].dtype)
            for name, array in arrays.items()
        }

        def loss(x):
            value, gradient = self._loss(tf.constant(x, theta.dtype), tensors)
            return float(value), gradient.numpy().astype(np.float64)

        network = self._policy.network
        least = {"log_std": math.log(self._method.min_std)}
        lower = [
            np.full(math.prod(shape), least.get(_last(path), -np.inf))
            for path, shape in zip(network.variable_names, network.shapes, strict=True)
        ]
        result = optimize.minimize(
            loss,
            theta.astype(np.float64),
            jac=True,
            method="L-BFGS-B",
            bounds=optimize.Bounds(np.concatenate(lower)),
            options={"maxiter": self._method.regression_steps},
        )
        return result.x.astype(theta.dtype)

    def _loss_in_graph(self, theta, batch):
        """Returns (−Σ w log π(a|s), its gradient)."""

        def of_chunk(chunk):
            with tf.GradientTape() as tape:
                tape.watch(theta)
                parameters = self._policy.network(theta, chunk["observations"])
                log_prob = self._policy.family.log_prob(parameters, chunk["actions"])
                loss = -tf.reduce_sum(chunk["weights"] * log_prob)
            return loss, tape.gradient(loss, theta)

        zeros = (tf.zeros([]), tf.zeros_like(theta))
        return chunks.chunked_reduce(of_chunk, batch, zeros, chunk_size=self._chunk_size)

    def _least_squares(self, observations, actions, weights):
        """Returns θ of the weighted linear-Gaussian fit, [P]."""
        weights = weights.astype(np.float64)[:, None]
        seen = self._policy.network.shapes[
            self._policy.network.variable_names.index("output/kernel")
        ][0]
        inputs = observations[:, -seen:].astype(np.float64)
        inputs = np.hstack([inputs, np.ones((len(inputs), 1))])
        actions = actions.astype(np.float64)
        root = np.sqrt(weights)
        solution = np.linalg.lstsq(root * inputs, root * actions, rcond=None)[0]
        variance = np.sum(weights * (actions - inputs @ solution) ** 2, axis=0) / weights.sum()
        deviation = np.maximum(np.sqrt(variance), self._method.min_std)
        by_name = {"kernel": solution[:-1], "bias": solution[-1], "log_std": np.log(deviation)}
        return np.concatenate(
            [by_name[_last(path)].ravel() for path in self._policy.network.variable_names]
        )


def _is_linear_gaussian(policy: policy_lib.Policy) -> bool:
    return sorted(map(_last, policy.network.variable_names)) == ["bias", "kernel", "log_std"]


def _last(path: str) -> str:
    return path.rpartition("/")[2]
