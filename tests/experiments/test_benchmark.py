"""The benchmark: which published scores it compares, and its verdicts."""

import dataclasses
import pathlib

import numpy as np
import pytest
from helpers import assert_refused
from scipy import stats

from experiments import benchmark, configs, published_scores
from trpo_repro import presets
from trpo_repro.analysis import tables

RESULTS = pathlib.Path(__file__).parent.parent.parent / "results"
ROWS = tables.read_csv(RESULTS / published_scores.FILE)


def _row(source, env_id, budget):
    (row,) = (
        row
        for row in ROWS
        if row["source"].startswith(source)
        and row["env_id"] == env_id
        and row["timesteps_or_budget"].startswith(budget)
        and row["algorithm"].startswith("TRPO")
    )
    return row


def test_a_published_score_has_the_interval_that_its_spread_allows():
    found = published_scores.match(
        _row("tianshou MuJoCo benchmark raw curve", "Hopper-v3", "983,040")
    )
    assert (found.task, found.steps, found.rule) == ("Hopper-v5", 1_000_000, "sampled")
    row = _row("tianshou MuJoCo benchmark raw curve", "Hopper-v3", "983,040")
    # A deviation over 10 seeds; the quantile of Student's t with 9 degrees is of printed tables.
    half = 2.2622 * float(row["spread"]) / np.sqrt(10)
    assert found.mean.interval().high - found.mean.value == pytest.approx(half, rel=1e-4)
    one_agent = published_scores.match(_row("RL Baselines3 Zoo", "Hopper-v3", "1M"))
    assert one_agent.rule == "mode"
    assert one_agent.mean.size == 1  # the spread is over the episodes of one agent
    noted = published_scores.match(
        _row("nnabla-rl reproduction (TRPO+GAE), raw", "Hopper-v2", "1M")
    )
    # By its notes 3119.807, 220.152 and 3100.431: by hand a deviation of 1668.6; Student's quantile
    # with 2 degrees is of printed tables. The row's spread is over 30 episodes.
    half = 4.3027 * 1668.6 / np.sqrt(3)
    assert noted.mean.interval().high - noted.mean.value == pytest.approx(half, rel=1e-4)


@pytest.mark.parametrize(
    ("source", "env_id", "budget", "reason"),
    [
        ("tianshou MuJoCo benchmark raw", "Walker2d-v3", "983", "friction"),
        ("tianshou MuJoCo benchmark raw", "Ant-v3", "983", "contact forces"),
        ("tianshou MuJoCo benchmark raw", "Reacher-v2", "983", "after the step"),
        ("tianshou MuJoCo benchmark raw", "Swimmer-v3", "983", "another discount on Swimmer"),
        ("TD3 paper", "Hopper-v1", "1M", "the best of several"),
        ("PFRL", "Hopper-v2", "2M", "another number of steps"),
    ],
)
def test_scores_that_are_no_fair_match_say_why(source, env_id, budget, reason):
    assert reason in published_scores.match(_row(source, env_id, budget))


def test_every_published_row_is_compared_or_counted():
    everything = {
        (task, steps, rule): np.array([1.0, 2.0])
        for task in configs.MUJOCO_TASKS
        for steps in configs.EVALUATED_STEPS
        for rule in benchmark.RULES
    }
    compared, reasons = benchmark.compare(everything, RESULTS)
    assert len(compared) + reasons.total() == len(ROWS)
    assert len(compared) > 20
    nothing, reasons = benchmark.compare({}, RESULTS)
    assert nothing == []
    assert reasons["our runs are not finished"] == len(compared)


def test_verdicts_are_by_welchs_test():
    key = ("Hopper-v5", 1_000_000, "sampled")
    source = "tianshou MuJoCo benchmark raw curve"  # 2020, interval ± 788
    for ours, verdict in (
        ([3100.0, 3110.0, 3120.0], "above"),
        ([2600.0, 2650.0, 2750.0], "undecided"),
        ([2700.0, 2900.0, 3300.0], "above"),  # intervals that overlap, and differ all the same
        ([1000.0, 1010.0, 1020.0], "below"),
    ):
        compared, _ = benchmark.compare({key: np.array(ours)}, RESULTS)
        (row,) = (row for row in compared if row["source"] == source)
        assert row["verdict"] == verdict
        published = published_scores.match(_row(source, "Hopper-v3", "983,040")).mean
        p_value = stats.ttest_ind_from_stats(
            np.mean(ours), np.std(ours, ddof=1), len(ours),
            published.value, published.error * np.sqrt(published.size), published.size,
            equal_var=False,
        ).pvalue  # fmt: skip
        assert (p_value < 0.05) == (verdict != "undecided")


def test_a_single_number_is_compared_by_our_own_interval():
    key = ("Hopper-v5", 1_000_000, "mode")
    number = published_scores.match(_row("RL Baselines3 Zoo", "Hopper-v3", "1M")).mean.value
    for distance, verdict in ((13.0, "above"), (12.0, "undecided"), (-13.0, "below")):
        ours = number + distance + np.array([-1.0, 1.0])  # Student's reaches 12.7 to each side
        compared, _ = benchmark.compare({key: ours}, RESULTS)
        verdicts = [r["verdict"] for r in compared if r["source"].startswith("RL Baselines3 Zoo")]
        assert verdicts == [verdict]


def test_runs_of_a_million_steps_are_evaluated_where_they_are_scored():
    runs = benchmark.planned("medium", pathlib.Path("results"))
    assert len({run.name for run in runs}) == len(runs) == 8 * 5 + 6 * 3 + 9 * 3
    hopper = next(run for run in runs if run.name == "Hopper-v5/gae/seed_1")
    steps = [n * hopper.config.steps_per_iteration for n in hopper.evaluate_at]
    for asked, made in zip(configs.EVALUATED_STEPS, steps, strict=True):
        assert asked <= made < asked + hopper.config.steps_per_iteration
    assert hopper.evaluate_at[-1] == hopper.config.iterations
    swimmer = next(run for run in runs if run.name == "Swimmer-v5/gae/seed_1")
    assert swimmer.config.discount == 0.9999
    assert dataclasses.replace(
        swimmer.config, task="Reacher-v5", discount=presets.GAE.discount, seed=0
    ) == presets.preset("gae", "Reacher-v5")


def test_peers_run_in_their_own_environment():
    jobs = benchmark.planned_peers(pathlib.Path("results"))
    assert len(jobs) == 3 * len(configs.PEER_TASKS)
    assert all(job.python.endswith(".venv-peers/bin/python") for job in jobs)


def _write(directory, scores, **seconds):
    """Writes a metrics.csv of 2048 steps a row with these scores, and seconds a row."""
    directory.mkdir(parents=True)
    lines = ",".join(["iteration,env_steps,return_recent", *seconds])
    for i, score in enumerate(scores, start=1):
        times = (str(each(i) if callable(each) else each) for each in seconds.values())
        lines += "\n" + ",".join([f"{i},{2048 * i},{score}", *times])
    (directory / "metrics.csv").write_text(lines + "\n")


def test_the_peer_is_compared_by_score_and_by_seconds(tmp_path):
    """Ours rises by 7 a batch of half a second, the peer's by 5 in a second: 3423 and 3437 against
    2445 and 2455 at the end, of which the peer has 1225 when ours is done, after 244 s. Of two
    seeds Student's interval reaches to 12.706 times half of their distance."""
    runs = [
        run
        for run in benchmark.planned("medium", tmp_path)
        if run.name in ("Hopper-v5/gae/seed_1", "Hopper-v5/gae/seed_2")
    ]
    rows = np.arange(1, 490)
    for run, shift in zip(runs, (0, 14), strict=True):
        _write(run.directory, 7 * rows + shift, seconds_sampling=0.3, seconds_update=0.2)
    for seed, shift in ((1, 0), (2, 10)):
        directory = tmp_path / "benchmark" / benchmark.PEER / "Hopper-v5" / f"seed_{seed}"
        _write(directory, 5 * rows + shift, seconds=float)
    text = "\n".join(benchmark.section(runs, tmp_path))
    assert (
        "| Hopper-v5 | 3430 [3341, 3519] | 2450 [2386, 2514] | above | 244 | 489 | "
        "1225 [1161, 1289] |"
    ) in text
    assert "Hopper-v5 to 3000: ours 2 of 2 runs, after 214 seconds" in text
    assert "SB3-contrib's 0 of 2 runs, never" in text
    # 3423, 3437 in units of 2450, and every one above every one of the peer's.
    assert "interquartile mean 1.4 [1.4, 1.4] for ours and 1 [0.998, 1] for SB3-contrib's" in text
    assert "scores above one of SB3-contrib's is 1" in text
    assert "| ours | 1.00 | 1.00 | 1.00 | 1.00 |" in text
    assert "| SB3-contrib | 1.00 | 1.00 | 0.50 | 0.00 |" in text


def test_what_follows_a_million_steps_is_not_compared_with_the_peer(tmp_path):
    """Ours have 6 · 489 = 2934 at the end of the peer's million, and pass 3000 after it."""
    runs = [
        run
        for run in benchmark.planned("medium", tmp_path, "Hopper-v5/gae/*")
        if run.config.seed <= 2
    ]
    rows = np.arange(1, 1466)
    for run in runs:
        _write(run.directory, 6 * rows, seconds_sampling=0.3, seconds_update=0.2)
    for seed in (1, 2):
        directory = tmp_path / "benchmark" / benchmark.PEER / "Hopper-v5" / f"seed_{seed}"
        _write(directory, 5 * rows[:489], seconds=float)
    text = "\n".join(benchmark.section(runs, tmp_path))
    assert "| Hopper-v5 | 2934 [2934, 2934] | 2445 [2445, 2445] | above | 244 | 489 |" in text
    assert "Hopper-v5 to 3000: ours 0 of 2 runs, never" in text


def test_the_script_runs_draws_and_refuses(script, tmp_path):
    out = f"--out={tmp_path}"
    only = "--only=InvertedPendulum-v5/*"
    listed = script("benchmark", "--list", "--budget=smoke", only, out)
    assert "--preset=gae" in listed.stdout
    assert "--evaluate_at=1,2" in listed.stdout
    assert_refused(script("benchmark", "--plot", "--budget=smoke", out), "no runs of Gymnasium's")
    made = script("benchmark", "--run", "--plot", "--budget=smoke", only, out)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "gymnasium.png").exists()
    assert (tmp_path / "InvertedPendulum-v5/gae/seed_1/evaluation.csv").exists()
    assert_refused(script("benchmark", "--list", "--only=nothing", out), "--only=nothing matches")
