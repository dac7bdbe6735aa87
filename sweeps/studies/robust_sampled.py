"""The report of a sampled space: which hyperparameters mattered, how good most of it is, and what tuning is worth."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sweeps.importance import importances
from sweeps.studies.answers import Answers, sampled
from sweeps.studies.closing import closing_sections, missing_lines
from sweeps.studies.corrupted import corruption_section
from sweeps.studies.draw_sampled import draw_slices, draw_spread
from sweeps.studies.plan import Needed
from sweeps.studies.report import Block, Picture, Report, Section
from sweeps.studies.robust import Robustness
from sweeps.studies.tables import Estimate, Rows, Table, number
from sweeps.trials import Configuration as Trained
from sweeps.trials import Trial, with_values
from trackers.labels import choices_text
from trackers.pictures_parallel import draw_parallel
from trackers.pictures_sweep import draw_importance
from trackers.summary import Configuration, final

#: Configurations that the table names.
_ROWS = 10
_COLUMNS = ("validation", "test", "forgetting")


def report(asked: Robustness, answers: Answers, command: str) -> Report:
    """The report of a sampled space."""
    drawn_sweep, untuned = sweeps = asked.sweeps(answers)
    found, study = sampled(drawn_sweep, answers), asked.study(sweeps)
    default = {t.seed: final(record).test for t in untuned.trials() if (record := answers.get(t))}
    keys = [*drawn_sweep.space.ranges]
    sections = [Section("What tuning is worth", _worth(found, default, keys))]
    if found:
        sections.append(Section("Which hyperparameters matter", _mattered(found, keys)))
        sections.append(Section("The space", _space(found, keys, default)))
    stored = _stored(drawn_sweep, untuned, answers) if asked.corruptions else {}
    if stored:
        sections.append(corruption_section("configuration", stored, answers, untuned.settings.data_dir))
    lead = _lead(found, default, keys) + (
        " The study is not complete: see what is missing." if missing_lines(sweeps, answers) else ""
    )
    return Report(study, lead, [*sections, *closing_sections(sweeps, answers, command)], {})


def drawn(needed: Needed, answers: Answers) -> list[tuple[dict[str, Any], Trained]]:
    """Values of a sampled sweep's configurations, and the configurations themselves, the best on validation first."""
    found = []
    for configuration in sampled(needed, answers):
        values = {key: configuration.choices[key] for key in needed.space.ranges}
        found.append((values, with_values(needed.base, values)))
    return found


def _stored(sweep: Needed, untuned: Needed, answers: Answers) -> dict[str, list[Trial]]:
    """The trials whose weights are tried on corrupted images: nobody's choice, and the best on validation data."""
    groups = {"default": untuned.trials()}
    if best := next(iter(drawn(sweep, answers)), None):
        groups["best on validation"] = [Trial(best[1], seed) for seed in sweep.settings.seeds]
    there = {words: [trial for trial in trials if answers.get(trial)] for words, trials in groups.items()}
    return {words: trials for words, trials in there.items() if trials}


def _lead(found: Sequence[Configuration], default: dict[int, float], keys: Sequence[str]) -> str:
    if not found:
        return "Nothing has finished yet."
    one, five = (100 * _within(found, points) for points in (1, 5))
    of = f"of the {len(found)} sampled configurations"
    text = f"{one:.0f} % {of} are within 1 point of the best average accuracy, {five:.0f} % within 5."
    loss = _loss(found[0], default)
    text += f" A newcomer should start from {choices_text(found[0].choices, keys)}, the best on validation."
    how = "how far the default is below it"
    return text if not loss.n else f"{text} Not tuning at all costs {loss.text} points (n = {loss.n} seeds): {how}."


def _within(found: Sequence[Configuration], points: float) -> float:
    means = [100 * mean for c in found if math.isfinite(mean := c.mean("test"))]
    return sum(mean >= max(means) - points for mean in means) / len(means) if means else math.nan


def _loss(best: Configuration, default: dict[int, float]) -> Estimate:
    return Estimate.of([100 * (f.test - default[f.seed]) for f in best.finals if f.seed in default])


def _worth(found: Sequence[Configuration], default: dict[int, float], keys: Sequence[str]) -> list[Block]:
    if not found:
        return ["No configuration has finished."]
    rows: Rows = [
        [
            rank,
            choices_text(c.choices, keys),
            *(Estimate.of([100 * getattr(f, name) for f in c.finals]) for name in _COLUMNS),
            len(c.finals),
        ]
        for rank, c in enumerate(found[:_ROWS], start=1)
    ]
    unknown = Estimate(math.nan, math.nan, 0)
    rows.append(["default", "", unknown, Estimate.of([100 * value for value in default.values()]), unknown, len(default)])
    head = ["", "values", "validation, %", "accuracy, %", "forgetting, points", "seeds"]
    caption = "The best on validation data, and the configuration that nobody tuned: mean over seeds ± half of the 95 % interval."
    shares: Rows = [[f"within {points} points of the best", number(100 * _within(found, points)), len(found)] for points in (1, 5)]
    return [
        Table("configurations", caption, head, rows, numbers=2),
        Table("shares", "How much of what was sampled is good, by mean test accuracy.", ["", "share, %", "configurations"], shares),
    ]


def _mattered(found: Sequence[Configuration], keys: Sequence[str]) -> list[Block]:
    shares = importances(found, keys)
    if isinstance(shares, str):
        return [shares]
    caption = "PED-ANOVA (Watanabe et al. 2023): how much each had to do with being in the best quarter on validation data."
    rows: Rows = [[key, 100 * share] for key, share in shares.items()]
    picture = Picture("importance", f"{caption} n = {len(found)} configurations.", partial(_draw_importance, shares))
    return [[picture], Table("importance", f"{caption} n = {len(found)}.", ["hyperparameter", "share, %"], rows)]


def _draw_importance(shares: dict[str, float], path: Path) -> None:
    draw_importance(path, shares)


def _space(found: Sequence[Configuration], keys: Sequence[str], default: dict[int, float]) -> list[Block]:
    usual = 100 * sum(default.values()) / len(default) if default else math.nan
    n = f"n = {len(found)} configurations"
    pictures = [
        Picture(
            "spread",
            f"Average test accuracy of the sampled configurations, {n}; dashed: the default.",
            partial(_spread, found, usual),
        ),
        Picture("slices", f"A dot is a configuration, mean over its seeds, {n}.", partial(_slices, found, keys), broad=True),
    ]
    if len(found) > 1:
        pictures.append(
            Picture("parallel", "A line is a configuration; lighter scored better.", partial(_parallel, found, keys), broad=True)
        )
    return [pictures]


def _spread(found: Sequence[Configuration], usual: float, path: Path) -> None:
    draw_spread(path, [100 * c.mean("test") for c in found], usual)


def _slices(found: Sequence[Configuration], keys: Sequence[str], path: Path) -> None:
    draw_slices(path, {key: [(c.choices[key], 100 * c.mean("test")) for c in found if key in c.choices] for key in keys})


def _parallel(found: Sequence[Configuration], keys: Sequence[str], path: Path) -> None:
    draw_parallel(path, found, list(keys))
