"""All that decides a run's numbers, checked."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from trpo_repro import environments
from trpo_repro.algorithms import cem, cma, trust_region, weighted_regression
from trpo_repro.environments import atari
from trpo_repro.policies import networks
from trpo_repro.sampling import vine

SAMPLERS = ("single_path", "vine")
BASELINES = ("none", "linear", "network")
KL_STATES = ("trunk", "rollout")
STATE_WEIGHTINGS = ("equal", "discounted")

METHODS: dict[str, trust_region.Method | weighted_regression.Method] = {
    **trust_region.METHODS,
    **weighted_regression.METHODS,
}
BLACK_BOX = ("cem", "cma")
ALGORITHMS = (*METHODS, *BLACK_BOX)


@dataclasses.dataclass(frozen=True)
class Config:
    """All that decides a run's numbers.

    Attributes:
      task: see `environments.task_names`.
      algorithm: one of ALGORITHMS.
      sampler: `single_path` or `vine`.
      seed: of every random number.
      iterations: policy iterations, at most.
      target_return: end the run once the mean return of its last 100 episodes is above this;
        None to do all iterations.
      steps_per_iteration: environment steps of one iteration, all paths together; vine's follow
        from the four numbers of its own and from how early branches end.
      path_length: steps of each parallel path, or vine trunk, in one iteration.
      fresh_paths: start every iteration from s0 ~ ρ0; else go on from the last states.
      discount: γ.
      state_weighting: weights of a state t steps into its episode in the surrogate, the mean KL and
        the Fisher matrix: `equal`, or `discounted`, γᵗ as in eqs. 3, 12 and 14.
      gae_lambda: λ of the advantages, with a baseline.
      baseline: `none` (paper), `linear` or `network`.
      hidden_sizes: units of the policy's hidden layers (and of a network baseline's).
      activation: of hidden layers.
      skip_inputs: leading observation columns that the policy does not see.
      initial_log_std: of Gaussian policies.
      normalize_observations: by running mean and deviation.
      kl_limit: δ, in nats.
      step_size: 1/λ of algorithms with a fixed step.
      cg_iterations: k.
      damping: multiple of the identity added to the Fisher matrix.
      fisher_fraction: of the states used for Fisher-vector products.
      backtrack_factor: of the line search.
      max_backtracks: of the line search.
      baseline_epochs: passes of Adam over a batch.
      baseline_minibatch: rows of one Adam step.
      baseline_learning_rate: of Adam.
      trunks: vine's trunk paths.
      rollout_states: N, states that vine branches from.
      rollouts_per_state: K, branches of each.
      rollout_length: steps of a branch that does not end before.
      proposal: q, of the branches' first actions: `policy` or `uniform`.
      kl_states: vine's states of the KL constraint and the Fisher matrix: `trunk` (all trunk
        states) or `rollout` (the rollout set).
      temperature: of RWR's weights exp(A / T), in standard deviations of the advantages.
      relative_entropy: ε of REPS, in nats.
      regression_steps: of L-BFGS, in the fits of RWR and REPS that have no closed form.
      min_std: least standard deviation of a Gaussian policy in these fits, in action units.
      population: candidates of one iteration of CEM and CMA.
      episodes_per_candidate: whose mean return is a candidate's value.
      search_deviation: initial standard deviation of the candidates, in units of θ.
      elite_fraction: of CEM.
      noise: Z_0, added to CEM's variances at the beginning, in units of search_deviation².
      noise_updates: iterations until none is added any more.
      screen: of Atari, height x width: see `atari.SCREENS`.
      action_set: of Atari, `factored` or `minimal`.
      sticky_probability: of Atari, that a frame repeats the action before.
      clip_rewards: learn from the signs of rewards; metrics keep the rewards themselves.
      shards: parts of the batch that are sampled apart, each with random numbers of its own.
      workers: processes that sample shards on Ray; 0 is this process. Never changes a number.
      ray_address: of a cluster that the workers run on; a local one when empty.
      threads: simulator threads; 0 means all cores. Never changes a number.
    """

    task: str = "swimmer"
    algorithm: str = "trpo"
    sampler: str = "single_path"
    seed: int = 0
    iterations: int = 200
    target_return: float | None = None
    steps_per_iteration: int = 50_000
    path_length: int = 1000
    fresh_paths: bool = True
    discount: float = 0.99
    state_weighting: str = "equal"
    gae_lambda: float = 1.0
    baseline: str = "none"
    hidden_sizes: tuple[int, ...] = (30,)
    activation: str = "softplus"
    skip_inputs: int = 0
    initial_log_std: float = 0.0
    normalize_observations: bool = False
    kl_limit: float = 0.01
    step_size: float = 0.1
    cg_iterations: int = 10
    damping: float = 0.0
    fisher_fraction: float = 0.1
    backtrack_factor: float = 0.8
    max_backtracks: int = 15
    baseline_epochs: int = 20
    baseline_minibatch: int = 128
    baseline_learning_rate: float = 1e-3
    trunks: int = 16
    rollout_states: int = 125
    rollouts_per_state: int = 4
    rollout_length: int = 50
    proposal: str = "policy"
    kl_states: str = "trunk"
    temperature: float = 1.0
    relative_entropy: float = 0.5
    regression_steps: int = 25
    min_std: float = 1e-3
    population: int = 50
    episodes_per_candidate: int = 1
    search_deviation: float = 1.0
    elite_fraction: float = 0.1
    noise: float = 0.05
    noise_updates: int = 50
    screen: str = "52x40"
    action_set: str = "factored"
    sticky_probability: float = 0.0
    clip_rewards: bool = False
    shards: int = 1
    workers: int = 0
    ray_address: str = ""
    threads: int = 0

    def __post_init__(self):
        environments.check_task(self.task)
        _require_choice("algorithm", self.algorithm, ALGORITHMS)
        _require_choice("sampler", self.sampler, SAMPLERS)
        _require_choice("baseline", self.baseline, BASELINES)
        _require_choice("proposal", self.proposal, vine.PROPOSALS)
        _require_choice("kl_states", self.kl_states, KL_STATES)
        _require_choice("state_weighting", self.state_weighting, STATE_WEIGHTINGS)
        _require_choice("screen", self.screen, tuple(atari.SCREENS))
        _require_choice("action_set", self.action_set, atari.ACTION_SETS)
        _require_choice("activation", self.activation, networks.ACTIVATIONS)
        for name in (
            "iterations",
            "steps_per_iteration",
            "path_length",
            "cg_iterations",
            "baseline_epochs",
            "baseline_minibatch",
            "trunks",
            "rollout_states",
            "rollouts_per_state",
            "rollout_length",
            "regression_steps",
            "episodes_per_candidate",
            "noise_updates",
            "shards",
        ):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        at_least_0 = ("seed", "skip_inputs", "threads", "workers", "max_backtracks")
        for name in (*at_least_0, "damping", "noise"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        require(self.population >= 2, "population", self.population, "at least 2")
        for name in (
            "kl_limit",
            "step_size",
            "baseline_learning_rate",
            "temperature",
            "relative_entropy",
            "min_std",
            "search_deviation",
        ):
            value = getattr(self, name)
            require(0 < value < math.inf, name, value, "positive and finite")
        target = self.target_return
        require(target is None or math.isfinite(target), "target_return", target, "finite")
        for name in ("initial_log_std", "damping", "noise"):
            require(math.isfinite(getattr(self, name)), name, getattr(self, name), "finite")
        for name in ("discount", "backtrack_factor"):
            value = getattr(self, name)
            require(0 < value < 1, name, value, "between 0 and 1, both excluded")
        for name in ("gae_lambda", "sticky_probability"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "in [0, 1]")
        for name in ("fisher_fraction", "elite_fraction"):
            require(0 < getattr(self, name) <= 1, name, getattr(self, name), "in (0, 1]")
        require(
            all(1 <= units <= 10_000 for units in self.hidden_sizes),
            "hidden_sizes",
            self.hidden_sizes,
            "from 1 to 10000",
        )
        if self.algorithm not in trust_region.METHODS:
            only = f"single_path with algorithm={self.algorithm}"
            require(self.sampler == "single_path", "sampler", self.sampler, only)
        if environments.is_atari(self.task):
            _require_choice("algorithm of an Atari game", self.algorithm, (*trust_region.METHODS,))
            for name, needed in {"baseline": "none", "normalize_observations": False}.items():
                value = getattr(self, name)
                require(value == needed, name, value, f"{needed} for Atari")
        if self.algorithm in BLACK_BOX:
            fixed = {"baseline": "none", "normalize_observations": False, "fresh_paths": True}
            for name, needed in fixed.items():
                value = getattr(self, name)
                require(value == needed, name, value, f"{needed} with algorithm={self.algorithm}")
        if self.sampler == "vine":
            states = self.trunks * self.path_length
            require(
                self.rollout_states <= states,
                "rollout_states",
                self.rollout_states,
                f"at most the {states} states of the trunks",
            )
            require(self.baseline == "none", "baseline", self.baseline, "none with vine")
            # The covariance of the scores is the Fisher matrix only for actions from the policy.
            if self.algorithm == "empirical_fim":
                only = "policy with algorithm=empirical_fim"
                require(self.proposal == "policy", "proposal", self.proposal, only)
            for name in ("trunks", "rollout_states"):
                value, allowed = getattr(self, name), f"a multiple of shards={self.shards}"
                require(value % self.shards == 0, name, value, allowed)
            return
        require(
            self.steps_per_iteration >= self.path_length,
            "steps_per_iteration",
            self.steps_per_iteration,
            f"at least one path: path_length={self.path_length}",
        )
        require(
            self.steps_per_iteration % self.path_length == 0,
            "steps_per_iteration",
            self.steps_per_iteration,
            f"a multiple of path_length={self.path_length}",
        )
        require(
            self.paths % self.shards == 0,
            "shards",
            self.shards,
            f"a divisor of the {self.paths} paths",
        )

    @property
    def paths(self) -> int:
        """Parallel paths, or vine trunks."""
        if self.sampler == "vine":
            return self.trunks
        return self.steps_per_iteration // self.path_length

    @property
    def method(self) -> trust_region.Method | weighted_regression.Method:
        """The algorithm's row of METHODS with this configuration's numbers."""
        row = METHODS[self.algorithm]
        numbers = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(row)
            if hasattr(self, field.name)
        }
        return dataclasses.replace(row, **numbers)

    @property
    def search(self) -> cem.CrossEntropyMethod | cma.CovarianceMatrixAdaptation:
        """The black-box algorithm with this configuration's numbers."""
        if self.algorithm == "cma":
            return cma.CovarianceMatrixAdaptation(self.population, self.search_deviation)
        return cem.CrossEntropyMethod(
            self.population,
            self.elite_fraction,
            self.search_deviation,
            self.noise,
            self.noise_updates,
        )


_Reads = Callable[[Config], bool]


def _algorithm(*names: str) -> _Reads:
    return lambda config: config.algorithm in names


def _row(condition: Callable[[trust_region.Method], bool]) -> _Reads:
    rows = trust_region.METHODS
    return lambda config: config.algorithm in rows and condition(rows[config.algorithm])


# Fields that not every run reads, and the runs that do.
_READ_BY: tuple[tuple[str, _Reads, tuple[str, ...]], ...] = (
    (
        "Atari games",
        lambda config: environments.is_atari(config.task),
        ("screen", "action_set", "sticky_probability"),
    ),
    (
        "tasks other than Atari games",
        lambda config: not environments.is_atari(config.task),
        ("hidden_sizes", "activation", "skip_inputs", "initial_log_std", "threads"),
    ),
    ("workers of 1 or more", lambda config: config.workers > 0, ("ray_address",)),
    (
        "sampler=vine",
        lambda config: config.sampler == "vine",
        (
            *("trunks", "rollout_states", "rollouts_per_state", "rollout_length"),
            *("proposal", "kl_states"),
        ),
    ),
    (
        "sampler=single_path and algorithms other than cem and cma",
        lambda config: config.sampler == "single_path" and config.algorithm not in BLACK_BOX,
        ("steps_per_iteration",),
    ),
    (
        "algorithms other than cem and cma",
        lambda config: config.algorithm not in BLACK_BOX,
        ("path_length", "fresh_paths", "discount", "clip_rewards", "shards", "workers"),
    ),
    (
        "the trust-region family",
        lambda config: config.algorithm in trust_region.METHODS,
        ("state_weighting",),
    ),
    ("runs with a baseline", lambda config: config.baseline != "none", ("gae_lambda",)),
    (
        "baseline=network",
        lambda config: config.baseline == "network",
        ("baseline_epochs", "baseline_minibatch", "baseline_learning_rate"),
    ),
    (
        "algorithms with a Fisher matrix",
        _row(lambda row: row.curvature is not trust_region.Curvature.IDENTITY),
        ("cg_iterations", "damping", "fisher_fraction"),
    ),
    (
        "algorithms with a KL limit",
        _row(lambda row: row.step is not trust_region.StepRule.FIXED),
        ("kl_limit",),
    ),
    (
        "algorithms with a line search",
        _row(lambda row: row.step is trust_region.StepRule.LINE_SEARCH),
        ("backtrack_factor", "max_backtracks"),
    ),
    (
        "algorithms with a fixed step",
        _row(lambda row: row.step is trust_region.StepRule.FIXED),
        ("step_size",),
    ),
    ("algorithm=rwr", _algorithm("rwr"), ("temperature",)),
    ("algorithm=reps", _algorithm("reps"), ("relative_entropy",)),
    ("algorithms rwr and reps", _algorithm("rwr", "reps"), ("regression_steps", "min_std")),
    (
        "algorithms cem and cma",
        _algorithm(*BLACK_BOX),
        ("population", "episodes_per_candidate", "search_deviation"),
    ),
    ("algorithm=cem", _algorithm("cem"), ("elite_fraction", "noise", "noise_updates")),
)


def without_effect(config: Config) -> dict[str, str]:
    """Returns the names of the fields that a run does not read, each with the runs that do."""
    return {name: which for which, reads, names in _READ_BY if not reads(config) for name in names}


def require(condition: bool, name: str, value: Any, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{name}={value} is not allowed: must be {allowed}")


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(choices)}")
