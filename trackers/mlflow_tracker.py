"""Publishes a sweep's journal to MLflow; publishing it again changes nothing.

Every call compares what the journal says with what MLflow already has and writes the difference: runs are found by
their tags, a run's tag ``cl.seen`` says up to which task its metrics are there, and each metric carries the time of the
journal's event, so that what is sent twice is the same row. Only the driver publishes, with explicit run ids.
"""

import json
import logging
from collections import deque
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from trackers.describe import describe, describe_trial
from trackers.journal import Event, read
from trackers.kept import WAITING, is_light, waits
from trackers.labels import run_name, varying_in
from trackers.leader import Leader
from trackers.mlflow_runs import CLOSINGS, SEEN, Known, SweepRuns, find_runs, mark_orphan
from trackers.mlflow_store import TRACKING_ERRORS, find_experiment, open_store
from trackers.pictures_all import PICTURES
from trackers.record import JOURNAL, SweepRecord, load
from trackers.rows import (
    Point,
    code_tags,
    rho_points,
    sweep_params,
    sweep_points,
    sweep_tags,
    trial_params,
    trial_points,
    trial_tags,
)
from trackers.trial_record import TrialRecord

BATCH = 1000  # metrics a call; MLflow's own limit
REPORT = "report"  # folder of the sweep's own files: leaderboard, pictures
_STATUS = {"open": "KILLED", "running": "RUNNING", "done": "FINISHED", "failed": "FAILED"}

log = logging.getLogger(__name__)


class Publisher:
    """Brings MLflow up to date with one sweep's journal. For one thread at a time."""

    def __init__(self, sweep_folder: Path, tracking_uri: str, artifact_root: Path) -> None:
        """Touches nothing yet.

        Args:
            sweep_folder: holds ``journal.jsonl``, the trials' artifact folders and ``report/``.
            tracking_uri: of MLflow.
            artifact_root: folder for the artifacts of a directly opened database; a server keeps its own.
        """
        self.folder = sweep_folder
        self.tracking_uri = tracking_uri
        self.artifact_root = artifact_root.absolute()
        self.record = SweepRecord()
        self.experiment_id: str | None = None
        self.parent_run_id: str | None = None
        self._client: MlflowClient | None = None
        self._offset = 0
        self._events: deque[Event] = deque()  # read, not yet in the record
        self._dirty: dict[str, None] = {}  # trials to bring up to date, an ordered set
        self._points: list[Point] = []  # of the sweep, to be sent
        self._leader = Leader()
        self._names: list[str] = []
        self._runs: SweepRuns | None = None  # None: to be looked for
        self._abandoned: str | None = None
        self._behind = False
        self.written = 0  # runs brought up to date so far: who waits can see that there is progress

    def prepare(self, benchmark: str | None = None) -> None:
        """Creates or migrates the store, and the benchmark's experiment if it is named; publishing does it too.

        Raises:
            UserError: the store cannot be opened, or the experiment is in MLflow's trash.
        """
        if self._client is None:
            self._client = open_store(self.tracking_uri, self.artifact_root)
        if benchmark is not None and self.experiment_id is None:
            self.experiment_id = find_experiment(self._client, self.tracking_uri, self.artifact_root, f"cl/{benchmark}")

    def publish(self) -> None:
        """Reads what is new in the journal and writes it to MLflow. What fails is kept for the next call.

        Raises:
            UserError: the journal is damaged, or the store cannot be opened.
            MlflowException, SQLAlchemyError, OSError: the store could not take it.
        """
        events, self._offset = read(self.folder / JOURNAL, self._offset)
        self._events.extend(events)
        self._behind = self._behind or bool(events)
        if not self._behind:
            return
        if any(event["event"] in ("stop", "end") for event in events):
            self._runs = None  # somebody may have deleted some meanwhile
        try:
            if not self.record.first:
                self.record.apply(self._events.popleft())
            parent = self._find_parent()
            self._take_events(parent.mark(CLOSINGS))
            self._write_trials(parent)
            self._write_parent(parent)
        except TRACKING_ERRORS:  # a run may exist although its answer was lost, or be gone: look again next time
            self._runs = None
            raise
        self._behind = False

    @property
    def unpublished(self) -> int:
        """How many runs of what has begun are not in MLflow as the journal tells them."""
        record = load(self.folder)
        names = {*self._dirty}.union(*(self._touched(event, record) for event in tuple(self._events)))
        return sum(record.trials[name].begun > 0 for name in names) + self._behind

    def close(self, status: str) -> None:
        """Publishes the rest of a sweep that no process runs: no run stays ``RUNNING``.

        Args:
            status: the sweep's status in MLflow (``KILLED``, ``FAILED``) if the journal has neither stop nor end event.
        """
        self._abandoned, self._behind = status, True
        self._dirty |= dict.fromkeys(self.record.trials)
        self.publish()

    # -- from the journal to the record

    def _take_events(self, closings_known: int) -> None:
        while self._events:
            event = self._events.popleft()
            before = self.record.closings
            self.record.apply(event)
            self._dirty |= dict.fromkeys(self._touched(event, self.record))
            if event["event"] == "done":
                self._leader.add(self.record.trials[event["trial"]])
            if max(before, closings_known) < self.record.closings:
                self._points += sweep_points(self.record, event["time"], self._leader.best)
        if self._names != (names := varying_in(self.record)):  # the names of all runs change
            self._names = names
            self._dirty |= dict.fromkeys(self.record.trials)

    @staticmethod
    def _touched(event: Event, record: SweepRecord) -> list[str]:
        """The trials whose runs this event may change."""
        kind = event["event"]
        if kind in ("sweep", "stop", "end"):
            return list(record.trials)
        if kind in ("pack", "start"):
            return record.packs[event["pack"]].trials
        if kind == "task":
            return [member["trial"] for member in event["members"]]
        return [event["trial"]] if kind in ("failed", "done", "rho") else []

    # -- from the record to MLflow

    def _write_trials(self, parent: Known) -> None:
        for name in list(self._dirty):
            del self._dirty[name]
            try:
                self._write_trial(self.record.trials[name], parent)
                self.written += 1
            except TRACKING_ERRORS:
                self._dirty[name] = None  # at the end now, so that one bad trial does not hold up the others
                raise

    def _write_trial(self, trial: TrialRecord, parent: Known) -> None:
        known = self._known(trial, parent)
        if known is None:
            return
        tags = {"cl.pack": trial.pack, "cl.reason": (trial.reason or "")[:1000], SEEN: str(trial.seen)}
        tags["mlflow.note.content"] = describe_trial(self.record, trial, known.run_id, self._names)
        tags |= code_tags(trial.calls)
        tags["mlflow.parentRunId"] = parent.run_id  # another one, where the sweep's run was deleted
        points = [p for row in trial.rows.values() if row.seen > known.mark(SEEN) for p in trial_points(trial, row)]
        if trial.rho is not None and "cl.rho" not in known.tags:
            tags["cl.rho"] = "done"
            points += rho_points(trial)
        if trial.artifacts is not None:
            tags |= self._upload_trial(known, self.folder / trial.artifacts)
            tags |= self._upload_pictures(known, self.folder / trial.artifacts)
        tags |= self._tell_data(known)
        self._log(known, points, trial_params(self.record, trial), tags)
        self._rename(known, run_name(trial, self._names))
        status = "KILLED" if trial.status == "running" and self._over else _STATUS[trial.status]
        self._set_status(known, status, trial.since)

    def _write_parent(self, parent: Known) -> None:
        record = self.record
        points = [point for point in self._points if point.step > parent.mark(CLOSINGS)]
        tags = {"mlflow.note.content": describe(record, self._leader.finals), CLOSINGS: str(record.closings)}
        tags |= code_tags(record.calls)
        if record.end is not None:
            tags |= self._upload(parent, self.folder / REPORT, "cl.report", str(record.end["n"]))
        tags |= self._tell_data(parent)
        self._log(parent, points, sweep_params(record), tags)
        self._points.clear()
        if record.end is not None:
            self._set_status(parent, "FINISHED" if record.end["status"] == "done" else "FAILED", record.end["time"])
        elif record.stop is not None:
            self._set_status(parent, "KILLED", record.stop["time"])
        else:
            self._set_status(parent, self._abandoned or "RUNNING", record.last_time)

    def _log(self, known: Known, points: list[Point], params: dict[str, str], tags: dict[str, str]) -> None:
        """Sends what is new, the tags last: they say that the rest is there."""
        new_tags = {key: value for key, value in tags.items() if known.tags.get(key, "") != value}
        new_params = {key: value for key, value in params.items() if key not in known.params}
        metrics = [Metric(p.key, p.value, _milliseconds(p.time), p.step) for p in points]
        while len(metrics) > BATCH:
            self._mlflow.log_batch(known.run_id, metrics=metrics[:BATCH])
            metrics = metrics[BATCH:]
        if metrics or new_params or new_tags:
            params_sent = [Param(key, value) for key, value in new_params.items()]
            tags_sent = [RunTag(key, value) for key, value in new_tags.items()]
            self._mlflow.log_batch(known.run_id, metrics=metrics, params=params_sent, tags=tags_sent)
        known.params |= new_params.keys()
        known.tags |= new_tags

    def _upload(self, known: Known, folder: Path, tag: str, value: str) -> dict[str, str]:
        """Sends every file of a folder, once; gives the tag that says that it was done, or that the folder was gone."""
        if known.tags.get(tag) in (value, f"{value}, files missing"):
            return {}
        if not any(path.is_file() for path in folder.rglob("*")):
            log.warning("there are no files in %s to put into MLflow", folder)
            return {tag: f"{value}, files missing"}
        self._mlflow.log_artifacts(known.run_id, str(folder))
        return {tag: value}

    def _upload_trial(self, known: Known, folder: Path) -> dict[str, str]:
        """Sends a trial's files; where it is only known at the sweep's end whose weights are kept, these wait for it."""
        if self.record.end is not None or not waits(self.record.sweep["settings"]):
            return self._upload(known, folder, "cl.artifacts", "done")
        light = sorted(path for path in folder.glob("*") if path.is_file() and is_light(path))
        if "cl.artifacts" in known.tags or not light:
            return {}
        for path in light:
            self._mlflow.log_artifact(known.run_id, str(path))
        return {"cl.artifacts": WAITING}

    def _upload_pictures(self, known: Known, folder: Path) -> dict[str, str]:
        """Sends what was drawn of a trial: at the end of a sweep, when the rest of its files has long been sent."""
        if not self._over or "cl.pictures" in known.tags or not (folder / PICTURES).is_dir():
            return {}
        self._mlflow.log_artifacts(known.run_id, str(folder / PICTURES), PICTURES)
        return {"cl.pictures": "done"}

    def _tell_data(self, known: Known) -> dict[str, str]:
        """Names the data of a run, once."""
        if "cl.inputs" in known.tags:
            return {}
        self._mlflow.log_inputs(known.run_id, [_dataset(self.record)])
        return {"cl.inputs": "done"}

    def _rename(self, known: Known, name: str) -> None:
        if known.name != name:
            self._mlflow.update_run(known.run_id, name=name)
            known.name = name

    def _set_status(self, known: Known, status: str, when: float) -> None:
        if known.status == status:
            return
        if status == "RUNNING":
            self._mlflow.update_run(known.run_id, status=status)
        else:
            self._mlflow.set_terminated(known.run_id, status, _milliseconds(when))
        known.status = status

    # -- finding and creating runs

    @property
    def _mlflow(self) -> MlflowClient:
        if self._client is None:
            self.prepare()
        assert self._client is not None
        return self._client

    @property
    def _sweep_id(self) -> str:
        return self.record.identity

    @property
    def _over(self) -> bool:
        """Whether nothing of the sweep runs any more."""
        return self.record.stop is not None or self.record.end is not None or self._abandoned is not None

    def _find_parent(self) -> Known:
        self.prepare(self.record.first["benchmark"])
        if self._runs is None:
            self._runs = find_runs(self._mlflow, str(self.experiment_id), self._sweep_id)
            for surplus in self._runs.surplus:
                mark_orphan(self._mlflow, surplus, _milliseconds(self.record.last_time))
        if self._runs.parent is None:
            tags = sweep_tags(self.record, self._sweep_id)
            self._runs.parent = self._create(str(self.record.first["name"]), tags, self.record.first["time"])
        if self.parent_run_id not in (None, self._runs.parent.run_id):
            self._start_over()  # what was sent to the run that is gone is not kept
        self.parent_run_id = self._runs.parent.run_id
        return self._runs.parent

    def _start_over(self) -> None:
        """Reads the journal anew, from its first event on."""
        self.record, self._leader, self._names, self._points = SweepRecord(), Leader(), [], []
        events, self._offset = read(self.folder / JOURNAL)
        self._events, self._dirty = deque(events), {}
        self.record.apply(self._events.popleft())

    def _known(self, trial: TrialRecord, parent: Known) -> Known | None:
        """The trial's run, created when missing; None while nothing of the trial has happened."""
        assert self._runs is not None
        known = self._runs.children.get(trial.trial)
        if known is None and (trial.status != "open" or trial.rows):
            tags = trial_tags(self.record, self._sweep_id, trial, parent.run_id)
            known = self._runs.children[trial.trial] = self._create(run_name(trial, self._names), tags, trial.begun)
        return known

    def _create(self, name: str, tags: dict[str, str], when: float) -> Known:
        run = self._mlflow.create_run(str(self.experiment_id), start_time=_milliseconds(when), tags=tags, run_name=name)
        return Known.of(run)


def _dataset(record: SweepRecord) -> DatasetInput:
    """The benchmark as MLflow's dataset: the digest is of all its tensors and of how the tasks are cut."""
    first = record.first
    source = json.dumps({key: first[key] for key in ("benchmark", "tasks", "scenario")})
    found = Dataset(first["benchmark"], str(first["data_digest"]), source_type="clsweep", source=source)
    return DatasetInput(found, [InputTag("mlflow.data.context", "training")])


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
