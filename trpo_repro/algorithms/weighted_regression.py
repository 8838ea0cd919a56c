"""Policy search by weighted maximum likelihood: RWR and REPS.

Both fit the policy to its own actions, weighted by exp(R / T) of their returns R, and differ in
the temperature T: a constant in reward-weighted regression (Peters and Schaal 2007), the
minimizer of a dual function in relative entropy policy search (Peters, Mülling and Altün 2010;
here the episodic form, without features of states).
"""

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from scipy import optimize

from trpo_repro.algorithms import trust_region
from trpo_repro.estimation import surrogates
from trpo_repro.optimization import chunks
from trpo_repro.policies import policy as policy_lib


class Temperature(enum.Enum):
    """Where T comes from."""

    CONSTANT = "a constant"
    RELATIVE_ENTROPY = "from a bound on the relative entropy between weighted and plain samples"


@dataclasses.dataclass(frozen=True)
class Method:
    """A member of the family.

    Attributes:
      rule: see Temperature.
      temperature: T of the constant rule, in standard deviations of the returns.
      relative_entropy: ε, the bound of the other, in nats.
      regression_steps: of L-BFGS, where the fit has no closed form.
      min_std: least standard deviation of a Gaussian policy after a fit, in action units.
    """

    rule: Temperature = Temperature.CONSTANT
    temperature: float = 1.0
    relative_entropy: float = 0.5
    regression_steps: int = 25
    min_std: float = 1e-3


METHODS: dict[str, Method] = {
    "rwr": Method(),
    "reps": Method(rule=Temperature.RELATIVE_ENTROPY),
}


def exponential_weights(returns: np.ndarray, temperature: float) -> np.ndarray:
    """Returns [N] weights proportional to exp(R / T) that sum to 1."""
    weights = np.exp((returns - returns.max()) / temperature)
    return weights / weights.sum()


def relative_entropy_temperature(returns: np.ndarray, bound: float) -> float:
    """Returns T that minimizes the dual g(T) = T ε + T log mean exp(R / T) of REPS.

    At the minimum the weights exp(R / T) have relative entropy ε to uniform ones. If even all
    weight on the best samples has less than ε, T is 1e-6 of the returns' range.

    Args:
      returns: [N].
      bound: ε, in nats.
    """
    scale = float(np.ptp(returns))
    if scale == 0:
        return 1.0
    advantages = (returns - returns.max()) / scale

    def dual(log_temperature):
        t = math.exp(log_temperature)
        return t * bound + t * math.log(np.mean(np.exp(advantages / t)))

    result = optimize.minimize_scalar(
        dual, bounds=(math.log(1e-6), math.log(1e6)), method="bounded", options={"xatol": 1e-8}
    )
    return scale * math.exp(result.x)


class WeightedRegression:
    """One policy update: weights from returns, then the weighted maximum likelihood.

    For a linear-Gaussian policy this is weighted least squares; for any other L-BFGS climbs from
    the old parameters.

    Attributes:
      row_names: what a batch's rows must hold; `advantages` are the returns.
    """

    def __init__(self, policy: policy_lib.Policy, method: Method):
        self._policy = policy
        self._method = method
        self._closed_form = _is_linear_gaussian(policy)
        surrogate = surrogates.ImportanceSampled()
        theta = tf.TensorSpec([policy.network.size], policy.network.dtype)
        rows = {
            "observations": tf.TensorSpec(
                [None, *policy.observation_shape], policy.observation_dtype
            ),
            **surrogate.row_specs(policy.family),
        }
        self.row_names = tuple(rows)

        def compare(old, new, rows):
            batch = trust_region.Batch(
                policy, surrogate, old, rows, None, rows["observations"], chunks.CHUNK_ROWS
            )
            return batch.evaluate(old), batch.evaluate(new), batch.mean_entropy()

        weighted = {
            "observations": rows["observations"],
            "actions": rows["actions"],
            "weights": tf.TensorSpec([None], tf.float32),
        }
        self._specs = weighted
        self._compare = tf.function(compare, input_signature=[theta, theta, rows])
        self._loss = tf.function(self._loss_in_graph, input_signature=[theta, weighted])

    def __call__(
        self,
        theta: np.ndarray,
        rows: Mapping[str, np.ndarray],
        generator: np.random.Generator | None = None,
        kl_observations: None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Returns (θ', report by name); called as `trust_region.PolicyUpdate` is.

        Args:
          theta: [P], the parameters that the rows were sampled with.
          rows: `observations` [N, ...], `actions` [N, ...] and `advantages` [N].
          generator: not used: nothing is drawn.
          kl_observations: none; there is no constraint on KL.
        """
        del generator, kl_observations
        returns = rows["advantages"].astype(np.float64)
        temperature = self._method.temperature
        if self._method.rule is Temperature.RELATIVE_ENTROPY:
            temperature = relative_entropy_temperature(returns, self._method.relative_entropy)
        weights = exponential_weights(returns, temperature).astype(np.float32)
        fitted = self.fit(theta, rows["observations"], rows["actions"], weights)
        outcome = trust_region.Outcome.ACCEPTED
        if not np.isfinite(fitted).all():
            fitted, outcome = theta, trust_region.Outcome.NOT_FINITE
        before, after, entropy = self._compare(theta, fitted, dict(rows))
        return fitted, {
            "surrogate_before": before.surrogate.numpy(),
            "surrogate_after": after.surrogate.numpy(),
            "mean_kl": after.mean_kl.numpy(),
            "max_kl": after.max_kl.numpy(),
            "entropy": entropy.numpy(),
            "step_norm": np.linalg.norm(fitted - theta),
            "outcome": outcome,
        }

    def fit(
        self,
        theta: np.ndarray,
        observations: np.ndarray,
        actions: np.ndarray,
        weights: np.ndarray,
    ) -> np.ndarray:
        """Returns argmax Σ w log π(a|s), [P], searched from θ.

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
            for path, shape in zip(network.paths, network.shapes, strict=True)
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

    def _loss_in_graph(self, theta, rows):
        """Returns (−Σ w log π(a|s), its gradient)."""

        def of_chunk(chunk):
            with tf.GradientTape() as tape:
                tape.watch(theta)
                parameters = self._policy.network(theta, chunk["observations"])
                log_prob = self._policy.family.log_prob(parameters, chunk["actions"])
                loss = -tf.reduce_sum(chunk["weights"] * log_prob)
            return loss, tape.gradient(loss, theta)

        return chunks.chunked_reduce(of_chunk, rows, (tf.zeros([]), tf.zeros_like(theta)))

    def _least_squares(self, observations, actions, weights):
        """Returns θ of the weighted linear-Gaussian fit, [P]."""
        weights = weights.astype(np.float64)[:, None]
        seen = self._policy.network.shapes[self._policy.network.paths.index("output/kernel")][0]
        inputs = observations[:, -seen:].astype(np.float64)
        inputs = np.hstack([inputs, np.ones((len(inputs), 1))])
        actions = actions.astype(np.float64)
        root = np.sqrt(weights)
        solution = np.linalg.lstsq(root * inputs, root * actions, rcond=None)[0]
        variance = np.sum(weights * (actions - inputs @ solution) ** 2, axis=0) / weights.sum()
        deviation = np.maximum(np.sqrt(variance), self._method.min_std)
        by_name = {"kernel": solution[:-1], "bias": solution[-1], "log_std": np.log(deviation)}
        return np.concatenate([by_name[_last(path)].ravel() for path in self._policy.network.paths])


def _is_linear_gaussian(policy: policy_lib.Policy) -> bool:
    return sorted(map(_last, policy.network.paths)) == ["bias", "kernel", "log_std"]


def _last(path: str) -> str:
    return path.rpartition("/")[2]
