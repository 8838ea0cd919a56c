"""The runs of the experiments, as data: what differs from the presets, and budgets.

What the paper leaves open is marked "choice" and listed in WORKSPACE.md, Departures.
"""

import dataclasses
from typing import Any, cast

import trpo_repro.commands.quiet  # noqa: F401, before what imports TensorFlow
from trpo_repro import presets
from trpo_repro.config import BLACK_BOX, Config


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """A curve of Figure 4, or a variant of TRPO beside it.

    Attributes:
      label: in legends.
      changes: fields of Config that differ from the task's paper preset.
      sweep: a field and its values, of which the best by final performance is drawn.
    """

    label: str
    changes: dict[str, Any]
    sweep: tuple[str, tuple[float, ...]] | None = None


SWEPT = {
    "step_size": "1/λ",
    "search_deviation": "σ",
    "temperature": "T",
    "multiplier": "λ",
    "ascent_rate": "rate",
}

# Of the adaptive penalty's and PPO's gradient steps.
_RATES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03)

# The paper gives no settings of the methods that it compares with. The natural gradient's step
# size is swept in factors of three (Sec. 8.1); so is, a choice, the one free scale of each other
# method. What is not swept: CEM's elite fraction and noise are of Szita and Lőrincz (2006), the
# population is as many episodes as a single-path iteration has in Table 2.
ALGORITHMS: dict[str, Algorithm] = {
    "vine": Algorithm("vine", {"sampler": "vine"}),
    "single_path": Algorithm("single path", {}),
    "natural_gradient": Algorithm(
        "natural gradient",
        {"algorithm": "natural_gradient"},
        ("step_size", (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)),
    ),
    "max_kl": Algorithm("max KL", {"algorithm": "max_kl"}),
    "empirical_fim": Algorithm("empirical FIM", {"algorithm": "empirical_fim"}),
    "cem": Algorithm("CEM", {"algorithm": "cem"}, ("search_deviation", (0.3, 1.0, 3.0, 10.0))),
    "cma": Algorithm("CMA", {"algorithm": "cma"}, ("search_deviation", (0.1, 0.3, 1.0, 3.0, 10.0))),
    "rwr": Algorithm("RWR", {"algorithm": "rwr"}, ("temperature", (0.3, 1.0, 3.0))),
    # Beside Figure 4: the gradient itself (claim C13), Sec. 7's REPS, and TRPO with one part
    # changed, for claims C6 and C7.
    "vanilla_policy_gradient": Algorithm(
        "vanilla policy gradient",
        {"algorithm": "vanilla_policy_gradient"},
        ("step_size", (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)),
    ),
    "reps": Algorithm("REPS", {"algorithm": "reps"}),
    "truncated_natural_gradient": Algorithm(
        "truncated natural gradient (no line search)", {"algorithm": "truncated_natural_gradient"}
    ),
    "fisher_1.0": Algorithm("Fisher matrix on 100% of the states", {"fisher_fraction": 1.0}),
    "fisher_0.01": Algorithm("Fisher matrix on 1% of the states", {"fisher_fraction": 0.01}),
    "cg_5": Algorithm("k = 5 products", {"cg_iterations": 5}),
    "cg_20": Algorithm("k = 20 products", {"cg_iterations": 20}),
    # Hopper's with Table 2's rollout states, of which the budget `medium` has a fifth; hopper's and
    # walker's with branches that see what comes after Table 2's 100 steps.
    "vine_625": Algorithm(
        "vine, Table 2's rollout states", {"sampler": "vine", "rollout_states": 625}
    ),
    "vine_long": Algorithm(
        "vine, branches of 400 steps", {"sampler": "vine", "rollout_length": 400}
    ),
    # The same surrogate by other solvers: questions Q1 to Q3.
    "fixed_penalty": Algorithm(
        "fixed penalty", {"algorithm": "fixed_penalty"}, ("multiplier", (0.1, 0.3, 1.0))
    ),
    "adaptive_penalty": Algorithm(
        "adaptive penalty", {"algorithm": "adaptive_penalty"}, ("ascent_rate", _RATES)
    ),
    "ppo": Algorithm("PPO", {"algorithm": "ppo"}, ("ascent_rate", (*_RATES, 0.1, 0.3))),
    "adaptive_limit": Algorithm("δ that adapts", {"adapt_kl_limit": True}),
    "reversed_kl": Algorithm("KL(new ‖ old)", {"kl_direction": "new_old"}),
    # Another way to the step's direction: questions Q5 and Q6.
    "cg_2": Algorithm("k = 2 products", {"cg_iterations": 2}),
    "kfac_1": Algorithm("K-FAC's direction", {"preconditioner": "kfac", "cg_iterations": 1}),
    "kfac_10": Algorithm("k = 10 products, with K-FAC", {"preconditioner": "kfac"}),
}

# Table 1, by the names of the ROMs.
GAMES = {
    "beam_rider": "Beam Rider",
    "breakout": "Breakout",
    "enduro": "Enduro",
    "pong": "Pong",
    "qbert": "Q*bert",
    "seaquest": "Seaquest",
    "space_invaders": "Space Invaders",
}

_SMALL = ("vine", "single_path", "natural_gradient", "empirical_fim", "cem", "cma", "rwr")
_LARGE = ("vine", "single_path", "natural_gradient", "cem", "rwr")
FIGURE4: dict[str, tuple[str, ...]] = {
    "cartpole": (*_SMALL[:3], "max_kl", *_SMALL[3:]),
    "swimmer": _SMALL,
    "hopper": _LARGE,
    "walker": _LARGE,
}
ABLATIONS = (
    "vanilla_policy_gradient",
    "reps",
    "truncated_natural_gradient",
    "fisher_1.0",
    "fisher_0.01",
    "cg_5",
    "cg_20",
)
SOLVERS = (
    "fixed_penalty",
    "adaptive_penalty",
    "ppo",
    "adaptive_limit",
    "reversed_kl",
    "cg_2",
    "kfac_1",
    "kfac_10",
)
ABLATION_TASKS = ("cartpole", "swimmer")
ABLATIONS_OF: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(ABLATION_TASKS, (*ABLATIONS, *SOLVERS)),
    "hopper": ("vanilla_policy_gradient", "vine_625", "vine_long"),
    "walker": ("vine_long",),
}
GRADIENT_TASKS = (*ABLATION_TASKS, "hopper")  # of the vanilla gradient, claim C13
KFAC_TASKS = (*ABLATION_TASKS, "hopper", "walker", "pong")  # of experiments/kfac.py
TRPO = ("vine", "single_path")


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much of the paper's computation to spend.

    Attributes:
      changes: by task, fields of Config that differ from the paper's.
      vine: by task, those that differ for vine besides.
      seeds: runs of each setting, by task; vine and single path have at least 5, but in smoke.
      trpo_stop_at: by task, iterations of vine and single path that are asked for, of Table 2's.
      screening: by task, iterations of the first round of sweeps: one seed of every point; the
        second round runs the best in full.
      sweep_points: largest number of values of a sweep.
      ablations: whether the settings beside Figure 4 are run.
    """

    changes: dict[str, dict[str, Any]]
    vine: dict[str, dict[str, Any]]
    seeds: dict[str, int]
    trpo_stop_at: dict[str, int] = dataclasses.field(default_factory=dict)
    screening: dict[str, int] = dataclasses.field(default_factory=dict)
    sweep_points: int = 99
    ablations: bool = True

    def seeds_of(self, task: str, algorithm: str) -> int:
        """Returns the number of runs of a setting."""
        return max(self.seeds[task], 5 if algorithm in TRPO and self.ablations else 0)

    def own_directory(self, task: str) -> bool:
        """Whether runs differ from the paper's by more than their number of iterations."""
        return bool(self.changes[task].keys() - {"iterations"})


_TINY = {"iterations": 2, "steps_per_iteration": 2000, "population": 4}
_TINY_VINE = {"trunks": 2, "rollout_states": 4, "rollout_length": 5}
# A tenth of Table 2's steps an iteration.
_TENTH = {"steps_per_iteration": 100_000, "population": 100}
BUDGETS: dict[str, Budget] = {
    "smoke": Budget(
        changes=dict.fromkeys(presets.PAPER, _TINY),
        vine=dict.fromkeys(presets.PAPER, _TINY_VINE),
        seeds=dict.fromkeys(presets.PAPER, 1),
        sweep_points=1,
        ablations=False,
    ),
    # Figure 4 shows 50 iterations of cart-pole and swimmer.
    "medium": Budget(
        changes={
            "cartpole": {"iterations": 50},
            "swimmer": {"iterations": 50},
            "hopper": _TENTH,
            "walker": _TENTH,
        },
        vine={task: {"rollout_states": 125} for task in ("hopper", "walker")},
        seeds={"cartpole": 5, "swimmer": 5, "hopper": 3, "walker": 3},
        trpo_stop_at={"swimmer": 50},
        screening={"hopper": 50, "walker": 50},
    ),
    "paper": Budget(
        changes={task: {} for task in presets.PAPER}, vine={}, seeds=dict.fromkeys(presets.PAPER, 5)
    ),
}


def figure4_settings(task: str, budget: Budget) -> dict[str, tuple[str, Config]]:
    """Returns name of the setting → (its algorithm in ALGORITHMS, configuration).

    Args:
      task: task of FIGURE4.
      budget: one of BUDGETS.
    """
    settings = {}
    for name in (*FIGURE4[task], *(ABLATIONS_OF.get(task, ()) if budget.ablations else ())):
        algorithm = ALGORITHMS[name]
        method = algorithm.changes.get("algorithm")
        sampler = algorithm.changes.get("sampler")
        vine = budget.vine.get(task, {}) if sampler == "vine" else {}
        changes = {**budget.changes[task], **vine, **algorithm.changes}
        if name in TRPO and task in budget.trpo_stop_at:
            changes.pop("iterations")  # they can be resumed to Table 2's
        if method not in BLACK_BOX:
            changes.pop("population", None)
        start = dataclasses.replace(presets.preset("paper", task, sampler, method), **changes)
        if algorithm.sweep is None:
            settings[name] = (name, start)
            continue
        field, values = algorithm.sweep
        for value in values[: budget.sweep_points]:
            config = dataclasses.replace(start, **cast(dict[str, Any], {field: value}))
            settings[f"{name}_{value:g}"] = (name, config)
    return settings


def gae_iterations(steps: int) -> int:
    """Returns the iterations of preset `gae` after which a run has at least so many steps."""
    return -(-steps // presets.GAE.steps_per_iteration)


# Gymnasium's tasks, for experiments/benchmark.py.
MUJOCO_TASKS = (
    "Swimmer-v5",
    "Hopper-v5",
    "Walker2d-v5",
    "HalfCheetah-v5",
    "InvertedPendulum-v5",
    "InvertedDoublePendulum-v5",
    "Reacher-v5",
    "Ant-v5",
)
CONTINUED_TASKS = ("Hopper-v5", "Walker2d-v5", "HalfCheetah-v5")  # to three million steps
PEER_TASKS = (
    "Swimmer-v5",
    "Hopper-v5",
    "Walker2d-v5",
    "HalfCheetah-v5",
    "InvertedDoublePendulum-v5",
)
CLASSIC_TASKS = ("CartPole-v1", "Pendulum-v1", "Acrobot-v1")
MILLION = 1_000_000
EVALUATED_STEPS = (100_000, 200_000, 500_000, MILLION, 3 * MILLION)
BENCHMARK_SEEDS = range(1, 6)
CLASSIC_SEEDS = range(1, 4)
# What chose the size of preset `gae`'s batches, on seeds that are not in the benchmark; and longer
# paths, fewer at a time.
GAE_ABLATION: dict[str, dict[str, Any]] = {
    "ablation_2048": {},
    "ablation_4096": {"steps_per_iteration": 4096, "iterations": 245},
    "ablation_long_paths": {"path_length": 1024},
}
GAE_ABLATION_TASKS = ("Walker2d-v5", "HalfCheetah-v5", "InvertedDoublePendulum-v5")
GAE_ABLATION_SEEDS = range(101, 104)


# Choice: cart-pole's linear policy cannot swing up; Acrobot's reward is seldom within 50 steps.
CLASSIC_VINE: dict[str, dict[str, Any]] = {
    "CartPole-v1": {},
    "Pendulum-v1": {"hidden_sizes": (30,)},
    "Acrobot-v1": {"hidden_sizes": (30,), "rollout_length": 200},
}


def gymnasium_runs() -> dict[tuple[str, str], tuple[Config, range]]:
    """Returns (task, name of the setting) → (configuration, seeds), of Gymnasium's tasks.

    Choice: classic control has a fifth of the steps, and with vine as many iterations as cart-pole
    in Figure 4.
    """
    longest = gae_iterations(EVALUATED_STEPS[-1])
    runs = {}
    for task in MUJOCO_TASKS:
        start = presets.preset("gae", task)
        if task in CONTINUED_TASKS:
            start = dataclasses.replace(start, iterations=longest)
        runs[task, "gae"] = start, BENCHMARK_SEEDS
    for task in CLASSIC_TASKS:
        start = dataclasses.replace(
            presets.preset("gae", task), iterations=gae_iterations(MILLION // 5)
        )
        runs[task, "gae"] = start, CLASSIC_SEEDS
        start = presets.preset("paper", task, "vine")
        start = dataclasses.replace(start, iterations=50, **CLASSIC_VINE[task])
        runs[task, "vine"] = start, CLASSIC_SEEDS
    for setting, changes in GAE_ABLATION.items():
        for task in GAE_ABLATION_TASKS:
            start = dataclasses.replace(presets.preset("gae", task), **changes)
            runs[task, setting] = start, GAE_ABLATION_SEEDS
    return runs


# Films in results/films, each below 1 MB: name → run and steps. After 150 steps HalfCheetah is
# beyond the floor that is drawn.
FILMS = {
    "cartpole": ("cartpole/vine/seed_1", 400),
    "swimmer": ("swimmer/vine/seed_1", 400),
    "hopper": ("Hopper-v5/gae/seed_1", 280),
    "walker2d": ("Walker2d-v5/gae/seed_1", 240),
    "half_cheetah": ("HalfCheetah-v5/gae/seed_1", 140),
    "pendulum": ("Pendulum-v1/gae/seed_1", 200),
    "acrobot": ("Acrobot-v1/gae/seed_1", 120),
    "pong": ("atari/pong/single_path/seed_1", 400),
}

SWIMMER_DISCOUNTS = (0.99, 0.995, 0.9999)


def swimmer_study(task: str, budget: str) -> dict[str, Config]:
    """Returns name of the setting → configuration, for experiments/swimmer_study.py.

    Args:
      task: `swimmer` or `swimmer_root_joint`.
      budget: `smoke`, or any other for 50 iterations.
    """
    start = dataclasses.replace(presets.preset("paper", task), iterations=50)
    search = dataclasses.replace(presets.preset("paper", task, algorithm="cem"), iterations=50)
    if budget == "smoke":
        start = dataclasses.replace(start, iterations=2, steps_per_iteration=2000)
        search = dataclasses.replace(search, iterations=2, population=4)
    settings = {f"trpo_{d:g}": dataclasses.replace(start, discount=d) for d in SWIMMER_DISCOUNTS}
    return {**settings, "cem": search}


# Iterations that a budget asks for, by sampler, of Table 3's 500: what 2 cores do in days.
ATARI_STOP_AT = {"medium": {"single_path": 150, "vine": 100}}
ATARI_ROUND = 50  # iterations of all games before any continues

# Changes of the paper preset, by budget, game and sampler; `smoke` is for tests.
_SMOKE_ATARI = {"iterations": 2, "path_length": 10}
_SMOKE_PATHS = {"steps_per_iteration": 80, "shards": 2, "workers": 0}
_SMOKE_VINE = {"trunks": 2, "rollout_states": 4, "rollout_length": 3, "shards": 2}
ATARI_BUDGETS: dict[str, dict[tuple[str, str], dict[str, Any]]] = {
    "smoke": {
        ("breakout", "single_path"): {**_SMOKE_ATARI, **_SMOKE_PATHS},
        ("breakout", "vine"): {**_SMOKE_ATARI, **_SMOKE_VINE},
    },
    "medium": {
        **{(game, "single_path"): {} for game in GAMES},
        **{(game, "vine"): {} for game in ("pong", "breakout", "qbert")},
    },
    "paper": {(game, sampler): {} for game in GAMES for sampler in ("single_path", "vine")},
}


def atari_runs(budget: str) -> dict[tuple[str, str, int], Config]:
    """Returns (game, sampler, seed) → configuration; one seed each, as in Table 1.

    Args:
      budget: key of ATARI_BUDGETS.
    """
    return {
        (game, sampler, 1): dataclasses.replace(
            presets.preset("paper", game, sampler), seed=1, **changes
        )
        for (game, sampler), changes in ATARI_BUDGETS[budget].items()
    }
