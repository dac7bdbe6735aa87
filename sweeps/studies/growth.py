"""Bytes against the number of tasks: measured, by the papers' counts, and beyond a plain network (TFM, Fig. 1)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from clcore.errors import UserError
from clcore.predictor import Recipe
from sweeps.studies.answers import Answers, bytes_curve
from sweeps.studies.draw_growth import Line, draw_growth
from sweeps.studies.each_task import measured_bytes
from sweeps.studies.overhead import FORMULAS, Formula, Size, size_of
from sweeps.studies.report import Block, Picture, Section
from sweeps.studies.sized import KB, Cell
from sweeps.studies.tables import Estimate, Rows, Table, number
from sweeps.trials import Trial, build_benchmark

_TITLE = "Bytes against the number of tasks"


@dataclass(frozen=True)
class Grown:
    """A method with default values.

    Attributes:
        name: of the method.
        kept: seeds -> kilobytes to keep after 1..T tasks.
        learning: seeds -> kilobytes to go on learning from after the last task; NaN is not known.
        size: of its network.
    """

    name: str
    kept: list[list[float]]
    learning: list[float]
    size: Size

    @property
    def formula(self) -> Formula | None:
        """Its paper's count; None where that states none."""
        return FORMULAS.get(self.name)

    def by_paper(self, tasks: int) -> float:
        """Kilobytes after so many tasks by its paper's count; NaN where there is none."""
        return KB * self.formula.bytes(self.size, tasks) if self.formula else math.nan


def growth_section(usual: Mapping[str, Cell], answers: Answers, data_dir: Path | None) -> Section:
    """Bytes after each task of each method.

    Args:
        usual: method -> its configuration with default values.
        answers: of the home.
        data_dir: where the benchmark's data are.
    """
    if not usual:
        return Section(_TITLE, ["No configuration with default values has finished."])
    try:
        found = [_grown(name, cell, answers, data_dir) for name, cell in usual.items()]
    except UserError as error:
        return Section(_TITLE, [f"The papers' counts need the benchmark, which cannot be made here: {error}"])
    return Section(_TITLE, _blocks(found))


def _grown(name: str, cell: Cell, answers: Answers, data_dir: Path | None) -> Grown:
    trials = [*cell.trials.values()]
    records = [record for trial in trials if (record := answers.get(trial))]
    kept = [[KB * value for value in bytes_curve(record)] for record in records]
    return Grown(name, kept, [_learning(trial, answers, data_dir) for trial in trials], _size(trials[0], data_dir))


def _learning(trial: Trial, answers: Answers, data_dir: Path | None) -> float:
    try:
        return KB * measured_bytes(trial, answers, data_dir).learning
    except UserError:  # its weights are gone
        return math.nan


def _size(trial: Trial, data_dir: Path | None) -> Size:
    said = trial.configuration
    benchmark = build_benchmark(said, trial.seed, str(data_dir.absolute()) if data_dir else None)
    return size_of(Recipe.of(said.method, said.hyper, said.network, benchmark, trial.seed).build(), benchmark)


def _blocks(found: Sequence[Grown]) -> list[Block]:
    size = found[0].size
    words = (
        f"W = {size.weights:,} weights of the body, F = {size.features:,} hidden units; floats of 4 bytes; kB are 1000 bytes; "
        f"a plain network is that of {found[0].name} with its heads."
    )
    caption = "Bytes to keep after each task with default values, mean over seeds with 95 % intervals; dotted: the paper's count."
    beyond = (
        "Right: what is kept beyond the same network with nothing but its heads, as in TFM's Fig. 1, though measured; below 0 a "
        "method keeps less than that, because weights that no task uses are left out."
    )
    picture = Picture("overhead", f"{caption} {beyond} {words}", partial(_draw, found), broad=True)
    unknown = [grown.name for grown in found if grown.formula is None]
    none = [f"No count is known to us from the papers of {', '.join(unknown)}: measured alone."] if unknown else []
    return [[picture], _table(found, words), *none]


def _draw(found: Sequence[Grown], path: Path) -> None:
    tasks = range(1, len(found[0].size.heads) + 1)
    lines = {}
    for grown in found:
        plain = [KB * grown.size.plain(t) for t in tasks]
        counted = [grown.by_paper(t) for t in tasks]
        deployed = grown.formula is not None and not grown.formula.learning and counted != plain
        lines[grown.name] = Line(grown.kept, counted if deployed else [], plain)
    size = found[0].size
    draw_growth(path, lines, {"a plain network, its heads": [KB * size.plain(t) for t in tasks],
                              "a network of its own for each task": [KB * size.separate(t) for t in tasks]})  # fmt: skip


def _table(found: Sequence[Grown], words: str) -> Table:
    tasks = len(found[0].size.heads)
    rows: Rows = []
    for grown in found:
        ends = [Estimate.of([values[i] for values in grown.kept], 1) for i in (0, -1)]
        more = [(values[-1] - values[0]) / (tasks - 1) if tasks > 1 else math.nan for values in grown.kept]
        told = f"{grown.formula.words}{' (while learning)' if grown.formula.learning else ''}" if grown.formula else ""
        learning = Estimate.of(grown.learning, 1)
        rows.append([grown.name, *ends, Estimate.of(more, 2), learning, number(grown.by_paper(tasks), 1), told, len(grown.kept)])
    size = found[0].size
    for name, count in (("a plain network", size.plain), ("a network a task", size.separate)):
        step = fmean(count(t + 1) - count(t) for t in range(1, tasks)) if tasks > 1 else math.nan
        rows.append([name, *(number(KB * value, 1) for value in (count(1), count(tasks), step)), "", "", "", ""])
    head = [
        "method",
        "after task 1, kB",
        f"after task {tasks}, kB",
        "a task more, kB",
        "to learn on, kB",
        "by the paper, kB",
        "the paper's count",
        "seeds",
    ]
    caption = (
        f"Measured bytes to keep, beside what the papers count after {tasks} tasks. To learn on: measured bytes of all that "
        f"learning further tasks needs, which is what the counts are about that hold while learning. {words}"
    )
    return Table("overhead", caption, head, rows)
