"""Sums over the trials of a sweep, kept up as its events come: each costs the same however many trials there are."""

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction

from trackers.trial_record import Status, TaskRow, TrialRecord


@dataclass
class Totals:
    """Sums are exact: what goes over from one to another leaves nothing behind, and their order does not matter.

    Attributes:
        counts: how many trials have a status, by role.
        seconds: of training, by role and status of the trials; tasks in which one failed aside.
        failing: training seconds of tasks in which a trial failed, as far as they are known.
        cpu: processor seconds of all that was reported.
        peak: most bytes that a worker used at a time; 0 where it was not measured.
    """

    counts: dict[str, Counter[Status]] = field(default_factory=lambda: {"trial": Counter(), "reference": Counter()})
    seconds: dict[tuple[str, Status], Fraction] = field(default_factory=dict)
    failing: Fraction = Fraction()
    cpu: Fraction = Fraction()
    peak: int = 0

    def plan(self, trial: TrialRecord) -> None:
        """A trial is new."""
        self.counts[trial.role][trial.status] += 1

    def turn(self, trial: TrialRecord, status: Status) -> None:
        """A trial is about to have another status."""
        self.counts[trial.role][trial.status] -= 1
        self.counts[trial.role][status] += 1
        spent = sum((Fraction(row.seconds or 0) for row in trial.rows.values()), Fraction())
        self._spend(trial, trial.status, -spent)
        self._spend(trial, status, spent)

    def report(self, trial: TrialRecord, row: TaskRow) -> None:
        """A trial has reported a task."""
        self._spend(trial, trial.status, Fraction(row.seconds or 0))
        self.cpu += Fraction(row.cpu_seconds or 0)
        self.peak = max(self.peak, row.memory or 0)

    def fail(self, seconds: float) -> None:
        """A trial has failed in a task that had taken so long."""
        self.failing += Fraction(seconds)

    def spent(self, *status: Status, roles: tuple[str, ...] = ("trial", "reference")) -> float:
        """Training seconds of the trials of any of these roles that have any of these statuses."""
        return float(sum(self.seconds.get((role, one), Fraction()) for role in roles for one in status))

    def _spend(self, trial: TrialRecord, status: Status, seconds: Fraction) -> None:
        key = trial.role, status
        self.seconds[key] = self.seconds.get(key, Fraction()) + seconds
