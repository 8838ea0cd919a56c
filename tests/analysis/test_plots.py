"""Curves from CSV files: what is drawn, not how it looks."""

import pytest

from trpo_repro.analysis import plots


def _write(directory, rows):
    directory.mkdir(parents=True)
    lines = [",".join(str(cell) for cell in row) for row in rows]
    text = "\n".join(["iteration,env_steps,return_mean", *lines]) + "\n"
    (directory / "metrics.csv").write_text(text)
    return directory


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
