"""What is measured once of a stored network, and kept in the home: a file a trial."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clcore.benchmarks import Benchmark
from clcore.errors import UserError
from clcore.predictor import Predictor
from sweeps.studies.answers import Answers
from sweeps.studies.plan import STUDIES
from sweeps.trials import Trial
from trackers.artifacts import write_text

Row = Mapping[str, Any]


def measured(
    trial: Trial, kind: str, answers: Answers, data_dir: Path | None, measure: Callable[[Predictor, Benchmark], Sequence[Row]]
) -> list[Row]:
    """The rows of one trial; measured now, or as they were kept.

    Args:
        trial: a finished one.
        kind: folder of the home's studies that keeps them.
        answers: of the home.
        data_dir: where the benchmark's data are.
        measure: gives rows of plain values.

    Raises:
        UserError: its weights are gone, or cannot be read.
    """
    path = answers.home / STUDIES / kind / f"{trial.identity}.json"
    if path.is_file():
        kept: list[Row] = json.loads(path.read_text())
        return kept
    from trackers.predictors import stored_predictor

    folder = answers.files(trial)
    if folder is None:
        raise UserError("the files of this trial are gone.")
    rows = [*measure(*stored_predictor(folder, data_dir, trial.configuration.names))]
    write_text(path, json.dumps(rows))
    return rows
