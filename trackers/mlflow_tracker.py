"""Publishes a sweep's journal to MLflow; publishing it again changes nothing.

Every call compares what the journal says with what MLflow already has and writes the difference: runs are found by
their tags, a run's tag ``cl.seen`` says up to which task its metrics are there, and each metric carries the time of the
journal's event, so that what is sent twice is the same row. Only the driver publishes, with explicit run ids.
"""

import json
import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.tracking import MlflowClient

from trackers.describe import describe
from trackers.journal import Event, read
from trackers.labels import run_name, varying_in
from trackers.mlflow_store import TRACKING_ERRORS, all_runs, find_experiment, open_store
from trackers.pictures_all import PICTURES
from trackers.record import JOURNAL, SweepRecord, TrialRecord
from trackers.rows import (
    Point,
    rho_points,
    sweep_params,
    sweep_points,
    sweep_tags,
    trial_params,
    trial_points,
    trial_tags,
)
from trackers.summary import Final

BATCH = 1000  # metrics a call; MLflow's own limit
REPORT = "report"  # folder of the sweep's own files: leaderboard, pictures
_STATUS = {"open": "KILLED", "running": "RUNNING", "done": "FINISHED", "failed": "FAILED"}

log = logging.getLogger(__name__)


@dataclass
class _Known:
    """What MLflow has of one run."""

    run_id: str
    name: str
    status: str
    params: set[str] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run) -> "_Known":
        return cls(run.info.run_id, run.info.run_name or "", run.info.status, set(run.data.params), dict(run.data.tags))

    def mark(self, tag: str) -> int:
        """A watermark kept in a tag; -1 when there is none."""
        return int(self.tags.get(tag, -1))


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
        self._finals: dict[str, Final] = {}
        self._names: list[str] = []
        self._parent: _Known | None = None
        self._children: dict[str, _Known] | None = None
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
        try:
            if not self.record.first:
                self.record.apply(self._events.popleft())
            parent = self._parent or self._find_parent()
            self._take_events(parent.mark("cl.closings"))
            self._write_trials(parent)
            self._write_parent(parent)
        except TRACKING_ERRORS:  # a run may exist although its answer was lost: look again next time
            self._parent = self._children = None
            raise
        self._behind = False

    def close(self, status: str | None = None) -> None:
        """Publishes the rest.

        Args:
            status: the sweep's status in MLflow (``KILLED``, ``FAILED``) if the journal has neither stop nor end event.
        """
        self.publish()
        if status and self._parent and self.record.end is None and self.record.stop is None:
            self._set_status(self._parent, status, self.record.last_time)

    # -- from the journal to the record

    def _take_events(self, closings_known: int) -> None:
        while self._events:
            event = self._events.popleft()
            before = self.record.closings
            self.record.apply(event)
            self._dirty |= dict.fromkeys(self._touched(event))
            if max(before, closings_known) < self.record.closings:
                self._points += sweep_points(self.record, event["time"], self._finals)
        if self._names != (names := varying_in(self.record)):  # the names of all runs change
            self._names = names
            self._dirty |= dict.fromkeys(self.record.trials)

    def _touched(self, event: Event) -> list[str]:
        """The trials whose runs this event may change."""
        kind = event["event"]
        if kind in ("sweep", "stop", "end"):
            return list(self.record.trials)
        if kind in ("pack", "start"):
            return self.record.packs[event["pack"]].trials
        if kind == "task":
            return [member["trial"] for member in event["members"]]
        return [event["trial"]] if kind in ("failed", "done", "rho") else []

    # -- from the record to MLflow

    def _write_trials(self, parent: _Known) -> None:
        for name in list(self._dirty):
            del self._dirty[name]
            try:
                self._write_trial(self.record.trials[name], parent)
                self.written += 1
            except TRACKING_ERRORS:
                self._dirty[name] = None  # at the end now, so that one bad trial does not hold up the others
                raise

    def _write_trial(self, trial: TrialRecord, parent: _Known) -> None:
        known = self._known(trial, parent)
        if known is None:
            return
        tags = {"cl.pack": trial.pack, "cl.reason": (trial.reason or "")[:1000], "cl.seen": str(trial.seen)}
        points = [p for row in trial.rows.values() if row.seen > known.mark("cl.seen") for p in trial_points(trial, row)]
        if trial.rho is not None and "cl.rho" not in known.tags:
            tags["cl.rho"] = "done"
            points += rho_points(trial)
        if trial.artifacts is not None:
            tags |= self._upload(known, self.folder / trial.artifacts, "cl.artifacts", "done")
            tags |= self._upload_pictures(known, self.folder / trial.artifacts)
        tags |= self._tell_data(known)
        self._log(known, points, trial_params(trial), tags)
        self._rename(known, run_name(trial, self._names))
        over = self.record.stop is not None or self.record.end is not None
        status = "KILLED" if trial.status == "running" and over else _STATUS[trial.status]
        self._set_status(known, status, trial.since)

    def _write_parent(self, parent: _Known) -> None:
        record = self.record
        points = [point for point in self._points if point.step > parent.mark("cl.closings")]
        tags = {"mlflow.note.content": describe(record, self._finals), "cl.closings": str(record.closings)}
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
            self._set_status(parent, "RUNNING", record.last_time)

    def _log(self, known: _Known, points: list[Point], params: dict[str, str], tags: dict[str, str]) -> None:
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

    def _upload(self, known: _Known, folder: Path, tag: str, value: str) -> dict[str, str]:
        """Sends every file of a folder, once; gives the tag that says that it was done, or that the folder was gone."""
        if known.tags.get(tag) in (value, f"{value}, files missing"):
            return {}
        if not any(path.is_file() for path in folder.rglob("*")):
            log.warning("there are no files in %s to put into MLflow", folder)
            return {tag: f"{value}, files missing"}
        self._mlflow.log_artifacts(known.run_id, str(folder))
        return {tag: value}

    def _upload_pictures(self, known: _Known, folder: Path) -> dict[str, str]:
        """Sends what was drawn of a trial: at the end of a sweep, when the rest of its files has long been sent."""
        over = self.record.stop is not None or self.record.end is not None
        if not over or "cl.pictures" in known.tags or not (folder / PICTURES).is_dir():
            return {}
        self._mlflow.log_artifacts(known.run_id, str(folder / PICTURES), PICTURES)
        return {"cl.pictures": "done"}

    def _tell_data(self, known: _Known) -> dict[str, str]:
        """Names the data of a run, once."""
        if "cl.inputs" in known.tags:
            return {}
        self._mlflow.log_inputs(known.run_id, [_dataset(self.record)])
        return {"cl.inputs": "done"}

    def _rename(self, known: _Known, name: str) -> None:
        if known.name != name:
            self._mlflow.update_run(known.run_id, name=name)
            known.name = name

    def _set_status(self, known: _Known, status: str, when: float) -> None:
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

    def _find_parent(self) -> _Known:
        self.prepare(self.record.first["benchmark"])
        found = [_Known.of(run) for run in self._runs("tags.`cl.role` = 'sweep'")]
        tags = sweep_tags(self.record, self._sweep_id)
        self._parent = found[0] if found else self._create(self.record.name, tags, self.record.first["time"])
        self.parent_run_id = self._parent.run_id
        return self._parent

    def _known(self, trial: TrialRecord, parent: _Known) -> _Known | None:
        """The trial's run, created when missing; None while nothing of the trial has happened."""
        if self._children is None:
            found = (_Known.of(run) for run in self._runs("tags.`cl.role` != 'sweep'"))
            self._children = {known.tags["cl.trial"]: known for known in found}
        known = self._children.get(trial.trial)
        if known is None and (trial.status != "open" or trial.rows):
            tags = trial_tags(self.record, self._sweep_id, trial, parent.run_id)
            known = self._children[trial.trial] = self._create(run_name(trial, self._names), tags, trial.begun)
        return known

    def _runs(self, condition: str) -> Iterator[Run]:
        query = f"tags.`cl.sweep_id` = '{self._sweep_id}' and {condition}"
        return all_runs(self._mlflow, [str(self.experiment_id)], query)

    def _create(self, name: str, tags: dict[str, str], when: float) -> _Known:
        run = self._mlflow.create_run(str(self.experiment_id), start_time=_milliseconds(when), tags=tags, run_name=name)
        return _Known.of(run)


def _dataset(record: SweepRecord) -> DatasetInput:
    """The benchmark as MLflow's dataset: the digest is of all its tensors and of how the tasks are cut."""
    first = record.first
    source = json.dumps({key: first[key] for key in ("benchmark", "tasks", "scenario")})
    found = Dataset(first["benchmark"], str(first["data_digest"]), source_type="clsweep", source=source)
    return DatasetInput(found, [InputTag("mlflow.data.context", "training")])


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
