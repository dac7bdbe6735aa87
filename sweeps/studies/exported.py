"""Finished networks as files: all tasks together, and each as a plain network without dead units."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from clcore.errors import UserError
from sweeps.studies.answers import Answers
from sweeps.studies.report import Block, Section
from sweeps.studies.tables import Rows, Table, number
from sweeps.trials import Trial


def exported_section(chosen: Mapping[str, tuple[str, Trial]], answers: Answers, data_dir: Path | None, to: Path | None) -> Section:
    """What the best configuration of each method takes as files, in all and task by task.

    Args:
        chosen: method -> its values in words, and the trial.
        answers: of the home.
        data_dir: where the benchmark's data are.
        to: folder that gets the files, one folder a method; None: they are measured and thrown away.
    """
    rows: Rows = []
    problems: list[str] = []
    for method, (words, trial) in chosen.items():
        try:
            with tempfile.TemporaryDirectory() as scratch:
                rows += _rows(method, words, trial, answers, data_dir, Path(scratch) if to is None else to / method)
        except UserError as error:
            problems.append(f"{method} ({words}): {error}")
    caption = (
        "Best configuration of each method on validation data, lowest seed. Bytes of the tensors and of the whole file, which has "
        "a header beside them; kB are 1000 bytes. Weights left: of the body, units that do nothing cut out, answers unchanged."
    )
    head = ["method", "values", "what", "accuracy, %", "tensors, kB", "file, kB", "weights left, %"]
    where = f"The files are in {to}, a folder a method." if to else "--export DIR keeps these files."
    blocks: list[Block] = [Table("exported", caption, head, rows, numbers=3)] if rows else []
    return Section("As files, in all and task by task", [*blocks, where, *problems])


def _rows(method: str, words: str, trial: Trial, answers: Answers, data_dir: Path | None, to: Path) -> Rows:
    from trackers.export import export
    from trackers.predictors import stored_predictor

    folder, record = answers.files(trial), answers.get(trial)
    if folder is None or record is None:
        raise UserError("the files of this trial are gone.")
    predictor, _ = stored_predictor(folder, data_dir, trial.configuration.names)
    rows: Rows = []
    for written in export(predictor, to):
        of = record.test[record.seen]
        accuracy = float(of[: record.seen].mean() if written.task is None else of[written.task])
        left = number(100 * written.weights / written.full, 1) if written.full else ""
        what = "all tasks" if written.task is None else f"task {written.task + 1}"
        rows.append(
            [method, words, what, number(100 * accuracy), number(written.kept / 1e3, 1), number(written.bytes / 1e3, 1), left]
        )
    return rows
