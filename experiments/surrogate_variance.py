"""Claim C10: the variance of the surrogate's gradient, single path against vine.

python experiments/surrogate_variance.py --variance_out=results/vine

Each estimator's gradient is sampled many times at one fixed policy. Reported is tr Cov(g) over
‖E g‖²: the noise of one gradient relative to its signal, free of the estimators' scales.
"""

import csv
import dataclasses
import pathlib
from typing import Any

import numpy as np
from absl import flags
from matplotlib import figure

from experiments import cli, configs
from trpo_repro import diagnostics, training
from trpo_repro.estimation import returns, surrogates
from trpo_repro.randomness import Key
from trpo_repro.sampling import single_path, vine

OUT = flags.DEFINE_string("variance_out", "results/vine", "Directory for table and figure.")
GRADIENTS = flags.DEFINE_integer("gradients", 40, "Sampled gradients of each estimator.")
TRAINED = flags.DEFINE_multi_integer(
    "trained", [0, 10], "Single-path iterations that made the policy; repeatable."
)
COLUMNS = (
    "task", "policy_iterations", "estimator", "q_values", "simulator_steps", "relative_variance",
    "low", "high",
)  # fmt: skip


def measure(task: str, gradients: int, iterations: int, **changes: Any) -> list[dict]:
    """Returns the rows of the table for one task and one policy.

    Args:
      task: of the paper.
      gradients: samples of each estimator.
      iterations: of training before the policy is frozen.
      **changes: to vine's settings.
    """
    config = dataclasses.replace(configs.preset("paper", task, "vine"), **changes)
    trainer = training.Trainer(
        dataclasses.replace(configs.PAPER[task], iterations=max(iterations, 1))
    )
    state = trainer.initial_state()
    for _ in range(iterations):
        state, _ = trainer.iterate(state)
    theta, policy, environment = state.theta, trainer.policy, trainer.environment
    single = diagnostics.surrogate_gradient(policy, surrogates.ImportanceSampled())
    branched = diagnostics.surrogate_gradient(policy, surrogates.SelfNormalized())
    samples: dict[str, list] = {"vine": [], "single path, same Q-values": []}
    steps: dict[str, list[int]] = {name: [] for name in samples}
    q_count = config.rollout_states * config.rollouts_per_state

    def path_rows(paths, key, count):
        """Returns rows of `count` steps of the paths, chosen at random (all when None)."""
        sums = returns.discounted_sums(paths.rewards, paths.ends, config.discount)
        rows = {
            "observations": paths.observations,
            "actions": paths.actions,
            "advantages": (sums - sums.mean()).astype(np.float32),
        }
        flat = {name: array.reshape(-1, *array.shape[2:]) for name, array in rows.items()}
        if count is None:
            return flat
        generator = np.random.default_rng(key)
        chosen = generator.choice(sums.size, count, replace=False)
        return {name: array[chosen] for name, array in flat.items()}

    for m in range(gradients):
        key = Key(1, iteration=m)
        sample = vine.sample_vine(
            environment,
            policy,
            theta,
            key,
            trunks=config.trunks,
            trunk_length=config.path_length,
            rollout_states=config.rollout_states,
            rollouts_per_state=config.rollouts_per_state,
            rollout_length=config.rollout_length,
            discount=config.discount,
        )
        rows = {
            "observations": sample.observations,
            "actions": sample.actions,
            "proposal_log_probs": sample.proposal_log_probs,
            "q_values": sample.q_values.astype(np.float32),
        }
        samples["vine"].append(branched(theta, rows))
        steps["vine"].append(sample.trunks.rewards.size + sample.branch_steps)
        trunk = path_rows(sample.trunks, key, q_count)
        samples["single path, same Q-values"].append(single(theta, trunk))
        steps["single path, same Q-values"].append(sample.trunks.rewards.size)

    equal_steps = round(np.mean(steps["vine"]) / config.path_length)
    name = "single path, same steps"
    samples[name], steps[name] = [], []
    for m in range(gradients):
        key = Key(2, iteration=m)
        paths, *_ = single_path.sample_paths(
            environment, policy, theta, key, steps=config.path_length, states=equal_steps
        )
        samples[name].append(single(theta, path_rows(paths, key, None)))
        steps[name].append(paths.rewards.size)

    counts = {"vine": q_count, "single path, same Q-values": q_count}
    table = []
    for estimator, drawn in samples.items():
        spread = diagnostics.estimate(
            diagnostics.relative_variance, np.stack(drawn), np.random.default_rng(0)
        )
        mean_steps = round(np.mean(steps[estimator]))
        values = (
            task, iterations, estimator, counts.get(estimator, mean_steps), mean_steps, *spread,
        )  # fmt: skip
        table.append(dict(zip(COLUMNS, values, strict=True)))
    return table


def draw(rows: list[dict], path: pathlib.Path) -> None:
    """Draws the relative variances as bars, a group a policy."""
    groups = list(dict.fromkeys((row["task"], row["policy_iterations"]) for row in rows))
    estimators = list(dict.fromkeys(row["estimator"] for row in rows))
    canvas = figure.Figure(figsize=(8, 4), layout="constrained")
    axes = canvas.subplots()
    for i, estimator in enumerate(estimators):
        chosen = [row for row in rows if row["estimator"] == estimator]
        value = np.array([row["relative_variance"] for row in chosen])
        ends = np.array([[row["low"], row["high"]] for row in chosen]).T
        errors = np.clip(np.abs(ends - value), 0, np.where(np.isfinite(ends), np.inf, 0))
        x = np.arange(len(groups)) + 0.27 * (i - 1)
        axes.bar(x, value, 0.25, yerr=errors, capsize=3, label=estimator)
    axes.set_xticks(range(len(groups)), [f"{task}\nafter {n} iterations" for task, n in groups])
    axes.set(yscale="log", ylabel="gradient variance / squared norm", title="Claim C10")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3, axis="y")
    canvas.supxlabel("bars: 95% bootstrap interval over sampled gradients", fontsize=8)
    canvas.savefig(path, dpi=150)


def main(_):
    directory = pathlib.Path(OUT.value)
    directory.mkdir(parents=True, exist_ok=True)
    rows = [
        row
        for task in ("swimmer", "cartpole")
        for iterations in TRAINED.value
        for row in measure(task, GRADIENTS.value, iterations)
    ]
    with (directory / "surrogate_variance.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(
            f"{row['task']:9} after {row['policy_iterations']:2} iterations, {row['estimator']:27} "
            f"{row['q_values']:6} Q-values, {row['simulator_steps']:6} steps: "
            f"{row['relative_variance']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"
        )
    draw(rows, directory / "surrogate_variance.png")


if __name__ == "__main__":
    cli.run(main)
