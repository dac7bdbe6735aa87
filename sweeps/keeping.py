"""What a sweep keeps of its trials besides their numbers (``--keep``, ``--keep-bytes``), and what it takes away again.

The best is what the leaderboard puts first: the mean over seeds of the validation accuracy. What belongs to a configuration of
which a seed is still open is not taken away by ``--keep best``, since it may be the best in the end.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from clcore.disk import bytes_text
from clcore.errors import BadValue, UserError
from trackers.kept import BOUNDARIES_PART, WEIGHTS_PART, boundaries, files_of, size_of, tell_dropped
from trackers.record import SweepRecord
from trackers.schema import PARTS
from trackers.summary import Final, configurations
from trackers.trial_record import TrialRecord

POLICIES = ("final", "every-task", "best")
BEST, BUDGET = "--keep best", "--keep-bytes"
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgt]?)b?", re.ASCII | re.IGNORECASE)


def bytes_of(text: str) -> int:
    """A number of bytes with a unit: ``500M`` and ``500 MB`` are 500,000,000.

    Raises:
        BadValue: it is none, or not a single byte.
    """
    found = _NUMBER.fullmatch(text.strip())
    count = int(float(found[1]) * _UNITS[found[2].lower()]) if found and len(text) < 32 else 0
    if not count:
        raise BadValue(BUDGET, text, "a number of bytes with k, M, G or T, e.g. 500M or 2GB")
    return count


@dataclass(frozen=True)
class Retention:
    """What is kept of finished trials.

    Attributes:
        policy: ``final``: the last state and the masks; ``every-task``: also the state at each task boundary; ``best``: as
            ``final``, but of the best configuration alone.
        budget: most bytes of states (masks and numbers aside) that finished trials keep together; None: no limit.
    """

    policy: str = "final"
    budget: int | None = None

    @property
    def every_task(self) -> bool:
        """Whether states at task boundaries are kept."""
        return self.policy == "every-task"

    @property
    def limited(self) -> bool:
        """Whether something is ever taken away."""
        return self.policy == "best" or self.budget is not None


def check_retention(retention: Retention, scenario: str, chooses: bool) -> None:
    """Sees that what is to be kept can be.

    Args:
        retention: what is asked.
        scenario: of the benchmark.
        chooses: whether there are validation data.

    Raises:
        UserError: it cannot.
    """
    if retention.every_task and scenario == "task-free":
        raise UserError("--keep every-task goes with tasks: a stream (task-free) has no boundaries to go on from.")
    if retention.policy == "best" and not chooses:
        raise UserError(f"{BEST} chooses on validation data, and --set validation=none leaves none.")


@dataclass(frozen=True)
class Surplus:
    """Parts of a finished trial that are not to be kept, and why."""

    trial: TrialRecord
    parts: list[str]
    bytes: int
    why: str


class Keeper:
    """Says what is to be taken away.

    Args:
        folder: the sweep's.
        retention: what is kept.
    """

    def __init__(self, folder: Path, retention: Retention) -> None:
        self.folder, self.retention = folder, retention
        self._finals: dict[str, Final] = {}
        self._sizes: dict[tuple[str, str], int] = {}  # of finished trials, whose files change no more

    def drop(self, own: SweepRecord, whole: SweepRecord, write: Callable[..., None]) -> None:
        """Takes away what is not to be kept: the journal first, then the files.

        Args:
            own: the sweep.
            whole: the same with what other sweeps have run of it, which counts in the ranking.
            write: writes an event to the journal, and brings ``own`` up to date.

        Raises:
            OSError: the disk is full or gone.
        """
        for found in self.surplus(own, whole):
            write("dropped", trial=found.trial.trial, parts=found.parts, bytes=found.bytes, why=found.why)
            self._take_away(found.trial)

    def recover(self, own: SweepRecord) -> None:
        """Takes away what an earlier driver only said it would."""
        for trial in own.trials.values():
            self._take_away(trial)

    def _take_away(self, trial: TrialRecord) -> None:
        folder = self.folder / (trial.artifacts or "")
        if not trial.dropped or trial.artifacts is None or not any(files_of(folder, part) for part in trial.dropped):
            return
        tell_dropped(folder, trial.dropped)
        for file in [file for part in trial.dropped for file in files_of(folder, part)]:
            file.unlink(missing_ok=True)
        for own in boundaries(folder).values() if BOUNDARIES_PART in trial.dropped else ():
            shutil.rmtree(own)

    def surplus(self, own: SweepRecord, whole: SweepRecord) -> Iterator[Surplus]:
        """What is to be taken away now; each time it is asked, after what was given before was taken away.

        Args:
            own: the sweep.
            whole: the same with what other sweeps have run of it, which counts in the ranking.
        """
        if self.retention.policy == "best":
            yield from self._all_but_best(own, whole)
        if self.retention.budget is not None:
            yield from self._beyond_budget(own, whole, self.retention.budget)

    def _all_but_best(self, own: SweepRecord, whole: SweepRecord) -> Iterator[Surplus]:
        undecided = {t.config for t in own.trials.values() if t.role == "trial" and t.status in ("open", "running")}
        finished = [t for t in own.trials.values() if t.status == "done"]
        mine = {t.config for t in finished if t.role == "trial"} - undecided
        best = next((c.config for c in configurations(whole, self._finals) if c.config in mine), None)
        for trial in finished:
            if trial.config not in {best, *undecided}:  # references never are
                yield from self._of(trial, PARTS, BEST)

    def _beyond_budget(self, own: SweepRecord, whole: SweepRecord, budget: int) -> Iterator[Surplus]:
        """The worst configuration goes first, of each the states at boundaries before the last one; references before all."""
        order = [trial.trial for trial in own.trials.values() if trial.role == "reference" and trial.status == "done"]
        groups = [order] + [[f.trial for f in c.finals] for c in reversed(configurations(whole, self._finals))]
        groups = [[name for name in group if name in own.trials] for group in groups]
        states = (BOUNDARIES_PART, WEIGHTS_PART)
        left = sum(self._size(own.trials[name], part) for group in groups for name in group for part in states)
        for name, part in ((name, part) for group in groups for part in states for name in reversed(group)):
            if left <= budget:
                return
            left -= self._size(own.trials[name], part)
            yield from self._of(own.trials[name], [part], f"{BUDGET} {bytes_text(budget)}")

    def _of(self, trial: TrialRecord, parts: list[str] | tuple[str, ...], why: str) -> Iterator[Surplus]:
        there = [part for part in parts if part not in trial.dropped and self._size(trial, part)]
        if there:
            yield Surplus(trial, there, sum(self._size(trial, part) for part in there), why)

    def _size(self, trial: TrialRecord, part: str) -> int:
        if trial.artifacts is None or part in trial.dropped:
            return 0
        key = trial.trial, part
        if key not in self._sizes:
            self._sizes[key] = size_of(self.folder / trial.artifacts, part)
        return self._sizes[key]


def kept_lines(record: SweepRecord) -> list[str]:
    """What the end of a sweep says of what was taken away; nothing where all is there."""
    gone = [t for t in record.trials.values() if t.dropped]
    beyond = [t for t in gone if t.dropped.get(WEIGHTS_PART, "").startswith(BUDGET)]
    states = [t for t in gone if t.dropped.get(BOUNDARIES_PART, "").startswith(BUDGET) and t not in beyond]
    lines = []
    if others := sum(BEST in t.dropped.values() for t in gone):
        lines.append(f"weights and masks of {others} trial(s) were not kept ({BEST})")
    if beyond:
        lines.append(f"weights of {len(beyond)} trial(s) were not kept ({beyond[0].dropped[WEIGHTS_PART]})")
    if states:
        lines.append(f"states at boundaries of {len(states)} more trial(s) were not kept ({states[0].dropped[BOUNDARIES_PART]})")
    return [f"kept           {'; '.join(lines)}"] if lines else []
