"""States at task boundaries (``--keep every-task``): kept as reports come, and found again for ``--fork`` and ``--replay``.

A kept boundary is a checkpoint of a pack of one, the trial alone, whose facts also hold what the trial had reported by then.
"""

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clcore import checkpoint
from clcore.errors import UserError
from clcore.forked import ForkedLearner, of_one
from clcore.learner import Learner
from sweeps.storage import name_of
from sweeps.trials import Pack, Trial
from trackers.kept import boundary
from trackers.record import SweepRecord, load
from trackers.schema import strict, wrong_field
from trackers.trial_record import PackRecord, TaskRow, TrialRecord

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from trackers.recorded import RecordedTrial

log = logging.getLogger(__name__)

#: What of a row is about how it was made, and not about what came out.
_COST = ("seen", "time", "seconds", "cpu_seconds", "memory")
_ROW = {field.name for field in fields(TaskRow)} - {*_COST} | {"validation", "test"}
_ROWS = "rows"


@dataclass(frozen=True)
class Start:
    """Where a trial begins that is not to learn its first tasks.

    Attributes:
        seen: tasks that are learned already.
        folder: a checkpoint of the trial's pack, which is a pack of one.
        rows: what was reported of them, after 0 .. ``seen`` tasks: a member of the journal's ``task`` event, without the trial.
    """

    seen: int
    folder: Path
    rows: list[dict[str, Any]]


def keep_boundaries(source: Path, target: Path, pack: Pack, record: SweepRecord, seen: int) -> None:
    """Keeps the states of a pack's members; what is there already stays.

    Args:
        source: the pack's checkpoint after ``seen`` tasks.
        target: the folder of the trials' folders.
        pack: the pack.
        record: of the sweep, the pack's report after ``seen`` tasks included.
        seen: tasks learned, at least 1.

    Raises:
        DamagedCheckpoint: the pack's checkpoint cannot be read.
        OSError: the disk is full or gone.
    """
    tensors, facts = checkpoint.read(source)
    for index, member in enumerate(pack.trials):
        trial, own = record.trials[member.identity], target / member.identity / boundary(seen)
        if index in facts["alive"] and trial.pack == pack.identity and not (own / checkpoint.FACTS).exists():
            one, said = of_one(tensors, facts, index, len(pack.trials))
            rows = [_row(trial, trial.rows[s]) for s in range(seen + 1) if s in trial.rows]
            checkpoint.write(own, one, {**said, _ROWS: rows})


def _row(trial: TrialRecord, row: TaskRow) -> dict[str, Any]:
    """A row as the journal has it; what it cost is its own trial's."""
    said = {name: value for name, value in asdict(row).items() if name not in _COST}
    accuracies = {split: getattr(trial, split)[row.seen].tolist() for split in ("validation", "test")}
    made: dict[str, Any] = strict({**said, **accuracies})
    return made


@contextlib.contextmanager
def found_boundary(recorded: "RecordedTrial", seen: int, home: Path, client: "MlflowClient") -> Iterator[Path | None]:
    """The kept state of a recorded trial, where there is one: in its sweep's folder in the home, or among its run's files.

    Args:
        recorded: the trial.
        seen: tasks learned.
        home: the home folder.
        client: of the MLflow that has the run.

    Yields:
        A folder that is there until the end, or None.
    """
    here = _in_home(recorded, seen, home)
    if here is not None:
        yield here
        return
    with tempfile.TemporaryDirectory(prefix="clsweep-") as folder:
        yield _from_mlflow(recorded.run_id, seen, client, Path(folder))


def _in_home(recorded: "RecordedTrial", seen: int, home: Path) -> Path | None:
    """In the home, if the sweep of that name there is the one that ran the trial."""
    folder = home / Path(recorded.sweep or " ").name
    place = folder / "trials" / Path(recorded.trial or " ").name / boundary(seen)
    if not (place / checkpoint.FACTS).is_file():
        return None
    try:
        return place if load(folder).identity == recorded.sweep_id else None
    except UserError:
        return None


def _from_mlflow(run_id: str, seen: int, client: "MlflowClient", folder: Path) -> Path | None:
    from trackers.mlflow_store import TRACKING_ERRORS, first_line

    try:
        if boundary(seen) not in {item.path for item in client.list_artifacts(run_id)}:
            return None
        return Path(client.download_artifacts(run_id, boundary(seen), str(folder)))
    except TRACKING_ERRORS as error:
        raise UserError(f"cannot read {boundary(seen)} of run {run_id}: {first_line(error)}") from None


def taken_over(place: Path, parent: Pack, own: Pack, seen: int, target: Path) -> Start:
    """A kept state as the beginning of a fork.

    Args:
        place: the parent's kept boundary.
        parent: the parent as a pack of one, on the device of ``own``.
        own: the fork, a pack of one.
        seen: tasks learned at the boundary.
        target: where the fork's first checkpoint is written.

    Raises:
        DamagedCheckpoint: the state cannot be read, or is not the parent's at this boundary.
        OSError: the disk is full or gone.
    """
    earlier, rows = read_boundary(place, parent, seen)
    later = own.learner()
    assert isinstance(later, ForkedLearner), "a fork changes its values"
    later.begin_from(earlier)
    later.save(target)
    return Start(seen, target, rows)


def read_boundary(place: Path, parent: Pack, seen: int) -> tuple[Learner, list[dict[str, Any]]]:
    """The learner of a trial at a kept boundary, and what had been reported.

    Args:
        place: the kept boundary.
        parent: the trial as a pack of one.
        seen: tasks learned at the boundary.

    Raises:
        DamagedCheckpoint: the state cannot be read, or is not the trial's at this boundary.
    """
    learner = parent.learner()
    assert isinstance(learner, Learner), "a stream has no boundaries"
    try:
        learner.load(place)
        rows = checkpoint.read(place)[1][_ROWS]
        tasks = len(learner.benchmark.tasks)
        sound = learner.seen == seen == len(rows) - 1 and all(_is_sound(row, at, tasks) for at, row in enumerate(rows))
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise checkpoint.DamagedCheckpoint(f"checkpoint {place} is damaged: {type(error).__name__} {error}") from None
    if not sound:
        raise checkpoint.DamagedCheckpoint(f"checkpoint {place} is not the state after {seen} tasks")
    return learner, rows


def _is_sound(row: dict[str, Any], seen: int, tasks: int) -> bool:
    """Whether a row is what a journal may hold."""
    event = {"event": "task", "pack": "pack", "seen": seen, "checkpoint": None, "members": [_member(row, "trial")]}
    sizes = {len(row[split]) for split in ("validation", "test")}
    fits = {*row} == _ROW and sizes == {tasks} and all(len(shares) >= len(row["inferred"]) for shares in row["inferred"])
    return fits and wrong_field(event) is None


def alone(pack: Pack, trial: Trial) -> Pack:
    """One trial of a pack, as a pack of its own."""
    return replace(pack, trials=(trial,))


def inherited(start: Start, folder: Path, pack: PackRecord) -> Iterator[dict[str, Any]]:
    """The ``task`` events of tasks that are not learned, where the journal lacks them: what the parent reported, at no cost.

    Args:
        start: where the pack begins.
        folder: the sweep's.
        pack: the pack, of one member.
    """
    (trial,) = pack.trials
    for seen in range(pack.seen + 1, start.seen + 1):
        place = name_of(start.folder, folder) if seen == start.seen else None
        yield {"pack": pack.pack, "seen": seen, "checkpoint": place, "members": [_member(start.rows[seen], trial)]}


def _member(row: Mapping[str, Any], trial: str) -> dict[str, Any]:
    return {**row, "trial": trial, "seconds": 0.0, "cpu_seconds": 0.0, "memory": None}
