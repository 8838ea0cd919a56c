"""Atari's script on a real ROM with tiny settings: runs, figures, tables."""

import csv
import json
import pathlib

import numpy as np
import pytest
from helpers import assert_refused

from experiments import atari, configs

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("only", "count"),
    [("*/single_path/*", 1), pytest.param("*", 2, marks=pytest.mark.slow)],
)
def test_the_smoke_budget_end_to_end(script, tmp_path, only, count):
    arguments = ("--budget=smoke", "--jobs=2", f"--out={tmp_path}", "--run", f"--only={only}")
    result = script("atari", *arguments, "--plot")
    assert result.returncode == 0, result.stderr[-2000:]
    for x in ("iteration", "env_steps"):
        assert (tmp_path / f"figure5_{x}.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "table1.csv").open() as file:
        table = list(csv.DictReader(file))
    (ours,) = [
        row
        for row in table
        if row["row"] == "ours, single path" and row["score"] == "30 episodes of the final policy"
    ]
    assert ours["budget"] == "2 × 0.08K decisions, seed 1"
    record = json.loads((tmp_path / "breakout/single_path/seed_1/evaluation.json").read_text())
    assert len(record["scores"]) == 30
    assert float(ours["breakout"]) == round(np.mean(record["scores"]), 1)
    assert 0 < float(ours["breakout"]) < 4  # two iterations teach nothing
    assert (tmp_path / "breakout/single_path/seed_1/policy.npz").stat().st_size < 2**20
    runs = atari.planned("smoke", tmp_path, only)
    assert [run.done for run in runs] == [True] * count


def test_published_rows_are_the_papers(tmp_path):
    rows = {row["row"]: row for row in atari.published(ROOT / "results/published_baselines.csv")}
    assert rows["paper, single path"]["pong"] == 20.9
    assert rows["paper, vine"]["qbert"] == 7732.5
    assert rows["OpenAI baselines TRPO"]["enduro"] == pytest.approx(24.8, abs=0.05)
    for row in rows.values():
        assert set(configs.GAMES) <= set(row)


def test_human_normalization():
    rows = [
        {"row": "random", "pong": -20.0},
        {"row": "human", "pong": 0.0},
        {"row": "mine", "budget": "b", "score": "s", "pong": -15.0},
    ]
    assert atari.normalized(rows[2], rows)["pong"] == 25.0


def test_the_paper_budget_is_table_3():
    by_name = {run.name: run.config for run in atari.planned("paper", pathlib.Path())}
    assert len(by_name) == 14
    single, vine = by_name["enduro/single_path/seed_1"], by_name["enduro/vine/seed_1"]
    assert (single.iterations, single.steps_per_iteration) == (500, 100_000)
    assert vine.branch_steps + vine.trunks * vine.path_length == 400_000
    assert vine.proposal == "uniform"
    assert single.kl_limit == vine.kl_limit == 0.01
    assert single.damping == vine.damping == 0.1  # a departure


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plot", "--budget=paper", "--out=nowhere"], "no run of the budget is in nowhere"),
        (["--list", "--only=chess*"], "--only=chess* matches no run"),
        (["--run", "--seed=2"], "--seed is not a flag of this script, which has --budget, --jobs"),
        (["--list", "--resume"], "--resume is not a flag of this script"),
    ],
)
def test_bad_input_is_one_line(script, arguments, message):
    assert_refused(script("atari", *arguments), message)
