"""From a sample to the batch of a policy update: one object for each sampler."""

import dataclasses
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
      batch: arrays by name, [N, ...]: observations, weights of states, and what the surrogate
        reads.
      kl_batch: observations and weights of the constraint's states, [M, ...]; None where they are
        the batch's.
      baseline: state of the value function after its fit.
      report: metrics by name. Of single path with a value function `explained_variance`,
        1 − Var(target − V) / Var(target) before its fit; of vine `informative_states`, the share
        of rollout states whose Q-values differ, and `merged_steps`.
    """

    batch: Arrays
    kl_batch: Arrays | None
    baseline: Arrays
    report: Mapping[str, float]


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
        baseline: baselines.BaselineState,
        normalize: Normalize,
        generator: np.random.Generator,
    ) -> Estimate:
        """Returns the batch of a finite sample.

        Args:
          sample: what the sampler joined.
          baseline: state of the value function.
          normalize: [N, ...] observations → what the policy sees.
          generator: random numbers of the value function's fit.
        """


class SinglePathEstimator:
    """Eq. 14: every step of the sample, with its standardized advantage."""

    surrogate: surrogates.Surrogate = surrogates.ImportanceSampled()
    separate_kl_states = False

    def __init__(self, settings: Any, baseline: baselines.Baseline | None):
        """Args: settings: of the run; baseline: V, or None."""
        self._settings = settings
        self._baseline = baseline
        self._reward = np.sign if settings.clip_rewards else np.asarray

    def __call__(self, sample, baseline, normalize, generator):
        trajectories: single_path.Trajectories = sample.trajectories
        states = state_arrays(trajectories, normalize, _state_discount(self._settings))
        advantages, fitted, report = self._advantages(
            trajectories, states["observations"], baseline, normalize, generator
        )
        batch = single_path_batch(trajectories, states, returns.standardize(advantages))
        return Estimate(batch, None, fitted, report)

    def _advantages(self, trajectories, observations, baseline, normalize, generator):
        """Returns ([T, B] advantages, fitted baseline state, metrics)."""
        settings = self._settings
        rewards = self._reward(trajectories.rewards)
        if self._baseline is None:
            sums = returns.discounted_sums(rewards, trajectories.ends, settings.discount)
            return sums, baseline, {}
        elapsed = _flat(trajectories.elapsed)
        values = self._baseline.predict(baseline, observations, elapsed)
        values = values.reshape(trajectories.rewards.shape)
        next_values = bootstrapped_values(self._baseline, baseline, trajectories, values, normalize)
        advantages = returns.generalized_advantages(
            rewards, values, next_values, trajectories.ends, settings.discount, settings.gae_lambda
        )
        targets = values + advantages
        explained = 1.0 - np.var(targets - values) / max(np.var(targets), 1e-12)
        fitted = self._baseline.fit(baseline, observations, elapsed, _flat(targets), generator)
        return advantages, fitted, {"explained_variance": explained}


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
        states = state_arrays(sample.trajectories, normalize, self._discount)
        # TRPO's step does not change with the scale of Q (App. C): taken out for float32's sake.
        batch = vine_batch(sample, states)
        deviation = batch["q_values"].std()
        scaled = batch["q_values"] / deviation if deviation > 0 else batch["q_values"]
        batch["q_values"] = scaled.astype(np.float32)
        report = {
            "informative_states": float((np.ptp(sample.q_values, axis=1) > 0).mean()),
            "merged_steps": sample.merged_steps,
        }
        return Estimate(batch, states if self.separate_kl_states else None, baseline, report)


def state_arrays(
    trajectories: single_path.Trajectories, normalize: Normalize, discount: float | None = None
) -> dict[str, Any]:
    """Returns the states of trajectories, [T * B, ...]: `observations`, and `weights` γᵗ.

    Args:
      trajectories: [T, B] trajectories.
      normalize: [N, ...] observations → what the policy sees.
      discount: γ of the weights; None where states count equally, and have none.
    """
    observations = trajectories.flat_observations()
    if not isinstance(observations, frames.StackedFrames):
        observations = normalize(observations)
    if discount is None:
        return {"observations": observations}
    weights = (discount ** _flat(trajectories.elapsed)).astype(np.float32)
    return {"observations": observations, "weights": weights}


def _state_discount(settings: Any) -> float | None:
    return settings.discount if settings.state_weighting == "discounted" else None


def single_path_batch(
    trajectories: single_path.Trajectories, states: Arrays, advantages: np.ndarray
) -> dict[str, Any]:
    """Returns the steps of trajectories with their [T, B] advantages, as eq. 14 reads them."""
    return {
        **states,
        "actions": _flat(trajectories.actions),
        "advantages": _flat(advantages).astype(np.float32),
    }


def vine_batch(sample: vine.Vine, states: Arrays) -> dict[str, Any]:
    """Returns the rollout states with their Q-values, as eqs. 15 and 16 read them.

    Each state's mean is taken off its Q-values, which changes neither (App. I); equal ones become
    0 exactly, for scaling would make a direction of what rounding leaves. They are float64, for the
    caller to scale before float32.
    """
    q_values = sample.q_values
    equal = np.ptp(q_values, axis=1, keepdims=True) == 0
    return {
        **{name: array[sample.state_index] for name, array in states.items()},
        "actions": sample.actions,
        "proposal_log_probs": sample.proposal_log_probs,
        "q_values": np.where(equal, 0.0, q_values - q_values.mean(axis=1, keepdims=True)),
    }


def bootstrapped_values(
    value_function: baselines.Baseline,
    state: baselines.BaselineState,
    trajectories: single_path.Trajectories,
    values: np.ndarray,
    normalize: Normalize,
) -> np.ndarray:
    """Returns V(s_{t+1}), [T, B]: 0 after termination, V of the state that was cut off at a cut.

    Args:
      value_function: V.
      state: state of V.
      trajectories: [T, B] trajectories.
      values: [T, B] V(s_t).
      normalize: [N, ...] observations → what V sees.
    """
    next_values = np.concatenate([values[1:], np.zeros_like(values[:1])])
    next_values[trajectories.terminated] = 0.0
    t, b = np.nonzero(trajectories.cut)
    if len(t):
        next_values[t, b] = value_function.predict(
            state, normalize(trajectories.cut_observations), trajectories.elapsed[t, b] + 1
        )
    return next_values


def _flat(array: np.ndarray) -> np.ndarray:
    """Returns [T, B, ...] as [T * B, ...]."""
    return array.reshape(-1, *array.shape[2:])
