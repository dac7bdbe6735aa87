"""``--replay``: a finished trial is run once more from its record alone, and its accuracies are compared with the recorded ones."""

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from clcore.errors import BadValue, UserError
from sweeps.boundary import Start, alone, found_boundary, taken_over
from sweeps.manifest import current_commit, package_version
from sweeps.options import typed_option
from sweeps.preflight import is_device
from sweeps.trainable import NOT_A_NUMBER, run_pack
from sweeps.trials import Pack, Trial, build_benchmark
from trackers.artifacts import CONFIG
from trackers.check import own_database
from trackers.command import say
from trackers.recorded import RecordedTrial, client_of, recorded_trial

SAME, PARTED = 0, 1
#: Options that go with it: all others are in the record.
OPTIONS = ("home", "tracking_uri", "data_dir")
SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Parting:
    """An accuracy that is another than was recorded: of ``task`` (from 1) after ``seen`` tasks; NaN: not measured."""

    seen: int
    task: int
    split: str
    then: float
    now: float

    @property
    def size(self) -> float:
        """How far they are apart, in [0, 1]; 1 where only one of them is known."""
        return abs(self.then - self.now) if isfinite(self.then) and isfinite(self.now) else 1.0


def replay(run_id: str, given: Mapping[str, Any], console: Console) -> int:
    """Runs a trial again, in the pack it was in, and says whether it ends as recorded; writes nothing.

    Args:
        run_id: MLflow's id of the trial's run.
        given: options of the command line.
        console: where to.

    Returns:
        The exit code: 0 where every accuracy is the recorded one, bit for bit, otherwise 1.

    Raises:
        UserError: no such run, or what it needs is not here.
    """
    if others := {*given} - {*OPTIONS}:
        raise UserError(f"{typed_option(min(others))} does not go with --replay: everything is in the record.")
    recorded = recorded_trial(client_of(tracking(given)), run_id)
    pack, trial = pack_of(recorded, given.get("data_dir"))
    if not is_device(pack.device):
        raise BadValue("the recorded device", pack.device, "one that torch has here")
    check_data(pack, trial, recorded)
    put = partial(say, console)
    members = f"in its pack of {len(pack.trials)}" if len(pack.trials) > 1 else "alone"
    compiled = ", compiled" if pack.compiled else ""
    put(f"replaying trial {trial.identity} (seed {trial.seed}) {members}, {pack.threads} thread(s){compiled}, on {pack.device}")
    with TemporaryDirectory(prefix="clsweep-") as folder:
        start = _start(trial, pack, given, Path(folder), put)
        found, failure = _run(pack, trial, len(recorded.matrices["test"][0]), console, start)
    if failure:
        put(f"parts: {failure}, and the recorded trial did not")
        return PARTED
    return _judge(recorded, found, put)


def tracking(given: Mapping[str, Any]) -> str:
    """The tracking URI that options name: by default the database of the home folder."""
    return given.get("tracking_uri") or own_database(Path(given.get("home", "runs")))


def pack_of(recorded: RecordedTrial, data_dir: Path | None) -> tuple[Pack, Trial]:
    """The pack that a trial ran in, and the trial in it, from the record.

    Args:
        recorded: the trial.
        data_dir: where data files are, if not where they were.

    Raises:
        UserError: the record does not say, is damaged, or what it says is not the trial it names.
    """
    if "pack" not in recorded.config:
        raise UserError(f"run {recorded.run_id} does not say which pack it ran in: a clsweep from before --replay made it.")
    try:
        pack = Pack.from_recipe(recorded.config)
        names = [member["trial"] for member in recorded.config["pack"]["members"]]
        found = {trial.identity: trial for trial in pack.trials}
        files = [name for name in pack.trials[0].configuration.names if name.endswith(".py") or ".py:" in name]
        sound = _is_plain(pack) and recorded.trial in names
    except (AttributeError, IndexError, KeyError, OSError, TypeError, ValueError) as error:  # OSError: a file that is gone
        raise UserError(f"{CONFIG} of run {recorded.run_id} is damaged: {type(error).__name__} {error}.") from None
    if not sound or list(found) != names:
        cause = f"one of {', '.join(files)} is not what it was" if files else "it was changed, or this clsweep's results are others"
        commit = recorded.made_with.get("commit")
        hint = f" (it was made by commit {commit})" if commit else ""
        raise UserError(f"{CONFIG} of run {recorded.run_id} does not lead to trial {recorded.trial}: {cause}{hint}.")
    return replace(pack, data_dir=str(data_dir.absolute()) if data_dir else pack.data_dir), found[recorded.trial]


def _is_plain(pack: Pack) -> bool:
    """Whether what the identity does not cover is of its type."""
    threads, place = pack.threads, pack.data_dir
    plain = isinstance(threads, int) and not isinstance(threads, bool) and 1 <= threads <= 4096
    return plain and isinstance(pack.compiled, bool) and isinstance(pack.device, str) and (place is None or isinstance(place, str))


def check_data(pack: Pack, trial: Trial, recorded: RecordedTrial) -> None:
    """Sees that the data that a trial was trained on are here.

    Raises:
        UserError: they are not, or are others.
    """
    data = recorded.config.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("seed"), int):
        raise UserError(f"{CONFIG} of run {recorded.run_id} is damaged: it does not say which data it was.")
    benchmark = build_benchmark(trial.configuration, data["seed"], pack.data_dir)
    if benchmark.digest != data.get("digest"):
        raise UserError(f"the data are not those of run {recorded.run_id}: {data.get('digest')} then, {benchmark.digest} here.")
    if len(benchmark.tasks) != recorded.matrices["test"].shape[1]:
        raise UserError(f"the accuracies of run {recorded.run_id} are not of its {len(benchmark.tasks)} tasks.")


def kept_beginning(fork: Mapping[str, Any], own: Pack, given: Mapping[str, Any], target: Path) -> Start | None:
    """The kept state that a fork goes on from, written as a checkpoint of its own; None where it is not there any more.

    Args:
        fork: as in ``sweeps.trials.Configuration``.
        own: the fork, a pack of one.
        given: ``home``, ``tracking_uri`` and ``data_dir`` as options, as far as they are told.
        target: where the checkpoint goes; one that is there already is written anew.

    Raises:
        UserError: the parent's record cannot be read, or is damaged.
        OSError: the disk is full or gone.
    """
    client, seen = client_of(tracking(given)), fork["at"] - 1
    recorded = recorded_trial(client, fork["run"])
    pack, parent = pack_of(recorded, given.get("data_dir"))
    with found_boundary(recorded, seen, Path(given.get("home", "runs")), client) as place:
        if place is None:
            return None
        return taken_over(place, replace(alone(pack, parent), device=own.device), own, seen, target)


def _start(trial: Trial, pack: Pack, given: Mapping[str, Any], folder: Path, put: Callable[[str], None]) -> Start | None:
    """Where a trial begins that is a fork of a kept state."""
    fork = trial.configuration.fork
    if fork is None or not fork.get("kept"):
        return None
    try:
        start = kept_beginning(fork, pack, given, folder)
    except UserError as error:
        start, why = None, str(error)
    else:
        why = "it was not kept"
    if start is None:
        put(f"the state of its parent that it went on from is gone ({why}): the tasks before are learned again")
    return start


def _run(pack: Pack, trial: Trial, tasks: int, console: Console, start: Start | None) -> tuple[dict[str, Tensor], str]:
    """The accuracy matrices of one trial of a pack that is run, and how it failed (empty where it did not)."""
    found = {split: torch.full((tasks + 1, tasks), torch.nan, dtype=torch.float64) for split in SPLITS}
    for seen, row in enumerate(start.rows if start else ()):
        for split in SPLITS:
            found[split][seen] = torch.tensor([torch.nan if v is None else v for v in row[split]], dtype=torch.float64)
    with console.status("task 1") as status:
        for said, _ in run_pack(
            pack,
            start.folder if start else None,
            lambda task, epoch: status.update(f"task {task + 1} of {tasks}, epoch {epoch + 1}"),
        ):
            for row in (member for member in said["members"] if member["trial"] == trial.identity):
                for split in SPLITS:
                    found[split][said["seen"]] = torch.tensor(row[split], dtype=torch.float64)
            for failed in (f for f in said["failed"] if f["trial"] == trial.identity):
                return found, NOT_A_NUMBER.format(**failed["where"])
    return found, ""


def partings(then: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> list[Parting]:
    """Where accuracy matrices differ, in the order of learning; NaN equals NaN.

    Args:
        then: split -> accuracies in [0, 1], shape [T + 1, T].
        now: the same; what ``then`` does not have is not compared.
    """
    found = []
    for split in then:
        a, b = then[split], now[split]
        places = (~((a == b) | (a.isnan() & b.isnan()))).nonzero().tolist()
        found += [Parting(seen, task + 1, split, float(a[seen, task]), float(b[seen, task])) for seen, task in places]
    return sorted(found, key=lambda p: (p.seen, p.task, p.split))


def _judge(recorded: RecordedTrial, found: dict[str, Tensor], put: Callable[[str], None]) -> int:
    parted = partings(recorded.matrices, found)
    known = sum(int(matrix.isfinite().sum()) for matrix in recorded.matrices.values())
    if not parted:
        put(f"identical: all {known} accuracies are the recorded ones, bit for bit")
        return SAME
    first, widest = parted[0], max(parted, key=lambda p: p.size)
    where = f"after {first.seen} task(s), on task {first.task} ({first.split})"
    put(f"parts first {where}: {_value(first.then)} then, {_value(first.now)} now")
    put(
        f"{len(parted)} of {known} accuracies differ, by at most {widest.size:.4g} "
        f"(after {widest.seen} task(s), on task {widest.task}, {widest.split})"
    )
    if changed := _changed(recorded):
        put(f"made with        {changed}")
    return PARTED


def _changed(recorded: RecordedTrial) -> str:
    """What of the surroundings is another than it was."""
    now = {name: package_version(name) for name in recorded.made_with if name not in ("commit", "python")}
    now |= {"python": platform.python_version(), "commit": current_commit() or "unknown"}
    parts = [f"{name} {value} then, {now[name]} here" for name, value in recorded.made_with.items() if now[name] != value]
    return "; ".join(parts)


def _value(accuracy: float) -> str:
    return f"{accuracy:.6f}" if isfinite(accuracy) else "not measured"
