"""The vine sampler (Sec. 5.2): branches from restored simulator states."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from trpo_repro import environments
from trpo_repro.policies import policy as policy_lib
from trpo_repro.randomness import Key, Purpose
from trpo_repro.sampling import single_path
from trpo_repro.settings import Group, Readers, setting


@dataclasses.dataclass(frozen=True)
class VineSettings(
    Group, title="Vine", readers=Readers("sampler=vine", lambda config: config.sampler == "vine")
):
    trunks: int = setting(16, "Trunk paths", at_least=1)
    rollout_states: int = setting(125, "N, the states that branches start from", at_least=1)
    rollouts_per_state: int = setting(
        4, "K, the branches of each rollout state: they are compared with one another", at_least=2
    )
    rollout_length: int = setting(
        50, "Environment steps of a branch that does not terminate before", at_least=1
    )
    branch_steps: int = setting(
        0,
        "Environment steps of an iteration's branches, after which no other state's begin and "
        "fewer than N have branches; 0 for no limit",
        at_least=0,
    )
    proposal: str = setting(
        "policy",
        "Distribution q of the branches' first actions; uniform for discrete actions alone",
        choices=("policy", "uniform"),
    )
    kl_states: str = setting(
        "trunk",
        "States of the KL constraint and the Fisher matrix: all of the trunks, or the rollout set",
        choices=("trunk", "rollout"),
    )


@dataclasses.dataclass(frozen=True)
class Vine:
    """N rollout states with K Monte Carlo Q-values each.

    Attributes:
      trajectories: [T, B] trunks, that the rollout states were chosen from.
      after: the B states after the trunks' last step.
      state_index: [N] int64, the places of the rollout states among the T * B trunk states in
        row-major order.
      actions: [N, K, ...], the branches' first actions, from q.
      proposal_log_probs: [N, K] float32, log q(a|s).
      q_values: [N, K] float64, discounted sums of the branches' rewards; a state whose branches
        became one lacks the rewards that followed, the same for each.
      branch_steps: environment steps simulated for the branches.
      merged_steps: steps of branches that were equal to a simulated one, or to each other to the
        end, and were not simulated.
    """

    trajectories: single_path.Trajectories
    after: environments.EnvironmentStates
    state_index: np.ndarray
    actions: np.ndarray
    proposal_log_probs: np.ndarray
    q_values: np.ndarray
    branch_steps: int
    merged_steps: int

    @property
    def steps(self) -> int:
        """Environment steps simulated, by trunks and branches."""
        return self.trajectories.rewards.size + self.branch_steps

    @property
    def finite(self) -> bool:
        """Whether every observation, reward and Q-value is a finite number."""
        return self.trajectories.finite and bool(np.isfinite(self.q_values).all())

    @classmethod
    def concatenate(cls, parts: "Sequence[Vine]") -> "Vine":
        """Returns the trunks of all parts side by side, and their branches, in order."""
        if len(parts) == 1:
            return parts[0]
        widths = [part.trajectories.rewards.shape[1] for part in parts]
        state_index = []
        for part, width, first in zip(parts, widths, np.cumsum([0, *widths]), strict=False):
            times, paths = np.divmod(part.state_index, width)
            state_index.append(times * sum(widths) + first + paths)
        return cls(
            single_path.Trajectories.concatenate([part.trajectories for part in parts]),
            type(parts[0].after).concatenate([part.after for part in parts]),
            np.concatenate(state_index),
            np.concatenate([part.actions for part in parts]),
            np.concatenate([part.proposal_log_probs for part in parts]),
            np.concatenate([part.q_values for part in parts]),
            sum(part.branch_steps for part in parts),
            sum(part.merged_steps for part in parts),
        )


class BranchValues(NamedTuple):
    """What the branches of N states gave.

    Attributes:
      q_values: [N, K] float64, Σ_t γᵗ r_t from a branch's first step; fewer than N with a limit
        of steps.
      steps: environment steps simulated.
      merged_steps: environment steps of branches that were equal to a simulated one.
    """

    q_values: np.ndarray
    steps: int
    merged_steps: int


class VineSampler:
    """Sec. 5.2, in shards: a function of each, and their results joined."""

    def __init__(self, settings: Any, environment: environments.Environment):
        """Checks that the environment can be branched from.

        Args:
          settings: PathSettings, VineSettings, ReturnSettings and ShardSettings.
          environment: environment to sample in.

        Raises:
          ValueError: the environment cannot restore states, or the proposal does not cover the
            policy's actions.
        """
        check_restorable(environment)
        check_proposal(settings.proposal, environment.action_space)
        self._settings = settings

    def shard_functions(
        self,
        states: environments.EnvironmentStates | None,
        key: Key,
        normalize: Callable[[np.ndarray], np.ndarray],
    ) -> list[Callable[..., Vine]]:
        """Returns each shard's function, as `SinglePathSampler.shard_functions` does."""
        settings = self._settings
        shards = single_path.shard_arguments(settings.shards, settings.trunks, states, key)
        return [
            functools.partial(
                sample_vine,
                **arguments,
                normalize=normalize,
                trunk_length=settings.path_length,
                rollout_states=settings.rollout_states // settings.shards,
                rollouts_per_state=settings.rollouts_per_state,
                rollout_length=settings.rollout_length,
                branch_steps=-(-settings.branch_steps // settings.shards),
                discount=settings.discount,
                proposal=settings.proposal,
                reward=np.sign if settings.clip_rewards else np.asarray,
            )
            for arguments in shards
        ]

    def join(self, results: Sequence[Vine]) -> Vine:
        """Returns the trunks of all shards side by side, and their branches, in order."""
        return Vine.concatenate(results)


def sample_vine(
    environment: environments.Environment,
    policy: policy_lib.Policy,
    theta: np.ndarray,
    key: Key,
    *,
    states: environments.EnvironmentStates | int,
    trunk_length: int,
    rollout_states: int,
    rollouts_per_state: int,
    rollout_length: int,
    discount: float,
    branch_steps: int = 0,
    proposal: str = "policy",
    normalize: Callable[[np.ndarray], np.ndarray] = np.asarray,
    reward: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> Vine:
    """Runs trunks under π_θ, and branches from a random set of their states.

    A pure function: equal arguments give equal arrays.

    Args:
      environment: environment to act in.
      policy: π_θ, of the trunks and of the branches after their first action.
      theta: [P] parameters of the policy.
      key: key of all random numbers drawn here.
      states: B states that the trunks continue from, or the number B of fresh ones, s0 ~ ρ0;
        ended episodes restart in place.
      trunk_length: T, steps of each trunk.
      rollout_states: N, chosen uniformly without replacement from the T * B trunk states.
      rollouts_per_state: K; with the uniform proposal and at least as many rollouts as there
        are discrete actions, every action is taken once and K is their number.
      rollout_length: steps of a branch that does not end before.
      discount: γ.
      branch_steps: steps of branches after which no other state's begin; 0 for no limit. The
        states are taken in a random order then.
      proposal: q, `policy` or `uniform`.
      normalize: [N, ...] observations → what the policy sees.
      reward: [N] rewards → those that Q-values sum; the trunks keep their own.

    Raises:
      ValueError: the environment cannot restore states, or N exceeds the trunk states.
    """
    check_restorable(environment)
    trunks = states if isinstance(states, int) else len(states)
    count = trunks * trunk_length
    if rollout_states > count:
        raise ValueError(
            f"rollout_states={rollout_states} is not allowed: the trunks have {count} states"
        )
    generator = key.generator(Purpose.ROLLOUT_SET)
    chosen = np.sort(generator.choice(count, rollout_states, replace=False))
    keep = np.zeros((trunk_length, trunks), bool)
    keep.flat[chosen] = True
    trajectories, after, kept = single_path.sample_trajectories(
        environment,
        policy,
        theta,
        key,
        steps=trunk_length,
        states=states,
        normalize=normalize,
        keep=keep,
    )
    if branch_steps:
        order = generator.permutation(rollout_states)
        chosen, kept = chosen[order], kept.select(order)
    actions, log_probs = propose(
        policy,
        theta,
        normalize(policy.cast(environment.observe(kept))),
        rollouts_per_state,
        environment.action_space if proposal == "uniform" else None,
        generator,
    )
    values = branch_values(
        environment,
        policy,
        theta,
        key,
        kept,
        actions,
        length=rollout_length,
        discount=discount,
        normalize=normalize,
        reward=reward,
        differences_only=True,
        most_steps=branch_steps,
    )
    begun = len(values.q_values)
    return Vine(trajectories, after, chosen[:begun], actions[:begun], log_probs[:begun], *values)


def propose(
    policy: policy_lib.Policy,
    theta: np.ndarray,
    observations: np.ndarray,
    count: int,
    uniform_over: gymnasium.Space | None,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns [N, K, ...] first actions and their [N, K] log q(a|s).

    Those of the policy are drawn independently, uniform ones without replacement: a repeated
    action would be the same branch again.

    Args:
      policy: π_θ, which is q unless `uniform_over` is given.
      theta: [P].
      observations: [N, ...] as the policy sees them.
      count: K.
      uniform_over: discrete action space that q is uniform over. If it has at most K actions,
        each is taken once, in order, and K is their number.
      generator: random numbers of the draws.

    Raises:
      ValueError: `uniform_over` is a Box.
    """
    family = policy.family
    size = len(observations)
    if uniform_over is None:
        noise = family.draw_noise(generator, (size, count))
        actions, log_probs = policy.sample_several(theta, observations, noise)
        return actions, log_probs.astype(np.float32)
    check_proposal("uniform", uniform_over)
    choices = family.all_actions()
    drawn = np.broadcast_to(np.arange(len(choices)), (size, len(choices)))
    if count < len(choices):
        drawn = generator.permuted(drawn, axis=1)[:, :count]
    return choices[drawn], np.full(drawn.shape, -np.log(len(choices)), np.float32)


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
    reward: Callable[[np.ndarray], np.ndarray] = np.asarray,
    common_random_numbers: bool = True,
    differences_only: bool = False,
    most_steps: int = 0,
) -> BranchValues:
    """Returns Monte Carlo Q̂(s, a) of K actions in each of N states.

    Branches advance side by side, as many as the environment likes best; those that terminate
    leave, and change nothing of the others. The episode's time limit does not cut them: all have
    one length. Under common random numbers, branches of a state whose simulators have become equal
    have one future: where the environment can tell (`Environment.fingerprints`) it is simulated
    once and counts for each of them.

    Args:
      environment: environment to act in.
      policy: π_θ, that acts after the first step.
      theta: [P] parameters of the policy.
      key: key of the policy's random numbers.
      states: N states.
      actions: [N, K, ...], first actions.
      length: steps of a branch that does not terminate before.
      discount: γ.
      normalize: [N, ...] observations → what the policy sees.
      reward: [N] rewards → those that Q̂ sums.
      common_random_numbers: whether the K branches of a state share each later step's random
        numbers (App. H).
      differences_only: whether a state is done once its K branches are one. Each of its Q̂ then
        lacks the rewards that follow, the same for all K, which changes neither eq. 15 nor eq. 16.
      most_steps: steps after which the branches of no other state begin, and the states that are
        left have no Q-values; 0 for no limit.
    """
    generator = key.generator(Purpose.BRANCH_ACTIONS)
    size, count = actions.shape[:2]
    act = policy.actor(theta)
    shared = (size,) if common_random_numbers else (size * count,)
    noise = np.array([policy.family.draw_noise(generator, shared) for _ in range(1, length)])
    powers = np.array([discount**t for t in range(length)])
    q_values = np.zeros(size * count)
    actions = actions.reshape(size * count, *actions.shape[2:])
    together = environment.preferred_batch_size or size * count
    if most_steps:
        together = min(together, most_steps // length)
    together = max(together, count)
    live = _LiveBranches.none(states)
    wanted, begun = size, 0  # states
    simulated = merged = 0  # steps
    while begun < wanted or len(live.leader):
        if most_steps and simulated >= most_steps:
            wanted = begun
        added = min((together - len(live.leader)) // count, wanted - begun)
        if added > 0:
            index = np.arange(begun, begun + added)
            branches = np.arange(begun * count, (begun + added) * count)
            live = live.joined_by(states.select(index).repeat(count), branches)
            begun += added
        if common_random_numbers:
            live = live.merged(environment, actions, count)
            if differences_only:
                live, left = live.without_united(count, length)
                merged += left
                if not len(live.leader):
                    continue
        chosen = actions[live.leader]
        later = live.time > 0
        if later.any():
            acting = live.states if later.all() else live.states.select(later)
            drawn = live.leader // count if common_random_numbers else live.leader
            observations = normalize(policy.cast(environment.observe(acting)))
            chosen[later] = act(observations, noise[live.time[later] - 1, drawn[later]])
        step = environment.step(live.states, chosen)
        simulated += len(live.leader)
        merged += len(live.member) - len(live.leader)
        q_values[live.member] += (powers[live.time] * reward(step.rewards))[live.row]
        live = dataclasses.replace(live, states=step.states, time=live.time + 1)
        # The time limit is the episode's, not the branch's.
        live = live.only(~step.terminated & (live.time < length))
    return BranchValues(q_values.reshape(-1, count)[:begun], simulated, merged)


@dataclasses.dataclass(frozen=True)
class _LiveBranches:
    """Branches that have not ended, of which several may have one simulator: a row.

    Attributes:
      states: R states, a row each.
      time: [R] steps that the row's branches have taken.
      leader: [R] the row's first branch, as an index into the N * K of all states.
      member: [M] ascending indices of the live branches.
      row: [M] their rows.
    """

    states: environments.EnvironmentStates
    time: np.ndarray
    leader: np.ndarray
    member: np.ndarray
    row: np.ndarray

    @classmethod
    def none(cls, states: environments.EnvironmentStates) -> "_LiveBranches":
        empty = np.zeros(0, np.int64)
        return cls(states.select(empty), empty, empty, empty, empty)

    def joined_by(
        self, states: environments.EnvironmentStates, branches: np.ndarray
    ) -> "_LiveBranches":
        """Returns these and new branches, a row and a state each."""
        rows = len(self.leader) + np.arange(len(branches))
        return _LiveBranches(
            type(states).concatenate([self.states, states]),
            np.concatenate([self.time, np.zeros(len(branches), np.int64)]),
            np.concatenate([self.leader, branches]),
            np.concatenate([self.member, branches]),
            np.concatenate([self.row, rows]),
        )

    def only(self, kept: np.ndarray) -> "_LiveBranches":
        """Returns the branches of the rows at the [R] bool mask."""
        if kept.all():
            return self
        stay = kept[self.row]
        return _LiveBranches(
            self.states.select(kept),
            self.time[kept],
            self.leader[kept],
            self.member[stay],
            (np.cumsum(kept) - 1)[self.row[stay]],
        )

    def without_united(self, count: int, length: int) -> "tuple[_LiveBranches, int]":
        """Returns the branches of states whose K = `count` are not all in one row, and how many
        steps of the others are left to `length`."""
        united = np.bincount(self.row) == count
        left = count * int((length - self.time[united]).sum())
        return self.only(~united), left

    def merged(
        self, environment: environments.Environment, actions: np.ndarray, count: int
    ) -> "_LiveBranches":
        """Returns the branches with equal ones of a state in one row.

        Args:
          environment: environment of the states.
          actions: [N * K, ...] first actions.
          count: K.
        """
        prints = environment.fingerprints(self.states)
        if prints is None:
            return self
        first: dict[tuple, int] = {}
        into = np.empty(len(prints), np.int64)
        for i, (fingerprint, branch, time) in enumerate(
            zip(prints, self.leader.tolist(), self.time.tolist(), strict=True)
        ):
            action = actions[branch].tobytes() if time == 0 else b""
            into[i] = first.setdefault((branch // count, action, fingerprint), i)
        together = dataclasses.replace(self, row=into[self.row])
        return together.only(into == np.arange(len(into)))


def check_restorable(environment: environments.Environment) -> None:
    """Raises ValueError unless the environment can restore its states."""
    if not environment.can_restore:
        raise ValueError(f"vine needs to restore states, which {environment.name} cannot do")


def check_proposal(proposal: str, action_space: gymnasium.Space) -> None:
    """Raises ValueError unless q has the policy's support, as eq. 16's weights π / q need.

    A uniform q over a Box leaves out what a Gaussian draws beyond the limits (Sec. 5.2 has it for
    discrete actions).
    """
    if proposal == "uniform" and isinstance(action_space, gymnasium.spaces.Box):
        raise ValueError("proposal=uniform is not allowed with continuous actions: must be policy")


def enumerates_actions(policy: policy_lib.Policy, count: int, proposal: str) -> bool:
    """Whether the branches of a state take every action once, as eq. 15 needs."""
    family = policy.family
    if proposal != "uniform" or family.action_dtype.is_floating:
        return False
    return len(family.all_actions()) <= count
