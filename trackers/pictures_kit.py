"""What all pictures share: colours, sizes, heat maps, and how a user's words get onto them.

Figures are made without pyplot, so that no window system and no global state of matplotlib's is touched.
"""

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUMBERED = 25  # tasks up to which a heat map shows numbers
DPI = 150
# Okabe and Ito's colours, chosen to be told apart with any kind of colour vision; each has a marker too, for print in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v")
BLUE, VERMILION = COLOURS[:2]
GREY, PALE = "#C8C8C8", "#EBEBEB"
#: A colour map that is read the same with any kind of colour vision, dark for low values.
MAP = "cividis"
#: Inches left free around axes: left, below, right, above.
EDGES = (0.85, 0.6, 0.15, 0.45)
#: Inches that a letter of the small print takes, on average.
LETTER = 0.07

Edges = tuple[float, float, float, float]


def figure(width: float, height: float, edges: Edges | None = EDGES) -> "tuple[Figure, Axes]":
    """A figure with one pair of axes.

    Args:
        width: in inches.
        height: in inches.
        edges: inches left free; None leaves it to matplotlib, which then draws everything twice.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained" if edges is None else None)
    FigureCanvasAgg(made)
    if edges is None:
        return made, made.add_subplot()
    left, bottom, right, top = edges
    return made, made.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height))


def save(made: "Figure", path: Path) -> None:
    """Writes a figure as PNG.

    Raises:
        OSError: the file cannot be written.
    """
    made.savefig(path, dpi=DPI)


def plain(text: object, limit: int = 80) -> str:
    """A user's words as one line that matplotlib takes as they are: no formulas, no control characters, not too long."""
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(str(text).split()))
    line = line if len(line) <= limit else f"{line[: limit - 1]}…"
    return line.replace("$", r"\$")


def dress(axes: "Axes", title: str, x: str, y: str, whole: bool = True) -> None:
    """Title, names of the axes and a quiet grid.

    Args:
        axes: the axes.
        title: what is seen; two lines at most.
        x: what the horizontal axis counts.
        y: what the vertical axis measures, with its unit.
        whole: the horizontal axis has whole numbers.
    """
    from matplotlib.ticker import MaxNLocator

    letters = int(axes.bbox.width / axes.figure.dpi / (1.12 * LETTER))
    lines = textwrap.wrap(plain(title, 300), letters, max_lines=2, placeholder=" …")
    axes.set_title("\n".join(lines), fontsize=9.5, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color=PALE, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def legend(axes: "Axes") -> None:
    """A legend where it hides least, if anything has a name."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, framealpha=0.85, edgecolor="none", loc="best")


def say(path: Path, title: str, words: str) -> None:
    """Draws a sentence in a picture's place: why there is none.

    Raises:
        OSError: the file cannot be written.
    """
    made, axes = figure(6.4, 1.3)
    axes.set_axis_off()
    axes.set_title(plain(title), fontsize=10, loc="left")
    axes.text(0, 0.9, textwrap.fill(plain(words, 300), 90), ha="left", va="top", fontsize=9, transform=axes.transAxes)
    save(made, path)


def heat_map(values: Tensor, lowest: float, label: str, title: str) -> "tuple[Figure, Axes]":
    """Shares as percent in colours and, where there is room, numbers; NaN stays blank."""
    rows, columns = values.shape
    cell = 0.55 if columns <= NUMBERED else 0.55 * NUMBERED / columns
    width, height = max(4.6, cell * columns + 2.2), max(3.4, 0.8 * cell * rows + 1.5)
    lines = textwrap.wrap(plain(title, 300), int(11 * width)) or [""]
    edges = (1.1, 0.6, 1.2, 0.25 + 0.2 * len(lines))
    made, axes = figure(width, height, edges)
    image = axes.imshow(100 * values.numpy(), cmap=MAP, vmin=lowest, vmax=100, aspect="auto")
    scale = made.add_axes((1 - 1.0 / width, edges[1] / height, 0.2 / width, 1 - (edges[1] + edges[3]) / height))
    made.colorbar(image, cax=scale, label=label)
    made.text(0.1 / width, 1 - 0.1 / height, "\n".join(lines), fontsize=10, ha="left", va="top")
    every = stride(columns)
    axes.set_xticks(range(0, columns, every), [str(column) for column in range(1, columns + 1, every)])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if columns <= NUMBERED:
        _draw_numbers(axes, values, lowest)
    return made, axes


def stride(count: int) -> int:
    """Every how many rows or columns of a heat map get a number."""
    return max(1, math.ceil(count / NUMBERED))


def _draw_numbers(axes: "Axes", matrix: Tensor, lowest: float) -> None:
    size = 8 if matrix.shape[1] <= 12 else 6.5
    for row, column in torch.isfinite(matrix).nonzero().tolist():
        value = 100 * float(matrix[row, column])
        colour = "black" if value - lowest > 0.55 * (100 - lowest) else "white"  # cividis turns light there
        text = "100" if value >= 99.95 else f"{value:.1f}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)
