"""Evaluations during a run: what they say, and that they change nothing."""

import dataclasses

import numpy as np
import pytest
from helpers import assert_equal, final

from trpo_repro import presets, runs
from trpo_repro.analysis import curves, tables
from trpo_repro.runs import evaluations

CONFIG = dataclasses.replace(
    presets.preset("gae", "InvertedPendulum-v5"),
    iterations=4,
    steps_per_iteration=256,
    path_length=64,
    seed=3,
)


def _read(directory):
    return tables.read_csv(directory / evaluations.FILE)


def test_rows_are_what_the_saved_policy_scores(tmp_path):
    runs.run(CONFIG, tmp_path, evaluate_at=(2, 4))
    rows = _read(tmp_path)
    assert [(row["iteration"], row["deterministic"]) for row in rows] == [
        ("2", "0"),
        ("2", "1"),
        ("4", "0"),
        ("4", "1"),
    ]
    steps = curves.read(tmp_path / "metrics.csv")["env_steps"]
    assert [float(row["env_steps"]) for row in rows[::2]] == [steps[1], steps[3]]
    _, environment, policy = runs.load(tmp_path)
    for row in rows[2:]:
        # Other episodes of the same policy: means of 400 and of 100 differ by their errors.
        played = policy.play(environment, 400, seed=9, deterministic=row["deterministic"] == "1")
        error = played.returns.std() * np.sqrt(1 / 400 + 1 / 100)
        assert abs(float(row["return_mean"]) - played.returns.mean()) < 4 * error
        # A reward of 1 a step, but for the last, at which the pendulum has fallen.
        assert float(row["episode_length"]) == pytest.approx(float(row["return_mean"]) + 1)
        assert float(row["return_min"]) <= float(row["return_mean"]) <= float(row["return_max"])


def test_they_change_nothing_of_the_run(tmp_path):
    plain = final(CONFIG, tmp_path / "plain")
    runs.run(CONFIG, tmp_path / "evaluated", evaluate_at=(1, 3))
    table = curves.read(tmp_path / "evaluated/metrics.csv")
    columns = {name: table[name] for name in plain[0]}
    arrays = runs.load_state(tmp_path / "evaluated").to_arrays()
    assert_equal(plain, (columns, arrays))


def test_a_resumed_run_makes_those_again_that_it_goes_back_behind(tmp_path):
    runs.run(CONFIG, tmp_path / "whole", evaluate_at=(1, 2, 4))
    runs.run(CONFIG, tmp_path / "part", stop_at=2, evaluate_at=(1, 2, 4))
    path = tmp_path / "part" / evaluations.FILE
    lost = path.read_text().splitlines()[-1].replace("2,", "3,", 1)
    path.write_text(path.read_text() + lost + "\n")  # of an iteration that was not saved
    runs.run(CONFIG, tmp_path / "part", resume=True, evaluate_at=(1, 2, 4))
    assert path.read_text() == (tmp_path / "whole" / evaluations.FILE).read_text()


def test_a_damaged_file_is_named(tmp_path):
    runs.run(CONFIG, tmp_path, stop_at=1, evaluate_at=(1,))
    (tmp_path / evaluations.FILE).write_text("iteration\n1\n")
    with pytest.raises(ValueError, match=r"evaluation\.csv is damaged"):
        runs.run(CONFIG, tmp_path, resume=True)


def test_a_replaced_run_has_nothing_of_the_old(tmp_path):
    """Nor its checkpoints, of which the old run has later ones: it is resumed as itself."""
    runs.run(CONFIG, tmp_path, evaluate_at=(1,))
    runs.run(CONFIG, tmp_path, replace=True, stop_at=2)
    assert not (tmp_path / evaluations.FILE).exists()
    assert runs.load_state(tmp_path).iteration == 2
    state = runs.run(CONFIG, tmp_path, resume=True)
    assert state.iteration == CONFIG.iterations
