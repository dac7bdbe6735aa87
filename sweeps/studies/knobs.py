"""The values that a study gives each knob: a few levels of what a method declares, its default always among them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from clcore import hyper
from clcore.errors import BadValue, UnknownName, UserError
from clcore.methods import METHODS
from clcore.quick import preferred
from clcore.training import Training
from sweeps.settings import Surroundings, declarations

#: What papers say their method is robust to (HAT, Fig. 4; HNET, Fig. A2), or what it is made by.
NAMED: dict[str, tuple[str, str]] = {
    "hat": ("smax", "c"),
    "tfm": ("p1", "growth"),
    "rmn": ("mu", "beta"),
    "supsup": ("density", "lr"),
    "hnet": ("beta_output", "chunk"),
    "hnet-r": ("replay_beta", "replay_share"),
}
#: What makes a method's network smaller (HAT, Fig. 7; HNET, Fig. 3b).
SHRINKING: dict[str, tuple[str, ...]] = {
    "hat": ("c",),
    "tfm": ("p1", "growth"),
    "rmn": ("lambda_l1",),
    "supsup": ("density",),
    "hnet": ("compression",),
}
#: A knob without grid, levels and range is varied by this factor to both sides (a learning rate).
_FACTOR = 10.0
MOST_LEVELS = 20


def named_knobs(method: str, asked: Sequence[str] | None) -> tuple[str, ...]:
    """The knobs of a robustness study.

    Args:
        method: a method's name or file.
        asked: what the user named; None: the method's own.

    Raises:
        UnknownName: no such method, hyperparameter or training setting.
        UserError: a method that none are named for.
        BadValue: one of them twice.
    """
    if asked is None:
        METHODS.get(method)
        if method not in NAMED:
            able = ", ".join(sorted(NAMED))
            raise UserError(f"{method} needs --knobs, e.g. --knobs {_example(method)}; knobs of their own have {able}.")
        return NAMED[method]
    known = [name for name, owner in declarations(method).items() if owner is not Surroundings]
    for name in asked:
        if name not in known:
            raise UnknownName(f"hyperparameter or training setting of {method}", name, known)
    if len(set(asked)) != len(asked):
        raise BadValue("--knobs", ",".join(asked), "different names")
    return tuple(asked)


def levels(method: str, name: str, count: int, assign: Mapping[str, str]) -> tuple[Any, ...]:
    """``count`` values of a knob in ascending order, its default (or the value of ``--set``) among them.

    They are taken evenly from the knob's grid (or its levels) where that has as many, otherwise from its range; a learning rate,
    which has none of them, is varied by a factor of ten to both sides.

    Raises:
        BadValue: a knob that is a truth value or a word and has fewer values, or too many are asked for.
    """
    declaration = declarations(method)[name]
    facts, (kind, _) = hyper.knobs(declaration)[name], hyper.field_type(declaration, name)
    default = starting_value(method, name, assign)
    if not 1 <= count <= MOST_LEVELS:
        raise BadValue("--cells", count, f"from 1 to {MOST_LEVELS} values of a knob")
    listed = facts.grid or facts.levels or ((False, True) if kind is bool else facts.choices)
    if len(listed) >= count:
        return picked(listed if default in listed else ordered([*listed, default]), count, default)
    if kind not in (int, float) or default is None:
        raise BadValue("--cells", count, f"at most {len(listed)} values of {name}")
    low, high, log = _range(facts, float(default))
    return _spread(low, high, log, count, default, kind)


def starting_value(method: str, name: str, assign: Mapping[str, str]) -> Any:
    """The value a person has who varies nothing: what ``--set`` says, the method's own preference, or the default."""
    declaration = declarations(method)[name]
    if name in assign:
        return hyper.convert(declaration, name, assign[name])
    usual = {**hyper.defaults(declaration), **preferred(method, Training)}
    return usual[name]


def cells_of(text: str, knobs: Sequence[str]) -> tuple[int, ...]:
    """How many levels each knob gets: ``4x4``, or ``5`` for all of them.

    Raises:
        BadValue: something else.
    """
    parts = text.lower().split("x")
    if not all(part.isascii() and part.isdigit() and int(part) for part in parts) or len(parts) not in (1, len(knobs)):
        raise BadValue("--cells", text, f"one number for each of {', '.join(knobs)}, e.g. {'x'.join('4' for _ in knobs)}")
    counts = [int(part) for part in parts]
    return tuple(counts * len(knobs) if len(counts) == 1 else counts)


def tuning_ranges(method: str, assign: Mapping[str, str]) -> dict[str, Any]:
    """What is tuned before methods are compared, as in a space file: all that a method declares ranges or grids for, and its rate.

    The learning rate within a factor of ten of the method's own (or of what ``--set`` says).
    """
    rate = float(starting_value(method, "lr", assign))
    found: dict[str, Any] = {"lr": {"low": rate / _FACTOR, "high": rate * _FACTOR, "log": True}}
    for name, facts in hyper.knobs(METHODS.get(method).Hyper).items():
        if name in assign:
            continue
        if facts.search is not None:
            found[name] = {"low": facts.search[0], "high": facts.search[1], "log": facts.log}
        elif facts.grid:
            found[name] = list(facts.grid)
    return found


def _example(method: str) -> str:
    declared = [name for name, facts in hyper.knobs(METHODS.get(method).Hyper).items() if facts.grid or facts.search]
    return ",".join([*declared, "lr"][:2])


def _range(facts: hyper.Knob, default: float) -> tuple[float, float, bool]:
    if facts.search is not None:
        return (*facts.search, facts.log and facts.search[0] > 0)
    if facts.levels:
        return facts.levels[0], facts.levels[-1], facts.levels[0] > 0
    if default <= 0:
        return 0.0, 1.0, False
    low, high = default / _FACTOR, default * _FACTOR
    return max(low, facts.low or 0.0), min(high, math.inf if facts.high is None else facts.high), True


def evenly(length: int, count: int) -> list[int]:
    """At most ``count`` places of a list of so many, evenly over it, ends included."""
    return sorted({round(i * (length - 1) / max(count - 1, 1)) for i in range(count)})


def picked(values: Sequence[Any], count: int, default: Any) -> tuple[Any, ...]:
    """Evenly from a list, ends included, the one nearest to the default replaced by it where it is in the list."""
    places = evenly(len(values), count)
    if default in values and (home := values.index(default)) not in places:
        places[min(range(len(places)), key=lambda i: abs(places[i] - home))] = home
    return ordered(values[place] for place in sorted(places))


def _spread(low: float, high: float, log: bool, count: int, default: Any, kind: type) -> tuple[Any, ...]:
    """Evenly over a range, on its scale, two digits each; the one nearest to the default is replaced by it."""
    steps = [i / max(count - 1, 1) for i in range(count)]
    points = [low * (high / low) ** step if log else low + (high - low) * step for step in steps]
    at = math.log(max(float(default), low)) if log else float(default)  # a default below a range of logarithms takes its lower end
    nearest = min(range(count), key=lambda i: abs((math.log(points[i]) if log else points[i]) - at))
    found = [kind(round(float(f"{point:.2g}"))) if kind is int else float(f"{point:.2g}") for point in points]
    found[nearest] = default
    return ordered(dict.fromkeys(found))


def ordered(values: Any) -> tuple[Any, ...]:
    """Numbers ascending; what is no number keeps its place, in front."""
    found = [*values]
    return tuple(v for v in found if not _number(v)) + tuple(sorted(v for v in found if _number(v)))


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
