"""Conjugate gradient with and without K-FAC: how good is the step after k products, at what cost?

python experiments/kfac.py --out=results/kfac

At one policy the step direction is computed from several batches, each with k Fisher-vector
products. Reported are conjugate gradient's relative residual; the processor's time, K-FAC's factors
and their inverses included; the gain, which is the improvement that the linear model predicts at
the KL limit; and the gain on other batches, which no direction has seen: what a step is worth. As
in training, damping (0.1 on Pong) is of conjugate gradient alone. Unlike it, K-FAC's factors are of
one batch, not running means, and the Fisher matrix has 2,000 states at most.
Times and gains are over those of the paper's 10 products without a preconditioner; where the
interval of those gains reaches 0, the ratio means nothing and its cells are empty. The policies are
those of 10 iterations of training, and on Pong of the run in results/. Tasks that the table in
--out has already are not measured again.
"""

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import trpo_repro.commands.quiet  # before what imports TensorFlow

# isort: split
import numpy as np
import tensorflow as tf
from absl import flags
from matplotlib import figure

import trpo_repro
from experiments import configs
from trpo_repro import config as config_lib
from trpo_repro import environments, files, presets, training
from trpo_repro.algorithms import policy_update
from trpo_repro.analysis import intervals, tables
from trpo_repro.commands import cli
from trpo_repro.estimation import estimators, returns, surrogates
from trpo_repro.optimization import chunks, conjugate_gradient
from trpo_repro.policies import frames, kronecker
from trpo_repro.policies import policy as policy_lib
from trpo_repro.randomness import Key
from trpo_repro.sampling import single_path
from trpo_repro.training import factories

flags.declare_key_flag("out")
TASK = flags.DEFINE_multi_enum(
    "tasks", configs.KFAC_TASKS, configs.KFAC_TASKS, "Tasks; repeatable."
)
BATCHES = flags.DEFINE_integer(
    "batches",
    5,
    "Batches of a task for directions, and as many others to test them.",
    lower_bound=3,
)
PONG = "atari/pong/single_path/seed_1"
ITERATIONS = 10  # of training, on the other tasks
STEPS = {"hopper": 100_000, "walker": 100_000}  # of a batch; else the preset's
FISHER_STATES = 2_000  # of a batch, at most
DAMPINGS = (None, 0.1, 0.01, 0.001)  # λ of K-FAC's factors; None: no preconditioner
PRODUCTS = (1, 2, 3, 5, 10, 20)
PAPER = (None, 10)  # the setting whose gain is 1
FRESH_RANGE = (-0.5, 3.0)  # of the axis of gains on fresh batches
UNTOLD = ("", "", "")  # cells of a ratio without a meaning
COLUMNS = (
    "task", "iteration", "steps", "damping", "products", "residual", "time",
    "gain", "gain_low", "gain_high", "fresh_gain", "fresh_gain_low", "fresh_gain_high",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Subject:
    """A policy whose step is computed.

    Attributes:
      config: of the run that made it.
      environment: where it acts.
      policy: π.
      theta: [P].
      iteration: of the run.
    """

    config: config_lib.Config
    environment: environments.Environment
    policy: policy_lib.Policy
    theta: np.ndarray
    iteration: int


def subject(task: str, results: pathlib.Path) -> Subject:
    """Returns the policy of a task; results: where the run of Pong is."""
    if task == "pong":
        config, environment, trained = trpo_repro.load(results / PONG)
        return Subject(config, environment, trained.policy, trained.theta, trained.iteration)
    config = presets.PAPER[task]
    steps = STEPS.get(task, config.steps_per_iteration)
    config = dataclasses.replace(config, iterations=ITERATIONS, steps_per_iteration=steps)
    trainer = training.Trainer(config)
    state = trainer.initial_state()
    for _ in range(ITERATIONS):
        state, _ = trainer.iterate(state)
    return Subject(config, trainer.environment, trainer.policy, state.theta, ITERATIONS)


class Batch(NamedTuple):
    """What a step is computed from.

    Attributes:
      gradient: [P], g.
      states: observations of the Fisher matrix's states, [n, ...].
      factors: K-FAC's, of these states.
    """

    gradient: tf.Tensor
    states: tf.Tensor
    factors: dict[str, tf.Tensor]


class Steps:
    """Batches of a policy and the steps that they give; each function is compiled once.

    Attributes:
      product: ([n, ...] states, [P] v) → A v, without damping.
      factors: [n, ...] states → K-FAC's factors.
    """

    def __init__(self, subject: Subject):
        self._subject = subject
        self._theta = tf.constant(subject.theta)
        self._layers = kronecker.KroneckerFactors(subject.policy)
        self._gradient = tf.function(lambda rows: self._means(rows).gradient()[1], autograph=False)
        self.product = tf.function(
            lambda states, vector: self._means({"observations": states}).fisher_product(vector),
            autograph=False,
        )
        self.factors = tf.function(
            lambda states: self._means({"observations": states}).kronecker_factors(self._layers),
            autograph=False,
        )
        self._solve = tf.function(self._solve_in_graph, autograph=False)

    def batch(self, seed: int, steps: int) -> Batch:
        """Returns a batch of about so many steps that the policy samples."""
        config, policy = self._subject.config, self._subject.policy
        trajectories, *_ = single_path.sample_trajectories(
            self._subject.environment,
            policy,
            self._subject.theta,
            Key(seed),
            steps=config.path_length,
            states=steps // config.path_length,
        )
        sums = returns.discounted_sums(trajectories.rewards, trajectories.ends, config.discount)
        states = estimators.state_arrays(trajectories, np.asarray)
        rows = estimators.single_path_batch(trajectories, states, returns.standardize(sums))
        if isinstance(rows["observations"], frames.StackedFrames):
            rows["observations"] = rows["observations"].stacked()
        names = ("observations", *surrogates.ImportanceSampled().batch_specs(policy.family))
        tensors = {name: tf.constant(rows[name]) for name in names}
        count = len(rows["observations"])
        generator = np.random.default_rng(seed)
        size = min(round(config.fisher_fraction * count), FISHER_STATES)
        chosen = generator.choice(count, size, replace=False)
        fisher_states = tf.gather(tensors["observations"], np.sort(chosen))
        return Batch(self._gradient(tensors), fisher_states, self.factors(fisher_states))

    def direction(
        self, batch: Batch, damping: float | None, products: int
    ) -> tuple[tf.Tensor, float]:
        """Returns (x ≈ A⁻¹g, relative residual), A damped as in the policy's run, after so many
        products."""
        of_factors = None if damping is None else tf.constant(damping, self._theta.dtype)
        x, residual = self._solve(batch, of_factors, tf.constant(products))
        return x, float(residual)

    def gain(self, gradients: list[tf.Tensor], states: tf.Tensor, x: tf.Tensor) -> np.ndarray:
        """Returns gᵀx / sqrt(xᵀA x) for each g, A of the states: the improvement at the KL limit δ,
        over sqrt(2δ)."""
        curvature = tf.tensordot(x, self.product(states, x), 1)
        return (tf.linalg.matvec(tf.stack(gradients), x) / tf.sqrt(curvature)).numpy()

    def _means(self, rows):
        policy = self._subject.policy
        chunk_size = chunks.CHUNK_SIZE
        if len(policy.observation_shape) > 1:
            chunk_size = factories.PIXEL_CHUNK_SIZE
        surrogate = surrogates.ImportanceSampled()
        return policy_update.ChunkedMeans(
            policy, surrogate, self._theta, rows, None, rows, chunk_size
        )

    def _solve_in_graph(self, batch, damping, products):
        preconditioner = None
        if damping is not None:
            preconditioner = self._layers.preconditioner(batch.factors, damping)
        ridge = tf.constant(self._subject.config.damping, self._theta.dtype)
        solution = conjugate_gradient.conjugate_gradient(
            lambda vector: self.product(batch.states, vector) + ridge * vector,
            batch.gradient,
            iterations=products,
            preconditioner=preconditioner,
        )
        return solution.x, solution.relative_residual


def measure(policy: Subject, batch_count: int) -> list[Mapping[str, Any]]:
    """Returns the rows of the table for one policy."""
    config = policy.config
    size = STEPS.get(config.task, config.steps_per_iteration)
    steps = Steps(policy)
    batches = [steps.batch(seed, size) for seed in range(1, batch_count + 1)]
    tests = [steps.batch(batch_count + seed, size) for seed in range(1, batch_count + 1)]
    # States are in the order of time: a stride takes all parts of the paths.
    test_states = tf.concat([test.states[i::batch_count] for i, test in enumerate(tests)], axis=0)
    test_gradients = [test.gradient for test in tests]

    def of_setting(damping, products):
        """Returns residuals [D], seconds, gains on the own batch [D] and on others [D, T]."""
        residuals, own, fresh = [], [], []
        steps.direction(batches[0], damping, 1)  # compiles it
        seconds = 0.0
        for batch in batches:
            begun = time.process_time()
            if damping is not None:
                steps.factors(batch.states)
            x, residual = steps.direction(batch, damping, products)
            seconds += time.process_time() - begun
            residuals.append(residual)
            own.append(steps.gain([batch.gradient], batch.states, x)[0])
            fresh.append(steps.gain(test_gradients, test_states, x))
        return np.array(residuals), seconds, np.array(own), np.array(fresh)

    of_setting(*PAPER)  # the first is slower
    _, paper_seconds, *units = of_setting(*PAPER)
    rows: list[Mapping[str, Any]] = []
    for damping in DAMPINGS:
        for products in PRODUCTS:
            residuals, seconds, *gains = of_setting(damping, products)
            on_own, on_others = (
                _ratio(gain, unit) for gain, unit in zip(gains, units, strict=True)
            )
            cells = (
                config.task, policy.iteration, size, "" if damping is None else damping, products,
                float(residuals.mean()), seconds / paper_seconds,
                *(on_own or UNTOLD), *(on_others or UNTOLD),
            )  # fmt: skip
            rows.append(dict(zip(COLUMNS, cells, strict=True)))
            print(
                f"{config.task:9} damping {damping or 'none':<5} k = {products:2}: residual "
                f"{residuals.mean():.3f}, time {seconds / paper_seconds:.2f}, gain {on_own}, "
                f"on other batches {on_others}",
                flush=True,
            )
    return rows


def draw(rows: Sequence[Mapping[str, str]], path: pathlib.Path) -> None:
    """Draws residuals, gains and times of the table over products, a column a task."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    canvas = figure.Figure(figsize=(2.7 * len(tasks), 9), layout="constrained")
    grid = canvas.subplots(4, len(tasks), squeeze=False, sharex=True, sharey="row")
    panels = {
        "residual": "relative residual",
        "gain": "gain on its own batch",
        "fresh_gain": "gain on other batches",
        "time": "processor's time",
    }
    for column, task in enumerate(tasks):
        for (name, label), axes in zip(panels.items(), grid[:, column], strict=True):
            told = all(row[name] for row in rows if row["task"] == task)
            if not told:
                text = "the interval of ten\nproducts' gain reaches 0:\nbatches too small"
                axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
            for damping in DAMPINGS if told else ():
                chosen = [
                    row
                    for row in rows
                    if row["task"] == task
                    and row["damping"] == ("" if damping is None else str(damping))
                ]
                x = [int(row["products"]) for row in chosen]
                legend = "no preconditioner" if damping is None else f"K-FAC, λ = {damping}"
                (line,) = axes.plot(
                    x, [float(row[name]) for row in chosen], marker=".", label=legend
                )
                if name in ("gain", "fresh_gain"):
                    low, high = (
                        [float(row[f"{name}_{end}"]) for row in chosen] for end in ("low", "high")
                    )
                    axes.fill_between(x, low, high, alpha=0.15, color=line.get_color())
            if name == "residual":
                axes.set(yscale="log", ylim=(1e-3, 10))
            else:
                axes.axhline(1, color="gray", linewidth=0.8)
            if name == "time":
                axes.set(yscale="log", ylim=(0.05, 20))
            if name == "fresh_gain":
                axes.set_ylim(*FRESH_RANGE)
            axes.set(xscale="log")
            axes.set_xticks(PRODUCTS, [str(products) for products in PRODUCTS], minor=False)
            axes.minorticks_off()
            axes.grid(alpha=0.3)
            if column == 0:
                axes.set_ylabel(label)
        grid[0, column].set_title(task)
        grid[-1, column].set_xlabel("Fisher-vector products, k")
    canvas.legend(
        *grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(DAMPINGS)
    )
    canvas.supxlabel(
        "gain: predicted improvement at the KL limit; gains and times are over those of 10 "
        "products without a preconditioner; bands: 95% bootstrap interval over batches",
        fontsize=8,
    )
    canvas.savefig(path, dpi=110)


def _ratio(gains: np.ndarray, units: np.ndarray) -> intervals.Interval | None:
    """Returns the ratio of two means, of [D] directions' values or of [D, T] tables; None where the
    interval of the units' mean reaches 0."""
    pairs = np.stack([gains, units], axis=-1)
    resampled = intervals.of_statistic if gains.ndim == 1 else intervals.of_table
    unit = resampled(lambda drawn: float(drawn[..., 1].mean()), pairs, np.random.default_rng(0))
    if not unit.above(0):
        return None
    statistic = lambda drawn: float(drawn[..., 0].mean() / drawn[..., 1].mean())  # noqa: E731
    return resampled(statistic, pairs, np.random.default_rng(0))


def main(_):
    directory = cli.output_directory("results/kfac")
    path = directory / "kfac.csv"
    done: dict[tuple, list[Mapping[str, Any]]] = {}
    if path.exists():
        done = tables.grouped(tables.read_csv(path), ("task",))
    for task in sorted(TASK.value, key="pong".__ne__):  # what may lack its run first
        if (task,) in done:
            continue
        with cli.refused_errors():
            policy = subject(task, directory.parent)
        done[task,] = measure(policy, BATCHES.value)
        rows = [row for name in configs.KFAC_TASKS for row in done.get((name,), [])]
        files.write_text(path, tables.csv_text(COLUMNS, rows))
    draw(tables.read_csv(path), directory / "kfac.png")


if __name__ == "__main__":
    cli.run(main)
