"""Variances of estimators, measured by repeated sampling at a fixed policy (App. H, claim C10)."""

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from trpo_repro import environments
from trpo_repro.analysis import intervals
from trpo_repro.estimation import baselines, returns, surrogates
from trpo_repro.policies import policy as policy_lib
from trpo_repro.randomness import Key
from trpo_repro.sampling import single_path, vine


def value_differences(
    environment: environments.Environment,
    policy: policy_lib.Policy,
    theta: np.ndarray,
    key: Key,
    states: environments.EnvironmentStates,
    actions: np.ndarray,
    *,
    repeats: int,
    length: int,
    discount: float,
    common_random_numbers: bool,
) -> np.ndarray:
    """Returns [N, R] independent samples of Q̂(s, a₁) − Q̂(s, a₂), by branches from N states.

    Args:
      environment: environment to act in.
      policy: π_θ.
      theta: [P].
      key: key of the policy's random numbers.
      states: N states.
      actions: [N, 2, ...].
      repeats: R.
      length: steps of a branch.
      discount: γ.
      common_random_numbers: whether the two branches share random numbers.
    """
    q_values, *_ = vine.branch_values(
        environment,
        policy,
        theta,
        key,
        states.repeat(repeats),
        np.repeat(actions, repeats, axis=0),
        length=length,
        discount=discount,
        common_random_numbers=common_random_numbers,
    )
    return (q_values[:, 0] - q_values[:, 1]).reshape(len(states), repeats)


def difference_variance(differences: np.ndarray) -> float:
    """Returns the variance of [N, R] samples about their state's mean, averaged over states."""
    return float(differences.var(axis=1, ddof=1).mean())


def signal_to_noise(differences: np.ndarray) -> float:
    """Returns E_s[(E D)²] / E_s[Var D] of [N, R] samples D, the numerator without bias."""
    variance = differences.var(axis=1, ddof=1)
    signal = differences.mean(axis=1) ** 2 - variance / differences.shape[1]
    return float(signal.mean() / variance.mean())


def surrogate_gradient(
    policy: policy_lib.Policy, surrogate: surrogates.Surrogate
) -> Callable[[np.ndarray, Mapping[str, np.ndarray]], np.ndarray]:
    """Returns (θ, batch) → [P], the gradient at θ_old = θ of the mean surrogate over the batch."""
    observations = tf.TensorSpec([None, *policy.observation_shape], policy.observation_dtype)
    specs = {"observations": observations, **surrogate.batch_specs(policy.family)}

    @tf.function(
        input_signature=[tf.TensorSpec([policy.network.size], tf.float32), specs], autograph=False
    )
    def gradient(theta, batch):
        with tf.GradientTape() as tape:
            tape.watch(theta)
            new = policy.network(theta, batch["observations"])
            terms = surrogate(policy.family, tf.stop_gradient(new), new, batch)
            mean = tf.reduce_mean(terms)
        return tape.gradient(mean, theta)

    return lambda theta, batch: gradient(theta, {name: batch[name] for name in specs}).numpy()


class GradientStatistics:
    """Statistics of [M, P] sampled gradients g, and of samples of them.

    A sample is an array of indices into the M, with repeats where it is a bootstrap's.
    """

    def __init__(self, gradients: np.ndarray):
        gradients = gradients.astype(np.float64, copy=False)
        self._products = gradients @ gradients.T

    def variance(self, index: np.ndarray) -> float:
        """Returns tr Cov(g)."""
        count, whole, own, _ = self._sums(index)
        return float((own - whole / count) / (count - 1))

    def signal_to_noise(self, index: np.ndarray) -> float:
        """Returns ‖E g‖² / tr Cov(g), free of the estimator's scale.

        The squared norm is the mean of gᵢᵀgⱼ over different gradients, without bias.
        """
        count, whole, _, repeated = self._sums(index)
        pairs = count**2 - (np.bincount(index) ** 2).sum()
        if not pairs:
            return np.nan
        return float((whole - repeated) / pairs / self.variance(index))

    def estimates(
        self, generator: np.random.Generator
    ) -> tuple[intervals.Interval, intervals.Interval]:
        """Returns the variance and the signal-to-noise ratio."""
        index = np.arange(len(self._products))
        variance = intervals.of_statistic(self.variance, index, generator)
        return variance, intervals.of_statistic(self.signal_to_noise, index, generator)

    def variance_ratio(
        self, other: "GradientStatistics", generator: np.random.Generator
    ) -> intervals.Interval:
        """Returns this variance over another's; both are of the same M paths, in one order."""
        index = np.arange(len(self._products))
        statistic = lambda drawn: self.variance(drawn) / other.variance(drawn)  # noqa: E731
        return intervals.of_statistic(statistic, index, generator)

    def _sums(self, index):
        """Returns the sample's size and its Σᵢⱼ gᵢᵀgⱼ, Σᵢ gᵢᵀgᵢ, and Σ gᵢᵀgⱼ where i and j are
        one gradient."""
        times = np.bincount(index, minlength=len(self._products)).astype(np.float64)
        own = np.diag(self._products)
        whole = times @ self._products @ times
        return len(index), whole, (times * own).sum(), (times**2 * own).sum()


class PathEstimators:
    """Estimators of ∇η from one path each; of the first four each is meant to lower the noise of
    the one before.

    All are sums over a path's first episode of γᵗ ∇log π(a_t|s_t) times a weight:

    - REINFORCE (Williams, 1992): the whole path's return, in place of γᵗ and the weight;
    - reward to go: Q̂_t, the discounted rewards from t on;
    - state baseline: Q̂_t − V(s_t);
    - control variate: Q̂_t − V(s_t) − f(s_t, a_t), and the gradient of E_a f(s_t, a) beside it;
    - importance sampled: reward to go on paths of another policy, times the ratio of the whole
      path.

    f is compatible with the action distribution: f(s, a) = ξ(s, a)ᵀ u(s), where ξ is the score in
    the distribution's own parameters, so that E_a f = 0 and its gradient is Jᵀ M u. V is linear in
    quadratic features φ(s), and u = W φ(s); both are fitted on paths of their own.
    """

    NAMES = (
        "REINFORCE",
        "reward to go",
        "state baseline",
        "control variate",
        "importance sampled",
    )

    def __init__(
        self,
        policy: policy_lib.Policy,
        theta: np.ndarray,
        discount: float,
        fitted_on: single_path.Trajectories,
    ):
        """Fits V and u.

        Args:
          policy: π.
          theta: [P].
          discount: γ.
          fitted_on: fresh paths of π_θ, apart from those whose gradients are wanted.
        """
        self._policy = policy
        self._theta = theta
        self._discount = discount
        observations = tf.TensorSpec([None, *policy.observation_shape], policy.observation_dtype)
        actions = tf.TensorSpec(
            [None, *policy.family.action_shape], dtype=policy.family.action_dtype
        )
        numbers = tf.TensorSpec([None], policy.network.dtype)
        control = tf.TensorSpec([None, policy.family.parameter_size], policy.network.dtype)
        path = (observations, actions, numbers, numbers, control)
        self._gradients = tf.function(
            self._gradients_in_graph,
            [tf.TensorSpec([None, *spec.shape], spec.dtype) for spec in path],
            autograph=False,
        )
        self._scores = tf.function(self._scores_in_graph, [observations, actions], autograph=False)
        self._fit(fitted_on)

    def gradients(
        self,
        name: str,
        paths: single_path.Trajectories,
        behavior: np.ndarray | None = None,
    ) -> np.ndarray:
        """Returns the estimates of B paths, [B, P].

        Args:
          name: one of NAMES.
          paths: fresh paths; of π_θ, but for importance sampling.
          behavior: [P] parameters of the policy whose paths they are, for importance sampling.
        """
        live, to_go = self._returns(paths)
        steps = np.arange(len(live))[:, None]
        factor, weight = live * self._discount**steps, to_go
        control = np.zeros((*live.shape, self._policy.family.parameter_size))
        if name == "REINFORCE":
            factor, weight = live, np.broadcast_to(to_go[:1], to_go.shape)
        if name in ("state baseline", "control variate"):
            features = self._features(paths)
            weight = to_go - features @ self._value_weights
            if name == "control variate":
                control = features @ self._control_weights
        if name == "importance sampled":
            assert behavior is not None
            log_probs = [
                self._log_probs(theta, paths).sum(axis=0, where=live > 0)
                for theta in (self._theta, behavior)
            ]
            factor = factor * np.exp(log_probs[0] - log_probs[1])
        dtype = self._policy.network.dtype.as_numpy_dtype
        arrays = [array.astype(dtype) for array in (factor, weight, control)]
        arrays = [self._policy.cast(paths.observations), paths.actions, *arrays]
        return self._gradients(*(np.swapaxes(array, 0, 1) for array in arrays)).numpy()

    def _returns(self, paths):
        """Returns ([T, B] 1 in a path's first episode and 0 after it, [T, B] its reward to go)."""
        ended = np.cumsum(paths.terminated | paths.truncated, axis=0)
        live = np.vstack([np.ones_like(ended[:1]), ended[:-1] == 0]).astype(np.float64)
        last = np.zeros(live.shape, bool)
        last[-1] = True
        return live, returns.discounted_sums(paths.rewards * live, last, self._discount)

    def _features(self, paths):
        shape = paths.rewards.shape
        return baselines.quadratic_features(paths.flat_observations()).reshape(*shape, -1)

    def _fit(self, paths):
        live, to_go = self._returns(paths)
        chosen = live.ravel() > 0
        features = self._features(paths).reshape(chosen.size, -1)[chosen]
        targets = to_go.ravel()[chosen]
        self._value_weights = np.linalg.lstsq(features, targets, rcond=None)[0]
        scores = self._scores(
            self._policy.cast(paths.flat_observations()),
            paths.actions.reshape(chosen.size, *self._policy.family.action_shape),
        ).numpy()[chosen]
        products = (features[:, :, None] * scores[:, None, :]).reshape(len(features), -1)
        rest = targets - features @ self._value_weights
        found = np.linalg.lstsq(products, rest, rcond=None)[0]
        self._control_weights = found.reshape(features.shape[1], scores.shape[1])

    def _log_probs(self, theta, paths):
        shape = paths.rewards.shape
        actions = paths.actions.reshape(-1, *self._policy.family.action_shape)
        flat = self._policy.cast(paths.flat_observations())
        return self._policy.log_prob(theta, flat, actions).reshape(shape)

    def _scores_in_graph(self, observations, actions):
        """Returns ξ, [n, D]."""
        parameters = self._policy.network(tf.constant(self._theta), observations)
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            total = tf.reduce_sum(self._policy.family.log_prob(parameters, actions))
        return tape.gradient(total, parameters)

    def _gradients_in_graph(self, *paths):
        """Returns [B, P] of arrays with B paths each."""
        return tf.map_fn(
            lambda path: self._gradient_in_graph(*path),
            paths,
            fn_output_signature=self._policy.network.dtype,
        )

    def _gradient_in_graph(self, observations, actions, factor, weight, control):
        """Returns Σ_t factor (ψ (weight − ξᵀu) + Jᵀ M u) of one path, [P], with ψ = Jᵀ ξ."""
        theta = tf.constant(self._theta)
        scores = self._scores_in_graph(observations, actions)
        with tf.GradientTape() as tape:
            tape.watch(theta)
            parameters = self._policy.network(theta, observations)
        rest = weight - tf.reduce_sum(scores * control, axis=-1)
        exact = self._policy.family.fisher_product(parameters, control)
        cotangent = factor[:, None] * (scores * rest[:, None] + exact)
        return tape.gradient(parameters, theta, output_gradients=cotangent)
