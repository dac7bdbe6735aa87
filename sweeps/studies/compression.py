"""The report of a compression study: accuracy against bytes, what grows with the tasks, isolated tasks, and files."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from clcore.errors import UserError
from sweeps.studies.answers import Answers, Figures, bytes_curve
from sweeps.studies.closing import closing_sections, missing_lines
from sweeps.studies.draw_size import Point, draw_overhead, draw_sizes
from sweeps.studies.exported import exported_section
from sweeps.studies.isolated import isolated_section
from sweeps.studies.overhead import FORMULAS, Size, size_of
from sweeps.studies.pareto import front
from sweeps.studies.plan import Needed
from sweeps.studies.report import Block, Picture, Report, Section
from sweeps.studies.robust_sampled import drawn
from sweeps.studies.shrinking import ISOLATED, Compression
from sweeps.studies.tables import Estimate, Rows, Table, number
from sweeps.trials import Trial, build_benchmark, build_network
from trackers.labels import choices_text

_KB = 1e-3
_STORED = "what a deployment must keep for all tasks: weights in use, packed masks, heads, statistics and embeddings"


@dataclass(frozen=True)
class Cell:
    """A configuration with what has finished of it."""

    method: str
    values: dict[str, Any]
    trials: dict[int, Trial]
    figures: dict[int, Figures]

    @property
    def words(self) -> str:
        """Its values in words."""
        return choices_text(self.values, self.values) or "default"

    def estimate(self, name: str, digits: int = 2, scale: float = 1.0) -> Estimate:
        """A figure over its seeds."""
        return Estimate.of([scale * getattr(figures, name) for figures in self.figures.values()], digits)

    @property
    def place(self) -> tuple[float, float]:
        """Mean bytes and mean test accuracy."""
        return self.estimate("bytes").mean, self.estimate("accuracy").mean


def cells(sweep: Needed, answers: Answers) -> list[Cell]:
    """The configurations of a sweep that have a finished seed."""
    found = []
    for values, configuration in sweep.cells or drawn(sweep, answers):
        trials = {seed: Trial(configuration, seed) for seed in sweep.settings.seeds}
        figures = {seed: figure for seed, trial in trials.items() if (figure := answers.figures(trial)) is not None}
        if figures:
            found.append(Cell(sweep.label, values, {seed: trials[seed] for seed in figures}, figures))
    return found


def report(asked: Compression, answers: Answers, command: str) -> Report:
    """The report of a compression study."""
    sweeps = asked.sweeps(answers)
    together = [sweep for sweep in sweeps if not sweep.label.endswith(ISOLATED)]
    alone = [sweep for sweep in sweeps if sweep.label.endswith(ISOLATED)]
    found = {sweep.label: cells(sweep, answers) for sweep in together}
    every = [cell for group in found.values() for cell in group]
    study = asked.study(sweeps)
    sections = [Section("Accuracy against bytes", _sizes(every, found))]
    if every:
        sections.append(Section("Bytes against the number of tasks", _growth(asked, together, found, answers)))
    if alone:
        sections.append(isolated_section(alone, answers))
    best = {method: top for method, group in found.items() if (top := _best(group)) is not None}
    if best:
        chosen = {method: (cell.words, _first(cell)) for method, cell in best.items()}
        sections.append(exported_section(chosen, answers, study.first.data_dir, asked.export))
    lead = _lead(every) + (" The study is not complete: see what is missing." if missing_lines(sweeps, answers) else "")
    metrics = {f"{method}/{name}": cell.estimate(name).mean for method, cell in best.items() for name in ("accuracy", "bytes")}
    return Report(study, lead, [*sections, *closing_sections(sweeps, answers, command)], metrics)


def _first(cell: Cell) -> Trial:
    return cell.trials[min(cell.trials)]


def _best(group: Sequence[Cell]) -> Cell | None:
    """The best on validation data; without such data the first."""
    known = [cell for cell in group if math.isfinite(cell.estimate("validation").mean)]
    return max(known, key=lambda cell: cell.estimate("validation").mean, default=group[0] if group else None)


def _lead(every: Sequence[Cell]) -> str:
    kept = [every[i] for i in front([cell.place for cell in every])]
    if not kept:
        return "Nothing has finished yet."
    parts = [f"{len(kept)} of {len(every)} configurations are on the front of bytes and accuracy:"]
    shown = kept if len(kept) <= 4 else [kept[0], kept[len(kept) // 2], kept[-1]]
    said = [f"{c.method} ({c.words}) with {c.estimate('bytes', 1, _KB).text} kB and {c.estimate('accuracy').text} %" for c in shown]
    return f"{parts[0]} {'; '.join(said)}{' among them' if len(shown) < len(kept) else ''}."


def _sizes(every: Sequence[Cell], found: Mapping[str, Sequence[Cell]]) -> list[Block]:
    if not every:
        return ["No trial has finished."]
    best = front([cell.place for cell in every])
    rows = [
        [c.method, c.words, c.estimate("bytes", 1, _KB), c.estimate("accuracy"), c.estimate("forgetting"),
         "yes" if i in best else "", len(c.figures)]
        for i, c in sorted(enumerate(every), key=lambda item: item[1].place)
    ]  # fmt: skip
    head = ["method", "values", "stored, kB", "accuracy, %", "forgetting, points", "on the front", "seeds"]
    spread = "mean over seeds ± half of the 95 % interval (Student's t)"
    caption = f"Stored: {_STORED}; {spread}; kB are 1000 bytes. On the front: nothing is at most as large and at least as good."
    picture = Picture("sizes", f"Average test accuracy after the last task against stored bytes, {spread}. Stored: {_STORED}.",
                      partial(_draw_sizes, found), broad=True)  # fmt: skip
    return [[picture], Table("sizes", caption, head, rows, numbers=2)]


def _draw_sizes(found: Mapping[str, Sequence[Cell]], path: Path) -> None:
    groups = {method: [_point(cell) for cell in group] for method, group in found.items() if group}
    draw_sizes(path, groups, ("stored for all tasks (kB)", "average test accuracy (%)"), "Accuracy against stored bytes")


def _point(cell: Cell) -> Point:
    figures = cell.figures.values()
    return Point(cell.words, [_KB * figure.bytes for figure in figures], [figure.accuracy for figure in figures])


def _growth(asked: Compression, sweeps: Sequence[Needed], found: Mapping[str, Sequence[Cell]], answers: Answers) -> list[Block]:
    """Bytes after each task, of each method with its default values."""
    usual = {}
    for method in asked.methods:
        label, values = Path(method).stem, asked.default(method)
        cell = next((cell for cell in found.get(label, []) if cell.values == values), None)
        if cell is not None:
            usual[label] = cell
    if not usual:
        return ["No configuration with default values has finished."]
    measured = {label: [_kilobytes(answers, trial) for trial in cell.trials.values()] for label, cell in usual.items()}
    try:
        size = _size(sweeps[0])
    except UserError as error:
        return [f"The papers' formulas need the benchmark, which cannot be made here: {error}"]
    tasks = len(size.heads)
    plain = [_KB * size.plain(t) for t in range(1, tasks + 1)]
    formulas = {
        label: [_KB * FORMULAS[label].bytes(size, t) for t in range(1, tasks + 1)]
        for label in usual
        if label in FORMULAS and not FORMULAS[label].learning
    }
    caption = "Bytes to keep after each task with default values, mean over seeds with 95 % intervals; dotted: by the paper."
    words = f"W = {size.weights:,} weights of the body, F = {size.features:,} hidden units; floats of 4 bytes; kB are 1000 bytes."
    picture = Picture("overhead", f"{caption} {words}", partial(_draw_overhead, measured, formulas, plain), broad=True)
    return [[picture], _growth_table(measured, size, words)]


def _kilobytes(answers: Answers, trial: Trial) -> list[float]:
    record = answers.get(trial)
    return [_KB * value for value in bytes_curve(record)] if record else []


def _draw_overhead(
    measured: Mapping[str, Sequence[Sequence[float]]], formulas: Mapping[str, Sequence[float]], plain: Sequence[float], path: Path
) -> None:
    draw_overhead(path, measured, formulas, plain)


def _growth_table(measured: Mapping[str, Sequence[Sequence[float]]], size: Size, words: str) -> Table:
    tasks = len(size.heads)
    rows: Rows = []
    for label, seeds in measured.items():
        formula = FORMULAS.get(label)
        by_paper = number(_KB * formula.bytes(size, tasks), 1) if formula else "–"  # noqa: RUF001 - a dash
        growth = [(values[-1] - values[0]) / (tasks - 1) if tasks > 1 else math.nan for values in seeds]
        ends = [Estimate.of([values[i] for values in seeds], 1) for i in (0, -1)]
        told = f"{formula.words}{' (while learning)' if formula.learning else ''}" if formula else ""
        rows.append([label, *ends, Estimate.of(growth, 2), by_paper, told, len(seeds)])
    step = fmean(size.plain(t + 1) - size.plain(t) for t in range(1, tasks)) if tasks > 1 else math.nan
    plain = (number(_KB * value, 1) for value in (size.plain(1), size.plain(tasks), step))
    rows.append(["a plain network", *plain, "", "", ""])
    head = [
        "method",
        "after task 1, kB",
        f"after task {tasks}, kB",
        "a task more, kB",
        "by the paper, kB",
        "the paper's count",
        "seeds",
    ]
    return Table("overhead", f"Measured bytes to keep, beside what the papers count. {words}", head, rows)


def _size(sweep: Needed) -> Size:
    configuration, seed, data_dir = sweep.cells[0][1], sweep.settings.seeds[0], sweep.settings.data_dir
    benchmark = build_benchmark(configuration, seed, str(data_dir.absolute()) if data_dir else None)
    return size_of(build_network(configuration, benchmark, seed), benchmark)
