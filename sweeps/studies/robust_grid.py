"""The report of a grid: heat maps, main effects, analysis of variance, how much of it is good, and what tuning is worth."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from sweeps.studies import draw_grid as draw
from sweeps.studies.anova import Part, two_way
from sweeps.studies.answers import Answers
from sweeps.studies.closing import closing_sections, missing_lines
from sweeps.studies.corrupted import corruption_section
from sweeps.studies.grid import Cell, Effect, Grid, best, main_effects, paired, start, within
from sweeps.studies.plan import Needed
from sweeps.studies.report import Block, Picture, Report, Section
from sweeps.studies.robust import Robustness
from sweeps.studies.tables import Estimate, Rows, Table, number, p_value
from sweeps.trials import Trial
from trackers.labels import choices_text

_HALF = "± half of the 95 % interval of the mean over seeds (Student's t)"


def report(asked: Robustness, answers: Answers, command: str) -> Report:
    """The report of a grid over seeds."""
    sweep, *_ = sweeps = asked.sweeps(answers)
    grid, study = asked.grid(sweep, answers), asked.study(sweeps)
    marked = {"default": grid.default, "best on validation": best(grid), "start here": start(grid)}
    measures = _measures(asked.name, grid)
    sections = [Section("Where to start, and what tuning is worth", _advice(grid, marked))]
    if grid.found:
        sections.append(Section("The grid", _maps(grid, measures, marked)))
        sections.append(Section("Effects of each knob", _effects(grid, measures)))
        sections.append(Section("Where the variance comes from", _variance(grid, measures)))
    if asked.corruptions and grid.found:
        sections.append(corruption_section("cell", _stored(asked, sweep, grid, marked), answers, sweep.settings.data_dir))
    lead = _lead(asked, grid, marked) + (
        " The grid is not complete: see what is missing." if missing_lines(sweeps, answers) else ""
    )
    return Report(study, lead, [*sections, *closing_sections(sweeps, answers, command)], _metrics(grid, marked))


def _measures(method: str, grid: Grid) -> list[draw.Measure]:
    """What is drawn: accuracy, and forgetting as the method's paper measures it."""
    known = any(math.isfinite(grid.mean(cell, "rho")) for cell in grid.found)
    more = {"hat": [draw.RHO] if known else [], "hnet": [draw.DURING], "hnet-r": [draw.DURING]}
    return [draw.ACCURACY, *more.get(method, []), draw.FORGETTING]


def _lead(asked: Robustness, grid: Grid, marked: dict[str, Cell | None]) -> str:
    if not grid.found:
        return "Nothing has finished yet."
    one, five = (100 * within(grid, points) for points in (1, 5))
    text = (
        f"{one:.0f} % of the {len(grid.found)} cells are within 1 point of the best average accuracy, {five:.0f} % within 5 points."
    )
    if (first := marked["start here"]) is not None:
        text += f" A newcomer should start from {choices_text(grid.words(first), grid.knobs)}."
    top = marked["best on validation"]
    if top is None:
        return text
    if top == grid.default:
        return f"{text} Not tuning at all costs nothing: of all cells the default is the one that validation chooses."
    loss = Estimate(*paired(grid, top, grid.default))
    how = "how far the default is below the cell chosen on validation"
    return f"{text} Not tuning at all costs {loss.text} points (n = {loss.n} seeds): {how}."


def _advice(grid: Grid, marked: dict[str, Cell | None]) -> list[Block]:
    rows: Rows = []
    for words, cell in marked.items():
        if cell is None or cell not in grid.found:
            rows.append([words, "not known", *["–"] * 4])  # noqa: RUF001 - a dash
            continue
        top = marked["best on validation"]
        loss = Estimate(math.nan, math.nan, 0) if top is None else Estimate(*paired(grid, top, cell))
        rows.append([
            words, choices_text(grid.words(cell), grid.knobs), Estimate.of(grid.values(cell, "accuracy")),
            Estimate.of(grid.values(cell, "forgetting")), loss, len(grid.found[cell]),
        ])  # fmt: skip
    head = ["cell", "values", "accuracy, %", "forgetting, points", "below the best, points", "seeds"]
    caption = (
        f"Test accuracy after the last task, {_HALF}; differences are paired by seed. Cells are chosen on validation data alone."
    )
    shares: Rows = [[f"within {points} points of the best cell", 100 * within(grid, points), len(grid.found)] for points in (1, 5)]
    return [
        "Start here: of each knob the value that does best on average over the others, which asks less of luck than the best cell.",
        Table("advice", caption, head, rows, numbers=2),
        Table("shares", "How much of the grid is good: cells by mean test accuracy.", ["", "share, %", "cells"], shares),
    ]


def _maps(grid: Grid, measures: Sequence[draw.Measure], marked: dict[str, Cell | None]) -> list[Block]:
    blocks: list[Block] = [_cells_table(grid, measures)]
    if len(grid.knobs) != 2:
        return blocks
    words = "Mean over seeds; below it half of its 95 % interval and the number of seeds n. Lighter is better."
    found = [
        Picture(f"map_{m.name}", f"{m.label[0].upper()}{m.label[1:]}. {words}", partial(_heat, grid, m, marked)) for m in measures
    ]
    return [found, *blocks]


def _heat(grid: Grid, measure: draw.Measure, marked: dict[str, Cell | None], path: Path) -> None:
    draw.draw_heat(path, grid, measure, marked)


def _cells_table(grid: Grid, measures: Sequence[draw.Measure]) -> Table:
    rows: Rows = []
    for cell in sorted(grid.found):
        values = [Estimate.of(grid.values(cell, m.name), m.digits + 1) for m in measures]
        validation = Estimate.of(grid.values(cell, "validation"))
        rows.append([choices_text(grid.words(cell), grid.knobs), validation, *values, len(grid.found[cell])])
    head = ["cell", "validation accuracy, %", *(m.label for m in measures), "seeds"]
    return Table("cells", f"All cells: {_HALF}.", head, rows)


def _effects(grid: Grid, measures: Sequence[draw.Measure]) -> list[Block]:
    pictures = []
    for measure in measures:
        effects = {knob: main_effects(grid, knob, measure.name) for knob in grid.knobs}
        if any(effect.n for found in effects.values() for effect in found):
            words = (
                f"Mean of {measure.label} over the levels of the other knob, with 95 % intervals over seeds; ringed: the default."
            )
            default = grid.words(grid.default)
            pictures.append(
                Picture(f"effects_{measure.name}", words, partial(_draw_effects, effects, measure.label, default), broad=True)
            )
    if not pictures:
        return ["No level has a seed with all its cells finished."]
    return [pictures]


def _draw_effects(effects: Mapping[str, Sequence[Effect]], label: str, default: Mapping[str, object], path: Path) -> None:
    draw.draw_effects(path, effects, label, default)


def _variance(grid: Grid, measures: Sequence[draw.Measure]) -> list[Block]:
    """The analysis of variance, or why there is none."""
    import numpy as np

    names = [*grid.knobs]
    if len(names) != 2 or min(grid.shape) < 2:
        return ["A two-way analysis of variance takes two knobs of at least two levels."]
    found: dict[str, list[Part]] = {}
    for measure in measures:
        values = grid.array(measure.name)
        if np.isfinite(values).all():
            found[measure.label] = two_way(values, (names[0], names[1]))
    if not found:
        gaps = int(np.isnan(grid.array("accuracy")).sum())
        return [f"An analysis of variance takes the full grid; {gaps} of {grid.size * len(grid.seeds)} trials are missing."]
    rows: Rows = [
        [label, part.name, number(part.squares, 4), part.freedom, number(part.f), p_value(part.p), number(100 * part.share, 1)]
        for label, parts in found.items()
        for part in parts
    ]
    n = len(grid.seeds)
    caption = (
        f"Two-way analysis of variance, fixed effects, {grid.shape[0]} x {grid.shape[1]} cells, n = {n} seeds a cell as replicates."
        " Sums of squares are in the squared unit of the measure."
    )
    if n == 1:
        caption += " With one seed there is no residual: the interaction holds the chance of the seed, and nothing can be tested."
    head = ["measure", "source", "sum of squares", "degrees of freedom", "F", "p", "share, %"]
    picture = Picture(
        "variance", f"Shares of the total sum of squares, n = {n} seeds a cell.", partial(_draw_variance, found), broad=True
    )
    return [[picture], Table("variance", caption, head, rows, numbers=2)]


def _draw_variance(found: Mapping[str, Sequence[Part]], path: Path) -> None:
    draw.draw_variance(path, found)


def _stored(asked: Robustness, sweep: Needed, grid: Grid, marked: dict[str, Cell | None]) -> dict[str, list[Trial]]:
    """The trials whose weights are tried on corrupted images: those of the marked cells, each cell once."""
    names: dict[Cell, str] = {}
    for words, cell in marked.items():
        if cell is not None and cell in grid.found:
            names[cell] = f"{names[cell]}, {words}" if cell in names else words
    return {
        f"{words}: {choices_text(grid.words(cell), grid.knobs)}": [
            asked.trial(sweep, grid.words(cell), s) for s in grid.found[cell]
        ]
        for cell, words in names.items()
    }


def _metrics(grid: Grid, marked: dict[str, Cell | None]) -> dict[str, float]:
    found = {"within/1_point": within(grid, 1), "within/5_points": within(grid, 5), "cells": float(len(grid.found))}
    for words, cell in marked.items():
        if cell is not None and cell in grid.found:
            found[f"accuracy/{words.replace(' ', '_')}"] = grid.mean(cell, "accuracy")
    return found
