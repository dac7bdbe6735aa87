"""Pictures of size: accuracy against stored bytes with the Pareto front, and bytes against the number of tasks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.studies.draw_lines import percent_axis, style
from sweeps.studies.pareto import front
from trackers import pictures_kit as kit
from trackers.interval import mean_and_half

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Largest over smallest from which on an axis is logarithmic.
_LOG = 8.0


@dataclass(frozen=True)
class Point:
    """A configuration: its values in words, and bytes (or another size) and accuracy of each seed."""

    words: str
    sizes: Sequence[float]
    accuracies: Sequence[float]


def draw_sizes(path: Path, groups: Mapping[str, Sequence[Point]], labels: tuple[str, str], title: str) -> None:
    """Draws accuracy against size: means over seeds with 95 % intervals, and the front of what nothing beats in both.

    Args:
        path: PNG or SVG.
        groups: name -> its configurations.
        labels: of the two axes, with units.
        title: what it shows.

    Raises:
        OSError: the file cannot be written.
    """
    made, axes = kit.figure(8.2, 5.0, (0.85, 0.6, 0.2, 0.45))
    means: list[tuple[float, float]] = []
    for number, (name, points) in enumerate(groups.items()):
        sizes, accuracies = [mean_and_half(p.sizes) for p in points], [mean_and_half(p.accuracies) for p in points]
        look = style(number)
        where = [mean for mean, _ in sizes], [mean for mean, _ in accuracies]
        wide, high = [_known(half) for _, half in sizes], [_known(half) for _, half in accuracies]
        said = f"{kit.plain(name, 40)} (n = {_span([len(point.sizes) for point in points])})"
        marks = {"marker": look["marker"], "color": look["color"]}
        axes.errorbar(*where, xerr=wide, yerr=high, ls="", ms=6, capsize=2, lw=1.2, label=said, **marks)
        means += zip(*where, strict=True)
    best = front(means)
    if best:
        line = zip(*(means[i] for i in best), strict=True)
        axes.step(*line, where="post", color="black", lw=1.0, ls="--", zorder=1, label="Pareto front")
    kit.dress(axes, title, *labels, whole=False)
    axes.grid(axis="x", color=kit.PALE, lw=0.8)
    percent_axis(axes)
    if _wide([size for size, _ in means]):
        _logarithmic(axes, "x")
    words = [point.words for points in groups.values() for point in points]
    for place, i in enumerate(best):  # of the others, the table says which they are; neighbours' words are apart
        offset = (5, 6 if place % 2 else -11)
        axes.annotate(kit.plain(words[i], 30), means[i], offset, textcoords="offset points", fontsize=7, color="#333333")
    kit.legend(axes)
    kit.save(made, path)


def draw_overhead(
    path: Path, measured: Mapping[str, Sequence[Sequence[float]]], formulas: Mapping[str, Sequence[float]], plain: Sequence[float]
) -> None:
    """Draws what must be kept after each task: measured, by the papers' formulas, and a plain network with its heads.

    Args:
        path: PNG or SVG.
        measured: method -> seeds -> kilobytes after 1..T tasks.
        formulas: method -> kilobytes after 1..T tasks, for those that a paper gives one for.
        plain: of a network with its heads and nothing else.

    Raises:
        OSError: the file cannot be written.
    """
    letters = max(len(name) for name in [*measured, "a plain network"]) + 16
    legend = 0.7 + kit.LETTER * letters
    made, axes = kit.figure(6.0 + legend, max(4.4, 1.4 + 0.3 * len(measured)), (0.9, 0.6, legend, 0.45))
    for number, (name, seeds) in enumerate(measured.items()):
        points, look = [mean_and_half(values) for values in zip(*seeds, strict=True)], style(number)
        means, halves = [mean for mean, _ in points], [_known(half) for _, half in points]
        said = f"{kit.plain(name, 40)} (n = {len(seeds)})"
        axes.errorbar(range(1, len(points) + 1), means, yerr=halves, ms=4, lw=1.7, capsize=2, label=said, **{**look, "ls": "-"})
        if name in formulas:
            steps = range(1, len(formulas[name]) + 1)
            axes.plot(steps, formulas[name], color=look["color"], ls=":", lw=1.4, label=f"{kit.plain(name, 40)}, paper's formula")
    axes.plot(range(1, len(plain) + 1), plain, color="black", ls="--", lw=1.2, label="a plain network, its heads")
    kit.dress(axes, "Bytes to keep against the number of tasks", "tasks learned", "kilobytes to keep")
    every = [mean_and_half(v)[0] for seeds in measured.values() for v in zip(*seeds, strict=True)]
    if _wide([*every, *plain, *(v for values in formulas.values() for v in values)]):
        _logarithmic(axes, "y")
    else:
        axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    kit.save(made, path)


def _logarithmic(axes: "Axes", which: str) -> None:
    """Makes one axis (``x`` or ``y``) logarithmic, with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log") if which == "x" else axes.set_yscale("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _wide(values: Sequence[float]) -> bool:
    known = [value for value in values if math.isfinite(value)]
    return bool(known) and min(known) > 0 and max(known) / min(known) > _LOG


def _known(half: float) -> float:
    return half if math.isfinite(half) else 0.0


def _span(counts: Sequence[int]) -> str:
    return "-".join(map(str, dict.fromkeys((min(counts), max(counts))))) if counts else "0"
