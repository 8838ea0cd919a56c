"""Claim C10: the variance of the surrogate's gradient, single path against vine.

python experiments/surrogate_variance.py --out=results/vine

Each estimator's gradient is sampled many times at one fixed policy. Reported are its variance
tr Cov(g), and the signal-to-noise ratio ‖E g‖² / tr Cov(g). Eq. 16's baseline holds the sample
itself, so its expected gradient is (K − 1) / K of eq. 14's: vine's gradients are divided by that.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from matplotlib import figure

import trpo_repro.commands.quiet  # noqa: F401, before what imports TensorFlow
from trpo_repro import files, presets, training
from trpo_repro.analysis import tables, variances
from trpo_repro.commands import cli
from trpo_repro.estimation import estimators, returns, surrogates
from trpo_repro.randomness import Key
from trpo_repro.sampling import single_path, vine

flags.declare_key_flag("out")
GRADIENTS = flags.DEFINE_integer(
    "gradients", 40, "Sampled gradients of each estimator.", lower_bound=3
)
TRAINED = flags.DEFINE_multi_integer(
    "trained", [0, 10], "Single-path iterations that made the policy; repeatable.", lower_bound=0
)
COLUMNS = (
    "task", "policy_iterations", "estimator", "q_values", "simulator_steps",
    "variance", "variance_low", "variance_high", "snr", "snr_low", "snr_high",
    "ratio", "ratio_low", "ratio_high",
)  # fmt: skip


def measure(task: str, gradients: int, iterations: int, **changes: Any) -> list[dict]:
    """Returns the rows of the table for one task and one policy.

    Args:
      task: task of the paper.
      gradients: samples of each estimator.
      iterations: iterations of training before the policy is frozen.
      **changes: to vine's settings.
    """
    config = dataclasses.replace(presets.preset("paper", task, "vine"), **changes)
    trainer = training.Trainer(
        dataclasses.replace(presets.PAPER[task], iterations=max(iterations, 1))
    )
    state = trainer.initial_state()
    for _ in range(iterations):
        state, _ = trainer.iterate(state)
    theta, policy, environment = state.theta, trainer.policy, trainer.environment
    single = variances.surrogate_gradient(policy, surrogates.ImportanceSampled())
    branched = variances.surrogate_gradient(policy, surrogates.SelfNormalized())
    samples: dict[str, list] = {"vine": [], "single path, same Q-values": []}
    steps: dict[str, list[int]] = {name: [] for name in samples}
    q_count = config.rollout_states * config.rollouts_per_state
    shrinkage = config.rollouts_per_state / (config.rollouts_per_state - 1)

    def single_path_batch(paths, key, count):
        """Returns rows of `count` steps of the paths, chosen at random (all when None)."""
        sums = returns.discounted_sums(paths.rewards, paths.ends, config.discount)
        states = estimators.state_arrays(paths, np.asarray)
        rows = estimators.single_path_batch(paths, states, sums - sums.mean())
        if count is None:
            return rows
        chosen = np.random.default_rng(key).choice(sums.size, count, replace=False)
        return {name: array[chosen] for name, array in rows.items()}

    for m in range(gradients):
        key = Key(1, iteration=m)
        sample = vine.sample_vine(
            environment,
            policy,
            theta,
            key,
            states=config.trunks,
            trunk_length=config.path_length,
            rollout_states=config.rollout_states,
            rollouts_per_state=config.rollouts_per_state,
            rollout_length=config.rollout_length,
            discount=config.discount,
        )
        states = estimators.state_arrays(sample.trajectories, np.asarray)
        rows = estimators.vine_batch(sample, states)
        rows["q_values"] = rows["q_values"].astype(np.float32)
        samples["vine"].append(branched(theta, rows) * shrinkage)
        steps["vine"].append(sample.steps)
        trunk = single_path_batch(sample.trajectories, key, q_count)
        samples["single path, same Q-values"].append(single(theta, trunk))
        steps["single path, same Q-values"].append(sample.trajectories.rewards.size)

    equal_steps = round(np.mean(steps["vine"]) / config.path_length)
    name = "single path, same steps"
    samples[name], steps[name] = [], []
    for m in range(gradients):
        key = Key(2, iteration=m)
        paths, *_ = single_path.sample_trajectories(
            environment, policy, theta, key, steps=config.path_length, states=equal_steps
        )
        samples[name].append(single(theta, single_path_batch(paths, key, None)))
        steps[name].append(paths.rewards.size)

    counts = {"vine": q_count, "single path, same Q-values": q_count}
    statistics = {
        name: variances.GradientStatistics(np.stack(drawn)) for name, drawn in samples.items()
    }
    table = []
    for estimator, found in statistics.items():
        generator = np.random.default_rng(0)
        variance, snr = found.estimates(generator)
        ratio: Sequence = ("", "", "")
        if estimator == "vine":  # whose trunks the other's are
            ratio = found.variance_ratio(statistics["single path, same Q-values"], generator)
        mean_steps = round(np.mean(steps[estimator]))
        values = (
            task, iterations, estimator, counts.get(estimator, mean_steps), mean_steps,
            *variance, *snr, *ratio,
        )  # fmt: skip
        table.append(dict(zip(COLUMNS, values, strict=True)))
    return table


def draw(rows: list[dict], path: pathlib.Path) -> None:
    """Draws variances and signal-to-noise ratios as bars, a group a policy."""
    groups = list(dict.fromkeys((row["task"], row["policy_iterations"]) for row in rows))
    estimators = list(dict.fromkeys(row["estimator"] for row in rows))
    canvas = figure.Figure(figsize=(11, 4.4), layout="constrained")
    panels = {
        "variance": "variance of one gradient, tr Cov(g)",
        "snr": "signal-to-noise ratio, ‖E g‖² / tr Cov(g)",
    }
    for axes, (name, label) in zip(canvas.subplots(1, 2), panels.items(), strict=True):
        for i, estimator in enumerate(estimators):
            chosen = [row for row in rows if row["estimator"] == estimator]
            value, low, high = (
                np.array([row[column] for row in chosen])
                for column in (name, f"{name}_low", f"{name}_high")
            )
            errors = np.abs([value - low, high - value])
            x = np.arange(len(groups)) + 0.27 * (i - 1)
            axes.bar(x, value, 0.25, yerr=errors, capsize=3, label=estimator)
        axes.set_xticks(range(len(groups)), [f"{task}\nafter {n} it." for task, n in groups])
        axes.set(yscale="log", ylabel=label)
        axes.grid(alpha=0.3, axis="y")
    canvas.axes[1].set_ylim(bottom=1e-3)
    canvas.axes[0].legend(fontsize="small")
    canvas.supxlabel("bars: 95% bootstrap interval; ratios below 0.001 are not drawn", fontsize=8)
    canvas.savefig(path, dpi=130)


def main(_):
    directory = cli.output_directory("results/vine")
    rows = [
        row
        for task in ("swimmer", "cartpole")
        for iterations in TRAINED.value
        for row in measure(task, GRADIENTS.value, iterations)
    ]
    files.write_text(directory / "surrogate_variance.csv", tables.csv_text(COLUMNS, rows))
    for row in rows:
        print(
            f"{row['task']:9} after {row['policy_iterations']:2} iterations, {row['estimator']:27} "
            f"{row['q_values']:6} Q-values, {row['simulator_steps']:6} steps: "
            f"variance {row['variance']:.3g} "
            f"[{row['variance_low']:.3g}, {row['variance_high']:.3g}], "
            f"SNR {row['snr']:.3g} [{row['snr_low']:.3g}, {row['snr_high']:.3g}]"
        )
    draw(rows, directory / "surrogate_variance.png")


if __name__ == "__main__":
    cli.run(main)
