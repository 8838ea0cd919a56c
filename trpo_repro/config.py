"""What decides a run: every setting, by inheritance of the groups that the rooms declare."""

import dataclasses
from typing import Any

import numpy as np

from trpo_repro import environments
from trpo_repro.algorithms import cem, cma, gradient_ascent, weighted_regression
from trpo_repro.environments import adaptor, atari, mujoco
from trpo_repro.estimation import baselines, returns
from trpo_repro.optimization import trust_region
from trpo_repro.policies import networks, normalization
from trpo_repro.sampling import population, single_path, vine, workers
from trpo_repro.settings import Group, check, require, setting

Method = trust_region.Method | weighted_regression.Method | gradient_ascent.Method
METHODS: dict[str, Method] = {
    **trust_region.METHODS,
    **gradient_ascent.METHODS,
    **weighted_regression.METHODS,
}
BLACK_BOX = ("cem", "cma")
ALGORITHMS = (*METHODS, *BLACK_BOX)


@dataclasses.dataclass(frozen=True)
class RunSettings(Group, title="Run"):
    task: str = setting(
        "swimmer",
        f"Task: cartpole, {', '.join(mujoco.TASKS)}, an Atari game by the name of its ROM, such as "
        "pong, an environment of Gymnasium, such as Pendulum-v1 or my_package:MyEnv-v0, or a class "
        "of your own by its path, such as my_batches.Line",
    )
    algorithm: str = setting("trpo", "Algorithm", choices=ALGORITHMS)
    sampler: str = setting("single_path", "Sampler", choices=("single_path", "vine"))
    seed: int = setting(0, "Seed of every random number", at_least=0, at_most=2e9)
    iterations: int = setting(200, "Policy iterations, at most", at_least=1)
    target_return: float | None = setting(
        None, "Mean return of the last 100 episodes above which the run ends"
    )


@dataclasses.dataclass(frozen=True)
class Config(
    RunSettings,
    single_path.PathSettings,
    single_path.SinglePathSettings,
    vine.VineSettings,
    returns.ReturnSettings,
    baselines.BaselineSettings,
    returns.AdvantageSettings,
    baselines.NetworkBaselineSettings,
    networks.NetworkSettings,
    normalization.NormalizationSettings,
    trust_region.KLLimitSettings,
    trust_region.CurvatureSettings,
    trust_region.KroneckerSettings,
    trust_region.LineSearchSettings,
    trust_region.FixedStepSettings,
    trust_region.StateWeightingSettings,
    gradient_ascent.AscentSettings,
    gradient_ascent.PenaltySettings,
    gradient_ascent.DualSettings,
    gradient_ascent.ClipSettings,
    weighted_regression.TemperatureSettings,
    weighted_regression.RelativeEntropySettings,
    weighted_regression.RegressionSettings,
    cem.SearchSettings,
    cem.EliteSettings,
    population.PopulationSettings,
    atari.AtariSettings,
    adaptor.GymnasiumSettings,
    mujoco.ThreadSettings,
    workers.ShardSettings,
    workers.ClusterSettings,
):
    """All that decides a run's numbers.

    Raises:
      ValueError: a value is not allowed, or not with another.
    """

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name), field.type))
        check(self)
        environments.check_task(self.task)
        require(
            all(isinstance(units, int) and 1 <= units <= 10_000 for units in self.hidden_sizes),
            "hidden_sizes",
            self.hidden_sizes,
            "whole numbers from 1 to 10000",
        )
        if self.algorithm not in trust_region.METHODS:
            self._fix(sampler="single_path")
        if self.algorithm == "reps":  # has a value function of its own
            self._fix(baseline="none")
        if self.algorithm in BLACK_BOX:
            self._fix(baseline="none", normalize_observations=False, fresh_paths=True)
        if self.is_atari:
            known = ", ".join(trust_region.METHODS)
            known_to_atari = self.algorithm in trust_region.METHODS
            require(known_to_atari, "algorithm", self.algorithm, f"one of {known} for Atari")
            for name, needed in {"baseline": "none", "normalize_observations": False}.items():
                value = getattr(self, name)
                require(value == needed, name, value, f"{needed} for Atari")
        adaptor.parse_arguments(self.env_kwargs)
        if self.is_gymnasium:
            allowed = "0 for tasks that are not built in; see --env_processes"
            require(self.workers == 0, "workers", self.workers, allowed)
        if self.sampler == "vine":
            self._check_vine()
        else:
            self._check_single_path()

    def _fix(self, **needed):
        """Raises ValueError unless settings have the values that the algorithm needs."""
        for name, value in needed.items():
            own = getattr(self, name)
            require(own == value, name, own, f"{value} with algorithm={self.algorithm}")

    def _check_vine(self):
        states = self.trunks * self.path_length
        allowed = f"at most the {states} states of the trunks"
        require(self.rollout_states <= states, "rollout_states", self.rollout_states, allowed)
        require(self.baseline == "none", "baseline", self.baseline, "none with vine")
        # The covariance of the scores is the Fisher matrix only for actions from the policy.
        if self.algorithm == "empirical_fim":
            self._fix(proposal="policy")
        for name in ("trunks", "rollout_states"):
            value, allowed = getattr(self, name), f"a multiple of shards={self.shards}"
            require(value % self.shards == 0, name, value, allowed)

    def _check_single_path(self):
        steps = self.steps_per_iteration
        allowed = f"at least one path: path_length={self.path_length}"
        require(steps >= self.path_length, "steps_per_iteration", steps, allowed)
        allowed = f"a multiple of path_length={self.path_length}"
        require(steps % self.path_length == 0, "steps_per_iteration", steps, allowed)
        allowed = f"a divisor of the {self.parallel_paths} paths"
        require(self.parallel_paths % self.shards == 0, "shards", self.shards, allowed)

    @property
    def is_atari(self) -> bool:
        """Whether the task is an Atari game."""
        return environments.is_atari(self.task)

    @property
    def is_gymnasium(self) -> bool:
        """Whether the task is an environment that Gymnasium makes."""
        return environments.is_gymnasium(self.task)

    @property
    def parallel_paths(self) -> int:
        """Parallel paths, or vine trunks."""
        if self.sampler == "vine":
            return self.trunks
        return self.steps_per_iteration // self.path_length

    @property
    def method(self) -> Method:
        """The algorithm's row of METHODS with this configuration's numbers."""
        return self._with_own_numbers(METHODS[self.algorithm])

    @property
    def search(self) -> cem.CrossEntropyMethod | cma.CovarianceMatrixAdaptation:
        """The black-box algorithm with this configuration's numbers."""
        searches = {"cem": cem.CrossEntropyMethod(), "cma": cma.CovarianceMatrixAdaptation()}
        return self._with_own_numbers(searches[self.algorithm])

    def _with_own_numbers(self, settings):
        """Returns a dataclass with the fields that this one's run reads replaced by this one's."""
        unread = unused_settings(self)
        names = [
            field.name
            for field in dataclasses.fields(settings)
            if hasattr(self, field.name) and field.name not in unread
        ]
        return dataclasses.replace(settings, **{name: getattr(self, name) for name in names})


GROUPS: tuple[type[Group], ...] = Config.__bases__


def _plain(value: Any, kind: Any) -> Any:
    """Returns a field's value in one form: no type of NumPy's, no list, which has no hash, and no
    whole number where any may be, since a record's digest tells 1 from 1.0."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        value = tuple(value)
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if is_whole and kind in (float, float | None) else value


def unused_settings(config: Config) -> dict[str, str]:
    """Returns the names of the fields that a run does not read, each with the runs that do."""
    return {
        field.name: group.readers.text
        for group in GROUPS
        if not group.readers.include(config)
        for field in group.own_fields()
    }
