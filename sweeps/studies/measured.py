"""What is measured once of a stored network, and kept in the home: a file a trial."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
#: Of the files; the one before is a list of rows alone.
_FORMAT = 2


@dataclass(frozen=True)
class Kind:
    """Something that is measured.

    Attributes:
        folder: of the home's studies, that keeps it.
        columns: of its rows: key -> type of its values.
    """

    folder: str
    columns: Mapping[str, type]


def measured(
    trial: Trial, kind: Kind, answers: Answers, data_dir: Path | None, measure: Callable[[Predictor, Benchmark], Sequence[Row]]
) -> list[Row]:
    """The rows of one trial; as they were kept, or measured now where nothing that can be read is.

    Args:
        trial: a finished one.
        kind: what is measured.
        answers: of the home.
        data_dir: where the benchmark's data are.
        measure: gives rows of plain values.

    Raises:
        UserError: its weights are gone, or cannot be read.
    """
    path = answers.home / STUDIES / kind.folder / f"{trial.identity}.json"
    known = _read(path, kind.columns) if path.is_file() else None
    if known is not None:
        return known
    from trackers.predictors import stored_predictor

    folder = answers.files(trial)
    if folder is None:
        raise UserError("the files of this trial are gone.")
    rows = [*measure(*stored_predictor(folder, data_dir, trial.configuration.names))]
    write_text(path, json.dumps({"format": _FORMAT, "rows": rows}))
    return rows


def _read(path: Path, columns: Mapping[str, type]) -> list[Row] | None:
    """The rows of a file; None where it is damaged or of another format."""
    try:
        found = json.loads(path.read_text())
    except (ValueError, OSError):
        return None
    if isinstance(found, dict):
        found = found.get("rows") if found.get("format") == _FORMAT else None
    if not isinstance(found, list) or not all(_fits(row, columns) for row in found):
        return None
    return found


def _fits(row: object, columns: Mapping[str, type]) -> bool:
    return isinstance(row, dict) and columns.keys() <= row.keys() and all(type(row[key]) is columns[key] for key in columns)
