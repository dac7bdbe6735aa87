"""The report of a compression study: accuracy against bytes, in all and of each task, what grows with the tasks, and files."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from sweeps.studies.answers import Answers
from sweeps.studies.closing import closing_sections, missing_lines
from sweeps.studies.draw_size import draw_sizes
from sweeps.studies.each_task import each_task_section
from sweeps.studies.exported import exported_section
from sweeps.studies.growth import growth_section
from sweeps.studies.isolated import isolated_section
from sweeps.studies.pareto import front
from sweeps.studies.report import Block, Picture, Report, Section
from sweeps.studies.shrinking import ISOLATED, Compression
from sweeps.studies.sized import KB, Cell, cells
from sweeps.studies.tables import Table
from sweeps.trials import Trial

_STORED = "what a deployment must keep for all tasks: weights in use + packed masks + heads + statistics + embeddings"


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
        sections.append(each_task_section(found, answers, study.first.data_dir))
        sections.append(growth_section(_usual(asked, found), answers, study.first.data_dir))
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
    said = [f"{c.method} ({c.words}) with {c.estimate('bytes', 1, KB).text} kB and {c.estimate('accuracy').text} %" for c in shown]
    return f"{parts[0]} {'; '.join(said)}{' among them' if len(shown) < len(kept) else ''}."


def _sizes(every: Sequence[Cell], found: Mapping[str, Sequence[Cell]]) -> list[Block]:
    if not every:
        return ["No trial has finished."]
    best = front([cell.place for cell in every])
    rows = [
        [c.method, c.words, c.estimate("bytes", 1, KB), c.estimate("accuracy"), c.estimate("forgetting"),
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
    groups = {method: [cell.point(KB) for cell in group] for method, group in found.items() if group}
    draw_sizes(path, groups, ("stored for all tasks (kB)", "average test accuracy (%)"), "Accuracy against stored bytes")


def _usual(asked: Compression, found: Mapping[str, Sequence[Cell]]) -> dict[str, Cell]:
    """Method -> its configuration with default values, of those that have one finished."""
    usual = {}
    for method in asked.methods:
        label, values = Path(method).stem, asked.default(method)
        cell = next((cell for cell in found.get(label, []) if cell.values == values), None)
        if cell is not None:
            usual[label] = cell
    return usual
