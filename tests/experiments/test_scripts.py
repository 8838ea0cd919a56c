"""The other scripts, end to end on small settings: what they write, and that it reads back."""

import csv
import dataclasses
import json
import pathlib
import sys

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import flagsaver
from helpers import assert_refused

from experiments import common_random_numbers, kfac, surrogate_variance, swimmer_study, theory
from trpo_repro import presets, training


def _rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def _is_figure(path):
    return path.read_bytes().startswith(b"\x89PNG")


def test_theory_writes_figures_tables_and_what_claims_rest_on(tmp_path):
    with flagsaver.flagsaver(out=str(tmp_path), pairs=30, theory_iterations=4):
        theory.main([])
    for name in ("returns", "bounds", "gradient_fields", "constraints"):
        assert _is_figure(tmp_path / f"{name}.png")
    assert all(float(row["largest_violation"]) < 1e-9 for row in _rows(tmp_path / "violations.csv"))
    for methods in json.loads((tmp_path / "claims.json").read_text()).values():
        assert methods["Algorithm 1 (eq. 10)"]["least_change_of_return"] > 0
        assert methods["Algorithm 1 (eq. 10)"]["first_max_kl"] < 1e-3


def test_common_random_numbers_writes_table_and_figure(tmp_path, monkeypatch):
    sweeps = {"cartpole": (0.02, (0.5, 1.0), (0.1, 0.2))}
    monkeypatch.setattr(common_random_numbers, "SWEEPS", sweeps)
    with flagsaver.flagsaver(out=str(tmp_path), crn_states=8, crn_repeats=4):
        common_random_numbers.main([])
    assert len(_rows(tmp_path / "common_random_numbers.csv")) == 8
    assert _is_figure(tmp_path / "common_random_numbers.png")


def test_surrogate_variance_writes_table_and_figure(tmp_path, monkeypatch):
    measure = surrogate_variance.measure
    sizes = {"trunks": 2, "path_length": 50, "rollout_states": 5, "rollout_length": 5}
    monkeypatch.setattr(
        surrogate_variance,
        "measure",
        lambda task, gradients, iterations: measure("cartpole", gradients, iterations, **sizes),
    )
    with flagsaver.flagsaver(out=str(tmp_path), gradients=6, trained=[0]):
        surrogate_variance.main([])
    assert len(_rows(tmp_path / "surrogate_variance.csv")) == 6
    assert _is_figure(tmp_path / "surrogate_variance.png")


RUN = "results/swimmer/vine/seed_1"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("theory", ["--pairs=0"], "pairs"),
        ("theory", ["--out=/dev/null/theory"], "--out=/dev/null/theory cannot be written"),
        ("theory", ["--out="], "give the name of a file or directory"),
        ("common_random_numbers", ["--crn_repeats=1"], "crn_repeats"),
        ("surrogate_variance", ["--gradients=2"], "gradients"),
        ("bench", ["--memory_of=Hopper-v5"], "must be TASK:STEPS"),
        ("bench", ["--memory_of=pong:1000"], "must be a divisor of the 1 paths"),
        ("bench", ["--peer_python=nowhere"], "--peer_python=nowhere is no program"),
        ("bench", ["--section=atari", f"--peer_python={sys.executable}"], "not allowed without"),
        ("evaluate", ["--out=x"], "--out is not a flag of this script, which has --deterministic"),
        ("reproduce", ["--list", "--only=x"], "--only is not a flag of this script"),
        ("tune", ["--seeds=a"], "--seeds=a is not allowed: must be like 11,12"),
        ("tune", ["--tasks=hoper"], "unknown task 'hoper'"),
        ("tune", ["--tasks=pong"], "preset=gae is not allowed with Atari games"),
        ("claims", ["--results=nowhere"], "--results=nowhere is no directory"),
        ("plot", ["--out=curves/", f"--runs=a/b={RUN}"], "must end in .png, .pdf, .svg"),
        ("plot", ["--out=curves", f"--runs=a/b={RUN}"], "must end in .png, .pdf, .svg"),
        ("plot", ["--out=c.png", "--y=outcome", f"--runs=a/b={RUN}"], "is not of numbers"),
        (
            "plot",
            ["--out=c.png", f"--runs=a/b={RUN}", f"--runs=a/b={RUN}"],
            "panel 'a' has a curve 'b' already",
        ),
        (
            "plot",
            ["--out=c.png", "--runs=a/b=results/*/single_path/seed_1"],
            "its runs are of several tasks",
        ),
    ],
)
def test_bad_input_is_one_line(script, name, arguments, message):
    assert_refused(script(name, *arguments), message)


def test_bench_measures_memory(script):
    measured = script("bench", "--memory_of=Hopper-v5:1000")
    assert int(measured.stdout) > 2**28  # TensorFlow alone


def test_policies_of_the_swimmer_study_are_judged_once(tmp_path, monkeypatch):
    """With the committed table there is nothing to judge; a policy that it lacks is judged."""
    study = pathlib.Path("results/swimmer_study")
    chosen = swimmer_study.planned("medium", study, "swimmer/cem/*")
    head, *rows = (study / "judged.csv").read_text().splitlines(keepends=True)
    ours = [row for row in rows if row.startswith("center of mass,cem,")]
    assert len(ours) == 6  # 3 seeds by 2 rewards
    (tmp_path / "judged.csv").write_text("".join([head, *ours[1:]]))
    asked = []
    monkeypatch.setattr(swimmer_study, "judged", lambda run, task: asked.append(task) or 0.125)
    swimmer_study.plot(chosen, tmp_path)
    assert asked == ["swimmer_root_joint"]
    written = (tmp_path / "judged.csv").read_text().splitlines(keepends=True)
    assert written[2:] == ours[1:]
    assert written[1].endswith("root joint,0.125\n")


def test_kfacs_gain_is_the_improvement_at_the_kl_limit():
    """By the KL itself along a short direction, in which it is quadratic, on a policy whose run is
    damped: 2% for what is left of the third order, at a KL of 1e-5."""
    config = dataclasses.replace(presets.PAPER["cartpole"], damping=0.1, steps_per_iteration=2000)
    trainer = training.Trainer(config)
    theta = trainer.initial_state().theta
    steps = kfac.Steps(kfac.Subject(config, trainer.environment, trainer.policy, theta, 0))
    batch = steps.batch(1, config.steps_per_iteration)
    x, _ = steps.direction(batch, None, 3)
    network, family = trainer.policy.network, trainer.policy.family

    def mean_kl(scale):
        old, new = (network(at, batch.states) for at in (theta, theta + scale * x))
        return float(tf.reduce_mean(family.kl(old, new)))

    scale = 1e-3
    scale *= np.sqrt(1e-5 / mean_kl(scale))
    scale *= np.sqrt(1e-5 / mean_kl(scale))
    improvement = scale * float(tf.tensordot(batch.gradient, x, 1)) / np.sqrt(2 * mean_kl(scale))
    assert steps.gain([batch.gradient], batch.states, x)[0] == pytest.approx(improvement, rel=0.02)
