"""A table once, as Markdown, LaTeX, CSV and HTML."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from trackers import page_html
from trackers.interval import mean_and_half
from trackers.page_html import Html, element

NOT_KNOWN = "–"  # noqa: RUF001 - a dash in a table
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {c: rf"\{c}" for c in "&%$#_{}"}
#: Signs that LaTeX with its usual fonts has only under a name.
_SIGNS = {"–": "--", "±": r"$\pm$", "×": r"$\times$", "≥": r"$\geq$", "≤": r"$\leq$", "ρ": r"$\rho$"}  # noqa: RUF001


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: NaN is not known.
        half: half of its 95 % interval (Student's t); NaN for one seed.
        n: seeds.
        digits: after the point.
        best: whether it is the best of its column.
    """

    mean: float
    half: float
    n: int
    digits: int = 2
    best: bool = False

    @classmethod
    def of(cls, values: Sequence[float], digits: int = 2) -> "Estimate":
        """That of values of several seeds."""
        return cls(*mean_and_half(values), len(values), digits)

    @property
    def text(self) -> str:
        """For instance ``97.12 ± 0.31``; with one seed no interval."""
        if not math.isfinite(self.mean):
            return NOT_KNOWN
        spread = f" ± {self.half:,.{self.digits}f}" if math.isfinite(self.half) else ""
        return f"{self.mean:z,.{self.digits}f}{spread}"  # z: no -0.00


Cell = str | int | float | Estimate
Rows = list[list[Cell]]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: of its files.
        caption: what it shows, with units, n and what the intervals are.
        head: names of the columns, with units.
        rows: its cells.
        numbers: from which column on cells are numbers, set to the right.
        shown: whether it is in the report; one that is too long to be read is in its files alone.
    """

    name: str
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numbers: int = 1
    shown: bool = True

    @property
    def mention(self) -> str:
        """What a report says of a table that is not shown."""
        return f"{self.caption} A table of {len(self.rows)} rows, in {self.name}.csv beside this report."

    def markdown(self) -> str:
        """As Markdown, with its caption."""
        sides = [":--" if i < self.numbers else "--:" for i in range(len(self.head))]
        lines = [self.head, sides, *([_marked(cell, "**") for cell in row] for row in self.rows)]
        return "\n".join(
            [*("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines), "", self.caption]
        )

    def latex(self) -> str:
        """As a LaTeX table (package booktabs), its best means bold."""
        sides = "".join("l" if i < self.numbers else "r" for i in range(len(self.head)))
        body = [" & ".join(_latex_cell(cell) for cell in row) + r" \\" for row in self.rows]
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{_latex(self.caption)}}}", rf"\label{{tab:{self.name}}}"]
        lines += [rf"\begin{{tabular}}{{{sides}}}", r"\toprule", " & ".join(map(_latex, self.head)) + r" \\", r"\midrule"]
        return "\n".join([*lines, *body, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])

    def csv(self) -> str:
        """As CSV: of a mean its number in full, and beside it half of its interval and n."""
        wide = [any(isinstance(row[i], Estimate) for row in self.rows) for i in range(len(self.head))]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        names = [
            [name, f"{name}, half of 95 % interval", f"{name}, n"] if w else [name] for name, w in zip(self.head, wide, strict=True)
        ]
        writer.writerow([name for group in names for name in group])
        for row in self.rows:
            cells = [_csv_cell(cell) if w else [_plain(cell)] for cell, w in zip(row, wide, strict=True)]
            writer.writerow([text for group in cells for text in group])
        return out.getvalue()

    def html(self) -> Html:
        """As HTML, with its caption."""
        rows: list[list[object]] = [[_html_cell(cell) for cell in row] for row in self.rows]
        return page_html.join(page_html.table([*self.head], rows, numbers=self.numbers), element("p", self.caption, class_="quiet"))


def number(value: float, digits: int = 2) -> str:
    """A number without an interval; a dash where it is not known."""
    return f"{value:z,.{digits}f}" if math.isfinite(value) else NOT_KNOWN


def p_value(p: float) -> str:
    """A probability as papers print it."""
    if not math.isfinite(p):
        return NOT_KNOWN
    return "< .001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 1 else "1"


def _text(cell: Cell) -> str:
    if isinstance(cell, Estimate):
        return cell.text
    return number(cell) if isinstance(cell, float) else str(cell)


def _marked(cell: Cell, mark: str) -> str:
    text = " ".join(_text(cell).split())
    return f"{mark}{text}{mark}" if isinstance(cell, Estimate) and cell.best else text


def _latex(text: str) -> str:
    return "".join(_SIGNS.get(c) or _LATEX.get(c, c) for c in " ".join(text.split()))


def _latex_cell(cell: Cell) -> str:
    text = _latex(_text(cell))
    return rf"\textbf{{{text}}}" if isinstance(cell, Estimate) and cell.best else text


def _html_cell(cell: Cell) -> object:
    return element("strong", cell.text) if isinstance(cell, Estimate) and cell.best else _text(cell)


def _csv_cell(cell: Cell) -> list[str]:
    if not isinstance(cell, Estimate):
        return [_plain(cell), "", ""]
    return [_plain(cell.mean), _plain(cell.half), str(cell.n)]


def _plain(cell: Cell) -> str:
    """A number in full, for programs; nothing where it is not known."""
    if isinstance(cell, float):
        return repr(cell) if math.isfinite(cell) else ""
    return "" if cell == NOT_KNOWN else str(cell)
