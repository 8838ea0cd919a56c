"""Episodes of many policies of one network, each with its own parameters, as one batch."""

import dataclasses
from collections.abc import Callable

import numpy as np

from trpo_repro import environments
from trpo_repro.policies import policy as policy_lib
from trpo_repro.randomness import Key, Purpose
from trpo_repro.settings import Group, algorithms, setting


@dataclasses.dataclass(frozen=True)
class PopulationSettings(Group, title="Candidates", readers=algorithms("cem", "cma")):
    episodes_per_candidate: int = setting(
        1, "Episodes whose mean return is a candidate's value", at_least=1
    )


@dataclasses.dataclass(frozen=True)
class PlayedEpisodes:
    """One episode of each of R policies.

    Attributes:
      returns: [R], undiscounted but where a discount is given; not finite where the simulation
        diverged.
      lengths: [R] steps.
    """

    returns: np.ndarray
    lengths: np.ndarray


def evaluate_population(
    environment: environments.Environment,
    policy: policy_lib.Policy,
    thetas: np.ndarray,
    key: Key,
) -> PlayedEpisodes:
    """Runs one episode from s0 ~ ρ0 for each of R parameter vectors, all at once.

    Rows leave the batch when their episode ends. A pure function: equal arguments give equal
    arrays.

    Args:
      environment: environment to act in.
      policy: policy whose network and distribution act.
      thetas: [R, P].
      key: key of all random numbers drawn here.
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
    normalize: Callable[[np.ndarray], np.ndarray] = np.asarray,
    deterministic: bool = False,
    discount: float = 1.0,
    max_steps: int | None = None,
) -> PlayedEpisodes:
    """Runs that many episodes of π_θ from s0 ~ ρ0, all at once.

    Args:
      environment: environment to act in.
      policy: π.
      theta: [P].
      key: key of all random numbers drawn here.
      episodes: R.
      normalize: [N, ...] observations → what the policy sees.
      deterministic: whether it acts by its most probable actions, not by samples as in training.
      discount: γ of the returns.
      max_steps: steps after which an episode is cut; None for no limit but the task's.
    """
    sample = policy.actor(theta)

    def act(_, observations, noise):
        seen = normalize(observations)
        return policy.mode(theta, seen) if deterministic else sample(seen, noise)

    return _play(environment, policy, act, episodes, key, discount, max_steps)


def _play(environment, policy, act, size, key, discount=1.0, max_steps=None):
    """Plays `size` episodes at once with act(index, observations, noise)."""
    action_noise = key.generator(Purpose.ACTIONS)
    states = environment.initial(size, key.generator(Purpose.INITIAL_STATES))
    live = np.arange(size)
    returns, lengths = np.zeros(size), np.zeros(size, np.int64)
    t = 0
    while len(live) and t != max_steps:
        observations = policy.cast(environment.observe(states))
        noise = policy.family.draw_noise(action_noise, (len(live),))
        step = environment.step(states, act(live, observations, noise))
        returns[live] += discount**t * step.rewards
        lengths[live] += 1
        t += 1
        # Drop diverged episodes: they never terminate.
        alive = ~(step.terminated | step.truncated) & np.isfinite(returns[live])
        states = step.states
        if not alive.all():
            live, states = live[alive], states.select(alive)
    return PlayedEpisodes(returns, lengths)
