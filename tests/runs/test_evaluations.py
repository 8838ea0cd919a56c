"""Evaluations during a run: what they say, and that they change nothing."""

import dataclasses
import shutil

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


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A run with evaluations."""
    directory = tmp_path_factory.mktemp("evaluated")
    runs.run(CONFIG, directory, evaluate_at=(1, 2, 4))
    return directory


def _read(directory):
    return tables.read_csv(directory / evaluations.FILE)


def test_rows_are_what_the_saved_policy_scores(evaluated):
    rows = _read(evaluated)
    assert [(row["iteration"], row["deterministic"]) for row in rows] == [
        ("1", "0"),
        ("1", "1"),
        ("2", "0"),
        ("2", "1"),
        ("4", "0"),
        ("4", "1"),
    ]
    steps = curves.read(evaluated / "metrics.csv")["env_steps"]
    assert [float(row["env_steps"]) for row in rows[::2]] == [steps[0], steps[1], steps[3]]
    _, environment, policy = runs.load(evaluated)
    for row in rows[4:]:
        # Other episodes of the same policy: means of 400 and of 100 differ by their errors.
        played = policy.play(environment, 400, seed=9, deterministic=row["deterministic"] == "1")
        error = played.returns.std() * np.sqrt(1 / 400 + 1 / 100)
        assert abs(float(row["return_mean"]) - played.returns.mean()) < 4 * error
        # A reward of 1 a step, but for the last, at which the pendulum has fallen.
        assert float(row["episode_length"]) == pytest.approx(float(row["return_mean"]) + 1)
        assert float(row["return_min"]) <= float(row["return_mean"]) <= float(row["return_max"])


def test_they_change_nothing_of_the_run(tmp_path, evaluated):
    plain = final(CONFIG, tmp_path)
    table = curves.read(evaluated / "metrics.csv")
    columns = {name: table[name] for name in plain[0]}
    arrays = runs.load_state(evaluated).to_arrays()
    assert_equal(plain, (columns, arrays))


def test_a_resumed_run_makes_those_again_that_it_goes_back_behind(tmp_path, evaluated):
    runs.run(CONFIG, tmp_path, stop_at=2, evaluate_at=(1, 2, 4))
    path = tmp_path / evaluations.FILE
    lost = path.read_text().splitlines()[-1].replace("2,", "3,", 1)
    path.write_text(path.read_text() + lost + "\n")  # of an iteration that was not saved
    runs.run(CONFIG, tmp_path, resume=True, evaluate_at=(1, 2, 4))
    assert path.read_text() == (evaluated / evaluations.FILE).read_text()


def test_an_iteration_that_is_past_is_refused(tmp_path, evaluated):
    shutil.copytree(evaluated, tmp_path, dirs_exist_ok=True)
    longer = dataclasses.replace(CONFIG, iterations=5)
    with pytest.raises(ValueError, match="evaluate_at=3 is not allowed: the run is past it, at 4"):
        runs.run(longer, tmp_path, resume=True, evaluate_at=(1, 3, 5))
    assert (tmp_path / "config.json").read_text() == (evaluated / "config.json").read_text()


def test_a_damaged_file_is_named(tmp_path, evaluated):
    shutil.copytree(evaluated, tmp_path, dirs_exist_ok=True)
    (tmp_path / evaluations.FILE).write_text("iteration\n1\n")
    with pytest.raises(ValueError, match=r"evaluation\.csv is damaged"):
        runs.run(dataclasses.replace(CONFIG, iterations=5), tmp_path, resume=True)


def test_a_replaced_run_has_nothing_of_the_old(tmp_path, evaluated):
    """Nor its checkpoints, of which the old run has later ones: it is resumed as itself."""
    shutil.copytree(evaluated, tmp_path, dirs_exist_ok=True)
    runs.run(CONFIG, tmp_path, replace=True, stop_at=1)
    assert not (tmp_path / evaluations.FILE).exists()
    assert runs.load_state(tmp_path).iteration == 1
    assert runs.run(CONFIG, tmp_path, resume=True, stop_at=2).iteration == 2
