"""``--fork``: a finished trial gone on from at a task boundary with other values; what was not kept is learned once more."""

import logging
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console

from clcore import hyper
from clcore.errors import BadValue, UnknownName, UserError
from clcore.quick import TASK_FREE
from clcore.training import Training
from sweeps.boundary import Start, alone, found_boundary, read_boundary
from sweeps.driver import PACKS, Plan
from sweeps.options import typed_option
from sweeps.replay import check_data, kept_beginning, pack_of, tracking
from sweeps.settings import Settings, Surroundings, declarations, validated
from sweeps.trials import Configuration, Pack, Trial
from trackers.command import say
from trackers.record import JOURNAL, load
from trackers.recorded import client_of, recorded_trial
from trackers.repeat import CUT

log = logging.getLogger(__name__)

#: Options that go with it: the rest of the question is the parent's.
OPTIONS = (
    "assign", "home", "tracking_uri", "data_dir", "name", "compiled", "executor", "device", "cpus", "gpus_per_trial", "workers",
    "address", "time_budget", "memory", "ship", "keep", "keep_bytes",
)  # fmt: skip


def fork_settings(run_id: str, at_task: int | None, given: Mapping[str, Any]) -> Settings:
    """The settings of a sweep of one trial: the parent's until a task, other values from it on.

    Args:
        run_id: MLflow's id of the parent's run.
        at_task: first task, counted from 1, that is learned with other values; at least 2.
        given: options of the command line; ``assign`` holds the other values.

    Raises:
        UserError: no such run, a task that it does not have, a value that cannot change between tasks, or a kept state that is
            damaged.
    """
    if others := {*given} - {*OPTIONS}:
        raise UserError(f"{typed_option(min(others))} does not go with --fork: what --set does not name is the parent's.")
    client = client_of(tracking(given))
    recorded = recorded_trial(client, run_id)
    pack, parent = pack_of(recorded, given.get("data_dir"))
    check_data(pack, parent, recorded)
    configuration = parent.configuration
    if configuration.benchmark["options"]["scenario"] == TASK_FREE:
        raise UserError(f"run {run_id} learned a stream (task-free): it has no boundary to go on from.")
    first = _first_task(configuration, at_task, recorded.matrices["test"].shape[1])
    values = _other_values(configuration, given.get("assign", {}))
    before = legs(configuration, values, first)
    with found_boundary(recorded, first, Path(given.get("home", "runs")), client) as place:
        if place is not None:
            read_boundary(place, _here(alone(pack, parent)), first)
        kept = {} if place is None else {"kept": True}
    fork = {"run": run_id, "trial": parent.identity, "at": first + 1, "before": before, **kept}
    options = {name: value for name, value in given.items() if name != "assign"}
    return validated({**_as_before(parent, pack), **options, "assign": _texts(configuration, values), "fork": fork})


def announce(settings: Settings, console: Console) -> None:
    """Says what is changed, and whether the tasks before are learned again."""
    fork = settings.fork
    assert fork is not None
    last, at = fork["before"][-1], fork["at"]
    changed = ", ".join(f"{name} {old} -> {settings.assign[name]}" for name, old in last["values"].items())
    put = partial(say, console)
    put(f"fork of run {fork['run']} (trial {fork['trial']}), from task {at} on: {changed}")
    again = "task 1 is" if at == 2 else f"tasks 1 to {at - 1} are"
    if fork.get("kept"):
        put(f"the state before task {at} was kept: it goes on from there, {again} not learned again")
    else:
        put(f"the state before task {at} was not kept: {again} learned again with the old values, outside of any pack")


def beginning(settings: Settings, plan: Plan, folder: Path) -> Start | None:
    """Where the trial of a sweep begins: with the first task (None), or at a state that its parent kept, made its own here.

    Args:
        settings: of the sweep.
        plan: of the sweep.
        folder: of the sweep.

    Raises:
        UserError: the parent's record cannot be read, or is damaged.
        OSError: the disk is full or gone.
    """
    fork = settings.fork
    if fork is None or not fork.get("kept"):
        return None
    trial, seen = Trial(plan.base, plan.seeds[0]), fork["at"] - 1
    own = replace(plan.like, trials=(trial,))
    if (folder / JOURNAL).is_file():
        record = load(folder)
        known = record.packs.get(own.identity)
        if known is not None and known.seen >= seen and record.trials[trial.identity].status != "failed":
            return None  # it has begun, and has checkpoints of its own
    given = {name: getattr(settings, name) for name in ("home", "tracking_uri", "data_dir")}
    found = kept_beginning(fork, own, given, folder / PACKS / f"parent-{seen:02d}")
    if found is None:
        log.warning("the state before task %d of run %s is not kept any more: it is learned again", fork["at"], fork["run"])
    return found


def _here(pack: Pack) -> Pack:
    """A pack where only its state is looked at."""
    return replace(pack, device="cpu")


def legs(configuration: Configuration, values: Mapping[str, Any], first: int) -> list[dict[str, Any]]:
    """How the tasks before a fork are learned, told as what is other than in the forked configuration.

    Args:
        configuration: the parent's; it may be a fork itself.
        values: what is changed.
        first: the first task (from 0) of the changed values, not before the parent's own last change.
    """
    now = {**configuration.values, **values}
    then = [(leg["until"], {**configuration.values, **leg["values"]}) for leg in configuration.before]
    every = [(0, {}), *then, (first, configuration.values)]
    found = [(until, learned_with) for (begun, _), (until, learned_with) in pairwise(every) if until > begun]
    return [{"until": until, "values": {n: v for n, v in of.items() if v != now[n]}} for until, of in found]


def _first_task(configuration: Configuration, at_task: int | None, tasks: int) -> int:
    """The first task with other values, from 0."""
    least = max([1, *(leg["until"] for leg in configuration.before)]) + 1
    allowed = f"from {least} to {tasks}" if least <= tasks else "a task, and this trial has only one"
    if least > 2:
        allowed += f" (the trial was itself forked at task {least})"
    if at_task is None:
        raise UserError(f"--at-task is missing: the first task with other values, {allowed}.")
    if not least <= at_task <= tasks:
        raise BadValue("--at-task", at_task, allowed)
    return at_task - 1


def _other_values(configuration: Configuration, assign: Mapping[str, str]) -> dict[str, Any]:
    """What ``--set`` changes, typed and checked."""
    owners = declarations(configuration.method)
    found = {}
    for name, text in assign.items():
        if name not in owners:
            raise UnknownName("hyperparameter or setting", name, owners)
        if not _may_change(owners[name], name):
            allowed = [key for key in owners if _may_change(owners[key], key)]
            raise UserError(f"--set {name} cannot change between two tasks. What can: {', '.join(allowed)}.")
        if name not in configuration.values:
            raise UserError(f"--set {name}: the parent is older than this {'setting' if owners[name] is Training else 'value'}.")
        value = hyper.convert(owners[name], name, text)
        if value != configuration.values[name]:
            found[name] = value
    if not found:
        raise UserError("--fork needs a --set KEY=VALUE that is another than the parent's: else use --replay.")
    return found


def _may_change(owner: type, name: str) -> bool:
    """Training settings may, and those hyperparameters that are numbers to a method and not part of how it is built."""
    return owner is Training or (owner is not Surroundings and hyper.knobs(owner)[name].packed)


def _as_before(parent: Trial, pack: Pack) -> dict[str, Any]:
    """The parent's question and surroundings, as options."""
    configuration = parent.configuration
    cut = {name: configuration.benchmark["options"][name] for name in CUT}
    what = {"method": configuration.method, "benchmark": configuration.benchmark["name"], "network": configuration.network["spec"]}
    how = {"cpus": pack.threads, "compiled": "on" if pack.compiled else "off", "data_dir": pack.data_dir, "pack": "1"}
    return {**what, **cut, **how, "space": "default", "seeds": (parent.seed,)}


def _texts(configuration: Configuration, values: Mapping[str, Any]) -> dict[str, str]:
    """Every hyperparameter and setting as ``--set`` would say it."""
    around = {**configuration.benchmark["options"], **configuration.network}
    surroundings = {field.name: around[field.name] for field in fields(Surroundings) if field.name in around}
    return {name: str(value) for name, value in {**configuration.values, **surroundings, **values}.items()}
