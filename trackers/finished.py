"""Finished trials, wherever they are recorded: in the folders of a home, or in any MLflow."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from clcore.errors import UserError
from trackers.command import find_sweep, is_sweep, sweeps_in
from trackers.kept import there
from trackers.labels import choices_of, chosen
from trackers.record import SweepRecord, load
from trackers.summary import Final, final
from trackers.trial_record import TrialRecord

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

T = TypeVar("T")
#: Reads a file of a trial: its name, and what makes something of the path.
Reader = Callable[[str, Callable[[Path], T]], T]

_OF_SWEEP = ("benchmark", "network", "scenario")
#: Fields of ``Final`` as metrics of MLflow's.
_METRICS = {
    "validation": "acc/avg_validation",
    "test": "acc/avg",
    "forgetting": "forgetting/diagonal",
    "seconds": "cost/seconds",
    "bytes": "cost/bytes",
}


@dataclass(frozen=True, eq=False)
class Trial:
    """A finished trial.

    Attributes:
        sweep: name of the sweep that ran it.
        trial: its identity: of the configuration and the seed.
        config: identity of its configuration.
        seed: of all its randomness.
        method: what learned.
        values: benchmark, network and scenario, hyperparameters and training settings.
        final: its closing figures.
        read: ``read(name, reader)`` gives what ``reader`` makes of a file of the trial's.
    """

    sweep: str
    trial: str
    config: str
    seed: int
    method: str
    values: dict[str, Any]
    final: Final
    read: Reader[Any]


def in_home(home: Path, names: tuple[str, ...]) -> list[Trial]:
    """The finished trials of sweeps in a home; of all of them where none is named.

    Trials that a sweep did not run because another had them are among its own, while that other sweep is in the home.

    Raises:
        UnknownName: there is no such sweep.
        UserError: there is no such home, or a journal is damaged or of a newer format.
    """
    folders = [find_sweep(name, home) for name in names] if names else sweeps_in(home)
    record = cache(load)
    found = (trial for folder in folders for trial in _of_record(folder, record))
    return list({trial.trial: trial for trial in found}.values())  # a linked one is found twice


def in_mlflow(tracking_uri: str, names: tuple[str, ...]) -> list[Trial]:
    """The finished trials of runs and sweeps in an MLflow; all of them where nothing is named.

    Args:
        tracking_uri: of MLflow.
        names: MLflow's ids of runs (of a trial, or of a sweep for all its trials), or names of sweeps.

    Raises:
        UserError: there is no such run or sweep, it is of another program or a newer format, or its files are damaged.
    """
    from trackers.recorded import client_of, finished_runs

    client = client_of(tracking_uri)
    runs = [run for name in names for run in _named(client, name)] if names else finished_runs(client)
    return [_of_run(client, run) for run in {run.info.run_id: run for run in runs}.values()]


def _of_record(folder: Path, record: Callable[[Path], SweepRecord]) -> Iterator[Trial]:
    own = record(folder)
    for trial in own.trials.values():
        if trial.role == "trial" and trial.status == "done":
            yield _of_trial(folder, own, trial)
    for linked in own.linked.values():
        place = folder.parent / Path(linked.sweep).name
        if not is_sweep(place):
            continue
        other = record(place)
        trial_of_other = other.trials.get(linked.trial)
        if trial_of_other is not None and trial_of_other.status == "done":
            yield _of_trial(place, other, trial_of_other)


def _of_trial(folder: Path, record: SweepRecord, trial: TrialRecord) -> Trial:
    around = {name: record.sweep[name] for name in _OF_SWEEP}
    files = folder / (trial.artifacts or "")
    return Trial(
        sweep=record.name,
        trial=trial.trial,
        config=trial.config,
        seed=trial.seed,
        method=trial.method,
        values={**around, **chosen(trial)},
        final=final(trial),
        read=lambda name, reader: reader(there(files / name)),
    )


def _named(client: "MlflowClient", name: str) -> "list[Run]":
    """The finished runs behind a run's id or a sweep's name."""
    from trackers.recorded import finished_run, finished_runs, is_run_id, our_run, sweep_run

    run = our_run(client, name) if is_run_id(name) else sweep_run(client, name)
    return finished_runs(client, run) if run.data.tags["cl.role"] == "sweep" else [finished_run(client, name)]


def _of_run(client: "MlflowClient", run: "Run") -> Trial:
    from trackers.recorded import fetch, read_config

    run_id, tags = run.info.run_id, run.data.tags
    config = read_config(client, run_id)

    def read(name: str, reader: Callable[[Path], T]) -> T:
        with tempfile.TemporaryDirectory() as folder:
            return reader(fetch(client, run_id, name, Path(folder)))

    try:
        values = choices_of(config["hyperparameters"], config["settings"])
        seed = int(tags["cl.seed"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"config.json or a tag of run {run_id} is damaged: {type(error).__name__} {error}.") from None
    trial = tags.get("cl.trial", run_id)
    return Trial(
        sweep=tags.get("cl.sweep", ""),
        trial=trial,
        config=tags.get("cl.config", ""),
        seed=seed,
        method=tags.get("cl.method", ""),
        values={**{name: tags.get(f"cl.{name}", "") for name in _OF_SWEEP}, **values},
        final=_final(trial, seed, run.data.metrics),
        read=read,
    )


def _final(trial: str, seed: int, metrics: Mapping[str, float]) -> Final:
    return Final(trial=trial, seed=seed, **{name: float(metrics.get(key, nan)) for name, key in _METRICS.items()})
