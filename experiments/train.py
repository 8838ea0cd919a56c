"""Trains one policy and draws its learning curve.

python experiments/train.py --task=swimmer --preset=paper --seed=1 --out=runs/swimmer_1

The run's directory is runs/TASK_ALGORITHM_SEED by default.
"""

import dataclasses
import pathlib

from absl import flags

from experiments import cli, configs
from trpo_repro import checkpoint, environments, plotting, runs
from trpo_repro import config as config_lib
from trpo_repro.environments import atari
from trpo_repro.sampling import vine

flags.DEFINE_string("task", "swimmer", f"One of: {', '.join(environments.task_names())}.")
flags.DEFINE_enum("preset", "paper", configs.PRESETS, "Settings that the other flags amend.")
flags.DEFINE_bool("resume", False, "Go on from the last checkpoint in --out.")
flags.DEFINE_integer(
    "stop_at", None, "Leave the run unfinished after this many iterations in all.", lower_bound=1
)

_HELP = {
    "algorithm": f"One of: {', '.join(config_lib.ALGORITHMS)}.",
    "sampler": f"One of: {', '.join(config_lib.SAMPLERS)}.",
    "seed": "Seed of every random number.",
    "iterations": "Policy iterations, at most.",
    "target_return": "End once the mean return of the last 100 episodes is above this.",
    "steps_per_iteration": "Environment steps (Atari: decisions of 4 frames) in one iteration, all "
    "paths together (single_path).",
    "path_length": "Environment steps of each parallel path, or vine trunk, in one iteration.",
    "fresh_paths": "Start every iteration's paths from s0 ~ rho0; else go on from the last states.",
    "discount": "Discount factor gamma, in (0, 1).",
    "state_weighting": "Weights of states in the surrogate, mean KL and Fisher matrix, one of: "
    f"{', '.join(config_lib.STATE_WEIGHTINGS)}; discounted is gamma^t, t steps into the episode.",
    "gae_lambda": "Lambda of generalized advantages, in [0, 1]; needs a baseline.",
    "baseline": f"Value function, one of: {', '.join(config_lib.BASELINES)}.",
    "hidden_sizes": "Units of the hidden layers, comma-separated; empty is a linear policy.",
    "activation": "Activation of hidden layers: softplus, tanh or relu.",
    "skip_inputs": "Leading observation columns that the policy does not see.",
    "initial_log_std": "Initial log standard deviation of Gaussian policies, in action units.",
    "normalize_observations": "Normalize observations by their running mean and deviation.",
    "kl_limit": "Trust region size delta, in nats.",
    "step_size": "1/lambda of algorithms with a fixed step.",
    "cg_iterations": "Conjugate gradient iterations k.",
    "damping": "Multiple of the identity added to the Fisher matrix.",
    "fisher_fraction": "Fraction of the states in Fisher-vector products, in (0, 1].",
    "backtrack_factor": "Factor of the line search, in (0, 1).",
    "max_backtracks": "Steps that the line search may refuse before it gives up.",
    "baseline_epochs": "Passes of Adam over an iteration's steps (network baseline).",
    "baseline_minibatch": "Rows in one Adam step (network baseline).",
    "baseline_learning_rate": "Learning rate of Adam (network baseline).",
    "trunks": "Trunk paths (vine).",
    "rollout_states": "States that branches start from (vine).",
    "rollouts_per_state": "Branches of each rollout state (vine).",
    "rollout_length": "Environment steps of a branch that does not terminate before (vine).",
    "proposal": f"Distribution of branches' first actions, one of: {', '.join(vine.PROPOSALS)}.",
    "kl_states": f"States of vine's KL constraint, one of: {', '.join(config_lib.KL_STATES)}.",
    "temperature": "T of the weights exp(A / T), in standard deviations of the advantages (rwr).",
    "relative_entropy": "Bound epsilon on the weights' relative entropy, in nats (reps).",
    "regression_steps": "L-BFGS steps of a fit without closed form (rwr, reps).",
    "min_std": "Least standard deviation of a Gaussian policy after a fit (rwr, reps).",
    "population": "Candidates of an iteration (cem, cma).",
    "episodes_per_candidate": "Episodes whose mean return is a candidate's value (cem, cma).",
    "search_deviation": "Initial standard deviation of candidates' parameters (cem, cma).",
    "elite_fraction": "Fraction of the candidates that the next are fitted to (cem).",
    "noise": "Added to the candidates' variances at first, in units of search_deviation^2 (cem).",
    "noise_updates": "Iterations until no variance is added any more (cem).",
    "screen": f"Height x width of Atari's frames, one of: {', '.join(atari.SCREENS)}.",
    "action_set": "Of Atari: factored (horizontal 3 x vertical 3 x fire 2) or minimal (one of the "
    "game's own).",
    "sticky_probability": "Probability that an Atari frame repeats the action before.",
    "clip_rewards": "Learn from the signs of rewards; metrics keep the rewards themselves.",
    "shards": "Parts of the batch that are sampled apart, with random numbers of their own.",
    "workers": "Sampling processes on Ray, of which --shards can be busy; 0: this process; never "
    "changes a number. In figure4.py and atari.py: runs at a time (1), which share the cores.",
    "ray_address": "Of a Ray cluster for the workers; a local one is started when empty.",
    "threads": "Simulator threads; 0 uses every core. Never changes a number.",
}

for _field in dataclasses.fields(config_lib.Config):
    if _field.name == "task":
        continue
    _help = f"{_HELP[_field.name]} Default: the preset's."
    if _field.type is bool:
        flags.DEFINE_bool(_field.name, None, _help)
    elif _field.type is int:
        flags.DEFINE_integer(_field.name, None, _help)
    elif _field.type in (float, float | None):
        flags.DEFINE_float(_field.name, None, _help)
    elif _field.type is str:
        flags.DEFINE_string(_field.name, None, _help)
    else:
        flags.DEFINE_list(_field.name, None, _help)


def config_from_flags() -> config_lib.Config:
    """Returns the preset's configuration with every given flag in place.

    Raises:
      ValueError: a value is not allowed, or would have no effect.
    """
    values = flags.FLAGS.flag_values_dict()
    given = {
        field.name: values[field.name]
        for field in dataclasses.fields(config_lib.Config)
        if values[field.name] is not None
    }
    if "hidden_sizes" in given:
        given["hidden_sizes"] = tuple(_whole_number(text) for text in given["hidden_sizes"] if text)
    start = configs.preset(
        values["preset"], given.pop("task"), given.get("sampler"), given.get("algorithm")
    )
    config = dataclasses.replace(start, **given)
    for name, readers in config_lib.without_effect(config).items():
        if name in given:
            raise ValueError(f"--{name} has no effect here: it is for {readers}")
    return config


def _whole_number(text: str) -> int:
    if not text.strip().isdigit():
        raise ValueError(f"hidden_sizes={text} is not allowed: must be whole numbers, like 64,64")
    return int(text)


def main(_):
    try:
        config = config_from_flags()
    except ValueError as error:
        cli.refuse(str(error))
    name = f"{config.task}_{config.algorithm}_{config.seed}"
    directory = pathlib.Path(cli.OUT.value or f"runs/{name}")
    try:
        state = runs.run(config, directory, resume=flags.FLAGS.resume, stop_at=flags.FLAGS.stop_at)
    except (ValueError, checkpoint.CheckpointError) as error:
        cli.refuse(str(error))
    except OSError as error:
        cli.refuse(f"--out={directory} cannot be written: {error.strerror or error}")
    if state is not None and state.iteration:
        curve = {config.task: {f"{config.algorithm}, {config.sampler}": [directory]}}
        plotting.learning_curves(curve, directory / "learning_curve.png")
    for file in (
        "metrics.csv",
        "config.json",
        "checkpoints",
        "tensorboard",
        "policy.npz",
        "learning_curve.png",
    ):
        if (directory / file).exists():
            print(directory / file)


if __name__ == "__main__":
    cli.run(main)
