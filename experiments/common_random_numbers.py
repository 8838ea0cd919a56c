"""App. H: the variance of Q differences with and without common random numbers.

python experiments/common_random_numbers.py --out=results/vine

Branch pairs start from the same restored states with different first actions. The time step Δt
is swept at a fixed duration of the branches; discount per second is that of the task.
"""

import pathlib

import numpy as np
from absl import flags
from matplotlib import figure

import trpo_repro.commands.quiet  # noqa: F401, before what imports TensorFlow
from trpo_repro import environments, files, presets, training
from trpo_repro.analysis import intervals, tables, variances
from trpo_repro.commands import cli
from trpo_repro.environments import cartpole, mujoco
from trpo_repro.randomness import Key, Purpose
from trpo_repro.sampling import single_path, vine

flags.declare_key_flag("out")
STATES = flags.DEFINE_integer("crn_states", 100, "States that branches start from.", lower_bound=2)
REPEATS = flags.DEFINE_integer(
    "crn_repeats", 50, "Independent branch pairs from each state.", lower_bound=2
)
DISCOUNT = 0.99  # a step of the task's own duration

# Task: its own Δt in seconds, multiples of it in the sweep, durations of branches in seconds.
SWEEPS = {
    "swimmer": (0.04, (0.25, 0.5, 1.0, 2.0), (1.0, 2.0)),
    "cartpole": (0.02, (0.0625, 0.125, 0.25, 0.5, 1.0), (0.2, 0.4)),
}
COLUMNS = (
    "task", "seconds_per_step", "branch_seconds", "branch_steps", "common_random_numbers",
    "variance", "variance_low", "variance_high", "snr", "snr_low", "snr_high",
)  # fmt: skip


def make(task: str, multiple: float) -> environments.Environment:
    """Returns a task whose step lasts a multiple of its own."""
    if task == "cartpole":
        return cartpole.CartPole(time_step=multiple * cartpole.TIME_STEP, max_episode_steps=10**6)
    frame_skip = round(multiple * mujoco.TASKS[task].frame_skip)
    return mujoco.Mujoco(task, frame_skip=frame_skip, max_episode_steps=10**6)


def measure(task: str, states: int, repeats: int) -> list[dict]:
    """Returns the rows of the table for one task.

    States come from the task's own time step; the sweep restores the same states and first
    actions at every Δt.
    """
    own, multiples, durations = SWEEPS[task]
    trainer = training.Trainer(presets.PAPER[task], make(task, 1.0))
    policy, theta = trainer.policy, trainer.policy.network.initial_parameters()
    key = Key(0)
    generator = key.generator(Purpose.ROLLOUT_SET)
    keep = np.zeros((20, 50), bool)
    keep.flat[generator.choice(keep.size, states, replace=False)] = True
    _, _, kept = single_path.sample_trajectories(
        trainer.environment, policy, theta, key, steps=20, states=50, keep=keep
    )
    observations = trainer.environment.observe(kept).astype(np.float32)
    actions, _ = vine.propose(policy, theta, observations, 2, None, generator)
    rows = []
    for multiple in multiples:
        environment = make(task, multiple)
        for seconds in durations:
            length = round(seconds / (own * multiple))
            for common in (True, False):
                differences = variances.value_differences(
                    environment,
                    policy,
                    theta,
                    key,
                    kept,
                    actions,
                    repeats=repeats,
                    length=length,
                    discount=DISCOUNT**multiple,
                    common_random_numbers=common,
                )
                # Rewards are paid a step; their integral over time compares between Δt.
                differences = differences * multiple
                resampling = np.random.default_rng(0)
                variance = intervals.of_statistic(
                    variances.difference_variance, differences, resampling
                )
                snr = intervals.of_statistic(variances.signal_to_noise, differences, resampling)
                values = (task, own * multiple, seconds, length, common, *variance, *snr)
                rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def draw(rows: list[dict], path: pathlib.Path) -> None:
    """Draws variances and signal-to-noise ratios against Δt, a column of panels a task."""
    canvas = figure.Figure(figsize=(4.8 * len(SWEEPS), 7), layout="constrained")
    grid = canvas.subplots(2, len(SWEEPS), squeeze=False, sharex="col")
    for column, (task, (_, _, durations)) in enumerate(SWEEPS.items()):
        for name, axes in zip(("variance", "snr"), grid[:, column], strict=True):
            for common in (True, False):
                for seconds, marker in zip(durations, "os", strict=True):
                    chosen = [
                        row
                        for row in rows
                        if (row["task"], row["branch_seconds"], row["common_random_numbers"])
                        == (task, seconds, common)
                    ]
                    value, low, high = np.array(
                        [[row[f"{name}{end}"] for row in chosen] for end in ("", "_low", "_high")]
                    )
                    axes.errorbar(
                        [row["seconds_per_step"] for row in chosen],
                        value,
                        np.clip([value - low, high - value], 0, None),
                        color="C0" if common else "C3",
                        marker=marker,
                        linestyle="-" if common else "--",
                        capsize=3,
                        label=f"{'common' if common else 'independent'}, {seconds:g} s branches",
                    )
            steps = sorted({row["seconds_per_step"] for row in rows if row["task"] == task})
            axes.set_xscale("log")
            axes.set_xticks(steps, [f"{seconds:g}" for seconds in steps])
            axes.minorticks_off()
            axes.grid(alpha=0.3)
        grid[0, column].set(title=task, yscale="log", ylabel="variance of Q differences")
        grid[1, column].set(xlabel="time step Δt (s)", ylabel="signal-to-noise ratio")
        grid[0, column].legend(title="random numbers", fontsize="x-small", title_fontsize="x-small")
    canvas.supxlabel("bars: 95% bootstrap interval over states", fontsize=8)
    canvas.savefig(path, dpi=130)


def main(_):
    directory = cli.output_directory("results/vine")
    rows = [row for task in SWEEPS for row in measure(task, STATES.value, REPEATS.value)]
    files.write_text(directory / "common_random_numbers.csv", tables.csv_text(COLUMNS, rows))
    for row in rows:
        numbers = "common" if row["common_random_numbers"] else "independent"
        print(
            f"{row['task']:9} Δt {row['seconds_per_step']:.5f} s, "
            f"branch {row['branch_seconds']} s, {numbers:11}: variance "
            f"{row['variance']:.4g} [{row['variance_low']:.4g}, {row['variance_high']:.4g}], "
            f"SNR {row['snr']:.4g} [{row['snr_low']:.4g}, {row['snr_high']:.4g}]"
        )
    draw(rows, directory / "common_random_numbers.png")


if __name__ == "__main__":
    cli.run(main)
