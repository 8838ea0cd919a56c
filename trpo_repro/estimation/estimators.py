"""From a sample to the batch of a policy update: one object for each sampler."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from trpo_repro.estimation import baselines, returns, surrogates
from trpo_repro.policies import frames
from trpo_repro.policies import policy as policy_lib
from trpo_repro.sampling import single_path, vine

Arrays = Mapping[str, Any]
Normalize = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What an update needs of a sample.

    Attributes:
      rows: arrays by name, [N, ...]: observations, weights of states, and what the surrogate reads.
      kl_rows: observations and weights of the constraint's states, [M, ...], where they are others.
      baseline: state of the value function after its fit.
      explained_variance: 1 − Var(target − V) / Var(target) before the fit; NaN without one.
    """

    rows: Arrays
    kl_rows: Arrays | None
    baseline: Arrays
    explained_variance: float


class Estimator(Protocol):
    """Makes batches.

    Attributes:
      surrogate: the objective that the batches are for.
      separate_kl_states: whether the constraint's states are not the surrogate's.
    """

    surrogate: surrogates.Surrogate
    separate_kl_states: bool

    def __call__(
        self,
        sample: Any,
        baseline: baselines.State,
        normalize: Normalize,
        generator: np.random.Generator,
    ) -> Estimate:
        """Returns the batch of a finite sample.

        Args:
          sample: what the sampler joined.
          baseline: state of the value function.
          normalize: [N, ...] observations → what the policy sees.
          generator: of the value function's fit.
        """


class SinglePathEstimator:
    """Eq. 14: every step of the paths, with its standardized advantage."""

    surrogate: surrogates.Surrogate = surrogates.ImportanceSampled()
    separate_kl_states = False

    def __init__(self, settings: Any, baseline: baselines.Baseline | None):
        """Args: settings: of the run; baseline: V, or None."""
        self._settings = settings
        self._baseline = baseline
        self._reward = np.sign if settings.clip_rewards else np.asarray

    def __call__(self, sample, baseline, normalize, generator):
        paths: single_path.Trajectories = sample.paths
        states = state_rows(paths, normalize, _state_discount(self._settings))
        advantages, fitted, explained = self._advantages(
            paths, states["observations"], baseline, normalize, generator
        )
        rows = path_rows(paths, states, returns.standardize(advantages))
        return Estimate(rows, None, fitted, explained)

    def _advantages(self, paths, observations, baseline, normalize, generator):
        """Returns ([T, B] advantages, fitted baseline state, explained variance)."""
        settings = self._settings
        rewards = self._reward(paths.rewards)
        if self._baseline is None:
            sums = returns.discounted_sums(rewards, paths.ends, settings.discount)
            return sums, baseline, math.nan
        elapsed = _flat(paths.elapsed)
        values = self._baseline.predict(baseline, observations, elapsed)
        values = values.reshape(paths.rewards.shape)
        next_values = bootstrapped_values(self._baseline, baseline, paths, values, normalize)
        advantages = returns.generalized_advantages(
            rewards, values, next_values, paths.ends, settings.discount, settings.gae_lambda
        )
        targets = values + advantages
        explained = 1.0 - np.var(targets - values) / max(np.var(targets), 1e-12)
        fitted = self._baseline.fit(baseline, observations, elapsed, _flat(targets), generator)
        return advantages, fitted, explained


class VineEstimator:
    """Eqs. 15 and 16: the rollout states with their branches' Q-values."""

    def __init__(self, settings: Any, policy: policy_lib.Policy):
        """Args: settings: of the run; policy: that the branches follow."""
        self._discount = _state_discount(settings)
        self.separate_kl_states = settings.kl_states == "trunk"
        every_action = vine.enumerates_actions(
            policy, settings.rollouts_per_state, settings.proposal
        )
        self.surrogate: surrogates.Surrogate = surrogates.SelfNormalized()
        if every_action:
            self.surrogate = surrogates.ActionSum()

    def __call__(self, sample, baseline, normalize, generator):
        del generator  # nothing is drawn: there is no value function
        states = state_rows(sample.paths, normalize, self._discount)
        # The step does not change with the scale of Q (App. C): taken out for float32's sake.
        rows = vine_rows(sample, states)
        deviation = rows["q_values"].std()
        scaled = rows["q_values"] / deviation if deviation > 0 else rows["q_values"]
        rows["q_values"] = scaled.astype(np.float32)
        return Estimate(rows, states if self.separate_kl_states else None, baseline, math.nan)


def state_rows(
    paths: single_path.Trajectories, normalize: Normalize, discount: float | None = None
) -> dict[str, Any]:
    """Returns the states of paths or trunks, [T * B, ...]: `observations`, and `weights` γᵗ.

    Args:
      paths: [T, B] trajectories.
      normalize: [N, ...] observations → what the policy sees.
      discount: γ of the weights; None where states count equally, and have none.
    """
    observations = paths.rows()
    if not isinstance(observations, frames.StackedFrames):
        observations = normalize(observations)
    if discount is None:
        return {"observations": observations}
    weights = (discount ** _flat(paths.elapsed)).astype(np.float32)
    return {"observations": observations, "weights": weights}


def _state_discount(settings: Any) -> float | None:
    return settings.discount if settings.state_weighting == "discounted" else None


def path_rows(
    paths: single_path.Trajectories, states: Arrays, advantages: np.ndarray
) -> dict[str, Any]:
    """Returns the steps of paths with their [T, B] advantages, as eq. 14 reads them."""
    return {
        **states,
        "actions": _flat(paths.actions),
        "advantages": _flat(advantages).astype(np.float32),
    }


def vine_rows(sample: vine.Vine, states: Arrays) -> dict[str, Any]:
    """Returns the rollout states with their Q-values, as eqs. 15 and 16 read them.

    Each state's mean is taken off its Q-values, which changes neither (App. I).
    """
    return {
        **{name: array[sample.rows] for name, array in states.items()},
        "actions": sample.actions,
        "proposal_log_probs": sample.proposal_log_probs,
        "q_values": sample.q_values - sample.q_values.mean(axis=1, keepdims=True),
    }


def bootstrapped_values(
    value_function: baselines.Baseline,
    state: baselines.State,
    paths: single_path.Trajectories,
    values: np.ndarray,
    normalize: Normalize,
) -> np.ndarray:
    """Returns V(s_{t+1}), [T, B]: 0 after termination, V of the state that was cut off at a cut.

    Args:
      value_function: V.
      state: of V.
      paths: [T, B] trajectories.
      values: [T, B] V(s_t).
      normalize: [N, ...] observations → what V sees.
    """
    next_values = np.concatenate([values[1:], np.zeros_like(values[:1])])
    next_values[paths.terminated] = 0.0
    t, b = np.nonzero(paths.cut)
    if len(t):
        next_values[t, b] = value_function.predict(
            state, normalize(paths.cut_observations), paths.elapsed[t, b] + 1
        )
    return next_values


def _flat(array: np.ndarray) -> np.ndarray:
    """Returns [T, B, ...] as [T * B, ...]."""
    return array.reshape(-1, *array.shape[2:])
