"""Verdicts follow the data, both ways, and none comes from missing data."""

import csv
import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest

from experiments import (
    atari,
    claims,
    common_random_numbers,
    configs,
    figure4,
    gradient_variance,
    kfac,
    published_scores,
    surrogate_variance,
)
from trpo_repro.analysis import tables, variances

ROOT = pathlib.Path(__file__).parent.parent.parent


def _write(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval=0)
        writer.writeheader()
        writer.writerows(rows)


def _theory(results, *, kl, change, violation):
    (results / "theory").mkdir(parents=True)
    method = {"first_max_kl": kl, "least_change_of_return": change}
    record = {"process": {"Algorithm 1 (eq. 10)": method}}
    (results / "theory" / "claims.json").write_text(json.dumps(record))
    rows = [{"equation": "eq. 8", "largest_violation": violation}]
    _write(results / "theory" / "violations.csv", ["equation", "largest_violation"], rows)


def _interval(name, value):
    return {name: value, f"{name}_low": 0.9 * value, f"{name}_high": 1.1 * value}


def _judge(results):
    return claims.judge(claims.Results(results))


def _verdict(results, name):
    return claims.judge(claims.Results(results), (name,))[name]


def test_no_data_no_verdict(tmp_path):
    for verdict in _judge(tmp_path).values():
        assert verdict.verdict == claims.UNKNOWN
        words = ("is missing", "0 of 3 seeds of", "0 of 500 iterations")
        assert any(word in verdict.estimate for word in words)


@pytest.mark.parametrize(
    ("numbers", "c8", "c11"),
    [
        ({"kl": 1e-6, "change": 0.0, "violation": 1e-13}, claims.HOLDS, claims.HOLDS),
        ({"kl": 5e-3, "change": 0.0, "violation": 1e-13}, claims.FAILS, claims.HOLDS),
        ({"kl": 1e-6, "change": -1e-3, "violation": 1e-13}, claims.HOLDS, claims.FAILS),
        ({"kl": 1e-6, "change": 0.0, "violation": 1e-3}, claims.HOLDS, claims.FAILS),
    ],
)
def test_theory_claims(tmp_path, numbers, c8, c11):
    _theory(tmp_path, **numbers)
    verdicts = _judge(tmp_path)
    assert (verdicts["C8"].verdict, verdicts["C11"].verdict) == (c8, c11)


@pytest.mark.parametrize(
    ("shared", "snr", "verdict"),
    [
        (1.0, 2.0, claims.HOLDS),
        (9.5, 2.0, claims.UNDECIDED),
        (20.0, 2.0, claims.FAILS),
        (1.0, 0.1, claims.FAILS),
    ],
)
def test_common_random_numbers_claim(tmp_path, shared, snr, verdict):
    rows = []
    for seconds in (0.01, 0.02):
        for common in (True, False):
            row = {"task": "t", "branch_seconds": 1, "seconds_per_step": seconds}
            row |= {"common_random_numbers": common, **_interval("variance", 10.0)}
            if common:
                row |= _interval("variance", shared)
            rows.append(row | _interval("snr", snr if seconds == 0.01 else 1.0))
    columns = common_random_numbers.COLUMNS
    _write(tmp_path / "vine" / "common_random_numbers.csv", columns, rows)
    assert _verdict(tmp_path, "C9").verdict == verdict


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(0.1, claims.HOLDS), (0.95, claims.UNDECIDED), (2.0, claims.FAILS)]
)
def test_surrogate_variance_claim(tmp_path, ratio, verdict):
    rows = [
        {"task": "t", "policy_iterations": 0, "estimator": name, **_interval("snr", 1.0)}
        for name in ("vine", "single path, same Q-values", "single path, same steps")
    ]
    rows[0] |= _interval("ratio", ratio)
    _write(tmp_path / "vine" / "surrogate_variance.csv", surrogate_variance.COLUMNS, rows)
    assert _verdict(tmp_path, "C10").verdict == verdict


@pytest.mark.parametrize(
    ("baseline", "verdict"), [(0.5, claims.HOLDS), (0.95, claims.UNDECIDED), (2.0, claims.FAILS)]
)
def test_gradient_variance_question(tmp_path, baseline, verdict):
    """Ratios to the estimator before, with intervals of ± 10%."""
    ratios = {"reward to go": 0.1, "state baseline": baseline, "control variate": 0.5}
    rows = [
        {"task": "t", "estimator": name, **_interval("variance", 10.0)}
        for name in variances.PathEstimators.NAMES
    ]
    for row in rows:
        row |= dict.fromkeys(("ratio", "ratio_low", "ratio_high"), "")
        if row["estimator"] in ratios:
            row |= _interval("ratio", ratios[row["estimator"]])
    path = tmp_path / "gradient_variance" / "gradient_variance.csv"
    _write(path, gradient_variance.COLUMNS, rows)
    assert _verdict(tmp_path, "Q4").verdict == verdict


# Final rewards per time step of the "medium" budget's curves, from an untrained 0, in a world
# where every claim holds.
WORLD = {
    "cartpole": dict.fromkeys(configs.FIGURE4["cartpole"], 9.5),
    "swimmer": dict.fromkeys(configs.FIGURE4["swimmer"], 0.1) | {"cem": 0.01, "cma": 0.01},
    "hopper": {"vine": 3.0, "single_path": 3.0, "natural_gradient": 0.9, "cem": 0.5, "rwr": 0.5},
    "walker": {"vine": 3.0, "single_path": 3.0, "natural_gradient": 0.9, "cem": 0.5, "rwr": 0.5},
}
for _task, _final in {"cartpole": 3.0, "swimmer": 0.05, "hopper": 0.5}.items():
    WORLD[_task]["vanilla_policy_gradient"] = _final


def _world(
    results,
    *,
    tasks=tuple(WORLD),
    algorithms=tuple(configs.ALGORITHMS),
    seeds=5,
    missing=(),
    finals=None,
    slow=(),
    falls=("truncated",),
    worth=1.0,
    best_at_edge=(),
):
    """Writes runs that rise linearly to their final value in half of the iterations.

    Args:
      results: directory.
      tasks: those that have runs.
      algorithms: those that have runs.
      seeds: of each setting.
      missing: settings without runs.
      finals: (task, algorithm) → final value, in place of WORLD's.
      slow: algorithms that need all of the iterations, besides max KL.
      falls: beginnings of the names of algorithms that lose all gain in one update.
      worth: what steps with K-FAC, or of few products, are worth on the larger tasks.
      best_at_edge: algorithms whose best setting is the first or last of the sweep.
    """
    rows = [
        {"task": task, "damping": damping, "products": k, **_interval("fresh_gain", worth)}
        for task in configs.KFAC_TASKS
        for damping, k in (("", 2), (0.01, 1))
    ]
    _write(results / "kfac" / "kfac.csv", kfac.COLUMNS, rows)
    for _ in range(2):  # the first round of sweeps decides the second
        for run in sorted(figure4.planned("medium", results), key=lambda run: run.wanted):
            if run.config.seed > seeds or run.task not in tasks or run.setting in missing:
                continue
            if run.algorithm not in algorithms:
                continue
            if run.done:
                continue
            task = WORLD[run.task]
            final = (finals or {}).get((run.task, run.algorithm), task.get(run.algorithm))
            final = task["single_path"] if final is None else final
            sweep = configs.ALGORITHMS[run.algorithm].sweep
            if sweep is not None:
                edge = getattr(run.config, sweep[0]) in (sweep[1][0], sweep[1][-1])
                final *= 1.0 if edge == (run.algorithm in best_at_edge) else 0.9
            count = run.config.iterations if run.task in ("hopper", "walker") else run.wanted
            rise = count if run.algorithm in ("max_kl", *slow) else count // 2
            curve = np.minimum(np.arange(count) / (0.85 * rise), 1) * final
            curve *= 1 + 0.01 * run.config.seed
            curve += 0.002 * final * np.random.default_rng(run.config.seed).standard_normal(count)
            if run.algorithm.startswith(tuple(falls)):
                curve[count // 2] = 0
            if task is WORLD["cartpole"]:
                curve = np.minimum(curve, 10)
            _write_curve(run, curve[: run.wanted])


def _write_curve(run, curve):
    lines = [f"{i},{i},{y}\n" for i, y in enumerate(curve, start=1)]
    run.directory.mkdir(parents=True, exist_ok=True)
    (run.directory / "metrics.csv").write_text(
        "iteration,env_steps,reward_per_step\n" + "".join(lines)
    )
    record = {"config": vars(run.config), "sessions": []}
    (run.directory / "config.json").write_text(json.dumps(record))


LEARNING = ("C1", "C2", "C3", "C4", "C5", "C6", "C7", "C13", "Q1", "Q2", "Q3", "Q5", "Q6")


def test_a_world_where_every_claim_holds(tmp_path):
    _world(tmp_path)
    verdicts = _judge(tmp_path)
    assert {name: verdicts[name].verdict for name in LEARNING} == dict.fromkeys(
        LEARNING, claims.HOLDS
    )


@pytest.mark.parametrize(
    ("claim", "changes"),
    [
        ("C1", {"finals": {("hopper", "single_path"): 0.5}}),
        ("C1", {"finals": {("swimmer", "cma"): 0.3}}),
        ("C2", {"finals": {("walker", "natural_gradient"): 2.0}}),
        ("C2", {"finals": {("cartpole", "natural_gradient"): 1.0}}),
        ("C3", {"finals": {("swimmer", "cem"): 0.3}}),
        ("C4", {"finals": {("cartpole", "max_kl"): 3.0}}),
        ("C5", {"finals": {("swimmer", "empirical_fim"): 0.03}}),
        ("C6", {"falls": ("truncated", "single_path")}),
        ("C7", {"finals": {("swimmer", "cg_20"): 0.2}}),
        ("C7", {"finals": {("swimmer", "cg_20"): 0.2}, "missing": ("fisher_1.0",)}),
        ("C13", {"finals": {("swimmer", "vanilla_policy_gradient"): 0.2}}),
        ("C13", {"finals": {("swimmer", "natural_gradient"): 0.2}}),
        ("Q1", {"finals": {("swimmer", "ppo"): 0.2}}),
        ("Q2", {"finals": {("swimmer", "adaptive_limit"): 0.2}}),
        ("Q3", {"finals": {("swimmer", "reversed_kl"): 0.05}}),
        ("Q5", {"finals": {("swimmer", "cg_2"): 0.05}}),
        ("Q5", {"worth": 0.6}),
        ("Q6", {"finals": {("swimmer", "kfac_1"): 0.05}}),
        ("Q6", {"worth": 0.6}),
    ],
)
def test_each_claim_can_fail(tmp_path, claim, changes):
    # C1 is judged by all of Figure 4, which is drawn by itself.
    tasks, algorithms = claims.CURVES.get(claim, (tuple(WORLD), tuple(configs.ALGORITHMS)))
    _world(tmp_path, **{"tasks": tasks, "algorithms": algorithms, **changes})
    assert _verdict(tmp_path, claim).verdict == claims.FAILS


def test_an_expensive_variant_that_is_slower_is_no_failure(tmp_path):
    """C7 says that the cheap setting costs nothing."""
    finals = {("swimmer", "cg_20"): 0.05, ("swimmer", "fisher_1.0"): 0.05}
    _world(tmp_path, tasks=configs.ABLATION_TASKS, algorithms=claims.CURVES["C7"][1], finals=finals)
    assert _verdict(tmp_path, "C7").verdict == claims.HOLDS


def test_no_faster_at_the_edge_of_a_sweep_is_no_verdict(tmp_path):
    tasks, algorithms = claims.CURVES["Q1"]
    _world(tmp_path, tasks=tasks, algorithms=algorithms, best_at_edge=("ppo",))
    verdict = _verdict(tmp_path, "Q1")
    assert verdict.verdict == claims.UNKNOWN
    assert "swimmer ppo: relative speed" in verdict.estimate
    assert verdict.estimate.count("(the edge of its sweep)") == 2
    faster = tmp_path / "faster"
    finals = {("swimmer", "ppo"): 0.2}
    _world(faster, tasks=tasks, algorithms=algorithms, best_at_edge=("ppo",), finals=finals)
    assert _verdict(faster, "Q1").verdict == claims.FAILS


@pytest.mark.parametrize("name", ["vanilla_policy_gradient", "natural_gradient"])
def test_a_gradient_at_the_edge_of_its_sweep_is_not_known_to_be_slower(tmp_path, name):
    tasks, algorithms = claims.CURVES["C13"]
    _world(tmp_path, tasks=tasks, algorithms=algorithms, best_at_edge=(name,))
    verdict = _verdict(tmp_path, "C13")
    assert verdict.verdict == claims.UNKNOWN
    assert verdict.estimate.count("(the edge of its sweep)") == len(tasks)


def test_an_incomplete_sweep_is_no_verdict(tmp_path):
    _world(tmp_path, missing=("natural_gradient_3",))
    for name in ("C1", "C2"):
        verdict = _verdict(tmp_path, name)
        assert verdict.verdict == claims.UNKNOWN
        assert "0 of 3 seeds of swimmer/natural_gradient_3 " in verdict.estimate
        assert "no finished sweep of hopper/natural_gradient " in verdict.estimate


def test_runs_without_a_fall_tell_nothing_of_the_line_search(tmp_path):
    _world(tmp_path, algorithms=claims.CURVES["C6"][1], falls=("nothing",))
    assert _verdict(tmp_path, "C6").verdict == claims.UNDECIDED


@pytest.mark.parametrize("task", configs.ABLATION_TASKS)
def test_one_task_can_show_what_happens_without_a_line_search(tmp_path, task):
    algorithms = claims.CURVES["C6"][1]
    _world(tmp_path, tasks=(task,), algorithms=algorithms)
    assert _verdict(tmp_path, "C6").verdict == claims.HOLDS
    other = tmp_path / "other"
    _world(other, tasks=(task,), algorithms=algorithms, falls=("nothing",))
    assert _verdict(other, "C6").verdict == claims.UNKNOWN


def test_no_gait_of_natural_gradient_says_nothing_where_trpo_has_none(tmp_path):
    finals = {(task, name): 0.5 for task in ("hopper", "walker") for name in WORLD[task]}
    _world(tmp_path, algorithms=claims.CURVES["C2"][1], finals=finals)
    assert _verdict(tmp_path, "C2").verdict == claims.UNKNOWN


def test_scattered_marks_are_no_verdict(tmp_path):
    """Cart-pole's seeds lie around the mark: neither solved nor not."""
    _world(tmp_path, finals={("cartpole", "single_path"): 8.75})
    assert _verdict(tmp_path, "C1").verdict == claims.UNDECIDED


def test_a_method_that_may_be_better_is_no_verdict(tmp_path):
    """CMA's seeds spread as widely as they would have to, to be better than TRPO by a fifth."""
    _world(tmp_path)
    for run in figure4.planned("medium", tmp_path, "swimmer/cma*"):
        if run.done:
            count = run.wanted
            _write_curve(run, np.linspace(0, 0.05 + 0.02 * run.config.seed, count))
    verdict = _verdict(tmp_path, "C1")
    assert (verdict.verdict, verdict.parts[claims.UNDECIDED]) == (claims.UNDECIDED, ["swimmer"])


def test_too_few_seeds_are_no_verdict(tmp_path):
    _world(tmp_path, seeds=claims.MIN_SEEDS - 1)
    for name, verdict in claims.judge(claims.Results(tmp_path), LEARNING).items():
        assert verdict.verdict == claims.UNKNOWN, name
        assert "2 of 3 seeds of" in verdict.estimate


def test_missing_tasks_leave_failures_and_no_success(tmp_path):
    """Without hopper and walker C1 cannot hold, and fails if it fails on what there is."""
    _world(tmp_path, tasks=("cartpole", "swimmer"))
    verdicts = _judge(tmp_path)
    assert verdicts["C1"].verdict == verdicts["C2"].verdict == claims.UNKNOWN
    assert verdicts["C5"].verdict == claims.HOLDS
    other = tmp_path / "other"
    _world(other, tasks=("cartpole", "swimmer"), finals={("swimmer", "vine"): -0.1})
    assert _verdict(other, "C1").verdict == claims.FAILS


@pytest.mark.parametrize(
    ("share", "games", "verdict"),
    [(0.6, 7, claims.HOLDS), (0.4, 7, claims.FAILS), (0.6, 6, claims.UNKNOWN)],
)
def test_atari_claim(tmp_path, share, games, verdict):
    shutil.copy(ROOT / "results" / published_scores.FILE, tmp_path)
    rows = {row["row"]: row for row in atari.published(tmp_path / published_scores.FILE)}
    runs = atari.planned("paper", tmp_path / "atari", "*/single_path/*")
    for run in runs[:games]:
        random, paper = (rows[name][run.task] for name in ("random", "paper, single path"))
        score = random + share * (paper - random)
        table = [{"iteration": i + 1, "return_recent": score} for i in range(500)]
        _write(run.directory / "metrics.csv", ["iteration", "return_recent"], table)
        record = {"config": dataclasses.asdict(run.config), "sessions": []}
        (run.directory / "config.json").write_text(json.dumps(record))
    assert _verdict(tmp_path, "C12").verdict == verdict


def test_a_table_of_fewer_tasks_is_no_verdict(tmp_path):
    _world(tmp_path, tasks=configs.ABLATION_TASKS, algorithms=claims.CURVES["Q6"][1])
    path = tmp_path / "kfac" / "kfac.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("pong")))
    verdict = _verdict(tmp_path, "Q6")
    assert verdict.verdict == claims.UNKNOWN
    assert "kfac.csv is missing pong" in verdict.estimate


def test_a_worth_without_a_meaning_is_no_verdict(tmp_path):
    _world(tmp_path, tasks=configs.ABLATION_TASKS, algorithms=claims.CURVES["Q6"][1])
    path = tmp_path / "kfac" / "kfac.csv"
    rows = tables.read_csv(path)
    for row in rows:
        if row["task"] == "pong":
            row |= dict.fromkeys(("fresh_gain", "fresh_gain_low", "fresh_gain_high"), "")
    _write(path, kfac.COLUMNS, rows)
    verdict = _verdict(tmp_path, "Q6")
    assert verdict.verdict == claims.UNKNOWN
    assert "ten products' worth is not above 0" in verdict.estimate


def test_a_sweep_is_judged_at_its_fastest_setting(tmp_path):
    """Where the fastest is not the best at the end, of two values of PPO's rate."""
    _world(tmp_path, tasks=("swimmer",), algorithms=("ppo", "single_path"))
    results = claims.Results(tmp_path)
    for run in results.planned("swimmer"):
        if run.setting == "ppo_0.001":
            curve = np.full(run.wanted, 0.099)
            curve[-5:] = 0.01
            _write_curve(run, curve)
    assert results.fastest("swimmer", "ppo") == (" at rate = 0.001", False)
    fastest, _ = results.pairs("swimmer", "ppo", "single_path", figure4.mean_over_iterations)
    assert fastest.mean() == pytest.approx(0.09, abs=0.002)
    assert {run.setting for run in results.runs("swimmer", "ppo")} != {"ppo_0.001"}
