"""Pictures of size: accuracy against bytes with the Pareto front, of all tasks together and of each."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.studies.draw_lines import bar, percent_axis, style
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
    means = _draw_points(axes, groups)
    kit.dress(axes, title, *labels, whole=False)
    axes.grid(axis="x", color=kit.PALE, lw=0.8)
    percent_axis(axes)
    if wide([size for size, _ in means]):
        logarithmic(axes, "x")
    words = [point.words for points in groups.values() for point in points]
    for place, i in enumerate(front(means)):  # of the others, the table says which they are; neighbours' words are apart
        offset = (5, 6 if place % 2 else -11)
        axes.annotate(kit.plain(words[i], 30), means[i], offset, textcoords="offset points", fontsize=7, color="#333333")
    kit.legend(axes)
    kit.save(made, path)


def draw_tasks(path: Path, panels: Mapping[str, Mapping[str, Sequence[Point]]], labels: tuple[str, str], title: str) -> None:
    """Draws accuracy against size, a panel a task, each with its own front; intervals may go beyond the picture.

    Args:
        path: PNG or SVG.
        panels: task -> name -> its configurations.
        labels: of the two axes, with units.
        title: what it shows.

    Raises:
        OSError: the file cannot be written.
    """
    columns = min(len(panels), 5)
    rows = -(-len(panels) // columns)
    made, _ = kit.figure(1.0 + 2.3 * columns, 1.0 + 2.4 * rows, edges=None)
    made.clear()
    grid = made.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    means: list[tuple[float, float]] = []
    for number, (axes, (task, groups)) in enumerate(zip(grid.flat, panels.items(), strict=False)):
        own = _draw_points(axes, groups)
        means += own
        last = number + columns >= len(panels)
        kit.dress(axes, task, labels[0] if last else "", labels[1] if number % columns == 0 else "", whole=False)
        axes.tick_params(labelbottom=last)
        axes.grid(axis="x", color=kit.PALE, lw=0.8)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    _look_at(grid[0, 0], means)
    made.suptitle(kit.plain(title, 160), fontsize=9.5, x=0.01, ha="left")
    made.legend(*grid[0, 0].get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside lower left", ncols=4)
    kit.save(made, path)


def _look_at(axes: "Axes", means: Sequence[tuple[float, float]]) -> None:
    """Ends axes where the means do, with some room: one wide interval of few seeds would else flatten all panels."""
    sizes, accuracies = zip(*means, strict=True)
    low, high = min(sizes), max(sizes)
    if wide(sizes):
        logarithmic(axes, "x")
        axes.set_xlim(low / 1.5, high * 1.5)
    else:
        room = max(0.15 * (high - low), 0.05 * high)
        axes.set_xlim(low - room, high + room)
    room = max(0.2 * (max(accuracies) - min(accuracies)), 1.0)
    axes.set_ylim(min(accuracies) - room, min(max(accuracies) + room, 100.0 + room / 4))


def _draw_points(axes: "Axes", groups: Mapping[str, Sequence[Point]]) -> list[tuple[float, float]]:
    """Means over seeds with 95 % intervals, a look a group, and the front of all; returns the means."""
    means: list[tuple[float, float]] = []
    for number, (name, points) in enumerate(groups.items()):
        sizes, accuracies = [mean_and_half(p.sizes) for p in points], [mean_and_half(p.accuracies) for p in points]
        look = style(number)
        where = [mean for mean, _ in sizes], [mean for mean, _ in accuracies]
        across, up = [bar(half) for _, half in sizes], [bar(half) for _, half in accuracies]
        said = f"{kit.plain(name, 40)} (n = {_span([len(point.sizes) for point in points])})"
        marks = {"marker": look["marker"], "color": look["color"]}
        axes.errorbar(*where, xerr=across, yerr=up, ls="", ms=6, capsize=2, lw=1.2, label=said, **marks)
        means += zip(*where, strict=True)
    if best := front(means):
        line = zip(*(means[i] for i in best), strict=True)
        axes.step(*line, where="post", color="black", lw=1.0, ls="--", zorder=1, label="Pareto front")
    return means


def logarithmic(axes: "Axes", which: str) -> None:
    """Makes one axis (``x`` or ``y``) logarithmic, with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log") if which == "x" else axes.set_yscale("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def wide(values: Sequence[float]) -> bool:
    """Whether values are above 0 and so far apart that their axis is to be logarithmic."""
    known = [value for value in values if math.isfinite(value)]
    return bool(known) and min(known) > 0 and max(known) / min(known) > _LOG


def _span(counts: Sequence[int]) -> str:
    return "-".join(map(str, dict.fromkeys((min(counts), max(counts))))) if counts else "0"
