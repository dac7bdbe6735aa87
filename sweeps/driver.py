"""The driver of a sweep: what is asked, what is planned, what came back. It alone writes the journal."""

import logging
import math
import shutil
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from clcore import metrics
from clcore.disk import wanting
from clcore.errors import UserError
from sweeps.boundary import Start, inherited, keep_boundaries
from sweeps.elsewhere import finished_elsewhere
from sweeps.keeping import Keeper, Retention
from sweeps.search import Search
from sweeps.states import States
from sweeps.storage import below, found_at, name_of, opened
from sweeps.trainable import MEMBERS, NOT_A_NUMBER, Payload
from sweeps.trials import Configuration, Pack, Trial, make_packs, with_values
from trackers.artifacts import write_fit, write_inference, write_matrix
from trackers.journal import Journal, read
from trackers.kept import write_config
from trackers.record import SweepRecord, replay
from trackers.trial_record import TrialRecord

log = logging.getLogger(__name__)

TRIALS, HEARTBEATS, PACKS = "trials", "heartbeats", "packs"
#: Why a sweep stops that has used up ``--time-budget``.
BUDGET = "time budget"


@dataclass(frozen=True)
class Plan:
    """How a sweep is cut into packs.

    Attributes:
        base: the configuration that searched values replace parts of.
        seeds: of every configuration.
        references: what the forgetting ratio compares with, used where the home has it.
        run_references: whether it is run, once a seed, where the home has it not.
        size: most members of a pack.
        batch: configurations asked for at a time.
        trials: trials asked for in all, references aside.
        shares: packs that a group of equal trials is cut into at least.
        like: how every pack runs: threads, device, data folder, and whether steps are compiled.
        keep: what is kept of finished trials.
        start: where the one trial of a fork begins; None: with the first task.
    """

    base: Configuration
    seeds: tuple[int, ...]
    references: tuple[Configuration, ...]
    run_references: bool
    size: int
    batch: int
    trials: int
    shares: int
    like: Pack
    keep: Retention = field(default_factory=Retention)
    start: Start | None = None


@dataclass(frozen=True)
class Fault:
    """Why a trial failed.

    Attributes:
        reason: in a line.
        where: task, epoch and step, all from 0, where they are known.
        traceback: of an error.
        seconds: its share of the task in which it failed, where it is known.
    """

    reason: str
    where: Payload | None = None
    traceback: str | None = None
    seconds: float | None = None


class Sweep:
    """The state of a running sweep.

    Args:
        folder: the sweep's folder.
        journal: open for appending, its ``sweep`` event written.
        plan: how it is cut into packs.
        search: who proposes configurations.
        budget: seconds after which nothing new starts, or None.
    """

    def __init__(self, folder: Path, journal: Journal, plan: Plan, search: Search, budget: float | None) -> None:
        self.folder, self.journal, self.plan, self.search = folder, journal, plan, search
        self.budget, self.deadline = budget, math.inf if budget is None else time.monotonic() + budget
        events, _ = read(journal.path)
        self.record: SweepRecord = replay(events)
        self.entries = {e["trial"]: e for event in events if event["event"] == "pack" for e in event["trials"]}
        self.elsewhere = finished_elsewhere(folder)
        self.done_before = {t.trial for t in self.record.trials.values() if t.status == "done"}
        self.linked: dict[str, TrialRecord] = {}
        self.queue: deque[tuple[Pack, str | None]] = deque()
        self.running: dict[str, Pack] = {}
        self.wanted: set[str] = set()
        self.planned: set[str] = set()
        self.exhausted = False
        self.stopping: str | None = None
        self.environment: str | None = None
        self._numbers: dict[int, list[Trial]] = {}
        self._states = States(folder)
        self._keeper = Keeper(folder, plan.keep)

    # -- what is next --------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Plans what was left over, what failed, and the references."""
        for left in self.record.unfinished:
            trials = tuple(Trial.from_entry(self.entries[trial]) for trial in left.trials)
            self.planned |= {t.identity for t in trials if self.record.trials[t.identity].status in ("open", "running")}
            how = {name: left.plan[name] for name in ("threads", "compiled")}  # as it began: its numbers depend on it
            pack = replace(self.plan.like, trials=trials, **how)
            self.queue.append((pack, left.checkpoint or self._beginning(pack)))
            if left.checkpoint is not None:
                self._states.put(left.pack, left.checkpoint)
                # The driver may have died between the report and the copy; a damaged state is the pack's own matter.
                with suppress(UserError):
                    self._keep_boundaries(pack, left.checkpoint_seen, found_at(left.checkpoint, self.folder))
        sampled = self._sampled_before()
        references = [Trial(c, seed, role="reference") for seed in self.plan.seeds for c in self.plan.references]
        missing = [t for t in references if self._open(t)]
        self._enqueue([*(missing if self.plan.run_references else []), *(t for t in sampled if self._open(t))])
        self._write_rho()
        for group in self._numbers.values():
            self._told(group)  # an earlier driver may have died between the journal and the study
        self._ask()
        self._keeper.recover(self.record)
        self._drop_surplus()

    def _beginning(self, pack: Pack) -> str | None:
        """The checkpoint that a pack begins with: where a fork goes on from a state that its parent kept."""
        start, begun = self.plan.start, self.record.packs[pack.identity].seen
        return name_of(start.folder, self.folder) if start is not None and begun < start.seen else None

    def _sampled_before(self) -> list[Trial]:
        """All seeds of the configurations that a study proposed earlier, also of those that only other sweeps have run.

        Of a configuration with several seeds, the journal may hold only some: each seed is a pack, and a pack an event.
        """
        for name in self.record.linked:
            if name in self.elsewhere:
                self.wanted.add(name)
                self.linked[name] = self.elsewhere[name][1]
        for known in self.record.trials.values():
            if known.study is not None:
                self._want(Trial.from_entry(self.entries[known.trial]))
        return [trial for group in self._numbers.values() for trial in group]

    def _ask(self) -> None:
        asked = self.search.ask(self.plan.batch)
        self.exhausted = not asked
        self._enqueue(self._new_trials(asked))

    def next_pack(self) -> tuple[Pack | None, Path | str | None]:
        """The next pack to start, with the checkpoint it goes on from; None where nothing is left or the sweep is to stop."""
        if self.stopping or self.environment:
            return None, None
        while not self.queue and not self.exhausted:
            self._ask()
        if not self.queue:
            return None, None
        if time.monotonic() > self.deadline:
            self.stopping = BUDGET
            return None, None
        pack, resume = self.queue.popleft()
        self.running[pack.identity] = pack
        return pack, found_at(resume, self.folder) if resume else None

    def _new_trials(self, asked: Iterable[tuple[int | None, dict[str, Any]]]) -> list[Trial]:
        trials = []
        for number, values in asked:
            configuration = with_values(self.plan.base, values)
            group = [Trial(configuration, seed, number) for seed in self.plan.seeds]
            trials += [trial for trial in group if self._open(trial)]
            self._told(group)
        return trials

    def _want(self, trial: Trial) -> None:
        if trial.role == "trial":
            self.wanted.add(trial.identity)
        if trial.study is not None:
            self._numbers[trial.study] = [replace(trial, seed=seed) for seed in self.plan.seeds]

    def _open(self, trial: Trial) -> bool:
        """Whether a trial has still to be planned; one that another sweep of this home has finished is linked."""
        self._want(trial)
        own = self.record.trials.get(trial.identity)
        if trial.identity in self.planned or (own is not None and own.status == "done"):
            return False
        if trial.identity in self.elsewhere:
            self._link(trial)
            return False
        return True

    def _link(self, trial: Trial) -> None:
        name, found = self.elsewhere[trial.identity]
        self.linked[trial.identity] = found
        if trial.role == "trial" and trial.identity not in self.record.linked:
            entry = trial.entry()
            kept = {k: entry[k] for k in ("trial", "config", "seed", "method", "hyperparameters")}
            self._write("linked", sweep=name, **kept)

    def _enqueue(self, trials: list[Trial]) -> None:
        """Plans packs and writes the plan before anything starts; references first, since they are the longest."""
        for pack in make_packs(trials, self.plan.size, self.plan.shares, self.plan.like):
            entries = [trial.entry() for trial in pack.trials]
            self.entries |= {entry["trial"]: entry for entry in entries}
            self.planned |= {entry["trial"] for entry in entries}
            self._write("pack", pack=pack.identity, plan=pack.plan(), trials=entries, sync=True)
            self.queue.append((pack, self._beginning(pack)))

    # -- what came back ------------------------------------------------------------------------------------------------

    def started(self, pack: str) -> None:
        """A pack runs (again)."""
        self._write("start", pack=pack, attempt=self.record.packs[pack].attempt + 1, lost=self._lost(pack))
        for event in inherited(self.plan.start, self.folder, self.record.packs[pack]) if self.plan.start else ():
            self._write("task", **event)

    def _lost(self, pack: str) -> float:
        """Seconds between the last report and the last sign of life of a pack that was lost; 0 for one that starts."""
        with suppress(OSError):
            last = (self.folder / HEARTBEATS / f"{pack}.json").stat().st_mtime
            return max(0.0, last - self.record.packs[pack].heard)
        return 0.0

    def reported(self, pack: str, said: Payload, checkpoint: Path | str | None) -> None:
        """A pack's report: journal first, everything else from it."""
        if "environment" in said:
            self.environment = said["environment"]
            return
        if "error" in said:
            self._fail_rest(pack, said["error"], said["traceback"])
            return
        kept = None if checkpoint is None else name_of(checkpoint, self.folder)
        where = {"pack": pack, "seen": said["seen"], "checkpoint": kept}
        if said["seen"] > self.record.packs[pack].seen:
            self._write("task", **where, members=said["members"], sync=True)
        else:  # a worker that was lost had reported this task, but its checkpoint was not yet safe
            self._write("again", **where, seconds=sum(member["seconds"] for member in said["members"]), sync=True)
        for failed in said["failed"]:
            fault = Fault(NOT_A_NUMBER.format(**failed["where"]), failed["where"], seconds=failed["seconds"])
            self._fail(failed["trial"], pack, fault)
        if checkpoint is not None:
            self._keep_boundaries(self.running[pack], said["seen"], checkpoint)
            self._states.put(pack, name_of(checkpoint, self.folder))
        if said["seen"] == self.record.tasks:
            for member in said["members"]:
                self._finish(member["trial"], pack, checkpoint)
            self._drop_surplus()

    def _keep_boundaries(self, pack: Pack, seen: int, checkpoint: Path | str) -> None:
        if self.plan.keep.every_task and 0 < seen < self.record.tasks:  # the last state is kept anyway
            with opened(checkpoint) as folder:
                keep_boundaries(folder, self.folder / TRIALS, pack, self.record, seen)

    def ended(self, pack: str, error: str | None = None) -> None:
        """A pack runs no more; ``error`` is what the executor says of one that broke."""
        self.running.pop(pack, None)
        if self.stopping is None and self.environment is None:
            self._fail_rest(pack, error or "the pack ended without finishing this trial", error)
            self._states.drop(pack)
        (self.folder / HEARTBEATS / f"{pack}.json").unlink(missing_ok=True)

    def _fail_rest(self, pack: str, reason: str, trace: str | None) -> None:
        for trial in self.record.packs[pack].trials:
            record = self.record.trials[trial]
            if record.pack == pack and record.status in ("open", "running"):  # not one that a later pack tries again
                first = reason.strip().splitlines()[-1] if reason.strip() else "unknown"
                self._fail(trial, pack, Fault(first, traceback=trace))

    def _finish(self, trial: str, pack: str, checkpoint: Path | str | None) -> None:
        """Keeps a finished trial's files and says that it is done."""
        record = self.record.trials[trial]
        if record.status == "done":
            return
        target = self.folder / TRIALS / trial
        target.mkdir(parents=True, exist_ok=True)
        if checkpoint is not None:
            with opened(below(checkpoint, MEMBERS, trial)) as kept:
                for file in kept.iterdir():  # copytree would hide a full disk's errno
                    with wanting(file.stat().st_size, target / file.name):
                        shutil.copyfile(file, target / file.name)
        write_matrix(target / "accuracy.parquet", {"validation": record.validation, "test": record.test})
        if inferred := record.rows[record.seen].inferred:
            write_inference(target / "task_inference.csv", inferred)
        if fitted := record.rows[record.seen].fitted:
            write_fit(target / "fit.csv", fitted)
        write_config(target, self._recipe(trial, pack), {})
        artifacts = str(target.relative_to(self.folder))
        self._write("done", trial=trial, pack=pack, artifacts=artifacts, seconds=record.seconds, sync=True)
        self._tell(trial)
        self._write_rho()

    def _recipe(self, trial: str, pack: str) -> dict[str, Any]:
        """What it takes to run a trial again: the trial, its pack, and which data it was."""
        running = self.running[pack]
        own = next(member for member in running.trials if member.identity == trial)
        return {**running.recipe(own), "data": {"seed": self.plan.seeds[0], "digest": self.record.sweep["data_digest"]}}

    def _drop_surplus(self) -> None:
        if self.plan.keep.limited:
            self._keeper.drop(self.record, self.whole, self._write)

    @property
    def whole(self) -> SweepRecord:
        """The sweep's record with the linked trials of other sweeps in it, for rankings."""
        linked = {t: found for t, found in self.linked.items() if t in self.wanted and t not in self.record.trials}
        if not linked:
            return self.record
        return replace(self.record, trials={**self.record.trials, **{t: replace(f, role="trial") for t, f in linked.items()}})

    # -- forgetting ratio ----------------------------------------------------------------------------------------------

    def _write_rho(self) -> None:
        """Rho of every finished trial whose references are known (HAT, section 4.1)."""
        for seed in self.plan.seeds:
            found = [self._reference(c, seed) for c in self.plan.references]
            if len(found) != 2 or None in found:
                continue
            joint, random = (r for r in found if r is not None)
            mine = [t for t in self.record.trials.values() if t.seed == seed and t.role == "trial" and t.status == "done"]
            for trial in mine:
                if trial.rho is None:
                    steps = range(1, self.record.tasks + 1)
                    values = [metrics.forgetting_ratio(trial.test, joint.test, random.test, seen) for seen in steps]
                    self._write("rho", trial=trial.trial, values=values, joint=joint.trial, random=random.trial)

    def _reference(self, configuration: Configuration, seed: int) -> TrialRecord | None:
        identity = configuration.trial_identity(seed)
        found = self.record.trials.get(identity) or self.linked.get(identity)
        return found if found is not None and found.status == "done" else None

    # -- the search hears ----------------------------------------------------------------------------------------------

    def _tell(self, trial: str) -> None:
        for group in self._numbers.values():  # more than one where the study proposed the same values again
            if any(t.identity == trial for t in group):
                self._told(group)

    def _told(self, group: list[Trial]) -> None:
        """Tells the search what a configuration came to once all its seeds are decided; one failed seed fails it."""
        number = group[0].study
        if number is None:
            return
        records = [self.record.trials.get(t.identity) or self.linked.get(t.identity) for t in group]
        if any(r is None or r.status in ("open", "running") for r in records):
            return
        sound = [r for r in records if r is not None and r.status == "done"]
        if len(sound) < len(group):
            self.search.tell(number, None)
            return
        self.search.tell(number, fmean(map(score, sound)), fmean(math.nan if r.bytes is None else r.bytes for r in sound))

    # -- the ledger ----------------------------------------------------------------------------------------------------

    @property
    def ledger(self) -> dict[str, int]:
        """Asked = done + skipped + failed, once nothing is left; references are not counted."""
        status = {t: self.record.trials[t].status for t in self.wanted if t in self.record.trials}
        skipped = sum(t in self.done_before or t in self.linked for t in self.wanted)
        done = sum(s == "done" and t not in self.done_before for t, s in status.items())
        failed = sum(s == "failed" for t, s in status.items() if t not in self.linked)
        asked = len(self.wanted) if self.exhausted else max(len(self.wanted), self.plan.trials)
        return {"asked": asked, "done": done, "skipped": skipped, "failed": failed}

    def _fail(self, trial: str, pack: str, fault: Fault) -> None:
        log.warning("trial %s failed: %s\n%s", trial, fault.reason, fault.traceback or "")
        self._write("failed", trial=trial, pack=pack, **asdict(fault))
        shutil.rmtree(self.folder / TRIALS / trial, ignore_errors=True)  # its boundaries: it would be tried again from the start
        self._tell(trial)

    def _write(self, kind: str, *, sync: bool = False, **fields: Any) -> None:
        self.record.apply(self.journal.append(kind, sync=sync, **fields))


def score(trial: TrialRecord) -> float:
    """What a search may see of a trial: validation average accuracy after its last task, in [0, 1]."""
    return metrics.average_accuracy(trial.validation, trial.seen)
