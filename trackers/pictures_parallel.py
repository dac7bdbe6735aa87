"""Parallel coordinates: every configuration as a line through its values to its validation accuracy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackers import pictures_kit as kit
from trackers.labels import show
from trackers.summary import Configuration

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_AXES = 10  # what varies beyond it is left out
MOST_LINES = 500  # the best
#: A positive range whose ends differ by more than this factor is looked at by its logarithm.
LOG_FACTOR = 30.0
_TICKS = 6  # values of a key up to which each is named
_NEAR = 0.045  # of an axis; names closer than this lie on one another
_ABSENT = "–"  # noqa: RUF001 - a dash where a configuration has no such key


@dataclass(frozen=True)
class Scale:
    """One vertical axis: its name, where each configuration meets it, and named places; both from 0 (below) to 1."""

    name: str
    places: list[float]
    ticks: list[tuple[float, str]]


def draw_parallel(path: Path, found: Sequence[Configuration], keys: Sequence[str]) -> None:
    """Draws the configurations with a validation accuracy, the best in front, the colours as the last axis.

    Args:
        path: the PNG file.
        found: the configurations, the best first.
        keys: what varies between them.

    Raises:
        OSError: the file cannot be written.
    """
    shown = [c for c in found if math.isfinite(c.rank_key)][:MOST_LINES]
    title = "Values and validation accuracy: a line is a configuration, the thick one the best"
    if not shown:
        kit.say(path, title, "No configuration has a validation accuracy.")
        return
    scores = [100 * c.mean("validation") for c in shown]
    scales = [scale_of(key, [c.choices.get(key) for c in shown]) for key in keys[:MOST_AXES]]
    scales.append(scale_of("validation\naccuracy (%)", scores))
    made, axes = kit.figure(max(6.4, 1.35 * len(scales)), 4.2, (0.4, 0.55, 0.3, 0.5))
    _draw_lines(axes, scales, scores)
    _draw_scales(axes, scales)
    left_out = f"; {len(keys) - MOST_AXES} keys left out" if len(keys) > MOST_AXES else ""
    left_out += f"; the best {MOST_LINES}" if len(shown) == MOST_LINES else ""
    axes.set_title(kit.plain(title + left_out, 140), fontsize=10, loc="left", pad=14)
    kit.save(made, path)


def scale_of(name: str, values: Sequence[Any]) -> Scale:
    """Numbers lie on their scale (of logarithms, where they span much); a key with anything else has its values evenly spaced."""
    if all(map(is_number, values)):
        return _number_scale(name, [float(value) for value in values])
    words = [_ABSENT if value is None else show(value) for value in values]
    distinct = sorted(set(words))
    step = 1 / max(len(distinct) - 1, 1)
    places = {word: number * step if len(distinct) > 1 else 0.5 for number, word in enumerate(distinct)}
    every = max(1, math.ceil(len(distinct) / 12))
    return Scale(name, [places[word] for word in words], [(places[word], word) for word in distinct[::every]])


def is_number(value: Any) -> bool:
    """Whether a value lies on a scale: a finite number that is no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number_scale(name: str, values: list[float]) -> Scale:
    low, high = min(values), max(values)
    logarithmic = low > 0 and high / low > LOG_FACTOR

    def place(value: float) -> float:
        if low == high:
            return 0.5
        if logarithmic:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)

    distinct = sorted(set(values))
    named = distinct if len(distinct) <= _TICKS else [_between(low, high, part / 4, logarithmic) for part in range(5)]
    return Scale(name, [place(value) for value in values], [(place(value), show(value)) for value in named])


def _between(low: float, high: float, part: float, logarithmic: bool) -> float:
    value = low * (high / low) ** part if logarithmic else low + part * (high - low)
    return min(max(value, low), high)


def _draw_lines(axes: "Axes", scales: Sequence[Scale], scores: Sequence[float]) -> None:
    """The worst first, so that the best lie on top."""
    from matplotlib.collections import LineCollection

    columns = [scale.places for scale in scales]
    lines = [list(enumerate(places)) for places in zip(*columns, strict=True)]
    many = len(lines) > 100
    look = {"cmap": kit.MAP, "lw": 0.8 if many else 1.3, "alpha": 0.5 if many else 0.8}
    rest = LineCollection(lines[::-1], array=list(reversed(scores)), zorder=2, **look)
    axes.add_collection(rest)
    axes.plot(*zip(*lines[0], strict=True), color=kit.VERMILION, lw=3, zorder=4)


def _draw_scales(axes: "Axes", scales: Sequence[Scale]) -> None:
    for number, scale in enumerate(scales):
        axes.axvline(number, color="black", lw=0.8, zorder=3)
        for place, word in _apart(scale.ticks):
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8}
            axes.text(number + 0.03, place, kit.plain(word, 14), fontsize=7.5, va="center", zorder=5, bbox=box)
    names = [kit.plain(scale.name.rsplit(".", 1)[-1], 20) for scale in scales[:-1]]
    axes.set_xticks(range(len(scales)), [*names, scales[-1].name])
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_xlim(-0.1, len(scales) - 0.6)
    axes.set_ylim(-0.06, 1.06)


def _apart(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """The names that do not lie on one another, the outermost first."""
    kept: list[tuple[float, str]] = []
    for place, word in sorted(ticks, key=lambda tick: -abs(tick[0] - 0.5)):
        if all(abs(place - other) > _NEAR for other, _ in kept):
            kept.append((place, word))
    return kept
