"""Episodes of many policies of one network, each with its own parameters, as one batch."""

import dataclasses

import numpy as np

from trpo_repro import environments
from trpo_repro.policies import policy as policy_lib
from trpo_repro.randomness import Key, Purpose


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
    action_noise = key.generator(Purpose.ACTIONS)
    size = len(thetas)
    states = environment.initial(size, key.generator(Purpose.INITIAL_STATES))
    act = policy.population_actor(thetas)
    live = np.arange(size)
    returns, lengths = np.zeros(size), np.zeros(size, np.int64)
    while len(live):
        observations = environment.observe(states).astype(np.float32)
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
