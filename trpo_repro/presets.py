"""Presets: the paper's settings, and those for Gymnasium's tasks, as data.

The paper's are those of Table 2 (task, steps per iteration, iterations, γ, δ, hidden sizes) and of
Table 3; what the paper leaves open is marked "choice" and listed in WORKSPACE.md, Departures.
"""

import dataclasses
from typing import Any

from trpo_repro import environments
from trpo_repro.config import BLACK_BOX, Config

PAPER: dict[str, Config] = {
    # Figure 4 shows 50 iterations. Choice: 10K steps an iteration.
    "cartpole": Config(task="cartpole", iterations=50, steps_per_iteration=10_000, hidden_sizes=()),
    # Table 2. The network does not see x: 9 inputs make the paper's 364 parameters.
    "swimmer": Config(
        task="swimmer",
        iterations=200,
        steps_per_iteration=50_000,
        hidden_sizes=(30,),
        skip_inputs=1,
    ),
    # Table 2. Choice: two layers of 50, which the parameter counts of Table 2 fit.
    "hopper": Config(
        task="hopper",
        iterations=200,
        steps_per_iteration=1_000_000,
        hidden_sizes=(50, 50),
    ),
    "walker": Config(
        task="walker",
        iterations=200,
        steps_per_iteration=1_000_000,
        hidden_sizes=(50, 50),
    ),
}

# Table 3. Choices: paths continue across iterations, so that whole games are seen; 100 paths of
# 1000 decisions, in 4 shards; no reward clipping, of which the paper says nothing; damping, without
# which the step fits noise (WORKSPACE.md, Departures).
ATARI = Config(
    task="pong",
    iterations=500,
    steps_per_iteration=100_000,
    path_length=1000,
    fresh_paths=False,
    damping=0.1,
    shards=4,
)

# Table 3: 400K decisions an iteration, of which 20 trunks of 1000 decisions take 20K; uniform first
# actions (Sec. 5.2). Choices: all 18 of them, and branches of 100 decisions. Branches that become
# equal are simulated once: 18 cost Pong's untrained policy a third more decisions than 4, whose
# step gains less (WORKSPACE.md, Departures). The states are as many as the decisions allow.
ATARI_VINE: dict[str, Any] = {
    "trunks": 20,
    "rollout_states": 20_000,
    "branch_steps": 380_000,
    "rollout_length": 100,
    "rollouts_per_state": 18,
    "proposal": "uniform",
}

# Table 2's vine columns: 16 trunks of 1000 steps, 4 rollouts a state; 500 or 2500 Q-values make
# 125 or 625 rollout states. Choice: cart-pole, which is not in the table, takes Swimmer's.
PAPER_VINE: dict[str, dict[str, Any]] = {
    "cartpole": {"rollout_states": 125, "rollout_length": 50},
    "swimmer": {"rollout_states": 125, "rollout_length": 50},
    "hopper": {"rollout_states": 625, "rollout_length": 100},
    "walker": {"rollout_states": 625, "rollout_length": 100},
}

# Candidates of CEM and CMA-ES: as many episodes as a single-path iteration has in Table 2.
# Choice: cart-pole, which is not in the table, takes Swimmer's.
PAPER_POPULATION = {"cartpole": 50, "swimmer": 50, "hopper": 1000, "walker": 1000}

# For Gymnasium's tasks: 1M steps with generalized advantage estimation. γ and λ were chosen on
# Hopper-v5: γ = 0.99 with λ = 0.95 or 0.98 falls after 300 to 500 steps at 1300 to 2800. The size
# of batches is the better of two by the means of two tasks of three (configs.GAE_ABLATION).
GAE = Config(
    task="Hopper-v5",
    iterations=489,
    steps_per_iteration=2048,
    path_length=128,
    fresh_paths=False,
    discount=0.995,
    gae_lambda=0.97,
    baseline="network",
    hidden_sizes=(64, 64),
    activation="tanh",
    normalize_observations=True,
    damping=0.1,
    fisher_fraction=1.0,
    cg_iterations=15,
)

# Swimmer's published scores above 200 are at this γ.
GAE_DISCOUNTS = {"Swimmer-v5": 0.9999}

PRESETS = ("paper", "gae")


def preset(
    name: str, task: str, sampler: str | None = None, algorithm: str | None = None
) -> Config:
    """Returns the settings of a preset for a task.

    For a task that is not the paper's own, `paper` means Table 2's Hopper column (Swimmer's for
    `swimmer_root_joint`), or cart-pole's settings if the task is not built in; for an Atari game it
    means Table 3.

    Args:
      name: one of PRESETS.
      task: task of the run.
      sampler: `single_path` (None) or `vine`, which has settings of its own.
      algorithm: one of ALGORITHMS in trpo_repro.config; the populations of CEM and CMA-ES depend on
        the task.

    Raises:
      ValueError: unknown preset, or a preset that lacks the sampler or task.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")
    is_atari = environments.is_atari(task)
    if name == "gae":
        for wrong, what in ((sampler == "vine", "sampler=vine"), (is_atari, "Atari games")):
            if wrong:
                raise ValueError(f"preset=gae is not allowed with {what}: must be paper")
        discount = GAE_DISCOUNTS.get(task, GAE.discount)
        return dataclasses.replace(GAE, task=task, discount=discount)
    if is_atari:
        start = dataclasses.replace(ATARI, task=task)
        vine = {"sampler": "vine", **ATARI_VINE} if sampler == "vine" else {}
        return dataclasses.replace(start, **vine)
    column = task.removesuffix("_root_joint")
    if column not in PAPER:
        column = "hopper" if task in environments.task_names() else "cartpole"
    start = dataclasses.replace(PAPER[column], task=task)
    if algorithm in BLACK_BOX:
        return dataclasses.replace(start, algorithm=algorithm, population=PAPER_POPULATION[column])
    if sampler == "vine":
        return dataclasses.replace(start, sampler="vine", **PAPER_VINE[column])
    return start
