"""Episodes of many policies of one network, each with its own parameters, as one batch."""

import dataclasses

import numpy as np

from trpo_repro import environments
from trpo_repro.policies import policy as policy_lib
from trpo_repro.randomness import Key, Purpose
from trpo_repro.settings import Group, setting


@dataclasses.dataclass(frozen=True)
class PopulationSettings(Group, title="Candidates", readers="algorithms cem and cma"):
    episodes_per_candidate: int = setting(
        1, "Episodes whose mean return is a candidate's value", at_least=1
    )

    @staticmethod
    def is_read(config):
        return config.algorithm in ("cem", "cma")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One episode of each of R policies.

    Attributes:
      returns: [R] undiscounted, not finite where the simulation diverged.
      lengths: [R] steps.
    """

    returns: np.ndarray
    lengths: np.ndarray


def evaluate_population(
    environment: environments.Environment,
    policy: policy_lib.Policy,
    thetas: np.ndarray,
    key: Key,
) -> Evaluation:
    """Runs one episode from s0 ~ ρ0 for each of R parameter vectors, all at once.

    Rows leave the batch when their episode ends. A pure function: equal arguments give equal
    arrays.

    Args:
      environment: to act in.
      policy: whose network and distribution act.
      thetas: [R, P].
      key: of all random numbers drawn here.
    """
    act = policy.population_actor(thetas)
    return _play(environment, policy, act, len(thetas), key)


def evaluate_policy(
    environment: environments.Environment,
    policy: policy_lib.Policy,
    theta: np.ndarray,
    key: Key,
    *,
    episodes: int,
) -> Evaluation:
    """Runs that many episodes of π_θ from s0 ~ ρ0, all at once.

    Args:
      environment: to act in.
      policy: acts, by samples as in training.
      theta: [P].
      key: of all random numbers drawn here.
      episodes: R.
    """
    act = policy.actor(theta)
    return _play(environment, policy, lambda _, *seen: act(*seen), episodes, key)


def _play(environment, policy, act, size, key):
    """Returns the Evaluation of one episode a row, with act(rows, observations, noise)."""
    action_noise = key.generator(Purpose.ACTIONS)
    states = environment.initial(size, key.generator(Purpose.INITIAL_STATES))
    live = np.arange(size)
    returns, lengths = np.zeros(size), np.zeros(size, np.int64)
    while len(live):
        observations = policy.cast(environment.observe(states))
        noise = policy.family.draw_noise(action_noise, (len(live),))
        step = environment.step(states, act(live, observations, noise))
        returns[live] += step.rewards
        lengths[live] += 1
        # What diverged cannot come back; a NaN would never end by itself.
        going = ~(step.terminated | step.truncated) & np.isfinite(returns[live])
        states = step.states
        if not going.all():
            live, states = live[going], states.select(going)
    return Evaluation(returns, lengths)
