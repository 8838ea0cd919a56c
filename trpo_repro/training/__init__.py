"""From a configuration to iterations: states are values, an iteration maps one to the next."""

from trpo_repro.config import BLACK_BOX, Config
from trpo_repro.training.black_box import BlackBoxTrainer
from trpo_repro.training.factories import make_environment, make_policy
from trpo_repro.training.loop import RECENT_EPISODES, ended, iterations
from trpo_repro.training.state import State
from trpo_repro.training.trainer import Trainer

__all__ = [
    "RECENT_EPISODES",
    "BlackBoxTrainer",
    "State",
    "Trainer",
    "ended",
    "iterations",
    "make_environment",
    "make_policy",
    "make_trainer",
]


def make_trainer(config: Config) -> Trainer | BlackBoxTrainer:
    """Returns the trainer of the configuration's algorithm."""
    return BlackBoxTrainer(config) if config.algorithm in BLACK_BOX else Trainer(config)
