"""What a journal says: the state of a sweep, replayed from its events.

What the events hold is defined in ``trackers.schema``. Replaying is idempotent where a resumed sweep repeats itself: of two
rows for the same trial and ``seen`` the first counts. A failed trial that a later pack names is open again; a finished one
stays finished.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clcore.errors import UserError
from trackers.journal import Event, read
from trackers.schema import check_format, wrong_field
from trackers.totals import Totals
from trackers.trial_record import LinkedTrial, PackRecord, Status, TaskRow, TrialRecord

FORMAT = 1
JOURNAL = "journal.jsonl"


@dataclass
class SweepRecord:
    """A sweep as far as its journal knows it.

    Attributes:
        calls: the ``sweep`` events: the first call, and each that went on with the sweep.
        stop: the ``stop`` event if the sweep is stopped now.
        end: the ``end`` event if it has ended.
        closings: how often a trial was done or failed, counting again what failed twice.
        first_time: unix seconds of the first event.
        last_time: unix seconds of the newest event.
        seconds: how long the driver ran, summed over resumes.
        repeated: training seconds of work that was done once more after a loss, or lost with a worker.
        totals: of all trials together.
    """

    calls: list[Event] = field(default_factory=list)
    packs: dict[str, PackRecord] = field(default_factory=dict)
    trials: dict[str, TrialRecord] = field(default_factory=dict)
    linked: dict[str, LinkedTrial] = field(default_factory=dict)
    stop: Event | None = None
    end: Event | None = None
    closings: int = 0
    first_time: float = 0.0
    last_time: float = 0.0
    seconds: float = 0.0
    repeated: float = 0.0
    totals: Totals = field(default_factory=Totals)

    @property
    def first(self) -> Event:
        """The first ``sweep`` event; empty before it."""
        return self.calls[0] if self.calls else {}

    @property
    def sweep(self) -> Event:
        """The newest ``sweep`` event; empty before the first."""
        return self.calls[-1] if self.calls else {}

    @property
    def name(self) -> str:
        """The sweep's name."""
        return str(self.sweep.get("name", ""))

    @property
    def identity(self) -> str:
        """Tells this sweep from one of the same name in another home, and stays when its folder is moved."""
        return hashlib.sha256(f"{self.first['name']} {self.first['time']!r}".encode()).hexdigest()[:12]

    @property
    def tasks(self) -> int:
        """T, the number of tasks."""
        return int(self.sweep["tasks"])

    @property
    def unfinished(self) -> list[PackRecord]:
        """The packs that still hold an open or running trial, each with its last checkpoint, in order of planning."""
        wanted = {t.pack for t in self.trials.values() if t.status in ("open", "running")}
        return [pack for pack in self.packs.values() if pack.pack in wanted]

    @property
    def ledger(self) -> dict[str, int]:
        """``asked``, ``done``, ``skipped``, ``failed``: the end event's, else counted (what is open is only asked)."""
        if self.end is not None:
            return dict(self.end["ledger"])
        counts, skipped = self.totals.counts["trial"], len(self.linked)
        return {"asked": counts.total() + skipped, "done": counts["done"], "skipped": skipped, "failed": counts["failed"]}

    def apply(self, event: Event) -> None:
        """Takes in the next event.

        Raises:
            UserError: the event is of an unknown kind or format, or lacks something, or something in it is wrong.
        """
        kind = event["event"]
        if kind not in _HANDLERS:
            raise UserError(f"event {event['n']} of the journal is of the unknown kind {kind!r}; a newer clsweep wrote it.")
        if kind != "sweep" and not self.first:
            raise UserError("the journal does not begin with a sweep event.")
        if kind == "sweep":
            check_format("the journal", event.get("format"), FORMAT)
        if (wrong := wrong_field(event)) is not None:
            raise UserError(f"event {event['n']} of the journal ({kind}) has no or a wrong {wrong!r}.")
        try:
            _HANDLERS[kind](self, event)
        except KeyError as error:
            raise UserError(f"event {event['n']} of the journal ({kind}) has no or an unknown {error}.") from None
        self.first_time = self.first_time or event["time"]
        if kind != "sweep":  # the pause before a resume is nobody's running time
            self.seconds += max(0.0, event["time"] - self.last_time)
        self.last_time = event["time"]


def replay(events: Iterable[Event]) -> SweepRecord:
    """The sweep that these events, from the first on, tell of.

    Raises:
        UserError: an event is of an unknown kind or format, or lacks something.
    """
    record = SweepRecord()
    for event in events:
        record.apply(event)
    return record


def load(sweep_folder: Path) -> SweepRecord:
    """Replays the journal of a sweep's folder.

    Raises:
        UserError: there is no journal, or it is damaged.
    """
    return replay(read(sweep_folder / JOURNAL)[0])


def commits_of(calls: Iterable[Event]) -> list[str]:
    """The commits of the code that some calls ran, the oldest first, each once."""
    return list(dict.fromkeys(str(call["git"]) for call in calls if call["git"]))


def _sweep(record: SweepRecord, event: Event) -> None:
    record.calls.append(event)
    record.stop = record.end = None
    for trial in record.trials.values():  # what ran when the driver died is to be picked up
        if trial.status == "running":
            _turn(record, trial, "open", event)


def _pack(record: SweepRecord, event: Event) -> None:
    record.packs[event["pack"]] = PackRecord(event["pack"], event["plan"], [t["trial"] for t in event["trials"]])
    for item in event["trials"]:
        known = record.trials.get(item["trial"])
        if known is None:
            record.trials[item["trial"]] = new = _new_trial(record, item, event)
            record.totals.plan(new)
        elif known.status != "done":
            known.pack = event["pack"]
            known.reason = known.where = known.traceback = None
            _turn(record, known, "open", event)


def _new_trial(record: SweepRecord, item: dict[str, Any], event: Event) -> TrialRecord:
    blank = torch.full((record.tasks + 1, record.tasks), torch.nan, dtype=torch.float64)
    return TrialRecord(
        trial=item["trial"],
        config=item["config"],
        seed=item["seed"],
        method=item["method"],
        hyperparameters=item["hyperparameters"],
        settings=item["settings"],
        study=item["study"],
        role=item["role"],
        pack=event["pack"],
        validation=blank,
        test=blank.clone(),
        since=event["time"],
        place=len(record.trials),
        fork=item.get("fork"),
    )


def _start(record: SweepRecord, event: Event) -> None:
    pack = record.packs[event["pack"]]
    pack.attempt, pack.heard = event["attempt"], event["time"]
    record.repeated += event.get("lost") or 0.0
    for trial in (record.trials[name] for name in pack.trials):
        if trial.pack == pack.pack and trial.status == "open":
            if not trial.calls or trial.calls[-1] is not record.sweep:
                trial.calls.append(record.sweep)
            _turn(record, trial, "running", event)


def _task(record: SweepRecord, event: Event) -> None:
    seen = event["seen"]
    _reached(record, event)
    for member in event["members"]:
        trial = record.trials[member["trial"]]
        if seen in trial.rows:  # a trial that failed once is tried again from the start
            record.repeated += member["seconds"] or 0.0
            continue
        inferred = member.get("inferred") or []
        if record.sweep["scenario"] != "task-free" and any(len(shares) < len(inferred) for shares in inferred):
            raise _misfit(record.tasks, event)  # there, columns are mappings, which may be fewer
        trial.rows[seen] = TaskRow(
            seen=seen,
            time=event["time"],
            train_loss=member["train_loss"],
            epochs=member["epochs"],
            seconds=member["seconds"],
            bytes=member["bytes"],
            capacity=member["capacity"] or {},
            reuse=member["reuse"],
            use=member.get("use") or {},
            compressed=member.get("compressed") or {},
            inferred=inferred,
            fitted=[[_known(part) for part in curve] for curve in member.get("fitted") or []],
            cpu_seconds=member.get("cpu_seconds"),
            memory=member.get("memory"),
            overhead_bytes=member.get("overhead_bytes"),
            learning_bytes=member.get("learning_bytes"),
        )
        record.totals.report(trial, trial.rows[seen])
        _fill(trial.test, seen, member["test"], event)
        _fill(trial.validation, seen, member["validation"], event)


def _reached(record: SweepRecord, event: Event) -> None:
    """A pack has learned a task, and can be picked up there."""
    pack, seen = record.packs[event["pack"]], event["seen"]
    if seen > record.tasks:
        raise _misfit(record.tasks, event)
    pack.seen, pack.heard = max(pack.seen, seen), event["time"]
    if event["checkpoint"] is not None:
        pack.checkpoint, pack.checkpoint_seen = event["checkpoint"], seen


def _again(record: SweepRecord, event: Event) -> None:
    _reached(record, event)
    record.repeated += event["seconds"] or 0.0


def _fill(matrix: Tensor, seen: int, values: list[float | None] | None, event: Event) -> None:
    if values is None:
        return
    if seen >= len(matrix) or len(values) != matrix.shape[1]:
        raise _misfit(matrix.shape[1], event)
    matrix[seen] = torch.tensor(_known(values), dtype=torch.float64)


def _known(values: list[float | None]) -> list[float]:
    return [torch.nan if value is None else value for value in values]


def _misfit(tasks: int, event: Event) -> UserError:
    return UserError(f"event {event['n']} of the journal does not fit a benchmark of {tasks} tasks.")


def _failed(record: SweepRecord, event: Event) -> None:
    trial = record.trials[event["trial"]]
    trial.reason, trial.where, trial.traceback = event["reason"], event["where"], event["traceback"]
    record.totals.fail(event.get("seconds") or 0.0)
    _close(record, trial, "failed", event)


def _done(record: SweepRecord, event: Event) -> None:
    trial = record.trials[event["trial"]]
    trial.artifacts = event["artifacts"]
    _close(record, trial, "done", event)


def _dropped(record: SweepRecord, event: Event) -> None:
    record.trials[event["trial"]].dropped |= dict.fromkeys(event["parts"], event["why"])


def _close(record: SweepRecord, trial: TrialRecord, status: Status, event: Event) -> None:
    if trial.status in (status, "done"):  # said twice by a resumed driver
        return
    _turn(record, trial, status, event)
    record.closings += 1


def _turn(record: SweepRecord, trial: TrialRecord, status: Status, event: Event) -> None:
    record.totals.turn(trial, status)
    trial.status, trial.since = status, event["time"]
    if status != "open" and not trial.begun:
        trial.begun = event["time"]


def _linked(record: SweepRecord, event: Event) -> None:
    names = ("trial", "config", "seed", "sweep", "method", "hyperparameters")
    record.linked[event["trial"]] = LinkedTrial(**{name: event[name] for name in names})


def _rho(record: SweepRecord, event: Event) -> None:
    trial = record.trials[event["trial"]]
    if trial.rho is None:
        trial.rho, trial.rho_time = event["values"], event["time"]
        trial.joint, trial.random = event["joint"], event["random"]


def _stop(record: SweepRecord, event: Event) -> None:
    record.stop = {**event, "reason": event["reason"], "detail": event["detail"]}


def _end(record: SweepRecord, event: Event) -> None:
    record.end = {**event, "status": event["status"], "ledger": event["ledger"]}


_HANDLERS: dict[str, Callable[[SweepRecord, Event], None]] = {
    "sweep": _sweep,
    "pack": _pack,
    "start": _start,
    "task": _task,
    "again": _again,
    "failed": _failed,
    "done": _done,
    "dropped": _dropped,
    "linked": _linked,
    "rho": _rho,
    "stop": _stop,
    "end": _end,
}
