"""Pictures of a grid: heat maps, main effects, and where the variance comes from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.studies.anova import Part
from sweeps.studies.draw_lines import percent_axis
from sweeps.studies.grid import Cell, Effect, Grid
from trackers import pictures_kit as kit
from trackers.interval import mean_and_half
from trackers.labels import show

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Inches a cell of a heat map takes.
_CELL_WIDTH, _CELL_HEIGHT = 1.0, 0.72


@dataclass(frozen=True)
class Measure:
    """A figure as it is drawn.

    Attributes:
        name: in ``Figures``.
        label: what it is called, with its unit.
        digits: after the point.
        more_is_better: otherwise less is.
        span: the colours stand for so much at least, so that chance does not look like an effect.
    """

    name: str
    label: str
    digits: int = 1
    more_is_better: bool = True
    span: float = 2.0


ACCURACY = Measure("accuracy", "average test accuracy (%)")
FORGETTING = Measure("forgetting", "forgetting (points)", more_is_better=False)
DURING = Measure("during", "accuracy when learned (%)")
RHO = Measure("rho", "forgetting ratio ρ", digits=3, span=0.05)  # noqa: RUF001 - its name in the paper


def draw_heat(path: Path, grid: Grid, measure: Measure, marked: Mapping[str, Cell | None]) -> None:
    """Draws a measure over two knobs: mean over seeds, half of its 95 % interval and n in each cell.

    Args:
        path: PNG or SVG.
        grid: of two knobs; the first goes down, the second to the right.
        measure: what is shown.
        marked: words -> cell with a frame around it.

    Raises:
        OSError: the file cannot be written.
    """
    (rows_name, rows), (columns_name, columns) = grid.knobs.items()
    means = [[grid.mean((i, j), measure.name) for j in range(len(columns))] for i in range(len(rows))]
    known = [value for line in means for value in line if math.isfinite(value)]
    low, high = _span(known, measure.span)
    width, height = 2.6 + _CELL_WIDTH * len(columns), 1.7 + _CELL_HEIGHT * len(rows)
    edges = (1.0, 0.95, 1.4, 0.5)
    made, axes = kit.figure(width, height, edges)
    colours = kit.MAP if measure.more_is_better else f"{kit.MAP}_r"  # light is good
    image = axes.imshow(means, cmap=colours, vmin=low, vmax=high, aspect="auto")
    scale = made.add_axes((1 - 1.25 / width, edges[1] / height, 0.18 / width, 1 - (edges[1] + edges[3]) / height))
    made.colorbar(image, cax=scale, label=measure.label)
    axes.set_xticks(range(len(columns)), [kit.plain(show(v), 14) for v in columns])
    axes.set_yticks(range(len(rows)), [kit.plain(show(v), 14) for v in rows])
    axes.set_xlabel(kit.plain(columns_name))
    axes.set_ylabel(kit.plain(rows_name))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(kit.plain(measure.label[0].upper() + measure.label[1:]), fontsize=10, loc="left")
    for i in range(len(rows)):
        for j in range(len(columns)):
            _write_cell(axes, grid, (i, j), measure, (low, high))
    _frame(axes, marked)
    kit.save(made, path)


def _span(known: Sequence[float], least: float) -> tuple[float, float]:
    """The lowest and the highest value, or as much around their middle as colours stand for at least."""
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    lacking = max(least - (high - low), 0.0) / 2
    return low - lacking, high + lacking


def _write_cell(axes: "Axes", grid: Grid, cell: Cell, measure: Measure, span: tuple[float, float]) -> None:
    values = grid.values(cell, measure.name)
    if not values:
        axes.text(cell[1], cell[0], "missing", ha="center", va="center", fontsize=8, color="#555555")
        return
    mean, half = mean_and_half(values)
    share = (mean - span[0]) / (span[1] - span[0])
    bright = share if measure.more_is_better else 1 - share
    colour = "black" if not math.isfinite(mean) or bright > 0.55 else "white"
    first = f"{mean:.{measure.digits}f}" if math.isfinite(mean) else "not known"
    second = (f"±{half:.{measure.digits}f}, " if math.isfinite(half) else "") + f"n = {len(values)}"
    axes.text(cell[1], cell[0] - 0.1, first, ha="center", va="center", fontsize=10, color=colour)
    axes.text(cell[1], cell[0] + 0.24, second, ha="center", va="center", fontsize=6.5, color=colour)


def _frame(axes: "Axes", marked: Mapping[str, Cell | None]) -> None:
    """Frames around cells, one in another where a cell has several names; the legend says which is which."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    handles = []
    for number, (words, cell) in enumerate((w, c) for w, c in marked.items() if c is not None):
        inset = 0.04 + 0.045 * number
        look: dict[str, Any] = {
            "fill": False,
            "lw": 2.2,
            "ec": kit.COLOURS[(1, 3, 2)[number % 3]],
            "ls": ("-", "--", ":")[number % 3],
        }
        axes.add_patch(Rectangle((cell[1] - 0.5 + inset, cell[0] - 0.5 + inset), 1 - 2 * inset, 1 - 2 * inset, **look))
        handles.append(Line2D([], [], color=look["ec"], ls=look["ls"], lw=2.2, label=words))
    if handles:
        place = (0.5, -0.47 / (axes.bbox.height / axes.figure.dpi))
        axes.legend(handles=handles, fontsize=8, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=place)


def draw_effects(path: Path, effects: Mapping[str, Sequence[Effect]], label: str, default: Mapping[str, object]) -> None:
    """Draws what each level of each knob comes to on average over the others, with 95 % intervals over seeds.

    Args:
        path: PNG or SVG.
        effects: knob -> its levels.
        label: what is measured, with its unit.
        default: knob -> the value where the user says nothing; ringed.

    Raises:
        OSError: the file cannot be written.
    """
    made, _ = kit.figure(1.0 + 3.4 * len(effects), 3.4, edges=None)
    made.clear()
    panels = made.subplots(1, len(effects), squeeze=False, sharey=True)[0]
    for axes, (knob, levels), colour in zip(panels, effects.items(), kit.COLOURS * 2, strict=False):
        places = range(len(levels))
        halves = [effect.half if math.isfinite(effect.half) else 0.0 for effect in levels]
        axes.errorbar(places, [e.mean for e in levels], yerr=halves, color=colour, marker="o", ms=5, capsize=3, lw=1.6)
        home = [i for i in places if levels[i].level == default.get(knob)]
        axes.plot(home, [levels[i].mean for i in home], ls="", marker="o", ms=11, mfc="none", mec="black", label="default")
        kit.dress(axes, "", kit.plain(knob), label if axes is panels[0] else "", whole=False)
        axes.set_xticks(places, [kit.plain(show(effect.level), 12) for effect in levels])
        n = sorted({effect.n for effect in levels})
        axes.set_title(f"n = {'-'.join(map(str, dict.fromkeys((n[0], n[-1]))))} seeds", fontsize=8.5, loc="right")
        kit.legend(axes)
    if label.endswith("(%)"):
        percent_axis(panels[0])
    kit.save(made, path)


def draw_variance(path: Path, parts: Mapping[str, Sequence[Part]]) -> None:
    """Draws which share of the variance each knob, their interaction and the seeds have, a bar a measure.

    Args:
        path: PNG or SVG.
        parts: what is measured -> parts of its variance.

    Raises:
        OSError: the file cannot be written.
    """
    made, axes = kit.figure(7.4, 1.3 + 0.55 * len(parts), (2.3, 0.6, 0.3, 0.55))
    names = [part.name for part in next(iter(parts.values()))]
    colours = (kit.COLOURS[0], kit.COLOURS[4], kit.COLOURS[2], kit.GREY)
    for number, name in enumerate(names):
        for row, found in enumerate(parts.values()):
            share, before = 100 * found[number].share, 100 * sum(part.share for part in found[:number])
            said = kit.plain(name) if row == 0 else None
            axes.barh(row, share, left=before, color=colours[number], ec="white", height=0.62, label=said)
            if share >= 7:
                ink = "white" if number == 0 else "black"
                axes.text(before + share / 2, row, f"{share:.0f}", ha="center", va="center", fontsize=8, color=ink)
    for row, found in enumerate(parts.values()):
        if all(math.isnan(part.share) for part in found):
            axes.text(1, row, "does not vary", ha="left", va="center", fontsize=8, color="#555555")
    axes.set_yticks(range(len(parts)), [kit.plain(name, 40) for name in parts], fontsize=8.5)
    axes.set_ylim(len(parts) - 0.5, -0.5)  # also where a row has no bar
    kit.dress(axes, "", "share of the variance over cells and seeds (%)", "", whole=False)
    axes.set_xlim(0, 100)
    axes.grid(visible=False)
    axes.tick_params(axis="y", length=0)
    axes.legend(fontsize=8, frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0))
    kit.save(made, path)
