"""The policy's update: the trust-region step over a batch in chunks, compiled into one graph."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from trpo_repro import settings
from trpo_repro.estimation import surrogates
from trpo_repro.optimization import chunks, curvature, trust_region
from trpo_repro.policies import kronecker
from trpo_repro.policies import policy as policy_lib


class Update(Protocol):
    """What an algorithm makes of a batch.

    Attributes:
      array_names: names of the arrays that a batch must hold.
    """

    array_names: tuple[str, ...]

    def initial_memory(self) -> dict[str, np.ndarray]:
        """Returns what the first update remembers of the one before."""

    def __call__(
        self,
        theta: np.ndarray,
        batch: Mapping[str, Any],
        generator: np.random.Generator,
        kl_batch: Mapping[str, Any] | None = None,
        memory: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any], dict[str, np.ndarray]]:
        """Returns (θ', report, memory').

        Args:
          theta: [P], the parameters that the batch was sampled with.
          batch: `observations` [N, ...] and the other arrays of `array_names`, [N, ...].
          generator: decides what the update draws.
          kl_batch: the constraint's states where they are not the surrogate's: `observations`
            [M, ...].
          memory: what the update before left; `initial_memory` when None.

        Returns:
          θ', which is θ bit for bit unless the outcome is ACCEPTED; numbers of metrics.csv by
          name, `outcome` among them; and what the next update remembers.
        """


class PolicyUpdate:
    """One compiled policy update: surrogate, constraint and curvature over a batch in chunks.

    Attributes:
      array_names: names of the arrays that a batch must hold.
    """

    def __init__(
        self,
        policy: policy_lib.Policy,
        surrogate: surrogates.Surrogate,
        method: trust_region.Method,
        *,
        separate_kl_states: bool = False,
        weighted_states: bool = False,
        stacked_frames: bool = False,
        chunk_size: int = chunks.CHUNK_SIZE,
    ):
        """Builds the graph; nothing is traced until the first call.

        Args:
          policy: policy whose parameters are updated.
          surrogate: objective.
          method: method of the family.
          separate_kl_states: the constraint's states are not the surrogate's.
          weighted_states: batches hold `weights`, which every mean over states is taken with.
          stacked_frames: observations are `frames.StackedFrames`.
          chunk_size: states that the graph holds activations of at one time.

        Raises:
          ValueError: a preconditioner for a direction that is the gradient's own.
        """
        if method.curvature is trust_region.Curvature.IDENTITY:
            settings.require(
                method.preconditioner == "none",
                "preconditioner",
                method.preconditioner,
                "none with Curvature.IDENTITY",
            )
        self._policy = policy
        self._surrogate = surrogate
        self._method = method
        self._separate = separate_kl_states
        self._stacked = stacked_frames
        self._chunk_size = chunk_size
        shape, dtype = policy.observation_shape, policy.observation_dtype
        observations = tf.TensorSpec([None, *shape], dtype, "observations")
        store = tf.TensorSpec([0], dtype)
        if stacked_frames:
            observations = tf.TensorSpec([None, shape[0]], tf.int32, "observations")
            store = tf.TensorSpec([None, *shape[1:]], dtype)
        states = {"observations": observations}
        if weighted_states:
            states["weights"] = tf.TensorSpec([None], tf.float32, "weights")
        batch = {**states, **surrogate.batch_specs(policy.family)}
        self._state_names = tuple(states)
        self.array_names = tuple(batch)
        self._kronecker = None
        self._zeros: dict[str, np.ndarray] = {}  # K-FAC's factors before the first update
        if method.preconditioner == "kfac":
            self._kronecker = kronecker.KroneckerFactors(policy)
            self._zeros = self._kronecker.zeros()
        scalar = tf.TensorSpec([], policy.network.dtype)
        self._step = tf.function(
            self._step_in_graph,
            input_signature=[
                tf.TensorSpec([policy.network.size], policy.network.dtype, "theta"),
                batch,
                states,
                batch if method.curvature is trust_region.Curvature.EMPIRICAL else states,
                store,
                scalar,
                {name: tf.TensorSpec(zero.shape, zero.dtype) for name, zero in self._zeros.items()},
                scalar,
            ],
            autograph=False,
        )

    def initial_memory(self) -> dict[str, np.ndarray]:
        """Returns what the first update remembers: δ, where it changes, and K-FAC's factors."""
        memory: dict[str, np.ndarray] = {}
        if self._method.adapt_kl_limit:
            memory["kl_limit"] = np.array(self._method.kl_limit)
        if self._kronecker:
            memory.update(self._zeros, updates=np.array(0))
        return memory

    def __call__(
        self,
        theta: np.ndarray,
        batch: Mapping[str, Any],
        generator: np.random.Generator,
        kl_batch: Mapping[str, Any] | None = None,
        memory: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any], dict[str, np.ndarray]]:
        """Returns (θ', report, memory'), as Update does.

        With weighted_states, both batches hold `weights` ≥ 0, [N] and [M]. The generator chooses
        the states of the Fisher matrix. Stacked frames of kl_batch have the store of the batch's.
        The report has the fields of `trust_region.Report`, the mean `entropy` of π_old, in nats,
        and the `kl_limit` where it changes.

        Raises:
          ValueError: kl_batch is missing, or given without separate_kl_states.
        """
        memory = self.initial_memory() if memory is None else memory
        if self._separate == (kl_batch is None):
            raise ValueError("kl_batch goes with separate_kl_states, and only with it")
        store = np.zeros(0, self._policy.observation_dtype.as_numpy_dtype)
        if self._stacked:
            store = batch["observations"].frames
            batch = {**batch, "observations": batch["observations"].index}
            if kl_batch is not None:
                kl_batch = {**kl_batch, "observations": kl_batch["observations"].index}
        states = {name: batch[name] for name in self._state_names} if kl_batch is None else kl_batch
        # What the graph does not read when surrogate and constraint share their states.
        apart = {name: array[:0] for name, array in states.items()} if kl_batch is None else states
        source = batch if self._method.curvature is trust_region.Curvature.EMPIRICAL else states
        chosen = self._choose(len(source["observations"]), generator)
        fisher = {name: array[chosen] for name, array in source.items()}
        kl_limit = float(memory.get("kl_limit", self._method.kl_limit))
        factors = {name: memory[name] for name in self._zeros}
        updates = int(memory.get("updates", 0))
        kept_share = min(1 - 1 / (updates + 1), self._method.factor_decay)
        after, report, entropy, factors, counted = self._step(
            theta, dict(batch), dict(apart), fisher, store, kl_limit, factors, kept_share
        )
        values = {name: value.numpy() for name, value in report._asdict().items()}
        values["entropy"] = entropy.numpy()
        values["outcome"] = trust_region.Outcome(int(values["outcome"]))
        kept = {name: factor.numpy() for name, factor in factors.items()}
        if self._kronecker:
            kept["updates"] = np.array(updates + int(counted))
        if self._method.adapt_kl_limit:
            values["kl_limit"] = kl_limit
            adapted = trust_region.adapted_kl_limit(
                kl_limit,
                values["outcome"],
                float(values["improvement_ratio"]),
                self._method.kl_limit,
            )
            kept["kl_limit"] = np.array(adapted)
        return after.numpy(), values, kept

    def _choose(self, size: int, generator: np.random.Generator) -> np.ndarray | slice:
        count = int(np.ceil(self._method.fisher_fraction * size))
        if count >= size:
            return slice(None)
        return np.sort(generator.choice(size, count, replace=False))

    def _step_in_graph(self, theta, batch, kl_batch, fisher, store, kl_limit, factors, kept_share):
        means = ChunkedMeans(
            self._policy,
            self._surrogate,
            theta,
            batch,
            kl_batch if self._separate else None,
            fisher,
            self._chunk_size,
            store if self._stacked else None,
            kl_direction=self._method.kl_direction,
        )
        products = {
            trust_region.Curvature.FISHER: means.fisher_product,
            trust_region.Curvature.KL_HESSIAN: means.kl_hessian_product,
            trust_region.Curvature.EMPIRICAL: means.empirical_product,
            trust_region.Curvature.IDENTITY: lambda v: v,
        }
        # Functions of their own: a step calls each in two places, and it is traced once.
        vector = [tf.TensorSpec(theta.shape, theta.dtype)]
        product = tf.function(products[self._method.curvature], vector, autograph=False)
        evaluate = tf.function(means.evaluate, vector, autograph=False)
        quadratic_kl = means.largest_quadratic_kl
        if self._method.constraint is trust_region.Constraint.MEAN_KL:
            quadratic_kl = lambda s: tf.tensordot(s, product(s), 1)  # noqa: E731
        preconditioner, counted = None, tf.constant(False)
        if self._kronecker:
            now = means.kronecker_factors(self._kronecker)
            factors, counted = kronecker.running_mean(factors, now, kept_share)
            preconditioner = self._kronecker.preconditioner(factors, self._method.factored_damping)
        problem = trust_region.Problem(
            means.gradient, product, quadratic_kl, evaluate, preconditioner
        )
        after, report = trust_region.trust_region_step(theta, problem, self._method, kl_limit)
        return after, report, means.mean_entropy(), factors, counted


class ChunkedMeans:
    """Chunked means over one batch, as functions of flat vectors; lives while a graph is traced.

    Means over states are weighted where batches hold `weights`.
    """

    def __init__(
        self,
        policy: policy_lib.Policy,
        surrogate: surrogates.Surrogate,
        theta: tf.Tensor,
        batch: Mapping[str, tf.Tensor],
        kl_batch: Mapping[str, tf.Tensor] | None,
        fisher: Mapping[str, tf.Tensor],
        chunk_size: int,
        frames: tf.Tensor | None = None,
        *,
        kl_direction: str = "old_new",
    ):
        """Computes the distributions' parameters at θ_old of the batch's states.

        Args:
          policy: π_θ.
          surrogate: objective L.
          theta: [P] θ_old.
          batch: `observations` [N, ...], and what the surrogate reads, [N, ...].
          kl_batch: `observations` [M, ...] of the KL's states; None for those of the batch.
          fisher: `observations` [n, ...] of the Fisher matrix's states, with `actions` for the
            empirical one.
          chunk_size: states of a chunk.
          frames: [F, H, W] that observations are then indices of; None for whole observations.
          kl_direction: `old_new` for KL(old ‖ θ), `new_old` for KL(θ ‖ old).
        """
        self._kl_direction = kl_direction
        self._see: Callable[[tf.Tensor], tf.Tensor] = lambda observations: observations
        if frames is not None:  # then observations are indices of frames, [n, F]
            self._see = lambda index: tf.gather(frames, index)
        self._network = lambda theta, observations: policy.network(theta, self._see(observations))
        self._family = policy.family
        self._surrogate = surrogate
        self._theta = theta
        self._fisher = fisher
        self._chunk_size = chunk_size
        self._batch = self._with_old(batch)
        self._kl_batch = None if kl_batch is None else self._with_old(kl_batch)

    def gradient(self):
        """Returns (L, ∇L) at θ_old."""

        def of_chunk(chunk):
            with tf.GradientTape() as tape:
                tape.watch(self._theta)
                parameters = self._network(self._theta, chunk["observations"])
                total = self._surrogate_sum(parameters, chunk)
            return total, tape.gradient(total, self._theta)

        return self._mean(of_chunk, self._batch, (self._zero, tf.zeros_like(self._theta)))

    def penalized_gradient(self, theta, multiplier):
        """Returns ∇(L − λ KL(old ‖ θ)) at any θ; λ is a scalar, or None for ∇L alone."""

        def of_chunk(chunk):
            with tf.GradientTape() as tape:
                tape.watch(theta)
                parameters = self._network(theta, chunk["observations"])
                total = self._surrogate_sum(parameters, chunk)
                if multiplier is not None:
                    total -= multiplier * self._kl(parameters, chunk)[0]
            return tape.gradient(total, theta)

        return self._mean(of_chunk, self._batch, tf.zeros_like(theta))

    def evaluate(self, theta):
        """Returns the Evaluation at θ."""
        shared = self._kl_batch is None

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
            surrogate, kl, max_kl = self._reduce(of_chunk, self._batch, (self._zero,) * 3, fold)
            kl_weight = self._weight(self._batch)
        else:
            (surrogate,) = self._reduce(of_chunk, self._batch, (self._zero,))
            kl, max_kl = self._reduce(kl_of_chunk, self._kl_batch, (self._zero,) * 2, fold)
            kl_weight = self._weight(self._kl_batch)
        return trust_region.Evaluation(
            surrogate / self._weight(self._batch), kl / kl_weight, max_kl
        )

    def mean_entropy(self):
        """Returns the mean entropy of the old policy over the surrogate's states, in nats."""

        def of_chunk(chunk):
            return _weighted_sum(self._family.entropy(chunk["old"]), chunk)

        batch = {name: self._batch[name] for name in ("old", "weights") if name in self._batch}
        return self._mean(of_chunk, batch, self._zero)

    @property
    def old_parameters(self):
        """Distribution parameters at θ_old of the surrogate's states, [n, D]."""
        return self._batch["old"]

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
        """Returns the Hessian of the mean KL at θ_old, times v."""

        def of_chunk(chunk):
            old = tf.stop_gradient(self._network(self._theta, chunk["observations"]))
            return curvature.hessian_vector_product(
                lambda theta: _weighted_sum(
                    self._kls(old, self._network(theta, chunk["observations"])), chunk
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

    def kronecker_factors(self, factors):
        """Returns the means of K-FAC's factors over the Fisher matrix's states."""

        def of_chunk(chunk):
            size = chunks.batch_size(chunk)
            weights = _weighted(tf.ones([size], self._theta.dtype), chunk)
            return factors.sums(self._theta, self._see(chunk["observations"]), weights)

        zeros = {name: tf.zeros(zero.shape, zero.dtype) for name, zero in factors.zeros().items()}
        return self._mean(of_chunk, self._fisher, zeros)

    def largest_quadratic_kl(self, vector):
        """Returns max over the Fisher matrix's states of vᵀJᵀMJ v: twice the largest KL of a small
        step v."""

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

    def _with_old(self, batch):
        old = chunks.chunked_map(
            lambda observations: self._network(self._theta, observations),
            batch["observations"],
            self._theta.dtype,
            (self._family.parameter_size,),
            chunk_size=self._chunk_size,
        )
        return {**batch, "old": old}

    def _surrogate_sum(self, parameters, chunk):
        terms = self._surrogate(self._family, chunk["old"], parameters, chunk)
        return _weighted_sum(terms, chunk)

    def _kl(self, parameters, chunk):
        kl = self._kls(chunk["old"], parameters)
        return _weighted_sum(kl, chunk), tf.reduce_max(kl)

    def _kls(self, old, new):
        """Returns the divergence of every state."""
        pair = (old, new) if self._kl_direction == "old_new" else (new, old)
        return self._family.kl(*pair)

    def _weight(self, batch):
        if "weights" in batch:
            return tf.reduce_sum(tf.cast(batch["weights"], self._theta.dtype))
        return tf.cast(chunks.batch_size(batch), self._theta.dtype)

    def _reduce(self, function, batch, initial, combine=chunks.add):
        return chunks.chunked_reduce(
            function, batch, initial, combine=combine, chunk_size=self._chunk_size
        )

    def _mean(self, function, batch, initial):
        sums = self._reduce(function, batch, initial)
        return tf.nest.map_structure(lambda total: total / self._weight(batch), sums)


def _weighted(values, chunk):
    """Returns [n, ...] values times the [n] weights of their states, where there are any."""
    if "weights" not in chunk:
        return values
    weights = tf.cast(chunk["weights"], values.dtype)
    return values * tf.reshape(weights, [-1, *[1] * (values.shape.rank - 1)])


def _weighted_sum(values, chunk):
    return tf.reduce_sum(_weighted(values, chunk))
