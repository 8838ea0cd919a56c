"""Trained policies as files, and bound to what they were trained with."""

import dataclasses
import json
import pathlib

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from trpo_repro import environments, files
from trpo_repro.policies import networks, normalization
from trpo_repro.policies import policy as policy_lib
from trpo_repro.randomness import Key
from trpo_repro.sampling import population
from trpo_repro.training.state import State

_NORMALIZER = "normalizer_"


@dataclasses.dataclass(frozen=True)
class TrainedPolicy:
    """A policy with its parameters, and the normalizer of what it sees.

    Observations are as the environment returns them: [N, ...], or a single one.

    Attributes:
      policy: π.
      theta: [P] parameters.
      iteration: iteration after which it was saved.
      normalizer: normalizer of the observations, or None.
    """

    policy: policy_lib.Policy
    theta: np.ndarray
    iteration: int
    normalizer: normalization.ObservationNormalizer | None

    def act(
        self,
        observations: np.ndarray,
        *,
        deterministic: bool = False,
        generator: np.random.Generator | None = None,
    ) -> np.ndarray:
        """Returns actions, one an observation, as `environment.step` of the run takes them.

        A Gaussian's are vectors that are not clipped; whole numbers begin at 0.

        Args:
          observations: [N, ...], or a single one, for which a single action is returned.
          deterministic: whether they are the most probable ones, not samples.
          generator: of the samples' random numbers; a new, unseeded one when None.
        """
        batch, is_single = self._seen(observations)
        if deterministic:
            actions = self.policy.mode(self.theta, batch)
        else:
            generator = generator or np.random.default_rng()
            noise = self.policy.family.draw_noise(generator, (len(batch),))
            actions = self.policy.sample(self.theta, batch, noise)
        return actions[0] if is_single else actions

    def distribution(self, observations: np.ndarray) -> tfp.distributions.Distribution:
        """Returns π(·|s) of [N, ...] observations, or of a single one in a batch of one."""
        batch, _ = self._seen(observations)
        theta = tf.convert_to_tensor(self.theta)
        return self.policy.family.distribution(self.policy.network(theta, batch))

    def keras_model(self) -> keras.Model:
        """Returns a model of observations → distribution parameters, which saves as `.keras`."""
        model = self.policy.network.keras_model(self.theta)
        if self.normalizer is None:
            return model
        inputs = keras.Input(self.policy.observation_shape)
        deviation = np.sqrt(self.normalizer.variance + self.normalizer.EPSILON)
        normalized = networks.Normalized(
            self.normalizer.mean.tolist(), deviation.tolist(), self.normalizer.LIMIT
        )
        return keras.Model(inputs, model(normalized(inputs)))

    def play(
        self,
        environment: environments.Environment,
        episodes: int,
        *,
        seed: int = 0,
        deterministic: bool = False,
        discount: float = 1.0,
        max_steps: int | None = None,
    ) -> population.PlayedEpisodes:
        """Plays so many episodes from s0 ~ ρ0; returns what each brought, and its length.

        Args:
          environment: environment to act in.
          episodes: how many.
          seed: of all random numbers; a run of this seed began its first iteration with them.
          deterministic: whether it acts by its most probable actions, not by samples.
          discount: γ of the returns.
          max_steps: steps after which an episode is cut; None for no limit but the task's.
        """
        return population.evaluate_policy(
            environment,
            self.policy,
            self.theta,
            Key(seed),
            episodes=episodes,
            normalize=self.normalizer or np.asarray,
            deterministic=deterministic,
            discount=discount,
            max_steps=max_steps,
        )

    def _seen(self, observations: np.ndarray) -> tuple[np.ndarray, bool]:
        """Returns the [N, ...] batch that the policy sees, and whether it was a single one."""
        observations = np.asarray(observations)
        shape = self.policy.observation_shape
        is_single = observations.shape == shape
        batch = observations[None] if is_single else observations
        if batch.shape[1:] != shape:
            raise ValueError(f"observations of shape {batch.shape} are not allowed: [N, *{shape}]")
        batch = self.policy.cast(batch)
        return (self.normalizer(batch) if self.normalizer else batch), is_single


def save_policy(path: pathlib.Path, policy: policy_lib.Policy, state: State) -> None:
    """Replaces a file by θ, the observations' normalizer, and the variables' names and shapes."""
    arrays = {
        "theta": state.theta,
        "iteration": np.array(state.iteration),
        "paths": np.array(policy.network.variable_names),
        "shapes": np.array([json.dumps(shape) for shape in policy.network.shapes]),
    }
    if state.normalizer is not None:
        statistics = dataclasses.asdict(state.normalizer)
        arrays |= {_NORMALIZER + name: array for name, array in statistics.items()}
    with files.replacing(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def saved_iteration(path: pathlib.Path) -> int | None:
    """Returns the iteration of the policy that `save_policy` wrote; None if there is no file."""
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as archive:
        return int(archive["iteration"])


def load_policy(
    path: pathlib.Path, policy: policy_lib.Policy, *, normalized: bool
) -> TrainedPolicy:
    """Returns the policy that `save_policy` wrote.

    Args:
      path: path of the file.
      policy: policy with the network that the parameters belong to.
      normalized: whether the policy sees normalized observations.

    Raises:
      ValueError: it is damaged or of another network, or lacks the normalizer that the policy
        needs.
      OSError: it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)
        theta, iteration = arrays["theta"], int(arrays["iteration"])
        shapes = [tuple(json.loads(shape)) for shape in arrays["shapes"]]
        names = arrays["paths"].tolist()
    except OSError:
        raise
    except Exception as error:  # damage shows as almost any exception of the zip format
        raise ValueError(f"{path} is damaged: {error}") from error
    if (names, shapes) != (policy.network.variable_names, policy.network.shapes):
        raise ValueError(f"{path} holds the parameters of another network")
    statistics = {
        name.removeprefix(_NORMALIZER): array
        for name, array in arrays.items()
        if name.startswith(_NORMALIZER)
    }
    if normalized and not statistics:
        raise ValueError(f"{path} lacks the observations' normalizer, which this policy needs")
    normalizer = normalization.ObservationNormalizer(**statistics) if statistics else None
    return TrainedPolicy(policy, theta, iteration, normalizer)
