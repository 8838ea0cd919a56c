"""Curves from CSV files: what is drawn, not how it looks."""

import numpy as np
import pytest

from trpo_repro.analysis import intervals, plots


def _write(directory, rows):
    directory.mkdir(parents=True)
    lines = [",".join(str(cell) for cell in row) for row in rows]
    text = "\n".join(["iteration,env_steps,return_mean", *lines]) + "\n"
    (directory / "metrics.csv").write_text(text)
    return directory


def test_mean_and_interval_over_seeds():
    """Five seeds of a constant each: the mean is exact, the interval inside their range."""
    curves = np.repeat(np.arange(5.0)[:, None], 3, axis=1)
    mean, low, high = intervals.across_seeds(curves, np.random.default_rng(0))
    np.testing.assert_array_equal(mean, 2.0)
    assert (low >= 0).all()
    assert (low < 2).all()
    assert (high > 2).all()
    assert (high <= 4).all()


def test_interval_covers_the_true_mean():
    """Of 10 normals a percentile interval covers less than its 95%: at least 80 of 100 columns."""
    curves = np.random.default_rng(0).standard_normal((10, 100))
    _, low, high = intervals.across_seeds(curves, np.random.default_rng(1))
    assert ((low <= 0) & (high >= 0)).mean() >= 0.8


def test_one_seed_has_no_interval_and_missing_values_are_left_out():
    _, low, _ = intervals.across_seeds(np.ones((1, 4)), np.random.default_rng(0))
    assert np.isnan(low).all()
    curves = np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]])
    mean, *_ = intervals.across_seeds(curves, np.random.default_rng(0))
    np.testing.assert_array_equal(mean, [2.0, 5.0, np.nan])


def test_bad_files_are_named(tmp_path):
    empty = _write(tmp_path / "empty", [])
    with pytest.raises(ValueError, match=r"empty/metrics\.csv has no rows"):
        plots.learning_curves({"t": {"a": [empty]}}, tmp_path / "x.png")
    full = _write(tmp_path / "full", [(1, 10, 2.0)])
    with pytest.raises(ValueError, match="has no column 'entropy'"):
        plots.learning_curves({"t": {"a": [full]}}, tmp_path / "x.png", y="entropy")
    assert not (tmp_path / "x.png").exists()


def test_runs_of_unequal_length_are_drawn_to_the_shortest(tmp_path):
    runs = [_write(tmp_path / str(n), [(i, 10 * i, float(i)) for i in range(1, n)]) for n in (4, 9)]
    out = tmp_path / "curves.png"
    plots.learning_curves({"one": {"a": runs}, "two": {"a": runs[:1]}}, out, x="env_steps")
    assert out.read_bytes().startswith(b"\x89PNG")
