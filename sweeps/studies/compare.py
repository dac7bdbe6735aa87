"""Methods over the same seeds: the table of a paper, tests against the best, and accuracy after each task."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sweeps.studies.answers import Answers, Figures, curve
from sweeps.studies.closing import closing_sections, missing_lines
from sweeps.studies.corrupted import corruption_section
from sweeps.studies.draw_lines import draw_curves, draw_dots
from sweeps.studies.paired import wilcoxon
from sweeps.studies.plan import Needed, Study
from sweeps.studies.report import Block, Picture, Report, Section
from sweeps.studies.tables import Estimate, Rows, Table, p_value
from sweeps.trials import Trial
from trackers.labels import show

#: Not methods to choose, but what methods are measured with.
BOUNDS = ("joint", "random")
JOINT, RANDOM = BOUNDS
#: Drawn in colour however many methods there are.
_ALWAYS_DRAWN = (JOINT, "finetune")
#: What the label of a tuning sweep ends with.
TUNING = ", tuning"
#: Title, figure, digits and what it is multiplied by.
_COLUMNS = (
    ("forgetting, points", "forgetting", 2, 1.0),
    ("BWT, points", "bwt", 2, 1.0),
    ("rho", "rho", 3, 1.0),
    ("training, s", "seconds", 1, 1.0),
    ("stored, kB", "bytes", 1, 1e-3),
    ("to learn, kB", "learning_bytes", 1, 1e-3),
)
_FRACTION = re.compile(r"-?\d+\.\d+(e[+-]?\d+)?")
_INTERVALS = "mean over seeds ± half of the 95 % interval of the mean (Student's t)"


@dataclass(frozen=True)
class Compared:
    """One method.

    Attributes:
        name: of the method.
        figures: seed -> where it ended.
        curves: seed -> average test accuracy after 1..T tasks, percent.
        tuned: values that were chosen for it; empty where nothing was.
    """

    name: str
    figures: dict[int, Figures]
    curves: dict[int, list[float]]
    tuned: Mapping[str, str]

    def of(self, name: str) -> dict[int, float]:
        """A figure by seed."""
        return {seed: getattr(figures, name) for seed, figures in self.figures.items()}

    def estimate(self, name: str, digits: int = 2, scale: float = 1.0) -> Estimate:
        """A figure over the seeds."""
        return Estimate.of([scale * value for value in self.of(name).values()], digits)


@dataclass(frozen=True)
class Told:
    """What a report says besides the results.

    Attributes:
        tuned: method -> the values that were chosen.
        corruptions: whether stored weights are tried on corrupted images.
        command: what makes the study.
    """

    tuned: Mapping[str, Mapping[str, str]]
    corruptions: bool
    command: str


def compared(sweeps: Sequence[Needed], answers: Answers, tuned: Mapping[str, Mapping[str, str]]) -> list[Compared]:
    """The methods with what has finished of them, as asked for.

    Rho is worked out against one joint run and one random run a seed for all methods, those of the comparison itself.
    """
    by_label = {needed.label: needed for needed in sweeps}
    found = []
    for needed in sweeps:
        figures: dict[int, Figures] = {}
        curves: dict[int, list[float]] = {}
        for trial in needed.trials():
            pair = answers.pair([_trial(by_label[name], trial.seed) for name in BOUNDS if name in by_label])
            figure, record = answers.figures(trial, pair), answers.get(trial)
            if figure and record:
                figures[trial.seed], curves[trial.seed] = figure, curve(record)
        found.append(Compared(needed.label, figures, curves, tuned.get(needed.label, {})))
    return found


def _trial(needed: Needed, seed: int) -> Trial:
    return next(trial for trial in needed.trials() if trial.seed == seed)


def report(study: Study, tuning: Sequence[Needed], answers: Answers, told: Told) -> Report:
    """The report of a comparison.

    Args:
        study: its sweeps are those that are compared, one a method.
        tuning: sweeps in which values were chosen before.
        answers: of the home.
        told: what else it is to say.
    """
    found = compared(study.sweeps, answers, told.tuned)
    there = [method for method in found if method.figures]
    best = best_of(there)
    sections = [Section("Result", _result(study, there, best)), *_chosen(tuning, there)]
    if told.corruptions and there:
        sections.append(corruption_section("method", _stored(study, answers, there), answers, study.first.data_dir))
    everything = [*tuning, *study.sweeps]
    lead = _lead(there, best) + (" The report is not complete: see what is missing." if missing_lines(everything, answers) else "")
    metrics = {
        f"{m.name}/{name}": m.estimate(name).mean
        for m in there
        for name in ("accuracy", "forgetting", "bytes", "learning_bytes", "seconds")
    }
    return Report(study, lead, [*sections, *closing_sections(everything, answers, told.command)], metrics)


def _stored(study: Study, answers: Answers, there: Sequence[Compared]) -> dict[str, list[Trial]]:
    """The trials whose weights are tried on corrupted images, of the method with the highest accuracy first; guessing has none."""
    trials = {needed.label: [trial for trial in needed.trials() if answers.get(trial)] for needed in study.sweeps}
    return {method.name: trials[method.name] for method in _ranked(there) if method.name != RANDOM}


def _ranked(there: Sequence[Compared]) -> list[Compared]:
    return sorted(there, key=lambda method: -method.estimate("accuracy").mean)


def best_of(there: Sequence[Compared]) -> Compared | None:
    """The method of the highest mean test accuracy, bounds aside where there is another."""
    able = [method for method in there if method.name not in BOUNDS] or [m for m in there if m.name == JOINT]
    return max(able, key=lambda method: method.estimate("accuracy").mean, default=None)


def _lead(there: Sequence[Compared], best: Compared | None) -> str:
    if best is None:
        return "Nothing has finished yet."
    parts = [f"{best.name} has the highest average test accuracy after the last task: {best.estimate('accuracy').text} %"]
    parts[0] += f" (n = {len(best.figures)} seeds)."
    others = [m for m in there if m is not best and m.name not in BOUNDS]
    if others:
        second = max(others, key=lambda method: method.estimate("accuracy").mean)
        p, n = wilcoxon(second.of("accuracy"), best.of("accuracy"))
        test = f"paired by seed, Wilcoxon's p = {p_value(p)} (n = {n})"
        parts.append(f"Next is {second.name} with {second.estimate('accuracy').text} %; {test}.")
    joint = next((m for m in there if m.name == JOINT), None)
    if joint:
        parts.append(f"Joint training reaches {joint.estimate('accuracy').text} %.")
    return " ".join(parts)


def _result(study: Study, there: Sequence[Compared], best: Compared | None) -> list[Block]:
    first = study.first
    where = f"{Path(first.benchmark).stem}, {first.scenario}, {first.network}"
    if not there:
        return ["No trial has finished."]
    ranked = _ranked(there)
    blocks: list[Block] = [_table(ranked, best, where), _note(there)]
    drawn = [method for method in ranked if method.name != RANDOM] or ranked
    curves = {method.name: [*method.curves.values()] for method in drawn}
    panels = {
        label: {method.name: [*method.of(name).values()] for method in drawn}
        for name, label in (("accuracy", "average test accuracy (%)"), ("forgetting", "forgetting (points)"))
    }
    blocks.append([
        Picture("curves", f"Average test accuracy on the tasks learned so far, {_INTERVALS} (of more than eight methods the mean "
                "alone; of more than ten the best eight, joint training and fine-tuning in colour); n is the number of seeds. The "
                "best is first; guessing is not drawn.",
                partial(_curves, curves, f"Average accuracy, {where}"), broad=True),
        Picture("ends", "After the last task: the mean with its 95 % interval; rings below it are the seeds.",
                partial(_dots, panels), broad=True),
    ])  # fmt: skip
    return blocks


def _curves(curves: Mapping[str, Sequence[Sequence[float]]], title: str, path: Path) -> None:
    draw_curves(path, curves, title, _ALWAYS_DRAWN)


def _dots(panels: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    draw_dots(path, panels)


def _table(ranked: Sequence[Compared], best: Compared | None, where: str) -> Table:
    head = ["method", "accuracy, %", *(title for title, *_ in _COLUMNS), "seeds", "p"]
    rows: Rows = []
    for method in ranked:
        p = math.nan if best is None else wilcoxon(method.of("accuracy"), best.of("accuracy"))[0]
        accuracy = method.estimate("accuracy")
        shown = Estimate(accuracy.mean, accuracy.half, accuracy.n, best=method is best)
        others = [method.estimate(name, digits, scale) for _, name, digits, scale in _COLUMNS]
        rows.append([method.name, shown, *others, len(method.figures), "the best" if method is best else p_value(p)])
    against = f"; p: Wilcoxon's signed-rank test of accuracy against {best.name}, paired by seed, two-sided" if best else ""
    caption = f"After the last task on {where}: {_INTERVALS}{against}, not corrected for the number of methods."
    return Table("comparison", caption, head, rows)


def _note(there: Sequence[Compared]) -> str:
    n = max((len(method.figures) for method in there), default=0)
    lowest = f" With n = {n} seeds its p cannot be below {p_value(2 / 2**n)}, however large a difference is." if n else ""
    known = any(math.isfinite(method.estimate("rho", 3).mean) for method in there)
    rho = (
        "Rho is HAT's forgetting ratio: 0 as joint training, -1 as guessing, both of the same seed and of this comparison."
        if known
        else "Rho is not known: it needs joint among the methods."
    )
    return (
        f"Bold: the best, joint training and guessing aside.{lowest} {rho} Stored: what a deployment must keep after the last "
        "task; to learn: what must be kept for further tasks to be learned (Fisher information, stored images, the whole "
        "network), the training data of joint training aside."
    )


def _chosen(tuning: Sequence[Needed], there: Sequence[Compared]) -> list[Section]:
    """What was chosen for each method, if anything was."""
    if not tuning:
        return []
    tried = {needed.label.removesuffix(TUNING): needed.settings.trials for needed in tuning}
    rows: Rows = [
        [m.name, tried.get(m.name, 0) or 0, ", ".join(f"{k} = {_short(v)}" for k, v in m.tuned.items()) or "-"] for m in there
    ]
    where = "over the method's declared ranges and its learning rate within a factor of ten"
    caption = f"Chosen by validation accuracy on the first seed, {where}. Four digits; the commands below have all."
    words = "Methods were tuned before: test data had no part in it, but the first seed's validation data had."
    return [Section("What was chosen", [words, Table("tuned", caption, ["method", "tried", "values"], rows, numbers=3)])]


def _short(value: str) -> str:
    """A value as a table shows it."""
    return show(float(value)) if _FRACTION.fullmatch(value) else value
