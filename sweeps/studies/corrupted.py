"""How stored networks do on corrupted test images: nothing is trained again, and what was measured once is kept."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from clcore.errors import UserError
from sweeps.studies.answers import Answers
from sweeps.studies.draw_lines import draw_corruptions
from sweeps.studies.plan import STUDIES
from sweeps.studies.report import Block, Picture, Section
from sweeps.studies.tables import Estimate, Table
from sweeps.trials import Trial
from trackers.artifacts import write_text

#: Folder in a home of what was measured, a file a trial.
MEASURED = "corruptions"
_TITLE = "Robustness of the learned networks"
#: Severity 0, no corruption.
_NONE = "none"

Row = Mapping[str, Any]


def corruption_section(groups: Mapping[str, Sequence[Trial]], answers: Answers, data_dir: Path | None) -> Section:
    """Accuracy on test images with noise, blur, brightness and rotation at five severities, from stored weights.

    Args:
        groups: words -> trials of one configuration, one a seed.
        answers: of the home.
        data_dir: where the benchmark's data are.
    """
    found: dict[str, list[list[Row]]] = {}
    problems: list[str] = []
    for words, trials in groups.items():
        for trial in trials:
            try:
                found.setdefault(words, []).append(measured(trial, answers, data_dir))
            except UserError as error:
                problems.append(f"{words}, seed {trial.seed}: {error}")
    if not found:
        return Section(_TITLE, problems or ["No finished trial has stored weights."])
    return Section(_TITLE, [*_blocks(found), *problems])


def measured(trial: Trial, answers: Answers, data_dir: Path | None) -> list[Row]:
    """The rows of one trial: task, corruption, severity, accuracy; measured now, or as they were kept.

    Raises:
        UserError: its weights are gone, or cannot be read.
    """
    path = answers.home / STUDIES / MEASURED / f"{trial.identity}.json"
    if path.is_file():
        kept: list[Row] = json.loads(path.read_text())
        return kept
    from clcore.corruptions import robustness
    from trackers.predictors import stored_predictor

    folder = answers.files(trial)
    if folder is None:
        raise UserError("the files of this trial are gone.")
    predictor, benchmark = stored_predictor(folder, data_dir, trial.configuration.names)
    rows = robustness(predictor, benchmark)
    write_text(path, json.dumps(rows))
    return [*rows]


def _blocks(found: Mapping[str, Sequence[Sequence[Row]]]) -> list[Block]:
    kinds = list(dict.fromkeys(row["corruption"] for seeds in found.values() for rows in seeds for row in rows if row["severity"]))
    severities = sorted({row["severity"] for seeds in found.values() for rows in seeds for row in rows})
    curves = {
        kind: {words: [[_accuracy(rows, kind, s) for s in severities] for rows in seeds] for words, seeds in found.items()}
        for kind in kinds
    }
    head = ["cell", "corruption", *(f"severity {s}, %" for s in severities), "seeds"]
    table = [
        [words, kind, *(Estimate.of(list(values), 1) for values in zip(*curves[kind][words], strict=True)), len(seeds)]
        for words, seeds in found.items()
        for kind in kinds
    ]
    caption = (
        "Average test accuracy over all tasks on corrupted images, mean over seeds ± half of the 95 % interval; severity 0 is none."
    )
    picture = Picture("corruptions", f"{caption} Stored weights, nothing trained again.", partial(_draw, curves), broad=True)
    return [[picture], Table("corruptions", caption, head, table, numbers=2), _by_task(found, kinds)]


def _draw(curves: Mapping[str, Mapping[str, Sequence[Sequence[float]]]], path: Path) -> None:
    draw_corruptions(path, curves, "Average accuracy after the last task on corrupted test images")


def _by_task(found: Mapping[str, Sequence[Sequence[Row]]], kinds: Sequence[str]) -> Table:
    tasks = sorted({row["task"] for seeds in found.values() for rows in seeds for row in rows})
    table = [
        [words, task + 1, *(Estimate.of([_of_task(rows, kind, task) for rows in seeds], 1) for kind in (_NONE, *kinds)), len(seeds)]
        for words, seeds in found.items()
        for task in tasks
    ]
    head = ["cell", "task", "none, %", *(f"{kind}, %" for kind in kinds), "seeds"]
    caption = "Each task after the last one was learned: mean over the five severities, over seeds ± half of the 95 % interval."
    return Table("corruptions_by_task", caption, head, table, numbers=1)


def _accuracy(rows: Sequence[Row], kind: str, severity: int) -> float:
    """Percent, all tasks counting alike."""
    wanted = kind if severity else _NONE
    return 100 * fmean(row["accuracy"] for row in rows if row["corruption"] == wanted and row["severity"] == severity)


def _of_task(rows: Sequence[Row], kind: str, task: int) -> float:
    """Percent on one task, over all severities of a kind."""
    return 100 * fmean(row["accuracy"] for row in rows if row["corruption"] == kind and row["task"] == task)
