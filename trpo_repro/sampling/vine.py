"""The vine sampler (Sec. 5.2): branches from restored simulator states."""

import dataclasses
from collections.abc import Callable

import gymnasium
import numpy as np

from trpo_repro import environments
from trpo_repro.policies import policy as policy_lib
from trpo_repro.randomness import Key, Purpose
from trpo_repro.sampling import single_path

PROPOSALS = ("policy", "uniform")


@dataclasses.dataclass(frozen=True)
class Vine:
    """N rollout states with K Monte Carlo Q-values each.

    Attributes:
      trunks: [T, B] trajectories that the rollout states were chosen from.
      observations: [N, ...] float32, of the rollout states, before normalization.
      actions: [N, K, ...], the branches' first actions, from q.
      proposal_log_probs: [N, K] float32, log q(a|s).
      q_values: [N, K] float64, discounted sums of the branches' rewards.
      branch_steps: environment steps that the branches took.
    """

    trunks: single_path.Trajectories
    observations: np.ndarray
    actions: np.ndarray
    proposal_log_probs: np.ndarray
    q_values: np.ndarray
    branch_steps: int

    @property
    def finite(self) -> bool:
        """Whether every observation, reward and Q-value is a finite number."""
        return self.trunks.finite and bool(np.isfinite(self.q_values).all())


def sample_vine(
    environment: environments.Environment,
    policy: policy_lib.Policy,
    theta: np.ndarray,
    key: Key,
    *,
    trunks: int,
    trunk_length: int,
    rollout_states: int,
    rollouts_per_state: int,
    rollout_length: int,
    discount: float,
    proposal: str = "policy",
    normalize: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> Vine:
    """Runs trunks under π_θ, and branches from a random set of their states.

    A pure function: equal arguments give equal arrays.

    Args:
      environment: to act in.
      policy: π_θ, of the trunks and of the branches after their first action.
      theta: [P] parameters of the policy.
      key: of all random numbers drawn here.
      trunks: B, parallel trunk paths from s0 ~ ρ0; ended episodes restart in place.
      trunk_length: T, steps of each trunk.
      rollout_states: N, chosen uniformly without replacement from the T * B trunk states.
      rollouts_per_state: K; with the uniform proposal and at least as many rollouts as there
        are discrete actions, every action is taken once and K is their number.
      rollout_length: steps of a branch that does not end before.
      discount: γ.
      proposal: q, `policy` or `uniform`.
      normalize: [N, ...] observations → what the policy sees.

    Raises:
      ValueError: the environment cannot restore states, or N exceeds the trunk states.
    """
    check_restorable(environment)
    count = trunks * trunk_length
    if rollout_states > count:
        raise ValueError(
            f"rollout_states={rollout_states} is not allowed: the trunks have {count} states"
        )
    generator = key.generator(Purpose.ROLLOUT_SET)
    chosen = np.sort(generator.choice(count, rollout_states, replace=False))
    keep = np.zeros((trunk_length, trunks), bool)
    keep.flat[chosen] = True
    paths, _, states = single_path.sample_paths(
        environment,
        policy,
        theta,
        key,
        steps=trunk_length,
        states=trunks,
        normalize=normalize,
        keep=keep,
    )
    observations = paths.observations[keep]
    actions, log_probs = propose(
        policy,
        theta,
        normalize(observations),
        rollouts_per_state,
        environment.action_space if proposal == "uniform" else None,
        generator,
    )
    q_values, steps = branch_values(
        environment,
        policy,
        theta,
        key,
        states,
        actions,
        length=rollout_length,
        discount=discount,
        normalize=normalize,
    )
    return Vine(paths, observations, actions, log_probs, q_values, steps)


def propose(
    policy: policy_lib.Policy,
    theta: np.ndarray,
    observations: np.ndarray,
    count: int,
    uniform_over: gymnasium.Space | None,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns [N, K, ...] first actions and their [N, K] log q(a|s), drawn independently.

    Args:
      policy: π_θ, which is q unless `uniform_over` is given.
      theta: [P].
      observations: [N, ...] as the policy sees them.
      count: K.
      uniform_over: action space that q is uniform over. If it has at most K actions, each is
        taken once and K is their number.
      generator: of the draws.
    """
    family = policy.family
    size = len(observations)
    if uniform_over is None:
        repeated = np.repeat(observations, count, axis=0)
        actions = policy.sample(theta, repeated, family.draw_noise(generator, (size * count,)))
        log_probs = policy.log_prob(theta, repeated, actions)
    elif isinstance(uniform_over, gymnasium.spaces.Box):
        low, high = uniform_over.low, uniform_over.high
        actions = generator.uniform(low, high, (size * count, *low.shape)).astype(np.float32)
        log_probs = np.full(len(actions), -np.log(high.astype(np.float64) - low).sum())
    else:
        choices = family.all_actions()
        if len(choices) <= count:
            actions = np.concatenate([choices] * size)
        else:
            actions = choices[generator.integers(len(choices), size=size * count)]
        log_probs = np.full(len(actions), -np.log(len(choices)))
    return (
        actions.reshape(size, -1, *family.action_shape),
        log_probs.reshape(size, -1).astype(np.float32),
    )


def branch_values(
    environment: environments.Environment,
    policy: policy_lib.Policy,
    theta: np.ndarray,
    key: Key,
    states: environments.EnvironmentStates,
    actions: np.ndarray,
    *,
    length: int,
    discount: float,
    normalize: Callable[[np.ndarray], np.ndarray] = np.asarray,
    common_random_numbers: bool = True,
) -> tuple[np.ndarray, int]:
    """Returns Monte Carlo Q̂(s, a) of K actions in each of N states, and the steps simulated.

    All branches advance as one batch; those that terminate leave it. The episode's time limit
    does not cut them: all have one length.

    Args:
      environment: to act in.
      policy: π_θ, that acts after the first step.
      theta: [P] parameters of the policy.
      key: of the policy's random numbers.
      states: N states.
      actions: [N, K, ...], first actions.
      length: steps of a branch that does not terminate before.
      discount: γ.
      normalize: [N, ...] observations → what the policy sees.
      common_random_numbers: whether the K branches of a state share each later step's random
        numbers (App. H).

    Returns:
      q: [N, K] float64, Σ_t γᵗ r_t from the branch's first step; and the number of steps.
    """
    generator = key.generator(Purpose.BRANCH_ACTIONS)
    size, count = actions.shape[:2]
    act = policy.actor(theta)
    q_values = np.zeros(size * count)
    live = np.arange(size * count)  # branches that have not ended
    states = states.repeat(count)
    live_actions = actions.reshape(size * count, *actions.shape[2:])
    steps = 0
    for t in range(length):
        if t > 0:
            shared = (size,) if common_random_numbers else (size * count,)
            noise = policy.family.draw_noise(generator, shared)
            rows = live // count if common_random_numbers else live
            observations = environment.observe(states).astype(np.float32)
            live_actions = act(normalize(observations), noise[rows])
        step = environment.step(states, live_actions)
        steps += len(live)
        q_values[live] += discount**t * step.rewards
        going = ~step.terminated  # the time limit is the episode's, not the branch's
        states = step.states
        if not going.all():
            live, states = live[going], states.select(going)
        if not len(live):
            break
    return q_values.reshape(size, count), steps


def check_restorable(environment: environments.Environment) -> None:
    """Raises ValueError unless the environment can restore its states."""
    if not environment.can_restore:
        raise ValueError(f"vine needs to restore states, which {environment.name} cannot do")


def enumerates_actions(policy: policy_lib.Policy, count: int, proposal: str) -> bool:
    """Whether the branches of a state take every action once, as eq. 15 needs."""
    family = policy.family
    if proposal != "uniform" or family.action_dtype.is_floating:
        return False
    return len(family.all_actions()) <= count
