"""The wheel: what is installed works away from the repository."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.slow
def test_the_wheel_trains_outside_of_the_repository(tmp_path):
    source, target = tmp_path / "source", tmp_path / "installed"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "trpo_repro", source / "trpo_repro", ignore=ignored)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *options, f"--wheel-dir={tmp_path}", source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"trpo_repro"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    subprocess.run([*pip, "install", *options, f"--target={target}", wheel], check=True)
    away = tmp_path / "away"
    away.mkdir()
    code = "import trpo_repro, sys; print(trpo_repro.__file__); trpo_repro.load"
    environment = {**os.environ, "PYTHONPATH": str(target)}
    run = {"cwd": away, "env": environment, "check": True, "capture_output": True, "text": True}
    where = subprocess.run([sys.executable, "-c", code], **run).stdout
    assert pathlib.Path(where.strip()).is_relative_to(target)
    small = ["--task=CartPole-v1", "--preset=gae", "--iterations=1", "--steps_per_iteration=256"]
    done = subprocess.run([target / "bin/trpo-train", *small, "--out=run"], **run)
    assert "run/policy.npz" in done.stdout
    helped = subprocess.run([target / "bin/trpo-train", "--help"], **run)
    assert helped.stdout.startswith("Trains one policy")
