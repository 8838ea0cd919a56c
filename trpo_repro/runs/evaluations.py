"""Evaluations of the policy during a run, by samples and by its most probable actions."""

import pathlib
from collections.abc import Collection

from trpo_repro import environments, training
from trpo_repro.config import Config
from trpo_repro.runs import metrics, saved_policies

FILE = "evaluation.csv"
EPISODES = 100
COLUMNS = (
    "iteration",
    "env_steps",
    "deterministic",
    "episodes",
    "return_mean",
    "return_deviation",
    "return_min",
    "return_max",
    "episode_length",
)


class Evaluations:
    """Plays EPISODES whole episodes after some of the iterations, and writes evaluation.csv.

    Returns are undiscounted and unclipped. The episodes use an environment and random numbers of
    their own: they change nothing of the run.
    """

    def __init__(
        self, config: Config, directory: pathlib.Path, at: Collection[int], completed: int
    ):
        """Drops the rows of iterations after `completed`, which are to be made again.

        Args:
          config: configuration of the run.
          directory: directory of the run.
          at: iterations after which the policy is evaluated.
          completed: iterations that the run has.

        Raises:
          ValueError: the file is damaged, or the run is past an iteration to be evaluated.
        """
        self._path = directory / FILE
        self._at = frozenset(at)
        self._config = config
        self._environment: environments.Environment | None = None
        rows = metrics.read_rows(self._path)[1:]
        if any(len(row) != len(COLUMNS) or not row[0].isdigit() for row in rows):
            raise ValueError(f"{self._path} is damaged: its rows are not {', '.join(COLUMNS)}")
        self._rows: list[list] = [row for row in rows if int(row[0]) <= completed]
        past = {n for n in self._at if n <= completed} - {int(row[0]) for row in self._rows}
        if past:
            raise ValueError(
                f"evaluate_at={min(past)} is not allowed: the run is past it, at {completed}"
            )
        if len(self._rows) < len(rows):
            metrics.write_rows(self._path, [COLUMNS, *self._rows])

    def after(
        self, trainer: training.Trainer | training.BlackBoxTrainer, state: training.State
    ) -> None:
        """Evaluates the policy of a state, if its iteration is one of those asked for."""
        if state.iteration not in self._at:
            return
        if self._environment is None:
            self._environment = training.make_environment(self._config, only_played=True)
        trained = saved_policies.TrainedPolicy(
            trainer.policy, state.theta, state.iteration, state.normalizer
        )
        for deterministic in (False, True):
            played = trained.play(
                self._environment,
                EPISODES,
                seed=2**31 - 1 - self._config.seed,
                deterministic=deterministic,
            )
            scores = played.returns
            self._rows.append(
                [
                    state.iteration,
                    state.env_steps,
                    deterministic,
                    EPISODES,
                    scores.mean(),
                    scores.std(),
                    scores.min(),
                    scores.max(),
                    played.lengths.mean(),
                ]
            )
        metrics.write_rows(self._path, [COLUMNS, *self._rows])
