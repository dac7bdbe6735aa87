"""Hyperparameters declared once: the same declaration feeds the command line, the search spaces and the record.

A set of hyperparameters is a frozen dataclass whose fields are made by :func:`knob`.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from clcore.errors import BadValue, UnknownName


@dataclasses.dataclass(frozen=True)
class Knob:
    """What is known about one hyperparameter besides its name, type and default.

    Attributes:
        help: what it does, in one line.
        low: lowest allowed value.
        high: highest allowed value.
        choices: allowed values of a categorical one.
        unit: unit of the value, where it has one.
        source: paper and equation, or who resolved it.
        packed: whether members of one pack may differ in it (it then reaches the method as a tensor).
        grid: its values in ``--space grid``; empty where the grid leaves it at its default.
        search: (low, high) of the sampled spaces; None where they leave it at its default.
        log: whether it is sampled on a logarithmic scale.
        levels: values that a study of it takes where it has neither grid nor search: most people never vary it.
    """

    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    unit: str = ""
    source: str = ""
    packed: bool = False
    grid: tuple[Any, ...] = ()
    search: tuple[float, float] | None = None
    log: bool = False
    levels: tuple[Any, ...] = ()

    def allowed(self, kind: type) -> str:
        """The allowed values in words."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if kind is bool:
            return "true or false"
        noun = {int: "a whole number", float: "a number"}.get(kind, "text")
        if self.low is not None and self.high is not None:
            return f"{noun} from {self.low:g} to {self.high:g}"
        if self.low is not None:
            return f"{noun} of at least {self.low:g}"
        return noun


def knob(default: Any, help: str, **facts: Any) -> Any:
    """A dataclass field that carries a :class:`Knob`.

    Args:
        default: the value where the user says nothing.
        help: what it does, in one line.
        facts: the other attributes of :class:`Knob`.
    """
    return dataclasses.field(default=default, metadata={"knob": Knob(help=help, **facts)})


def knobs(declaration: type) -> dict[str, Knob]:
    """Name -> knob of every field of a hyperparameter dataclass, in order."""
    return {f.name: f.metadata["knob"] for f in dataclasses.fields(declaration)}


def defaults(declaration: type) -> dict[str, Any]:
    """Name -> default value of every field."""
    return {f.name: f.default for f in dataclasses.fields(declaration)}


def field_type(declaration: type, name: str) -> tuple[type, bool]:
    """The plain type of a field and whether it may be None."""
    hint = typing.get_type_hints(declaration)[name]
    if isinstance(hint, types.UnionType):
        plain = [t for t in typing.get_args(hint) if t is not types.NoneType]
        return plain[0], True
    return hint, False


def convert(declaration: type, name: str, value: Any) -> Any:
    """One value, typed and checked.

    Args:
        declaration: the hyperparameter dataclass.
        name: one of its fields.
        value: text from the command line, or a value of the right type.

    Raises:
        UnknownName: no such field.
        BadValue: wrong type, out of range, or not finite.
    """
    facts = knobs(declaration)
    if name not in facts:
        raise UnknownName("hyperparameter or setting", name, facts)
    kind, optional = field_type(declaration, name)
    if optional and (value is None or str(value).lower() == "none"):
        return None
    allowed = facts[name].allowed(kind)
    try:
        result = _typed(kind, value)
    except (ValueError, TypeError, OverflowError):
        raise BadValue(name, value, allowed) from None
    if not _within(facts[name], result):
        raise BadValue(name, value, allowed)
    return result


def build(declaration: type, values: Mapping[str, Any]) -> Any:
    """An instance of ``declaration`` with ``values`` in place of the defaults, each checked by :func:`convert`."""
    return declaration(**{name: convert(declaration, name, value) for name, value in values.items()})


def packed_names(declaration: type) -> Sequence[str]:
    """Names of the fields in which members of a pack may differ."""
    return [name for name, facts in knobs(declaration).items() if facts.packed]


def _typed(kind: type, value: Any) -> Any:
    if kind is bool:
        text = str(value).lower()
        if text not in ("true", "false", "1", "0", "yes", "no", "1.0", "0.0"):
            raise ValueError(text)
        return text in ("true", "1", "yes", "1.0")
    if kind is int:
        number = float(value)
        if isinstance(value, bool) or number != int(number):
            raise ValueError(value)
        return int(number)
    if kind is float:
        if isinstance(value, bool):
            raise ValueError(value)
        return float(value)
    return str(value)


def _within(facts: Knob, value: Any) -> bool:
    if facts.choices:
        return value in facts.choices
    if isinstance(value, bool | str):
        return True
    if not math.isfinite(value):
        return False
    return (facts.low is None or value >= facts.low) and (facts.high is None or value <= facts.high)
