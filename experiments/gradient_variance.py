"""The variance of policy gradients from single paths: REINFORCE, and what lowers its noise.

python experiments/gradient_variance.py --out=results/gradient_variance

At one fixed policy each estimator's gradient is sampled many times. Reported are its variance
tr Cov(g) and the signal-to-noise ratio ‖E g‖² / tr Cov(g) of one path; the ratio of its variance to
that of the estimator before it, both from the same paths; and on a finite process the error of the
mean against the exact gradient. Importance sampling takes the paths of the policy one iteration
before, and has no such ratio.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import flags
from matplotlib import figure

import trpo_repro.commands.quiet  # noqa: F401, before what imports TensorFlow
from trpo_repro import environments, files, presets, training
from trpo_repro.analysis import tables, variances
from trpo_repro.commands import cli
from trpo_repro.environments import tabular
from trpo_repro.policies import policy as policy_lib
from trpo_repro.randomness import Key
from trpo_repro.sampling import single_path
from trpo_repro.theory import bounds, mdp

flags.declare_key_flag("out")
PATHS = flags.DEFINE_integer("paths", 400, "Paths of each estimator and task.", lower_bound=10)
ITERATIONS = 5  # of training, which made the policy
COLUMNS = (
    "task", "estimator", "paths", "variance", "variance_low", "variance_high",
    "snr", "snr_low", "snr_high", "ratio", "ratio_low", "ratio_high", "error", "expected_error",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Problem:
    """A policy whose gradient is estimated.

    Attributes:
      name: of the task.
      environment: where it acts.
      policy: π.
      theta: [P].
      behavior: [P], the policy whose paths importance sampling takes.
      discount: γ.
      steps: length of a path, at most.
      exact: [P], ∇η; None where it is not known.
    """

    name: str
    environment: environments.Environment
    policy: policy_lib.Policy
    theta: np.ndarray
    behavior: np.ndarray
    discount: float
    steps: int
    exact: np.ndarray | None = None


def finite_process(seed: int = 0) -> Problem:
    """Returns a random process of five states, with a softmax policy and its exact gradient."""
    process = mdp.random_mdp(seed)
    environment = tabular.Tabular(process.transitions, process.rewards, process.initial)
    policy = policy_lib.multilayer_perceptron_policy(
        environment.observation_space,
        environment.action_space,
        hidden_sizes=(),
        activation="tanh",
        seed=0,
        dtype="float64",
    )
    generator = np.random.default_rng(seed)
    theta = 0.5 * generator.standard_normal(policy.network.size)
    logits = policy.network(theta, np.eye(process.states)).numpy()
    by_logits = bounds.surrogate_gradient(process, logits)  # [S, A]
    parts = dict(zip(policy.network.variable_names, policy.network.shapes, strict=True))
    exact = np.concatenate(
        [
            (by_logits if len(shape) == 2 else by_logits.sum(axis=0)).ravel()
            for shape in parts.values()
        ]
    )
    behavior = theta + 0.05 * generator.standard_normal(theta.shape)
    return Problem("finite", environment, policy, theta, behavior, process.discount, 120, exact)


def trained(task: str) -> Problem:
    """Returns a task of the paper with single path's policy after ITERATIONS iterations."""
    config = dataclasses.replace(presets.PAPER[task], iterations=ITERATIONS)
    trainer = training.Trainer(config)
    states = [trainer.initial_state()]
    for _ in range(ITERATIONS):
        states.append(trainer.iterate(states[-1])[0])
    thetas = [state.theta for state in states]
    return Problem(
        task,
        trainer.environment,
        trainer.policy,
        thetas[-1],
        thetas[-2],
        config.discount,
        trainer.environment.max_episode_steps,
    )


def measure(problem: Problem, paths: int) -> list[dict]:
    """Returns the rows of the table for one policy."""

    def sample(theta, seed):
        arguments = problem.environment, problem.policy, theta, Key(seed)
        return single_path.sample_trajectories(*arguments, steps=problem.steps, states=paths)[0]

    estimators = variances.PathEstimators(
        problem.policy, problem.theta, problem.discount, sample(problem.theta, 1)
    )
    own, others = sample(problem.theta, 2), sample(problem.behavior, 3)
    rows = []
    before = None  # statistics of the estimator before
    for name in estimators.NAMES:
        other_paths = name == "importance sampled"
        found = estimators.gradients(name, others if other_paths else own, problem.behavior)
        generator = np.random.default_rng(0)
        statistics = variances.GradientStatistics(found)
        variance, snr = statistics.estimates(generator)
        ratio: Sequence[float | str] = ("", "", "")
        if before is not None and not other_paths:
            ratio = statistics.variance_ratio(before, generator)
        before = statistics
        error: float | str = ""
        expected: float | str = ""
        if problem.exact is not None:
            norm = np.linalg.norm(problem.exact)
            error = float(np.linalg.norm(found.mean(axis=0) - problem.exact) / norm)
            expected = float(np.sqrt(variance.value / paths) / norm)
        cells = (problem.name, name, paths, *variance, *snr, *ratio, error, expected)
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return rows


def draw(rows: list[dict], path: pathlib.Path) -> None:
    """Draws the variances, in units of REINFORCE's, a group a task."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    names = variances.PathEstimators.NAMES
    canvas = figure.Figure(figsize=(8, 4.4), layout="constrained")
    axes = canvas.subplots()
    for i, name in enumerate(names):
        chosen = [row for row in rows if row["estimator"] == name]
        units = [row["variance"] for row in rows if row["estimator"] == names[0]]
        value, low, high = (
            np.array([row[column] for row in chosen]) / units
            for column in ("variance", "variance_low", "variance_high")
        )
        x = np.arange(len(tasks)) + 0.17 * (i - 2)
        errors = np.abs([value - low, high - value])
        axes.bar(x, value, 0.15, yerr=errors, capsize=2, label=name)
    axes.axhline(1, color="gray", linewidth=0.8)
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set(yscale="log", ylabel="variance of one path's gradient\nover REINFORCE's")
    axes.grid(alpha=0.3, axis="y")
    axes.legend(fontsize="small", ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    canvas.supxlabel(
        "bars: 95% bootstrap interval over paths; Q4 is judged by ratios from the same paths",
        fontsize=8,
    )
    canvas.savefig(path, dpi=130)


def main(_):
    directory = cli.output_directory("results/gradient_variance")
    problems = [finite_process(), *map(trained, ("cartpole", "swimmer"))]
    rows = [row for problem in problems for row in measure(problem, PATHS.value)]
    files.write_text(directory / "gradient_variance.csv", tables.csv_text(COLUMNS, rows))
    for row in rows:
        print(
            f"{row['task']:9} {row['estimator']:18} variance {row['variance']:.3g} "
            f"[{row['variance_low']:.3g}, {row['variance_high']:.3g}], SNR {row['snr']:.3g} "
            f"[{row['snr_low']:.3g}, {row['snr_high']:.3g}]"
            + (f", over the one before {row['ratio']:.3g}" if row["ratio"] != "" else "")
            + (f", error {row['error']:.3f}" if row["error"] != "" else "")
        )
    draw(rows, directory / "gradient_variance.png")


if __name__ == "__main__":
    cli.run(main)
