"""Plays episodes of a trained policy and prints one line of JSON.

python experiments/evaluate.py --run=results/swimmer/vine/seed_1 --episodes=100 --deterministic

Returns are unclipped, and undiscounted without --discount. A policy samples its actions, as in
training, or takes the most probable ones with --deterministic; the two can score very differently.
return_low and return_high are Student's 95% interval of the mean over episodes.
"""

import json

from absl import flags

import trpo_repro.commands.quiet  # noqa: F401, before what imports TensorFlow
from trpo_repro import runs
from trpo_repro.analysis import intervals
from trpo_repro.commands import cli

RUN = flags.DEFINE_string("run", None, "Directory of the run.")
EPISODES = flags.DEFINE_integer("episodes", 100, "Episodes to play.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the episodes.", lower_bound=0)
DETERMINISTIC = flags.DEFINE_bool(
    "deterministic", False, "Take the most probable actions instead of samples."
)
DISCOUNT = flags.DEFINE_float(
    "discount", 1.0, "Discount factor of the returns.", lower_bound=0, upper_bound=1
)
MAX_STEPS = flags.DEFINE_integer(
    "max_steps", None, "Steps after which an episode is cut; by default the task's.", lower_bound=1
)


def main(_):
    if not RUN.value:
        cli.refuse("give the run's directory with --run=DIR")
    with cli.refused_errors():
        config, environment, policy = runs.load(RUN.value)
        played = policy.play(
            environment,
            EPISODES.value,
            seed=SEED.value,
            deterministic=DETERMINISTIC.value,
            discount=DISCOUNT.value,
            max_steps=MAX_STEPS.value,
        )
    mean = intervals.of_mean(played.returns)
    record = {
        "run": RUN.value,
        "task": config.task,
        "iteration": policy.iteration,
        "episodes": EPISODES.value,
        "seed": SEED.value,
        "deterministic": DETERMINISTIC.value,
        "discount": DISCOUNT.value,
        "max_steps": MAX_STEPS.value,
        "return_mean": mean.value,
        "return_low": mean.low,
        "return_high": mean.high,
        "return_deviation": float(played.returns.std()),
        "return_min": float(played.returns.min()),
        "return_max": float(played.returns.max()),
        "episode_length": float(played.lengths.mean()),
    }
    # JSON has no NaN: the interval of one episode is left open.
    print(json.dumps({name: None if value != value else value for name, value in record.items()}))


if __name__ == "__main__":
    cli.run(main)
