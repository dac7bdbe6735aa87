"""The picture of bytes against the number of tasks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.studies.draw_lines import style
from sweeps.studies.draw_size import logarithmic, wide
from trackers import pictures_kit as kit
from trackers.interval import mean_and_half

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SMALLEST = 0.01  # kilobytes that a scale around 0 tells apart


@dataclass(frozen=True)
class Line:
    """A method: seeds -> kilobytes after 1..T tasks; by its paper's count, empty for none; of the plain network with its heads."""

    kept: Sequence[Sequence[float]]
    counted: Sequence[float]
    plain: Sequence[float]

    @property
    def beyond(self) -> "Line":
        """What is beyond the plain network."""
        over = [[value - plain for value, plain in zip(values, self.plain, strict=True)] for values in self.kept]
        return Line(over, [value - plain for value, plain in zip(self.counted, self.plain, strict=False)], [])


def draw_growth(path: Path, lines: Mapping[str, Line], bounds: Mapping[str, Sequence[float]]) -> None:
    """Draws what must be kept after each task, and on the right how much of it is beyond a plain network.

    Args:
        path: PNG or SVG.
        lines: method -> what is measured and counted.
        bounds: name -> kilobytes after 1..T tasks of what methods are compared with; left alone.

    Raises:
        OSError: the file cannot be written.
    """
    counted = sum(bool(line.counted) for line in lines.values())
    made, _ = kit.figure(11.0, 4.4 + 0.2 * -(-(len(lines) + counted + len(bounds)) // 3), edges=None)
    made.clear()
    left, right = made.subplots(1, 2)
    for number, (name, line) in enumerate(lines.items()):
        _draw(left, number, name, line)
        _draw(right, number, name, line.beyond)
    for dashes, (name, values) in zip(("--", "-."), bounds.items(), strict=False):
        left.plot(range(1, len(values) + 1), values, color="black", ls=dashes, lw=1.2, label=name)
    kit.dress(left, "Bytes to keep against the number of tasks", "tasks learned", "to keep (kB)")
    kit.dress(right, "Beyond a plain network with its heads", "tasks learned", "beyond a plain network (kB)")
    every = [v for line in lines.values() for values in (*line.kept, line.counted) for v in values]
    if wide([*every, *(v for values in bounds.values() for v in values)]):
        logarithmic(left, "y")
    else:
        left.set_ylim(bottom=0)
    right.axhline(0, color="black", ls="--", lw=1.2)
    _around_zero(right, [v for line in lines.values() for values in (*line.beyond.kept, line.beyond.counted) for v in values])
    made.legend(*left.get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside lower left", ncols=3)
    kit.save(made, path)


def _draw(axes: "Axes", number: int, name: str, line: Line) -> None:
    points, look = [mean_and_half(values) for values in zip(*line.kept, strict=True)], style(number)
    halves = [half if math.isfinite(half) else 0.0 for _, half in points]
    said = f"{kit.plain(name, 40)} (n = {len(line.kept)})"
    steps = range(1, len(points) + 1)
    axes.errorbar(steps, [mean for mean, _ in points], yerr=halves, ms=4, lw=1.7, capsize=2, label=said, **{**look, "ls": "-"})
    if line.counted:
        steps = range(1, len(line.counted) + 1)
        axes.plot(steps, line.counted, color=look["color"], ls=":", lw=1.4, label=f"{kit.plain(name, 40)}, paper's count")


def _around_zero(axes: "Axes", values: Sequence[float]) -> None:
    """Makes the vertical axis logarithmic to both sides of 0, where what is on it is far apart."""
    from matplotlib.ticker import FuncFormatter

    sizes = [abs(value) for value in values if abs(value) >= _SMALLEST]
    if wide(sizes):
        axes.set_yscale("symlog", linthresh=10 ** math.floor(math.log10(min(sizes))))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
