"""Settings: each is declared once, beside the code that reads it, with all that is known of it.

A group is a frozen dataclass whose fields are made by `setting`. `config.Config` inherits the
groups, and flags, help, checks, records and documentation follow from their fields.
"""

import dataclasses
import math
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar


def setting(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] = (),
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> Any:
    """Returns a dataclass field that says what it means and which values are allowed.

    Args:
      default: where a preset says nothing.
      help: meaning and unit, a phrase that stands alone.
      choices: the allowed values; any when empty.
      at_least: least allowed number.
      above: bound below all allowed numbers.
      at_most: largest allowed number.
      below: bound above all allowed numbers.
    """
    bounds = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    metadata = {"help": help, "choices": tuple(choices), "bounds": bounds}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Readers:
    """The runs that read a group of settings.

    Attributes:
      text: in words.
      include: configuration → whether its run is one of them.
    """

    text: str
    include: Callable[[Any], bool]

    def __str__(self) -> str:
        return self.text


ALL_RUNS = Readers("all runs", lambda config: True)
NOT_ATARI = Readers("tasks other than Atari games", lambda config: not config.is_atari)


def algorithms(*names: str) -> Readers:
    """Returns the runs of these algorithms."""
    text = f"algorithm={names[0]}" if len(names) == 1 else f"algorithms {' and '.join(names)}"
    return Readers(text, lambda config: config.algorithm in names)


def algorithms_other_than(*names: str) -> Readers:
    """Returns the runs of all other algorithms."""
    text = f"algorithms other than {' and '.join(names)}"
    return Readers(text, lambda config: config.algorithm not in names)


# Type of a field → the types of its values, and these in words.
KINDS: Mapping[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "True or False"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    float | None: ((int, float, types.NoneType), "a number or None"),
    str: ((str,), "a string"),
    tuple[int, ...]: ((tuple,), "a tuple of whole numbers"),
}
SAMPLED_ACTIONS = algorithms_other_than("cem", "cma")


class Group:
    """A group of settings.

    Attributes:
      title: heading of the group, in help and documentation.
      readers: the runs that read the group.
    """

    title: ClassVar[str]
    readers: ClassVar[Readers]

    def __init_subclass__(cls, title: str = "", readers: Readers = ALL_RUNS, **arguments: Any):
        super().__init_subclass__(**arguments)
        cls.title, cls.readers = title, readers

    @classmethod
    def own_fields(cls) -> list[dataclasses.Field]:
        """Returns the fields that the group itself declares."""
        return [field for field in dataclasses.fields(cls) if field.name in cls.__annotations__]  # type: ignore[arg-type]


def allowed(field: dataclasses.Field) -> str:
    """Returns the allowed values in words; nothing where any value is allowed."""
    if field.metadata["choices"]:
        return f"one of {', '.join(field.metadata['choices'])}"
    at_least, above, at_most, below = field.metadata["bounds"].values()
    if above is not None and below is not None:
        return f"between {above:g} and {below:g}, both excluded"
    if at_least is not None and below is not None:
        return f"in [{at_least:g}, {below:g})"
    if at_most is not None:
        return (
            f"in ({above:g}, {at_most:g}]"
            if at_least is None
            else f"in [{at_least:g}, {at_most:g}]"
        )
    if above is not None:
        return "positive and finite" if above == 0 else f"above {above:g} and finite"
    if at_least is not None:
        return f"at least {at_least:g}"
    return "finite" if "float" in str(field.type) else ""


def check(settings: Any) -> None:
    """Raises ValueError, one line, if a field of a dataclass has a value that is not allowed."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        kinds, words = KINDS[field.type]
        is_of_kind = isinstance(value, kinds) and isinstance(value, bool) == (field.type is bool)
        require(is_of_kind, field.name, repr(value), words)
        if field.metadata["choices"]:
            if value not in field.metadata["choices"]:
                known = ", ".join(field.metadata["choices"])
                raise ValueError(f"unknown {field.name} {value!r}; known: {known}")
        elif isinstance(value, int | float):
            is_number = not isinstance(value, float) or math.isfinite(value)
            if not (is_number and _within(value, field.metadata["bounds"])):
                require(False, field.name, value, allowed(field) if is_number else "finite")


def _within(value: float, bounds: Mapping[str, float | None]) -> bool:
    at_least, above, at_most, below = bounds.values()
    return (
        (at_least is None or value >= at_least)
        and (above is None or value > above)
        and (at_most is None or value <= at_most)
        and (below is None or value < below)
    )


def require(condition: bool, name: str, value: Any, must_be: str) -> None:
    """Raises ValueError, one line, unless the condition holds."""
    if not condition:
        raise ValueError(f"{name}={value} is not allowed: must be {must_be}")
