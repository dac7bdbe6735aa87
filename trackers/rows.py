"""What a trial and a sweep look like in MLflow, as plain dictionaries: functions of the record and of nothing else."""

import getpass
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from clcore import metrics
from trackers.cost import cost
from trackers.journal import Event
from trackers.labels import chosen, is_plain, show
from trackers.record import FORMAT, SweepRecord, commits_of
from trackers.summary import Configuration
from trackers.trial_record import TaskRow, TrialRecord

PARAM_LIMIT = 30
KEY_LIMIT = 40  # metrics of a run; more and MLflow's chart page is no longer read
CURVE_LIMIT = 20  # tasks up to which each has its own curve

_BY_TEST: dict[str, Callable[[Tensor, int], float]] = {
    "acc/avg": metrics.average_accuracy,
    "forgetting/diagonal": metrics.forgetting_vs_diagonal,
    "forgetting/max_previous": metrics.forgetting_max_previous,
    "transfer/backward": metrics.backward_transfer,
}


@dataclass(frozen=True)
class Point:
    """One value of one curve; ``time`` is unix seconds, of the journal's event, so that publishing again repeats it."""

    key: str
    value: float
    time: float
    step: int


def trial_points(trial: TrialRecord, row: TaskRow) -> list[Point]:
    """The points of one report of a trial, at step = tasks seen; what is not finite is left out."""
    values = {**_accuracy(trial, row.seen), **_cost(trial, row), **_curves(trial.test, row.seen)}
    values |= {"capacity/this_task": row.use.get("total"), **{f"compressed/{k}": v for k, v in row.compressed.items()}}
    if trial.settings.get("scenario") != "task-free":  # there, which mapping stands for a task is not known
        values["inference/right_task"] = _right_task(row.inferred)
    values["fit/mse"] = _squared_error(row.fitted)
    values |= _capacity(row.capacity, KEY_LIMIT - len(_CONSTANT_KEYS) - _curve_count(trial.test))
    return _points(values, row.time, row.seen)


def rho_points(trial: TrialRecord) -> list[Point]:
    """The forgetting ratio after each task, once the references are known."""
    values = enumerate(trial.rho or [], start=1)
    return [point for step, value in values for point in _points({"rho/avg": value}, trial.rho_time, step)]


def sweep_points(record: SweepRecord, time: float, best: Configuration | None) -> list[Point]:
    """The summary of a sweep at this moment, at step = trials closed so far.

    Args:
        record: the sweep.
        time: unix seconds.
        best: its best configuration, if any is finished.
    """
    own, linked = record.totals.counts["trial"], len(record.linked)
    counts = {"done": own["done"], "failed": own["failed"], "asked": own.total() + linked, "skipped": linked}
    told = {f"count/{name}": count for name, count in counts.items()}
    return _points({**told, **(_best(best) if best else {}), **_spent(record)}, time, record.closings)


def trial_params(record: SweepRecord, trial: TrialRecord) -> dict[str, str]:
    """What the sweep varies first, then what it sets, hyperparameters and training settings; at most ``PARAM_LIMIT``."""
    values, first = chosen(trial), record.first
    named = [key for key in (*(first.get("varied") or ()), *_assigned(first)) if key in values]
    return _params({key: values[key] for key in (*named, *values)})


def sweep_params(record: SweepRecord) -> dict[str, str]:
    """The question as it was first asked; a resume cannot change a param of MLflow's."""
    first = record.first
    what = {key: first[key] for key in ("method", "benchmark", "network", "scenario", "tasks")}
    said = {**_assigned(first), **{key: value for key, value in first["settings"].items() if value is not None}}
    return _params({**what, **{key: value for key, value in said.items() if key not in what}})


def _assigned(call: Event) -> dict[str, Any]:
    """What ``--set`` said."""
    found = call["settings"].get("assign")
    return found if isinstance(found, dict) else {}


def trial_tags(record: SweepRecord, sweep_id: str, trial: TrialRecord, parent: str) -> dict[str, str]:
    """The tags by which a trial's run is found, filtered and nested under its sweep's."""
    own = {"cl.role": trial.role, "cl.trial": trial.trial, "cl.config": trial.config, "cl.seed": str(trial.seed)}
    study = {} if trial.study is None else {"cl.study": str(trial.study)}
    fork = trial.fork or {}
    parents = {"cl.parent_run": fork.get("run"), "cl.parent_trial": fork.get("trial"), "cl.forked_at": fork.get("at")}
    return {
        **_common_tags(record, sweep_id),
        **own,
        **study,
        **{tag: str(value) for tag, value in parents.items() if value is not None},
        "cl.method": trial.method,
        "cl.protocol": str(trial.settings.get("protocol", "")),
        "cl.pack": trial.pack,
        "mlflow.parentRunId": parent,
    }


def sweep_tags(record: SweepRecord, sweep_id: str) -> dict[str, str]:
    """The tags of a sweep's own run."""
    what = {"cl.role": "sweep", "cl.method": record.first["method"], "cl.data": str(record.first["data_digest"])}
    return {**_common_tags(record, sweep_id), **what, **code_tags(record.calls)}


def code_tags(calls: Sequence[Event]) -> dict[str, str]:
    """Versions and commit of the last of some calls, and all their commits where they are several."""
    if not calls:
        return {}
    versions = {f"cl.version.{name}": str(value) for name, value in calls[-1]["versions"].items()}
    commits = commits_of(calls)
    several = {"cl.commits": " ".join(commits)} if len(commits) > 1 else {}
    return {**versions, **({"mlflow.source.git.commit": commits[-1]} if commits else {}), **several}


def clean(name: str) -> str:
    """A name that MLflow accepts: letters, digits, ``_ - . space : /``, no empty or dotted path parts."""
    parts = [re.sub(r"[^\w\-. :]", "_", part, flags=re.ASCII) for part in name.split("/")]
    return "/".join(part if part.strip(".") else "_" for part in parts)


_CONSTANT_KEYS = (
    *_BY_TEST,
    "acc/avg_validation",
    "transfer/forward_vs_init",
    "rho/avg",
    "capacity/total",
    "capacity/this_task",
    "compressed/hidden",
    "compressed/with_head",
    "compressed/stored",
    "inference/right_task",
    "fit/mse",
    "cost/seconds",
    "cost/cpu_seconds",
    "cost/peak_memory",
    "cost/bytes",
    "cost/overhead_bytes",
    "cost/learning_bytes",
    "train/loss",
    "train/epochs",
)


def _accuracy(trial: TrialRecord, seen: int) -> dict[str, float]:
    if seen < 1:
        return {}
    values = {key: formula(trial.test, seen) for key, formula in _BY_TEST.items()}
    values["acc/avg_validation"] = metrics.average_accuracy(trial.validation, seen)
    if seen == trial.test.shape[1]:  # it needs every task to have been learned
        values["transfer/forward_vs_init"] = metrics.forward_transfer_vs_init(trial.test, seen)
    return values


def _right_task(inferred: list[list[float]]) -> float | None:
    """Share of the examples of all tasks so far, each task counting alike, that were taken for their own task."""
    return sum(row[task] for task, row in enumerate(inferred)) / len(inferred) if inferred else None


def _squared_error(fitted: list[list[list[float]]]) -> float | None:
    """Mean squared error on test data, each task so far counting alike, where values are learned."""
    errors = [sum((v - o) ** 2 for v, o in zip(values, outputs, strict=True)) / len(values) for _, values, outputs in fitted]
    return sum(errors) / len(errors) if errors else None


def _cost(trial: TrialRecord, row: TaskRow) -> dict[str, float | None]:
    return {
        "cost/seconds": trial.seconds_until(row.seen),
        "cost/cpu_seconds": trial.cpu_seconds_until(row.seen),
        "cost/peak_memory": row.memory,
        "cost/bytes": row.bytes,
        "cost/overhead_bytes": row.overhead_bytes,
        "cost/learning_bytes": row.learning_bytes,
        "train/loss": row.train_loss,
        "train/epochs": row.epochs,
    }


def _spent(record: SweepRecord) -> dict[str, float | None]:
    found = cost(record)
    return {
        "cost/seconds": found.total,
        "cost/seconds_failed": found.failed,
        "cost/seconds_repeated": found.repeated,
        "cost/cpu_seconds": found.cpu or None,
        "cost/peak_memory": found.peak or None,
    }


def _curve_count(matrix: Tensor) -> int:
    tasks = matrix.shape[1]
    return tasks if tasks <= CURVE_LIMIT else 0


def _curves(matrix: Tensor, seen: int) -> dict[str, float]:
    """Accuracy of each task from when it is learned, up to ``CURVE_LIMIT`` tasks; the whole matrix is in Parquet."""
    return {f"acc/t{u + 1:02d}": float(matrix[seen, u]) for u in range(min(seen, _curve_count(matrix)))}


def _capacity(capacity: Mapping[str, float | None], room: int) -> dict[str, float | None]:
    """Each layer's fraction while there is room, and the total: the method's own, else the plain mean of the layers."""
    layers = {name: value for name, value in capacity.items() if name != "total"}
    known = [value for value in layers.values() if value is not None]
    total = capacity.get("total", sum(known) / len(known) if known else None)
    shown = list(layers.items())[: max(room, 0)]
    return {"capacity/total": total, **{f"capacity/{name}": value for name, value in shown}}


def _best(configuration: Configuration) -> dict[str, float]:
    """The leader's figures; without validation data there is no leader."""
    if not math.isfinite(configuration.rank_key):
        return {}
    names = {"acc_avg_validation": "validation", "acc_avg": "test", "forgetting": "forgetting", "bytes": "bytes"}
    return {f"best/{key}": configuration.mean(name) for key, name in (names | {"seconds": "seconds"}).items()}


def _points(values: Mapping[str, float | None], time: float, step: int) -> list[Point]:
    finite = {key: float(v) for key, v in values.items() if v is not None and math.isfinite(v)}
    return [Point(clean(key), value, time, step) for key, value in finite.items()]


def _params(values: Mapping[str, Any]) -> dict[str, str]:
    plain = {clean(k): _param(v) for k, v in values.items() if is_plain(v) or isinstance(v, list | tuple)}
    return dict(list(plain.items())[:PARAM_LIMIT])


def _param(value: Any) -> str:
    return show(value) if isinstance(value, list | tuple) else str(value)


def _common_tags(record: SweepRecord, sweep_id: str) -> dict[str, str]:
    first = record.first
    return {
        "cl.format": str(FORMAT),
        "cl.sweep": record.name,
        "cl.sweep_id": sweep_id,
        "cl.benchmark": first["benchmark"],
        "cl.network": first["network"],
        "cl.scenario": first["scenario"],
        "mlflow.user": _user(),
        "mlflow.source.name": first["command"],
        "mlflow.source.type": "LOCAL",
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        return "unknown"
