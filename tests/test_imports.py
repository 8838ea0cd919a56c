"""Imports run one way."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "trpo_repro"

# Each module or package may import what stands in its own entry, and itself.
ALLOWED = {
    "settings": set(),
    "files": set(),
    "cluster": set(),
    "randomness": set(),
    "signals": set(),
    "theory": set(),
    "optimization": {"settings"},
    "environments": {"settings"},
    "policies": {"settings"},
    "sampling": {"cluster", "environments", "policies", "randomness", "settings"},
    "estimation": {"optimization", "policies", "sampling", "settings"},
    "algorithms": {"estimation", "optimization", "policies", "settings"},
    "config": {
        "algorithms",
        "environments",
        "estimation",
        "optimization",
        "policies",
        "sampling",
        "settings",
    },
    "training": {
        "algorithms",
        "config",
        "environments",
        "estimation",
        "optimization",
        "policies",
        "randomness",
        "sampling",
        "settings",
    },
    "runs": {
        "config",
        "environments",
        "files",
        "policies",
        "randomness",
        "sampling",
        "signals",
        "training",
    },
    "presets": {"config", "environments"},
    "commands": {"analysis", "cluster", "config", "presets", "runs", "settings", "signals"},
    "analysis": {"environments", "estimation", "policies", "randomness", "sampling"},
}


def _imports(path):
    """Returns the top-level members of trpo_repro that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            raise AssertionError(f"{path}: relative import")
        else:
            continue
        found |= {n.split(".")[1] for n in names if n.startswith("trpo_repro.")}
        assert not any(n.split(".")[0] in ("experiments", "tests") for n in names), path
    return found


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_member_imports_only_what_it_may(name):
    path = PACKAGE / name
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    for file in files:
        extra = _imports(file) - ALLOWED[name] - {name}
        assert not extra, f"{file.relative_to(PACKAGE)} may not import {sorted(extra)}"


def test_every_member_has_a_rule():
    members = {path.stem for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert members - {"__init__"} == set(ALLOWED)


def test_the_numpy_side_does_not_import_tensorflow():
    for name in ("environments", "theory", "files.py", "analysis/curves.py", "analysis/plots.py"):
        path = PACKAGE / name
        for file in path.rglob("*.py") if path.is_dir() else [path]:
            assert "import tensorflow" not in file.read_text(), file
