"""Settings: what a declaration says is what is checked, shown and recorded."""

import dataclasses

import numpy as np
import pytest

from trpo_repro import config, settings
from trpo_repro.settings import Group, check, setting


@dataclasses.dataclass(frozen=True)
class _Example(Group, title="Example"):
    count: int = setting(3, "Count", at_least=1)
    rate: float = setting(0.5, "Rate", above=0, at_most=1)
    factor: float = setting(0.5, "Factor", above=0, below=1)
    share: float = setting(0.0, "Share", at_least=0, at_most=1)
    size: float = setting(1.0, "Size", above=0)
    anything: float = setting(0.0, "Any number")
    kind: str = setting("a", "Kind", choices=("a", "b"))
    target: float | None = setting(None, "Target")
    flag: bool = setting(True, "Flag")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, "count=0 is not allowed: must be at least 1"),
        ({"rate": 0.0}, r"rate=0.0 is not allowed: must be in \(0, 1\]"),
        ({"factor": 1.0}, "factor=1.0 is not allowed: must be between 0 and 1, both excluded"),
        ({"share": -0.1}, r"share=-0.1 is not allowed: must be in \[0, 1\]"),
        ({"size": 0.0}, "size=0.0 is not allowed: must be positive and finite"),
        ({"size": float("inf")}, "size=inf is not allowed: must be finite"),
        ({"anything": float("nan")}, "anything=nan is not allowed: must be finite"),
        ({"kind": "c"}, "unknown kind 'c'; known: a, b"),
        ({"target": float("nan")}, "target=nan is not allowed: must be finite"),
        ({"count": 3.0}, "count=3.0 is not allowed: must be a whole number"),
        ({"count": True}, "count=True is not allowed: must be a whole number"),
        ({"count": None}, "count=None is not allowed: must be a whole number"),
        ({"rate": "1"}, "rate='1' is not allowed: must be a number"),
        ({"target": "1"}, "target='1' is not allowed: must be a number or None"),
        ({"flag": "False"}, "flag='False' is not allowed: must be True or False"),
        ({"kind": 1}, "kind=1 is not allowed: must be a string"),
    ],
)
def test_what_is_not_allowed_is_one_line(changes, message):
    check(_Example())
    with pytest.raises(ValueError, match=message):
        check(_Example(**changes))


def test_every_setting_of_a_run_is_declared_once_and_explained():
    declared = [field.name for group in config.GROUPS for field in group.own_fields()]
    assert len(declared) == len(set(declared))
    assert set(declared) == {field.name for field in dataclasses.fields(config.Config)}
    for field in dataclasses.fields(config.Config):
        assert field.metadata["help"][0].isupper() or field.metadata["help"][0] in "λKNLTZ"
        assert not field.metadata["help"].endswith(".")
    assert all(group.title and group.readers for group in config.GROUPS)


def test_the_parts_take_the_numbers_of_the_run():
    made = config.Config(algorithm="trpo", kl_limit=0.5, cg_iterations=7)
    assert (made.method.kl_limit, made.method.cg_iterations) == (0.5, 7)
    search = config.Config(algorithm="cem", population=7, search_deviation=2.0).search
    assert (search.population, search.search_deviation) == (7, 2.0)
    unread = config.Config(algorithm="truncated_natural_gradient", adapt_kl_limit=True)
    assert not unread.method.adapt_kl_limit


def test_unused_settings_name_their_readers():
    unused = config.unused_settings(config.Config(algorithm="natural_gradient"))
    assert unused["kl_limit"] == "the algorithms with a KL limit"
    assert "step_size" not in unused
    algorithm = next(f for f in dataclasses.fields(config.Config) if f.name == "algorithm")
    assert settings.allowed(algorithm).startswith("one of trpo, max_kl")


def test_a_list_of_units_is_a_tuple_and_numpys_numbers_are_pythons():
    """So that configurations have hashes and records; both are what a user may write."""
    one = config.Config(hidden_sizes=[8], seed=np.int64(3), discount=np.float32(0.5))
    other = config.Config(hidden_sizes=(8,), seed=3, discount=0.5)
    assert one == other
    assert hash(one) == hash(other)
    assert (type(one.seed), type(one.discount)) == (int, float)
    assert type(config.Config(kl_limit=1).kl_limit) is float
    assert config.Config(hidden_sizes=np.array([8])) == config.Config(hidden_sizes=(8,))


@pytest.mark.parametrize(
    ("sizes", "allowed"),
    [
        ("64", "a tuple of whole numbers"),
        (64, "a tuple of whole numbers"),
        ((64.0,), "whole numbers from 1 to 10000"),
        ((0,), "whole numbers from 1 to 10000"),
    ],
)
def test_units_are_whole_numbers(sizes, allowed):
    with pytest.raises(ValueError, match=f"hidden_sizes=.* is not allowed: must be {allowed}"):
        config.Config(hidden_sizes=sizes)
