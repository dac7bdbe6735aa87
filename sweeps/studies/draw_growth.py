"""The picture of bytes against the number of tasks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.studies.draw_lines import bar, style
from sweeps.studies.draw_size import logarithmic, wide
from trackers import pictures_kit as kit
from trackers.interval import mean_and_half

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Line:
    """A method: seeds -> kilobytes after 1..T tasks, NaN is not known; and by its paper's count, empty for none."""

    measured: Sequence[Sequence[float]]
    counted: Sequence[float]

    @property
    def values(self) -> list[float]:
        """All that are known."""
        return [v for values in (*self.measured, self.counted) for v in values if math.isfinite(v)]


def draw_growth(path: Path, kept: Mapping[str, Line], beside: Mapping[str, Line], bounds: Mapping[str, Sequence[float]]) -> None:
    """Draws what must be kept after each task, and on the right what of it is neither weights nor heads.

    Args:
        path: PNG or SVG.
        kept: method in words -> in all.
        beside: the same methods -> beside weights and heads; what is 0 is left out.
        bounds: name -> kilobytes after 1..T tasks of what methods are compared with, in all.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.lines import Line2D

    made, _ = kit.figure(11.0, 4.4 + 0.2 * -(-(len(kept) + len(bounds) + 1) // 4), edges=None)
    made.clear()
    left, right = made.subplots(1, 2)
    for axes, lines in ((left, kept), (right, beside)):
        for number, (name, line) in enumerate(lines.items()):
            if any(line.values):
                _draw(axes, number, name, line)
    for dashes, (name, values) in zip(("--", "-."), bounds.items(), strict=False):
        left.plot(range(1, len(values) + 1), values, color="black", ls=dashes, lw=1.2, label=name)
    kit.dress(left, "Bytes to keep against the number of tasks", "tasks learned", "to keep (kB)")
    kit.dress(right, "Overhead: beside weights and heads", "tasks learned", "overhead (kB)")
    _scale(left, [*(v for line in kept.values() for v in line.values), *(v for values in bounds.values() for v in values)])
    _scale(right, [v for line in beside.values() for v in line.values if v])
    handles, labels = left.get_legend_handles_labels()
    handles, labels = [*handles, Line2D([], [], color="black", ls=":", lw=1.4)], [*labels, "dotted: the paper's count"]
    made.legend(handles, labels, fontsize=8, frameon=False, loc="outside lower left", ncols=4)
    kit.save(made, path)


def _draw(axes: "Axes", number: int, name: str, line: Line) -> None:
    points, look = [mean_and_half(values) for values in zip(*line.measured, strict=True)], style(number)
    halves = [bar(half) for _, half in points]
    means = [mean if mean else math.nan for mean, _ in points]  # there is no 0 on a scale of logarithms
    steps = range(1, len(points) + 1)
    axes.errorbar(steps, means, yerr=halves, ms=4, lw=1.7, capsize=2, label=kit.plain(name, 40), **{**look, "ls": "-"})
    counted = range(1, len(line.counted) + 1)
    axes.plot(counted, line.counted, color=look["color"], marker=look["marker"], mfc="none", ms=6, ls=":", lw=1.4)


def _scale(axes: "Axes", values: Sequence[float]) -> None:
    if wide(values):
        logarithmic(axes, "y")
    else:
        axes.set_ylim(bottom=0)
