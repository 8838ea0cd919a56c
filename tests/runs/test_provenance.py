"""Provenance: the command and the revision that a run's record names."""

import shlex
import subprocess
import sys
import types

import pytest

from trpo_repro.runs import provenance


@pytest.mark.parametrize(
    ("script", "module", "expected"),
    [
        ("/somewhere/experiments/train.py", None, "python experiments/train.py --seed=1"),
        ("/somewhere/bin/trpo-train", None, "trpo-train --seed=1"),
        (
            "/somewhere/commands/train.py",
            "trpo_repro.commands.train",
            "python -m trpo_repro.commands.train --seed=1",
        ),
    ],
)
def test_the_command_can_be_given_again(script, module, expected, monkeypatch):
    spec = types.SimpleNamespace(name=module) if module else None
    monkeypatch.setitem(sys.modules, "__main__", types.SimpleNamespace(__spec__=spec))
    monkeypatch.setattr(sys, "argv", [script, "--seed=1"])
    assert provenance.describe_session(0, None)["command"] == expected


def test_another_repositorys_revision_is_not_ours(tmp_path, monkeypatch):
    """As where the package is installed in an environment inside a user's own repository."""
    package = tmp_path / "environment" / "trpo_repro" / "runs"
    package.mkdir(parents=True)
    for command in ("init -q", "-c user.name=a -c user.email=b commit -q --allow-empty -m c"):
        subprocess.run(["git", *shlex.split(command)], cwd=tmp_path, check=True)
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    assert provenance.describe_session(0, [])["git_revision"] == "unknown"
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "trpo_repro" / "runs" / "x.py"))
    assert len(provenance.describe_session(0, [])["git_revision"]) == 40
