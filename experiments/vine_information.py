"""What vine learns from on Atari: over the branches' number, first actions and length.

python experiments/vine_information.py --out=results/vine

At fixed policies, each sampler draws many batches of equally many decisions. Reported are the
decisions simulated for a rollout state, the share of rollout states whose Q-values differ, the
signal-to-noise ratio of the gradient, ‖E g‖² / tr Cov(g), and what the update's step from four
batches gains on independent paths: the mean of (π_θ(a|s) / π_old(a|s) − 1) Â over them, in standard
deviations of Â. The policies are an untrained one and those of the runs in results/. A table that
has some of them is continued; the figure is drawn when it has all.
"""

import dataclasses
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import trpo_repro.commands.quiet

# isort: split
import numpy as np
import tensorflow as tf
from absl import flags
from matplotlib import figure

import trpo_repro
from trpo_repro import cluster, files, presets
from trpo_repro.analysis import intervals, tables, variances
from trpo_repro.commands import cli
from trpo_repro.config import Config
from trpo_repro.environments import atari
from trpo_repro.estimation import estimators, returns
from trpo_repro.policies import policy as policy_lib
from trpo_repro.randomness import Key, Purpose
from trpo_repro.sampling import single_path, vine
from trpo_repro.training import factories

flags.declare_key_flag("out")
GAMES = flags.DEFINE_multi_enum("games", ["pong", "breakout"], atari.games(), "Games; repeatable.")
BATCHES = flags.DEFINE_integer(
    "batches", 20, "Batches of a sampler, four for each step.", lower_bound=8
)
DECISIONS = flags.DEFINE_integer(
    "decisions", 16_000, "Decisions of a batch, about.", lower_bound=4000
)
JOBS = flags.DEFINE_integer("jobs", 1, "Policies measured side by side.", lower_bound=1)
PER_STEP = 4  # batches
TRUNKS, TRUNK_LENGTH = 16, 100
PATHS = 10
WARM_UP = 400  # decisions before the first batch: the first point of Pong takes 60
REFERENCE_BATCHES, REFERENCE_SIZE = 30, 10_000  # of the independent paths, decisions
ITERATION = 400_000  # decisions of an iteration of the paper's vine, that ratios are scaled to
COLUMNS = (
    "game", "policy", "sampler", "rollouts_per_state", "proposal", "rollout_length",
    "decisions_per_state", "informative_states",
    "snr", "snr_low", "snr_high", "gain", "gain_low", "gain_high",
)  # fmt: skip


class Cell(NamedTuple):
    """A sampler: vine's first actions and length of branches, or single path."""

    rollouts_per_state: int = 0
    proposal: str = ""
    rollout_length: int = 0

    @property
    def name(self) -> str:
        if not self.rollouts_per_state:
            return "single path"
        first = "all 18" if self.rollouts_per_state == 18 else f"4, {self.proposal}"
        return f"vine, {first}"


CELLS = (
    *(Cell(18, "uniform", length) for length in (12, 25, 50, 100)),
    *(Cell(4, "uniform", length) for length in (25, 100)),
    *(Cell(4, "policy", length) for length in (25, 100)),
    Cell(),
)


class Subject(NamedTuple):
    """A policy: a game, the policy's name, and its run; none for the untrained one."""

    game: str
    policy: str = "untrained"
    run: str = ""


def subjects(games: list[str], results: pathlib.Path) -> list[Subject]:
    """Returns the untrained policy of each game, and those of its runs with their first seed."""
    found = []
    for game in games:
        found.append(Subject(game))
        for path in sorted(results.glob(f"{game}/*/seed_1/policy.npz")):
            with np.load(path, allow_pickle=False) as arrays:
                name = f"{path.parts[-3]}, iteration {arrays['iteration']}"
            found.append(Subject(game, name, str(path.parent)))
    return found


class Study:
    """A policy, and batches that it samples."""

    def __init__(self, subject: Subject):
        self.subject = subject
        self.config = dataclasses.replace(
            presets.preset("paper", subject.game, "vine"), shards=1, trunks=TRUNKS, branch_steps=0
        )
        self.environment = factories.make_environment(self.config)
        self.policy = factories.make_policy(self.config, self.environment)
        self.theta = self.policy.network.initial_parameters()
        if subject.run:
            self.theta = trpo_repro.load(subject.run)[2].theta
        generator = Key(0).generator(Purpose.INITIAL_STATES)
        *_, states, _ = self._paths(Key(0), WARM_UP, self.environment.initial(TRUNKS, generator))
        self._start = states

    def reference(self) -> "Reference":
        """Returns independent paths."""
        states = self._start.select(np.arange(PATHS))
        *_, states, _ = self._paths(Key(1), WARM_UP, states)
        rows = []
        for i in range(REFERENCE_BATCHES):
            key = Key(1, iteration=i + 1)
            paths, states, _ = self._paths(key, REFERENCE_SIZE // PATHS, states)
            sums = returns.discounted_sums(paths.rewards, paths.ends, self.config.discount)
            rows.append((paths.flat_observations(), paths.actions.reshape(-1, 3), sums.reshape(-1)))
        return Reference(self.policy, self.theta, rows)

    def measure(self, cell: Cell, reference: "Reference", batches: int, size: int) -> dict:
        """Returns the table's row of a sampler."""
        config = self._config(cell, size)
        if cell.rollouts_per_state:  # a first batch tells how many states make its decisions
            (pilot,) = self._samples(config, 1)
            rate = pilot.branch_steps / config.rollout_states
            states = int((size - TRUNKS * TRUNK_LENGTH) / rate)
            config = dataclasses.replace(config, rollout_states=min(states, TRUNKS * TRUNK_LENGTH))
        sampler, estimator = factories.make_sampler(config, self.environment, self.policy, None)
        update = factories.make_update(config, self.environment, self.policy, estimator)
        samples = self._samples(config, batches)
        of_chunk = variances.surrogate_gradient(self.policy, estimator.surrogate)
        gradients = np.stack(
            [
                np.mean([of_chunk(self.theta, chunk) for chunk in _chunks(sample, config)], axis=0)
                for sample in samples
            ]
        )
        gains = []
        for first in range(0, batches - PER_STEP + 1, PER_STEP):
            joined = sampler.join(samples[first : first + PER_STEP])
            estimate = estimator(joined, {}, np.asarray, np.random.default_rng(0))
            theta, *_ = update(
                self.theta,
                {
                    name: estimate.batch[name]
                    for name in update.array_names
                    if name in estimate.batch
                },
                Key(2, iteration=first).generator(Purpose.FISHER_STATES),
                estimate.kl_batch,
                update.initial_memory(),
            )
            gains.append(reference.gains(theta))
        steps = np.mean([sample.steps for sample in samples])
        _, snr = variances.GradientStatistics(gradients).estimates(np.random.default_rng(0))
        scaled = [value * ITERATION / steps for value in snr]
        per_state, informative = "", ""
        if cell.rollouts_per_state:
            per_state = np.mean([s.branch_steps / len(s.q_values) for s in samples])
            informative = np.mean([(np.ptp(s.q_values, axis=1) > 0).mean() for s in samples])
        gain = intervals.of_table(np.mean, np.array(gains), np.random.default_rng(0))
        values = (
            *self.subject[:2], cell.name, *(value or "" for value in cell),
            per_state, informative, *scaled, *gain,
        )  # fmt: skip
        row = dict(zip(COLUMNS, values, strict=True))
        print(tables.csv_text(COLUMNS, [row]).splitlines()[1], flush=True)
        return row

    def _config(self, cell: Cell, size: int) -> Config:
        if not cell.rollouts_per_state:
            single = presets.preset("paper", self.subject.game)
            return dataclasses.replace(
                single, shards=1, path_length=size // PATHS, steps_per_iteration=size
            )
        changes = cell._asdict()
        return dataclasses.replace(
            self.config, path_length=TRUNK_LENGTH, rollout_states=40, **changes
        )

    def _samples(self, config: Config, count: int) -> list[Any]:
        sampler, _ = factories.make_sampler(config, self.environment, self.policy, None)
        states = self._start.select(np.arange(config.parallel_paths))
        samples: list[Any] = []
        for i in range(count):
            (function,) = sampler.shard_functions(states, Key(3, iteration=i), np.asarray)
            samples.append(function(self.environment, self.policy, self.theta))
            states = samples[-1].after
        return samples

    def _paths(self, key, steps, states):
        return single_path.sample_trajectories(
            self.environment, self.policy, self.theta, key, steps=steps, states=states
        )


class Reference:
    """Independent paths, on which a step's gain is measured."""

    def __init__(self, policy: policy_lib.Policy, theta: np.ndarray, rows: list[tuple]):
        """Args: rows: batches of ([n] stacks of frames, [n, ...] actions, [n] returns)."""
        self._policy, self._rows = policy, rows
        self._advantages = returns.standardize(np.stack([row[2] for row in rows]))
        self._log_probs = self._all_log_probs(theta)

    def gains(self, theta: np.ndarray) -> np.ndarray:
        """Returns each batch's mean of (π_θ(a|s) / π_old(a|s) − 1) Â."""
        ratios = np.exp(self._all_log_probs(theta) - self._log_probs)
        return ((ratios - 1) * self._advantages).mean(axis=1)

    def _all_log_probs(self, theta):
        size = factories.PIXEL_CHUNK_SIZE
        return np.stack(
            [
                np.concatenate(
                    [
                        self._policy.log_prob(
                            theta, seen[i : i + size].stacked(), actions[i : i + size]
                        )
                        for i in range(0, len(seen), size)
                    ]
                )
                for seen, actions, _ in self._rows
            ]
        )


def _chunks(sample: Any, config: Config) -> Iterator[dict]:
    """Yields a sample's rows in chunks of one size, but for the few that are left over.

    Q-values have their own scale here: the estimator's are divided by the batch's deviation, a
    noise to which steps are indifferent.
    """
    states = estimators.state_arrays(sample.trajectories, np.asarray)
    if isinstance(sample, vine.Vine):
        rows = estimators.vine_batch(sample, states)
        rows["q_values"] = rows["q_values"].astype(np.float32)
    else:
        paths = sample.trajectories
        sums = returns.discounted_sums(paths.rewards, paths.ends, config.discount)
        rows = estimators.single_path_batch(paths, states, sums - sums.mean())
    count = len(rows["observations"])
    size = count // math.ceil(count / 1000)
    for first in range(0, count - size + 1, size):
        chunk = {name: array[first : first + size] for name, array in rows.items()}
        yield {**chunk, "observations": chunk["observations"].stacked()}


def _measure(sizes: tuple[int, int], subject: Subject) -> list[dict]:
    """Returns the rows of a policy, in a process that has a core to itself."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    study = Study(subject)
    reference = study.reference()
    return [study.measure(cell, reference, *sizes) for cell in CELLS]


def draw(rows: list[dict], path: pathlib.Path) -> None:
    """Draws ratios and gains over the length of branches, a column a policy."""
    columns = list(dict.fromkeys((row["game"], row["policy"]) for row in rows))
    canvas = figure.Figure(figsize=(3.2 * len(columns), 6.4), layout="constrained")
    grid = canvas.subplots(2, len(columns), squeeze=False, sharex=True, sharey="row")
    labels = {
        "snr": "signal-to-noise ratio of the gradient\nat 400K decisions",
        "gain": "gain of a step on independent paths\n(standard deviations of the return)",
    }
    for column, (game, policy) in enumerate(columns):
        chosen = [row for row in rows if (row["game"], row["policy"]) == (game, policy)]
        for axes, (name, label) in zip(grid[:, column], labels.items(), strict=True):
            for i, sampler in enumerate(dict.fromkeys(row["sampler"] for row in chosen)):
                points = [row for row in chosen if row["sampler"] == sampler]
                value, low, high = (
                    np.array([float(row[c]) for row in points])
                    for c in (name, f"{name}_low", f"{name}_high")
                )
                if sampler == "single path":
                    axes.axhline(value[0], color="black", linestyle="--", label=sampler)
                    axes.axhspan(low[0], high[0], color="black", alpha=0.08)
                    continue
                x = np.array([float(row["rollout_length"]) for row in points]) * 1.04 ** (i - 1)
                axes.errorbar(
                    x, value, np.abs([value - low, high - value]), marker="o", ms=4, capsize=2,
                    color=f"C{i}", label=sampler,
                )  # fmt: skip
            axes.axhline(0, color="gray", linewidth=0.6)
            axes.set_xscale("log")
            axes.set_xticks([12, 25, 50, 100], ["12", "25", "50", "100"], minor=False)
            axes.minorticks_off()
            axes.grid(alpha=0.3)
            if column == 0:
                axes.set_ylabel(label)
        grid[0, column].set_yscale("symlog", linthresh=0.1)
        grid[0, column].set_title(f"{game}, {policy}")
        grid[1, column].set_xlabel("decisions of a branch")
    canvas.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    canvas.supxlabel("bars and bands: 95% bootstrap intervals", fontsize=8)
    canvas.savefig(path, dpi=110)


def main(_):
    directory = cli.output_directory("results/vine")
    path = directory / "vine_information.csv"
    found = subjects(GAMES.value, directory.parent / "atari")
    done: dict[tuple, list[Mapping[str, Any]]] = {}
    if path.exists():
        done = tables.grouped(tables.read_csv(path), ("game", "policy"))
    missing = [subject for subject in found if subject[:2] not in done]
    machine = cluster.Cluster(cores=JOBS.value)
    try:
        for first in range(0, len(missing), JOBS.value):
            chosen = missing[first : first + JOBS.value]
            print(f"{', '.join(' '.join(subject[:2]) for subject in chosen)}: an hour", flush=True)
            sizes = BATCHES.value, DECISIONS.value
            for subject, rows in zip(
                chosen, machine.map(_measure, sizes, chosen, JOBS.value), strict=True
            ):
                done[subject[:2]] = rows
            every = [row for rows in done.values() for row in rows]
            files.write_text(path, tables.csv_text(COLUMNS, every))
    finally:
        machine.close()
    draw(tables.read_csv(path), directory / "vine_information.png")


if __name__ == "__main__":
    cli.run(main)
