"""From the declarations of hyperparameters, or a file, to the values a sweep tries."""

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clcore import hyper
from clcore.errors import BadValue, UnknownName, UserError
from clcore.methods import METHODS
from sweeps.settings import Settings, Surroundings, declarations

SEARCHES = ("grid", "random", "tpe", "nsga2")
BUILTIN = ("default", *SEARCHES)
#: Values of a grid's key that are written out.
LISTED = 12
#: Configurations of a sampled space where ``--trials`` says nothing.
DEFAULT_TRIALS = 20


@dataclass(frozen=True)
class Range:
    """A sampled hyperparameter: numbers from ``low`` to ``high``, or one of ``choices``."""

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Space:
    """What a sweep tries.

    Attributes:
        search: grid, random, tpe or nsga2.
        values: key -> values of the grid.
        ranges: key -> range, for the sampled ones.
    """

    search: str
    values: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    ranges: dict[str, Range] = field(default_factory=dict)

    def cells(self) -> list[dict[str, Any]]:
        """Every combination of the grid's values, the last key changing fastest."""
        return [dict(zip(self.values, cell, strict=True)) for cell in itertools.product(*self.values.values())]

    def configurations(self, trials: int | None) -> int:
        """How many are tried: all of a grid, otherwise as many as ``--trials`` says."""
        return len(self.cells()) if self.search == "grid" else trials or DEFAULT_TRIALS


def find_space(settings: Settings) -> Space:
    """The space that was asked for; keys that ``--set`` fixes are left out of the built-in ones.

    Raises:
        UnknownName: an unknown space, or an unknown key in a file.
        BadValue: a bad value in a file, or a sampled space of a method that has nothing to search.
    """
    if settings.space.endswith(".toml"):
        return _from_file(Path(settings.space), settings)
    if settings.space not in BUILTIN:
        raise UnknownName("space", settings.space, [*BUILTIN, "FILE.toml"])
    declaration = METHODS.get(settings.method).Hyper
    free = {name: facts for name, facts in hyper.knobs(declaration).items() if name not in settings.assign}
    if settings.space in ("default", "grid"):
        grids = {name: facts.grid for name, facts in free.items() if facts.grid and settings.space == "grid"}
        return Space("grid", values=grids)
    ranges = {name: found for name, facts in free.items() if (found := _range(declaration, name, facts))}
    if not ranges:
        raise BadValue("--space", settings.space, f"default, grid or a file here: {settings.method} has nothing to sample")
    return Space(settings.space, ranges=ranges)


def _range(declaration: type, name: str, facts: hyper.Knob) -> Range | None:
    kind, _ = hyper.field_type(declaration, name)
    if facts.search is not None:
        return Range(*facts.search, log=facts.log, whole=kind is int)
    return Range(choices=facts.grid) if facts.grid and kind is bool else None


def _from_file(path: Path, settings: Settings) -> Space:
    content = _read(path)
    if unknown := set(content) - {"search", "values", "ranges"}:
        raise UnknownName(f"entry of {path}", min(unknown), ("search", "values", "ranges"))
    search = content.get("search", "grid")
    if search not in SEARCHES:
        raise UnknownName(f"search of {path}", str(search), SEARCHES)
    wanted, other = ("values", "ranges") if search == "grid" else ("ranges", "values")
    section = content.get(wanted)
    if other in content or not isinstance(section, dict) or not section:
        raise UserError(f"{path}: search = {search!r} takes a non-empty section [{wanted}] and no [{other}].")
    declared = declarations(settings.method)
    owners = {k: o for k, o in declared.items() if o is not Surroundings}
    for key in section:
        if declared.get(key) is Surroundings:
            raise UserError(
                f"{path}: {key} belongs to benchmark and network, of which a sweep has one: --set {key}=VALUE, a sweep each."
            )
        if key not in owners:
            raise UnknownName(f"hyperparameter or setting in {path}", key, owners)
        if key in settings.assign:
            raise BadValue(f"--set {key}", settings.assign[key], f"left out, since {path} varies {key}")
    if search == "grid":
        return Space(search, values={key: _grid(owners[key], key, value, path) for key, value in section.items()})
    return Space(search, ranges={key: _file_range(owners[key], key, value, path) for key, value in section.items()})


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"space file {path} does not exist.") from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"space file {path} cannot be read: {error}") from None


def _grid(owner: type, key: str, values: Any, path: Path) -> tuple[Any, ...]:
    if not isinstance(values, list) or not values:
        raise BadValue(f"{key} in {path}", values, "a non-empty list of values")
    return tuple(dict.fromkeys(hyper.convert(owner, key, value) for value in values))


def _file_range(owner: type, key: str, value: Any, path: Path) -> Range:
    kind, _ = hyper.field_type(owner, key)
    if isinstance(value, list):
        return Range(choices=_grid(owner, key, value, path))
    if not isinstance(value, Mapping) or not {"low", "high"} <= set(value) <= {"low", "high", "log"}:
        raise BadValue(f"{key} in {path}", value, "a table {low = .., high = .., log = true|false} or a list of choices")
    if kind not in (int, float):
        raise BadValue(f"{key} in {path}", value, "a list of choices: it is not a number")
    low, high, log = hyper.convert(owner, key, value["low"]), hyper.convert(owner, key, value["high"]), value.get("log", False)
    if not low < high or not isinstance(log, bool) or (log and low <= 0):
        raise BadValue(f"{key} in {path}", dict(value), "low < high, and low > 0 where log = true")
    return Range(low, high, log=log, whole=kind is int)


def describe(space: Space) -> str:
    """One line: what varies and how."""
    if space.search == "grid":
        parts: Sequence[str] = [f"{key} {{{_listed(values)}}}" for key, values in space.values.items()]
        return " x ".join(parts) or "one configuration"
    return ", ".join(_range_text(key, r) for key, r in space.ranges.items())


def _listed(values: Sequence[Any]) -> str:
    """The values, or of very many the first and the last."""
    shown = [_text(value) for value in values]
    return ", ".join(shown if len(shown) <= LISTED else [*shown[: LISTED - 1], f"... ({len(shown)} values)", shown[-1]])


def _range_text(key: str, r: Range) -> str:
    return f"{key} in {{{', '.join(map(_text, r.choices))}}}" if r.choices else f"{key} in [{r.low:g}, {r.high:g}]{' log' * r.log}"


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value).lower()
