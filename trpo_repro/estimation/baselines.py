"""State-value functions fitted by regression, used as baselines and to bootstrap.

A baseline's state is a dict of arrays: `fit` returns a new one and changes nothing.
"""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

from trpo_repro.optimization import chunks
from trpo_repro.policies import flat_network, networks
from trpo_repro.settings import Group, Readers, setting

BaselineState = Mapping[str, np.ndarray]

TARGET_MEMORY = 0.9  # factor by which each fit discounts the statistics of earlier fits


@dataclasses.dataclass(frozen=True)
class BaselineSettings(Group, title="Value function"):
    baseline: str = setting(
        "none",
        "Value function V that is subtracted in advantages",
        choices=("none", "linear", "network"),
    )


@dataclasses.dataclass(frozen=True)
class NetworkBaselineSettings(
    Group,
    title="Value network",
    readers=Readers("runs with baseline=network", lambda config: config.baseline == "network"),
):
    baseline_epochs: int = setting(20, "Passes of Adam over an iteration's steps", at_least=1)
    baseline_minibatch: int = setting(128, "Observations in one step of Adam", at_least=1)
    baseline_learning_rate: float = setting(1e-3, "Learning rate of Adam", above=0)


class Baseline(Protocol):
    """V(s), from observations and the time since the episode began."""

    def initial_state(self) -> BaselineState: ...

    def predict(
        self, state: BaselineState, observations: np.ndarray, elapsed: np.ndarray
    ) -> np.ndarray:
        """Returns [N] float64 values of [N, O] observations at [N] steps into the episode."""

    def fit(
        self,
        state: BaselineState,
        observations: np.ndarray,
        elapsed: np.ndarray,
        targets: np.ndarray,
        generator: np.random.Generator,
    ) -> BaselineState:
        """Returns the state fitted to [N] target values."""


def quadratic_features(observations: np.ndarray) -> np.ndarray:
    """Returns (s, s², 1) of [N, O] observations clipped to ±10: [N, 2 O + 1]."""
    clipped = np.clip(observations.astype(np.float64), -10, 10)
    return np.concatenate([clipped, clipped**2, np.ones((len(clipped), 1))], axis=1)


RIDGE = 1e-5  # penalty on the squared weights of linear regression


class LinearBaseline:
    """Ridge regression on (s, s², 1, t, t², t³), as in Duan et al. (2016), t in 100 steps."""

    def __init__(self, observation_size: int):
        self._size = 2 * observation_size + 4

    def initial_state(self):
        return {"weights": np.zeros(self._size)}

    def predict(self, state, observations, elapsed):
        return self._features(observations, elapsed) @ state["weights"]

    def fit(self, state, observations, elapsed, targets, generator):
        features = self._features(observations, elapsed)
        gram = features.T @ features + RIDGE * np.eye(self._size)
        return {"weights": np.linalg.lstsq(gram, features.T @ targets, rcond=None)[0]}

    def _features(self, observations, elapsed):
        t = (elapsed / 100.0)[:, None]
        return np.concatenate([quadratic_features(observations), t, t**2, t**3], axis=1)


class NetworkBaseline:
    """A fully connected network of the observations, fitted by Adam on shuffled minibatches.

    It does not see the time since the episode began. A pass leaves out the rows that fill no
    minibatch.

    The network predicts V in running standard deviations from a running mean of the targets, so
    that one learning rate serves rewards and horizons of any scale. The statistics are part of the
    state. A fit moves them first, which rescales what the network predicted before, and then fits
    the network to the targets in their units.
    """

    def __init__(
        self,
        observation_size: int,
        *,
        hidden_sizes: tuple[int, ...],
        activation: str,
        epochs: int,
        minibatch_size: int,
        learning_rate: float,
        seed: int,
    ):
        """Builds the network.

        Args:
          observation_size: columns of an observation.
          hidden_sizes: units of each hidden layer.
          activation: activation of hidden layers.
          epochs: passes over the observations in one fit.
          minibatch_size: observations in one step of Adam.
          learning_rate: learning rate of Adam.
          seed: seed of the initial weights.
        """
        self._network = flat_network.FlatNetwork(
            networks.multilayer_perceptron(
                observation_size,
                hidden_sizes,
                1,
                activation=activation,
                output_scale=0.01,
                seed=seed,
            )
        )
        self._epochs = epochs
        self._minibatch_size = minibatch_size
        # Scratch of one fit: every call writes them first and reads them last.
        self._weights = keras.Variable(self._network.initial_parameters(), name="weights")
        self._optimizer = keras.optimizers.Adam(learning_rate)
        self._optimizer.build([self._weights])
        inputs = tf.TensorSpec([None, observation_size], tf.float32)
        self._predict = tf.function(
            self._values_in_chunks,
            [tf.TensorSpec([self._network.size], tf.float32), inputs],
            autograph=False,
        )
        self._fit = tf.function(
            self._fit_in_graph,
            [inputs, tf.TensorSpec([None], tf.float32), tf.TensorSpec([None, None], tf.int32)],
            autograph=False,
        )
        self._first = {name: variable.numpy() for name, variable in self._variables()}
        self._first["target_sums"] = np.zeros(3)

    def initial_state(self):
        return dict(self._first)

    def predict(self, state, observations, elapsed):
        values = self._predict(state["weights"], np.asarray(observations, np.float32))
        mean, deviation = _moments(state["target_sums"])
        return mean + deviation * values.numpy().astype(np.float64)

    def fit(self, state, observations, elapsed, targets, generator):
        index = np.arange(len(targets), dtype=np.int32)
        orders = np.stack([generator.permutation(index) for _ in range(self._epochs)])
        sums = TARGET_MEMORY * state["target_sums"]
        sums += [1.0, np.mean(targets), np.mean(np.square(targets))]
        mean, deviation = _moments(sums)
        for name, variable in self._variables():
            variable.assign(state[name])
        self._fit(
            np.asarray(observations, np.float32),
            np.asarray((targets - mean) / deviation, np.float32),
            orders,
        )
        fitted = {name: variable.numpy() for name, variable in self._variables()}
        return {**fitted, "target_sums": sums}

    def _variables(self):
        yield "weights", self._weights
        for i, variable in enumerate(self._optimizer.variables):
            yield f"optimizer_{i}", variable

    def _scaled_values(self, weights, observations):
        return self._network(weights, observations)[:, 0]

    def _values_in_chunks(self, weights, observations):
        return chunks.chunked_map(
            lambda chunk: self._scaled_values(weights, chunk), observations, tf.float32, ()
        )

    def _fit_in_graph(self, observations, targets, orders):
        minibatches = tf.maximum(tf.shape(targets)[0] // self._minibatch_size, 1)

        def step(i):
            epoch, start = i // minibatches, (i % minibatches) * self._minibatch_size
            chosen = orders[epoch, start : start + self._minibatch_size]
            inputs, goals = tf.gather(observations, chosen), tf.gather(targets, chosen)
            with tf.GradientTape() as tape:
                values = self._scaled_values(self._weights.value, inputs)
                loss = tf.reduce_mean((values - goals) ** 2)
            gradient = tape.gradient(loss, self._weights.value)
            self._optimizer.apply([gradient], [self._weights])
            return i + 1

        tf.while_loop(
            lambda i: i < self._epochs * minibatches,
            step,
            (tf.constant(0),),
            parallel_iterations=1,
        )


def _moments(sums: np.ndarray) -> tuple[float, float]:
    """Returns mean and deviation from running sums of weights, targets and squared targets."""
    weight, total, squares = sums
    if weight == 0:
        return 0.0, 1.0
    mean = total / weight
    deviation = np.sqrt(max(squares / weight - mean**2, 0.0))
    return mean, deviation if deviation > 0 else 1.0
