"""Pictures of methods beside each other: accuracy after each task, where they end, and how corruptions hurt."""

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackers import pictures_kit as kit
from trackers.interval import mean_and_half

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Most curves whose intervals can be told apart, and most that can be told apart at all.
_BANDS, _COLOURED = 8, 10
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))


def style(number: int) -> dict[str, Any]:
    """How the number-th of several things looks: colour, marker and dashes tell twenty apart, also in grey."""
    cycle, place = divmod(number, len(kit.COLOURS))
    return {
        "color": kit.COLOURS[place],
        "marker": kit.MARKERS[(place + cycle) % len(kit.MARKERS)],
        "ls": _DASHES[cycle % len(_DASHES)],
    }


def bar(half: float) -> float:
    """Half of an interval as it is drawn: nothing where it is not known, as of a single seed."""
    return half if math.isfinite(half) else 0.0


def percent_axis(axes: "Axes") -> None:
    """Ends a vertical axis of percent where accuracies end, however wide the intervals of few seeds are."""
    low, high = axes.get_ylim()
    low = max(low, -2.0)
    axes.set_ylim(low, min(high, 100.0 + 0.03 * (100.0 - low)))


def shown_of(names: Sequence[str], always: Collection[str]) -> list[str]:
    """Those that are drawn in colour: all of up to ten, otherwise the first eight and those that always are."""
    if len(names) <= _COLOURED:
        return [*names]
    first = [name for name in names if name not in always][:_BANDS]
    return [name for name in names if name in first or name in always]


def draw_curves(
    path: Path, curves: Mapping[str, Sequence[Sequence[float]]], title: str, always: Collection[str] = ()
) -> None:  # fmt: skip
    """Draws average test accuracy after each task, mean over seeds; of up to eight methods with its 95 % interval.

    Tasks after which it was not measured (``evaluate_every``) are passed over. Of more than ten methods only some have a colour
    (:func:`shown_of`); the others are thin and grey.

    Args:
        path: PNG or SVG.
        curves: name -> seeds -> accuracy after 1..T tasks, percent; the best first.
        title: what it shows.
        always: names that have a colour however many there are.

    Raises:
        OSError: the file cannot be written.
    """
    shown = shown_of([*curves], always)
    letters = max([*(len(kit.plain(name, 40)) for name in shown), 8]) + 8
    legend = 0.7 + kit.LETTER * letters
    left, below, _, above = kit.EDGES
    made, axes = kit.figure(6.0 + legend, max(4.4, 1.4 + 0.22 * len(shown)), (left, below, legend, above))
    for number, name in enumerate(shown):
        seeds = curves[name]
        (steps, points), look = _measured(seeds), style(number)
        if len(curves) <= _BANDS:
            low, high = [mean - bar(half) for mean, half in points], [mean + bar(half) for mean, half in points]
            axes.fill_between(steps, low, high, color=look["color"], alpha=0.15, lw=0)
        axes.plot(steps, [mean for mean, _ in points], lw=1.7, ms=4, label=f"{kit.plain(name, 40)} (n = {len(seeds)})", **look)
    others = [seeds for name, seeds in curves.items() if name not in shown]
    for number, seeds in enumerate(others):
        steps, points = _measured(seeds)
        said = f"{len(others)} other{'s' if len(others) > 1 else ''}" if number == 0 else None
        axes.plot(steps, [mean for mean, _ in points], lw=0.8, color=kit.GREY, zorder=1, label=said)
    kit.dress(axes, title, "tasks learned", "average test accuracy on them (%)")
    percent_axis(axes)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    kit.save(made, path)


def _measured(seeds: Sequence[Sequence[float]]) -> tuple[list[int], list[tuple[float, float]]]:
    """The tasks after which something was measured, from 1, and mean and half of the interval there."""
    points = [mean_and_half(values) for values in zip(*seeds, strict=True)]
    steps = [step for step, (mean, _) in enumerate(points, 1) if math.isfinite(mean)]
    return steps, [points[step - 1] for step in steps]


def draw_dots(path: Path, panels: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Draws where each method ends: the mean with its 95 % interval, the seeds as small rings below it; a panel a measure.

    Args:
        path: PNG or SVG.
        panels: measure with its unit -> method -> values, one a seed; the same methods in each.

    Raises:
        OSError: the file cannot be written.
    """
    names = [*next(iter(panels.values()))]
    made, _ = kit.figure(1.6 + 3.3 * len(panels), 1.3 + 0.34 * len(names), edges=None)
    made.clear()
    for axes, (label, found) in zip(made.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels.items(), strict=True):
        for row, name in enumerate(names):
            values = [value for value in found[name] if math.isfinite(value)]
            mean, half = mean_and_half(values)
            axes.plot(values, [row + 0.22] * len(values), ls="", marker="o", ms=3.2, mfc="none", mec="#666666", zorder=2)
            axes.errorbar([mean], [row], xerr=[bar(half)], marker="o", ms=6, color=kit.BLUE, capsize=3, zorder=3)
        axes.set_yticks(range(len(names)), [kit.plain(name, 30) for name in names], fontsize=8.5)
        kit.dress(axes, "", label, "", whole=False)
        axes.grid(visible=False, axis="y")
        axes.grid(axis="x", color=kit.PALE, lw=0.8)
        axes.set_ylim(len(names) - 0.4, -0.6)
    kit.save(made, path)


def draw_panels(
    path: Path, found: Mapping[str, Mapping[str, Sequence[Sequence[float]]]], places: Sequence[int], title: str
) -> None:  # fmt: skip
    """Draws test accuracy against severities or tasks, a panel a corruption, mean over seeds; up to eight with their 95 % interval.

    Args:
        path: PNG or SVG.
        found: what a panel's horizontal axis counts -> name -> seeds -> accuracy at each place, percent.
        places: on the horizontal axes.
        title: what it shows.

    Raises:
        OSError: the file cannot be written.
    """
    names = [*next(iter(found.values()))]
    columns = max(1, min(4, int((1.0 + 2.5 * len(found)) / (0.8 + kit.LETTER * max(len(name) for name in names)))))
    made, _ = kit.figure(1.0 + 2.5 * len(found), 3.4 + 0.22 * -(-len(names) // columns), edges=None)
    made.clear()
    panels = made.subplots(1, len(found), squeeze=False, sharey=True)[0]
    banded, step = len(names) <= _BANDS, min((b - a for a, b in itertools.pairwise(places)), default=1)
    for axes, (label, curves) in zip(panels, found.items(), strict=True):
        for number, (name, seeds) in enumerate(curves.items()):
            points = [mean_and_half(values) for values in zip(*seeds, strict=True)]
            aside = 0.08 * step * (number - (len(curves) - 1) / 2) if banded else 0.0  # intervals side by side
            halves = [bar(half) if banded else 0.0 for _, half in points]
            said = f"{kit.plain(name, 70)} (n = {len(seeds)})"
            look = {"ms": 4, "lw": 1.5 if banded else 1.0, "capsize": 2 if banded else 0, **style(number)}
            axes.errorbar([place + aside for place in places], [m for m, _ in points], yerr=halves, label=said, **look)
        kit.dress(axes, "", label, "test accuracy (%)" if axes is panels[0] else "")
    percent_axis(panels[0])
    made.suptitle(kit.plain(title, 160), fontsize=9.5, x=0.01, ha="left")
    made.legend(*panels[0].get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside lower left", ncols=columns)
    kit.save(made, path)
