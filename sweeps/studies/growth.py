"""Bytes against the number of tasks: measured, by the papers' counts, and beside its weights and heads (TFM, Fig. 1)."""

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
from sweeps.studies.overhead import FORMULAS, Formula, Size, size_of
from sweeps.studies.report import Block, Picture, Section
from sweeps.studies.sized import KB, Cell
from sweeps.studies.tables import Estimate, Rows, Table, number
from sweeps.trials import Trial, build_benchmark

_TITLE = "Bytes against the number of tasks"
_RECORDED = ("bytes", "overhead_bytes", "learning_bytes")


@dataclass(frozen=True)
class Grown:
    """A method with default values.

    Attributes:
        name: of the method.
        kept: seeds -> kilobytes to keep after 1..T tasks.
        overhead: the same of what is kept beside the network's weights and heads; NaN is not known.
        learning: the same of what further learning needs; NaN is not known.
        size: of its network.
    """

    name: str
    kept: list[list[float]]
    overhead: list[list[float]]
    learning: list[list[float]]
    size: Size

    @property
    def formula(self) -> Formula | None:
        """Its paper's count; None where that states none."""
        return FORMULAS.get(self.name)

    @property
    def tasks(self) -> range:
        """Numbers of tasks learned."""
        return range(1, len(self.size.heads) + 1)

    @property
    def beside(self) -> list[list[float]]:
        """Its overhead; where its paper's count holds while learning, what learning needs beyond the plain network."""
        if self.formula is None or not self.formula.learning:
            return self.overhead
        return [[value - KB * self.size.plain(t) for t, value in zip(self.tasks, seed, strict=True)] for seed in self.learning]

    def counted(self, beside: bool) -> list[float]:
        """Kilobytes by its paper's count, of all or of what is beside the network; empty where there is nothing to be counted."""
        formula = self.formula
        if formula is None or (formula.learning and not beside):
            return []
        found = [KB * (formula.overhead if beside else formula.bytes)(self.size, t) for t in self.tasks]
        told = any(found) if beside else formula.words != FORMULAS["finetune"].words
        return found if told else []


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
    curves = [[[KB * v for v in bytes_curve(record, name)] for record in records] for name in _RECORDED]
    return Grown(name, curves[0], curves[1], curves[2], _size(trials[0], data_dir))


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
    caption = "Left: bytes to keep after each task with default values. Right, as TFM's Fig. 1: those of them that are neither"
    caption += (
        " weights of the network nor heads (of methods whose paper counts what is there while learning: what that takes beyond the"
        " plain network); nothing is drawn where there is nothing. Mean over seeds with 95 % intervals; dotted: the paper's count."
    )
    picture = Picture("overhead", f"{caption} {words}", partial(_draw, found), broad=True)
    older = [g.name for g in found if any(math.isnan(v) for seed in (*g.overhead, *g.learning) for v in seed)]
    lacks = f"Not recorded when the trials of {', '.join(older)} ran: what is beside weights and heads, and what learning needs."
    return [[picture], _table(found, words), *([lacks] if older else [])]


def _draw(found: Sequence[Grown], path: Path) -> None:
    names = [f"{g.name} (n = {len(g.kept)})" for g in found]
    kept = {name: Line(g.kept, g.counted(beside=False)) for name, g in zip(names, found, strict=True)}
    beside = {name: Line(g.beside, g.counted(beside=True)) for name, g in zip(names, found, strict=True)}
    size, tasks = found[0].size, found[0].tasks
    bounds = {"a plain network with its heads": size.plain, "a network of its own for each task": size.separate}
    draw_growth(path, kept, beside, {name: [KB * count(t) for t in tasks] for name, count in bounds.items()})


def _table(found: Sequence[Grown], words: str) -> Table:
    tasks = len(found[0].size.heads)
    rows: Rows = []
    for grown in found:
        ends = [Estimate.of([values[i] for values in grown.kept], 1) for i in (0, -1)]
        more = [(values[-1] - values[0]) / (tasks - 1) if tasks > 1 else math.nan for values in grown.kept]
        others = [Estimate.of([values[-1] for values in measured], 1) for measured in (grown.overhead, grown.learning)]
        rows.append([grown.name, *ends, Estimate.of(more, 2), *others, *_by_paper(grown, tasks), len(grown.kept)])
    size = found[0].size
    for name, count in (("a plain network", size.plain), ("a network a task", size.separate)):
        step = fmean(count(t + 1) - count(t) for t in range(1, tasks)) if tasks > 1 else math.nan
        rows.append([name, *(number(KB * value, 1) for value in (count(1), count(tasks), step)), *[""] * 5])
    head = [
        "method",
        "after task 1, kB",
        f"after task {tasks}, kB",
        "a task more, kB",
        "beside weights and heads, kB",
        "to learn on, kB",
        "by the paper, kB",
        "the paper's count",
        "seeds",
    ]
    caption = (
        f"Measured bytes to keep, and beside them what the papers count after {tasks} tasks. To learn on: measured bytes of all "
        "that must be kept between two tasks for further ones to be learned, which is what the counts are about that hold while "
        f"learning; what is needed within a task only, such as a teacher's copy, is not in it. {words}"
    )
    return Table("overhead", caption, head, rows)


def _by_paper(grown: Grown, tasks: int) -> tuple[str, str]:
    """Kilobytes, and what is counted."""
    formula = grown.formula
    if formula is None:
        return number(math.nan), "none is known to us"
    return number(KB * formula.bytes(grown.size, tasks), 1), f"{formula.words}{' (while learning)' if formula.learning else ''}"
