"""Finite Markov decision processes, and exact quantities of their policies by linear solves.

A policy is an array [S, A] of probabilities. Symbols are those of Sec. 2.
"""

import dataclasses

import numpy as np

TOLERANCE = 1e-9  # of probabilities that should sum to one


@dataclasses.dataclass(frozen=True)
class FiniteMDP:
    """A Markov decision process with S states and A actions.

    Attributes:
      transitions: [S, A, S] P(s'|s, a).
      rewards: [S, A] expected reward of action a in state s.
      initial: [S] ρ0.
      discount: γ, in (0, 1).

    Raises:
      ValueError: not valid probabilities or a reward that is not finite (the message names the
        state), arrays of other shapes, or a discount outside (0, 1).
    """

    transitions: np.ndarray
    rewards: np.ndarray
    initial: np.ndarray
    discount: float

    def __post_init__(self):
        states, actions = np.shape(self.rewards)
        if np.shape(self.transitions) != (states, actions, states):
            raise ValueError(
                f"transitions have shape {np.shape(self.transitions)}: must be "
                f"{(states, actions, states)} for rewards of shape {(states, actions)}"
            )
        if not 0 < self.discount < 1:
            raise ValueError(f"discount={self.discount} is not allowed: must be in (0, 1)")
        if not np.isfinite(self.rewards).all():
            state, action = np.argwhere(~np.isfinite(self.rewards))[0]
            reward = self.rewards[state, action]
            raise ValueError(f"rewards, state {state}, action {action}: {reward} is not allowed")
        for action in range(actions):
            check_stochastic(self.transitions[:, action], f"transitions of action {action}")
        if np.shape(self.initial) != (states,):
            raise ValueError(f"initial has shape {np.shape(self.initial)}: must be {(states,)}")
        start = np.asarray(self.initial)
        bad = ~(np.isfinite(start) & (start >= 0))
        if bad.any():
            state = int(np.argmax(bad))
            raise ValueError(f"initial distribution, state {state}: {start[state]} is not allowed")
        if abs(start.sum() - 1) > TOLERANCE:
            raise ValueError(f"initial distribution sums to {start.sum()}: must be 1")

    @property
    def states(self) -> int:
        """S."""
        return self.rewards.shape[0]

    @property
    def actions(self) -> int:
        """A."""
        return self.rewards.shape[1]


def check_stochastic(matrix: np.ndarray, name: str) -> None:
    """Raises ValueError, naming the first bad state, unless its rows are probabilities."""
    good = np.isfinite(matrix).all(axis=1) & (matrix >= 0).all(axis=1)
    good &= np.abs(np.where(good[:, None], matrix, 0).sum(axis=1) - 1) < TOLERANCE
    if not good.all():
        state = int(np.argmin(good))
        raise ValueError(f"{name}, state {state}: {matrix[state]} is no probability distribution")


def check_policy(mdp: FiniteMDP, policy: np.ndarray) -> None:
    """Raises ValueError unless `policy` is one of this process."""
    if np.shape(policy) != mdp.rewards.shape:
        raise ValueError(f"policy has shape {np.shape(policy)}: must be {mdp.rewards.shape}")
    check_stochastic(np.asarray(policy), "policy")


def policy_transitions(mdp: FiniteMDP, policy: np.ndarray) -> np.ndarray:
    """Returns P_π(s'|s), [S, S]; complex probabilities are allowed, for derivatives.

    Raises:
      ValueError: it is not a valid policy; the message says in which state.
    """
    if not np.iscomplexobj(policy):
        check_policy(mdp, policy)
    return np.einsum("sa,sat->st", policy, mdp.transitions)


def resolvent(mdp: FiniteMDP, policy: np.ndarray) -> np.ndarray:
    """Returns G = (I − γ P_π)⁻¹, [S, S]: expected discounted visits to s' from s (App. B)."""
    return np.linalg.inv(np.eye(mdp.states) - mdp.discount * policy_transitions(mdp, policy))


def state_visitation(mdp: FiniteMDP, policy: np.ndarray) -> np.ndarray:
    """Returns ρ_π(s) = Σ_t γᵗ P(s_t = s), [S], unnormalized: it sums to 1 / (1 − γ)."""
    matrix = np.eye(mdp.states) - mdp.discount * policy_transitions(mdp, policy)
    return np.linalg.solve(matrix.T, mdp.initial)


def state_values(mdp: FiniteMDP, policy: np.ndarray) -> np.ndarray:
    """Returns V_π(s), [S]."""
    matrix = np.eye(mdp.states) - mdp.discount * policy_transitions(mdp, policy)
    return np.linalg.solve(matrix, (policy * mdp.rewards).sum(axis=1))


def action_values(mdp: FiniteMDP, policy: np.ndarray) -> np.ndarray:
    """Returns Q_π(s, a), [S, A]."""
    return mdp.rewards + mdp.discount * mdp.transitions @ state_values(mdp, policy)


def advantages(mdp: FiniteMDP, policy: np.ndarray) -> np.ndarray:
    """Returns A_π(s, a) = Q_π − V_π, [S, A]."""
    return action_values(mdp, policy) - state_values(mdp, policy)[:, None]


def expected_return(mdp: FiniteMDP, policy: np.ndarray) -> float:
    """Returns η(π) = E[Σ γᵗ r_t]."""
    return mdp.initial @ state_values(mdp, policy)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the policy with [S, A] logits; complex ones are allowed, for derivatives."""
    weights = np.exp(logits - logits.real.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def random_mdp(seed: int, states: int = 5, actions: int = 3, discount: float = 0.9) -> FiniteMDP:
    """Returns a process with Dirichlet transitions, a few per state likely, normal rewards."""
    generator = np.random.default_rng(seed)
    return FiniteMDP(
        generator.dirichlet(np.full(states, 0.5), (states, actions)),
        generator.standard_normal((states, actions)),
        generator.dirichlet(np.ones(states)),
        discount,
    )


def chain(states: int = 8, discount: float = 0.95, slip: float = 0.1) -> FiniteMDP:
    """Returns a line: action 1 goes right, 0 left, each slips the other way with `slip`.

    Reward 1 in the last state, 0.05 for going left in the first: the near-sighted end.
    """
    transitions = np.zeros((states, 2, states))
    for s in range(states):
        left, right = max(s - 1, 0), min(s + 1, states - 1)
        for action, (wanted, other) in enumerate(((left, right), (right, left))):
            transitions[s, action, wanted] += 1 - slip
            transitions[s, action, other] += slip
    rewards = np.zeros((states, 2))
    rewards[-1] = 1.0
    rewards[0, 0] = 0.05
    return FiniteMDP(transitions, rewards, np.eye(states)[0], discount)


def grid_world(size: int = 4, discount: float = 0.9, slip: float = 0.1) -> FiniteMDP:
    """Returns a square grid: four moves, a slip in a random direction, reward 1 at the far corner.

    From the rewarded corner every action returns to the first cell.
    """
    cells = [(x, y) for x in range(size) for y in range(size)]
    index = {cell: i for i, cell in enumerate(cells)}
    moves = ((1, 0), (-1, 0), (0, 1), (0, -1))
    transitions = np.zeros((len(cells), 4, len(cells)))
    for (x, y), s in index.items():
        for action in range(4):
            for other, (dx, dy) in enumerate(moves):
                target = (min(max(x + dx, 0), size - 1), min(max(y + dy, 0), size - 1))
                transitions[s, action, index[target]] += slip / 4 + (1 - slip) * (action == other)
    goal = index[size - 1, size - 1]
    transitions[goal] = np.eye(len(cells))[0]
    rewards = np.zeros((len(cells), 4))
    rewards[goal] = 1.0
    return FiniteMDP(transitions, rewards, np.eye(len(cells))[0], discount)
