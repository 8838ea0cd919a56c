"""Which published scores have a counterpart in the benchmark, and why the others have none."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from experiments import configs
from trpo_repro import presets
from trpo_repro.analysis import intervals

FILE = "published_baselines.csv"  # in results/


class Protocol(NamedTuple):
    """How a source scores its runs.

    Attributes:
      rule: the rule of ours that comes closest: `training`, the mean of the last 100 training
        episodes; `sampled`, 100 episodes by samples of the final policy; `mode`, by its most
        probable actions.
      unfair: why its scores are not compared; nothing if they are.
      swimmer_discount: its γ on Swimmer.
    """

    rule: str
    unfair: str = ""
    swimmer_discount: float = 0.99


_BEST = "the best of several evaluations, not the last"
PROTOCOLS: dict[str, Protocol] = {
    "PPO paper Fig. 3 (curve read by tianshou README)": Protocol(
        "training", "read by eye off a plot"
    ),
    "Spinning Up bench (TF1 TRPO; curve read by tianshou README)": Protocol(
        "training", "read by eye; the same curves are there from the vector graphics"
    ),
    "Spinning Up bench (TF1), from the SVG": Protocol("training"),
    "tianshou MuJoCo benchmark": Protocol("sampled", _BEST),
    "tianshou MuJoCo benchmark raw curve": Protocol("sampled"),
    "OpenAI baselines Mujoco1M": Protocol("training"),
    "TD3 paper Table 1 (via rldb)": Protocol("training", _BEST),
    "Engstrom 2020 Table 2": Protocol("training", "the number of steps is not verified"),
    "SB3-Contrib docs": Protocol("mode", swimmer_discount=0.9999),
    "RL Baselines3 Zoo benchmark.md": Protocol("mode", swimmer_discount=0.9999),
    "SB3 model hub": Protocol("mode", swimmer_discount=0.9999),
    "SB3 model hub (open RL benchmark run)": Protocol("mode", "its settings are not verified"),
    "nnabla-rl reproduction (TRPO+GAE)": Protocol("sampled", _BEST),
    "nnabla-rl reproduction (TRPO+GAE), raw curve": Protocol("sampled", swimmer_discount=0.995),
    "MushroomRL benchmark, mean over seeds": Protocol("sampled"),
}

# Their numbers of steps, in the words of the table, that count as ours.
STEPS = (
    (r"^(1M of 3M|1M|983,040|990,000)\b", configs.MILLION),
    (r"^(3M of 3M|3,072,000)\b", 3 * configs.MILLION),
)
# Of these tasks, versions before v5 are other problems.
CHANGED_IN_V5 = {
    "Walker2d": "the friction of a foot changed in v5",
    "Ant": "observed and charged contact forces changed in v5",
    "Reacher": "the distance charged in v5 is that after the step, in earlier versions before it",
}


class Match(NamedTuple):
    """A published score beside ours.

    Attributes:
      task: task of ours.
      steps: environment steps.
      rule: rule of scoring, of ours.
      mean: published mean over seeds; a number of whose error nothing is known counts as one seed.
    """

    task: str
    steps: int
    rule: str
    mean: intervals.Mean


def match(row: Mapping[str, str]) -> Match | str:
    """Returns a row's counterpart, or why it has none.

    Args:
      row: of results/published_baselines.csv.
    """
    name = re.split(r"[-\s]", row["env_id"])[0]
    task = f"{name}-v5"
    if row["env_family"] != "mujoco" or task not in configs.MUJOCO_TASKS or "(" in row["env_id"]:
        return "another task"
    if "TRPO" not in row["algorithm"] or row["algorithm"].startswith("ATRPO"):
        return "another algorithm"
    if row["source"] not in PROTOCOLS:
        return "another number of steps, or a protocol that is not known"
    steps = [n for pattern, n in STEPS if re.match(pattern, row["timesteps_or_budget"])]
    if not steps or (steps[0] > configs.MILLION and task not in configs.CONTINUED_TASKS):
        return "another number of steps, or a protocol that is not known"
    protocol = PROTOCOLS[row["source"]]
    if protocol.unfair:
        return protocol.unfair
    if name in CHANGED_IN_V5 and not row["env_id"].endswith("-v5"):
        return CHANGED_IN_V5[name]
    if name == "Swimmer" and protocol.swimmer_discount != presets.GAE_DISCOUNTS[task]:
        return "another discount on Swimmer"
    return Match(task, steps[0], protocol.rule, _mean(row))


def _mean(row: Mapping[str, str]) -> intervals.Mean:
    """Returns the mean over seeds, from the seeds' own scores where the notes have them.

    A deviation counts where it is one over seeds; one over the episodes of one agent says nothing
    of another agent.
    """
    value = float(row["mean"])
    each = re.match(r"per seed ([-\d. /]+);", row["notes"])
    if each:
        own = np.array(each[1].split("/"), float)
        return intervals.Mean.of(own)._replace(value=value)  # as published, rounded
    kind, count = row["spread_kind"], re.sub(r"\D", "", row["n_seeds"])
    seeds = int(count) if count else 1
    if kind.rstrip("?") not in ("std", "stderr") or seeds < 2 or not row["spread"]:
        return intervals.Mean(value, math.nan, 1)
    spread = float(row["spread"])
    error = spread if kind.startswith("stderr") else spread / math.sqrt(seeds)
    return intervals.Mean(value, error, seeds)
