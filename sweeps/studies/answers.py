"""What a home already knows: finished trials by their identity, whichever sweep ran them, and their closing figures."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clcore import metrics
from clcore.errors import UserError
from sweeps.elsewhere import finished_elsewhere
from sweeps.studies.plan import STUDIES, Needed
from sweeps.trials import Trial
from trackers.record import JOURNAL, SweepRecord, load
from trackers.summary import Configuration, configurations
from trackers.trial_record import TrialRecord


@dataclass(frozen=True)
class Figures:
    """The end of a finished trial. NaN is not known.

    Attributes:
        accuracy: average test accuracy after the last task, percent.
        during: average test accuracy of each task when it was learned, percent (HNET's "during").
        forgetting: mean loss of old tasks since they were learned, points.
        bwt: backward transfer, points: what later tasks did to old ones (GEM, eq. 3).
        validation: average validation accuracy, percent: what choices are made on.
        rho: HAT's forgetting ratio, 0 as joint training, -1 as guessing.
        seconds: of training.
        bytes: that a deployment must keep.
        learning_bytes: that must be kept for further tasks to be learned.
    """

    accuracy: float
    during: float
    forgetting: float
    bwt: float
    validation: float
    rho: float
    seconds: float
    bytes: float
    learning_bytes: float


@dataclass(frozen=True)
class Pair:
    """What the forgetting ratio compares with: the runs of joint training and of random guessing, of one seed."""

    joint: TrialRecord
    random: TrialRecord


class Answers:
    """The finished trials of a home.

    Args:
        home: folder of all sweeps.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._found = finished_elsewhere(home / STUDIES)

    def get(self, trial: Trial) -> TrialRecord | None:
        """The record of a trial; None where nobody has finished it."""
        return self.named(trial.identity)

    def named(self, identity: str) -> TrialRecord | None:
        """The record of a trial by its identity; None where nobody has finished it."""
        found = self._found.get(identity)
        return found[1] if found else None

    def files(self, trial: Trial) -> Path | None:
        """The folder of a finished trial's files; None where it is gone."""
        found = self._found.get(trial.identity)
        if found is None or found[1].artifacts is None:
            return None
        folder = self.home / Path(found[0]).name / found[1].artifacts
        return folder if folder.is_dir() else None

    def sweeps(self, trials: Iterable[Trial]) -> list[str]:
        """Names of the sweeps that ran these trials."""
        found = (self._found.get(trial.identity) for trial in trials)
        return list(dict.fromkeys(item[0] for item in found if item))

    def missing(self, needed: Needed) -> list[Trial]:
        """The trials of a sweep that nobody has finished, references among them."""
        return [trial for trial in [*needed.trials(), *needed.references()] if trial.identity not in self._found]

    def figures(self, trial: Trial, pair: Pair | None = None) -> Figures | None:
        """The figures of a trial; None where nobody has finished it."""
        record = self.get(trial)
        return figures(record, pair) if record else None

    def pair(self, references: Sequence[Trial]) -> Pair | None:
        """The two references of one seed; None where one is missing."""
        found = [self.get(trial) for trial in references]
        return Pair(found[0], found[1]) if len(found) == 2 and found[0] and found[1] else None


def figures(record: TrialRecord, pair: Pair | None = None) -> Figures:
    """The figures of a finished trial."""
    seen = record.seen
    rho = metrics.forgetting_ratio(record.test, pair.joint.test, pair.random.test, seen) if pair else math.nan
    return Figures(
        accuracy=100 * metrics.average_accuracy(record.test, seen),
        during=100 * metrics.during_accuracy(record.test, seen),
        forgetting=100 * metrics.forgetting_vs_diagonal(record.test, seen),
        bwt=100 * metrics.backward_transfer(record.test, seen),
        validation=100 * metrics.average_accuracy(record.validation, seen),
        rho=rho,
        seconds=record.seconds,
        bytes=_known(record.bytes),
        learning_bytes=_known(record.latest.learning_bytes if record.latest else None),
    )


def _known(value: float | None) -> float:
    return math.nan if value is None else float(value)


def curve(record: TrialRecord) -> list[float]:
    """Average test accuracy on the tasks learned so far, after 1..T tasks, in percent."""
    return [100 * metrics.average_accuracy(record.test, seen) for seen in range(1, record.seen + 1)]


def bytes_curve(record: TrialRecord, name: str = "bytes") -> list[float]:
    """Bytes after 1..T tasks; NaN where not known.

    Args:
        record: a finished trial.
        name: of ``bytes`` (to keep), ``overhead_bytes`` (of these, those beside the network's weights and heads) and
            ``learning_bytes`` (for further tasks to be learned).
    """
    rows = (record.rows.get(seen) for seen in range(1, record.seen + 1))
    return [_known(getattr(row, name) if row else None) for row in rows]


def own_record(needed: Needed) -> SweepRecord | None:
    """What a study's sweep wrote itself; None where it has not begun.

    Raises:
        UserError: its journal is damaged.
    """
    if not (needed.folder / JOURNAL).exists():
        return None
    record = load(needed.folder)
    return record if record.first else None


def sampled(needed: Needed, answers: Answers) -> list[Configuration]:
    """The configurations of a sampled sweep, those that other sweeps had finished among them; the best on validation first."""
    record = own_record(needed)
    if record is None:
        return []
    linked = {name: found for name in record.linked if (found := answers.named(name)) is not None}
    return configurations(replace(record, trials={**record.trials, **linked}))


def failures(sweeps: Sequence[Needed]) -> list[tuple[str, str, str]]:
    """What failed in a study's sweeps: label, trial with its seed, and why."""
    found = []
    for needed in sweeps:
        try:
            record = own_record(needed)
        except UserError:
            continue
        for trial in record.trials.values() if record else ():
            if trial.status == "failed":
                found.append((needed.label, f"{trial.trial} (seed {trial.seed})", trial.reason or "unknown"))
    return found
