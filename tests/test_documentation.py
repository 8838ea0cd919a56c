"""The programs in README.md and docs/ run as they stand."""

import pathlib
import re

import forked
import pytest

ROOT = pathlib.Path(__file__).parent.parent


def _programs(name):
    text = (ROOT / name).read_text()
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def _run(code, directory):
    (directory / "results").symlink_to(ROOT / "results")
    result = forked.run_code(directory, code)
    assert result.returncode == 0, result.stderr
    return result.stdout


PAGES = ("README.md", "WORKSPACE.md", "docs/environments.md", "docs/derivation.md")


@pytest.mark.parametrize("name", [*PAGES, "results/README.md"])
def test_links_lead_to_files(name):
    page = ROOT / name
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        assert link.startswith("https://") or (page.parent / link).exists(), link


@pytest.mark.parametrize("name", PAGES)
def test_results_that_commands_read_are_there(name):
    text = "\n".join(
        re.findall(r"```(?:sh|python)\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
    )
    for path in re.findall(r"results/[\w./-]+", text):
        assert (ROOT / path).exists(), path


def test_what_the_derivation_names_is_there():
    """Functions, classes and tests in code font; flags and files are checked elsewhere."""
    names = set(re.findall(r"`([A-Za-z_]\w+)`", (ROOT / "docs/derivation.md").read_text()))
    code = "\n".join(
        path.read_text() for room in ("trpo_repro", "tests") for path in (ROOT / room).rglob("*.py")
    )
    defined = set(re.findall(r"^\s*(?:def|class) (\w+)", code, re.MULTILINE))
    assert names - defined == {"METHODS", "improvement_ratio", "cg_residual"}


def test_readme_trains_loads_and_acts(tmp_path):
    """20 iterations of 2000 steps; the last line are the returns of ten episodes of 500 at most."""
    train, branches = _programs("README.md")
    last = _run(train, tmp_path).splitlines()[-1]
    returns = [float(number) for number in last.strip("[]").split()]
    assert len(returns) == 10
    assert sum(returns) / 10 > 60  # untrained: about 22
    (tmp_path / "again").mkdir()
    assert _run(branches, tmp_path / "again").startswith("(10, 4) 4000")


@pytest.mark.parametrize("sampler", [pytest.param("single_path", marks=pytest.mark.slow), "vine"])
def test_the_documented_class_trains(tmp_path, sampler):
    gymnasium_class, batch_class, _ = _programs("docs/environments.md")
    (tmp_path / "my_package.py").write_text(gymnasium_class)
    (tmp_path / "my_batches.py").write_text(batch_class)
    settings = "iterations=2, path_length=50, hidden_sizes=(), steps_per_iteration=400"
    if sampler == "vine":
        settings += ", sampler='vine', trunks=4, rollout_states=8, rollout_length=5"
    check = f"""
import trpo_repro
for task in ("my_package:Line-v0", "my_batches.Line"):
    config = trpo_repro.Config(task=task, {settings})
    trpo_repro.train(config, task, stop_at=1)
    trpo_repro.train(config, task, resume=True)
    _, environment, policy = trpo_repro.load(task)
    print(policy.iteration, *policy.play(environment, 3).lengths)
"""
    assert _run(check, tmp_path).splitlines() == ["2 50 50 50"] * 2


def test_the_documented_planner_branches(tmp_path):
    """The best of three futures of 8 hoppers, 20 steps each or until they fell."""
    *_, planner = _programs("docs/environments.md")
    best = [float(number) for number in _run(planner, tmp_path).strip("[]\n").split()]
    assert len(best) == 8
    assert all(0 < value < 100 for value in best)
