"""What the events of a journal are, and whether one is what it should be, before anybody relies on it.

A journal may be damaged, or come from somebody else in an archive: what passes here can be replayed, published and
shown, and the paths in it stay inside the sweep's folder.

The events, schema 1 (this is the one definition; ``null`` in place of a number means "not known"; times are in seconds,
T is the number of tasks, ``seen`` counts learned tasks: 0 is the untrained network, t is after t tasks):

======= ============================================================================================================
sweep   format: 1, name, settings: {}, command: str, versions: {}, git: commit | null, method, benchmark, network,
        scenario, tasks: T, data_digest. Comes first, and again at each resume; the last one counts.
pack    pack, plan: {members, threads, compiled, drop}, trials: [{trial, config, seed, method, hyperparameters: {},
        settings: {}, study: int | null, role: "trial" | "reference"; and where it was forked fork: {run: MLflow's id of
        the run it was forked from, trial, at: first task (from 1) learned with values of its own}}]
start   pack, attempt: int
task    pack, seen, checkpoint: path relative to the sweep folder | null, members: [{trial, validation: [T] | null,
        test: [T], train_loss, epochs, seconds (of this task alone), bytes, capacity: {layer: fraction, and "total" if
        the method has one}, reuse: [..] | null; and where the method has masks use: {layer: fraction, "total"} of
        this task alone, compressed: {hidden, with_head}: share of weights left with this task's units only, or {stored}:
        what is stored in place of the network's weights, as a share of them; and where the task was inferred inferred:
        [[..]]: share of each task's test examples taken for each task so far; and where values are learned fitted: [[inputs,
        values, outputs]] on each task's test data}]
failed  trial, pack, reason, where: {task, epoch, step} | null, traceback: str | null
done    trial, pack, artifacts: folder relative to the sweep folder, seconds
linked  trial, config, seed, sweep: the name of the sweep that has it, method, hyperparameters
rho     trial, values: [T] (after 1..T tasks), joint: trial, random: trial
stop    reason: "interrupted" | "environment" | .., detail
end     status: "done" | "failed", ledger: {asked, done, skipped, failed}
======= ============================================================================================================

Format 1 is the first. Keys that were added to it since (use, compressed, inferred, fitted, fork) may be missing; unknown keys are
left alone; a change that old code would misread raises the format, and old code then refuses the journal.
"""

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

from clcore.errors import UserError

Check = Callable[[Any], bool]

LARGEST = 1e18  # of any number; MLflow's database holds 64 bits
LAST_TIME = 1e11  # unix seconds, the year 5138
MOST_TASKS = 4096  # a trial's accuracies are a square of them


def check_format(what: str, found: object, known: int) -> None:
    """Sees whether a format is one that can be read.

    Args:
        what: what has it, e.g. ``"the journal"``.
        found: the format it names.
        known: the newest format that this code knows, at least 1; it reads all up to it.

    Raises:
        UserError: it is newer, or no format at all.
    """
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise UserError(f"{what} has format {found!r}, which is none: it is damaged, or not clsweep's.")
    if found > known:
        raise UserError(f"{what} has format {found}, and this clsweep reads up to format {known}: a newer one wrote it.")


def wrong_field(event: Mapping[str, Any]) -> str | None:
    """The first field of an event that is missing or not what it should be; None where all are right."""
    return next((name for name, fits in _EVENTS[event["event"]].items() if name not in event or not fits(event[name])), None)


def is_name(value: object) -> bool:
    """Whether a value can be the name of one folder, shown as it is."""
    return isinstance(value, str) and 0 < len(value) < 256 and value.isprintable() and value[0] != "." and not {*value} & {*"/\\"}


def is_place(value: object) -> bool:
    """Whether a value is a path below a folder: relative, no part of it hidden or going up."""
    return isinstance(value, str) and all(map(is_name, value.split("/"))) and not PurePosixPath(value).is_absolute()


def is_number(value: object) -> bool:
    """Whether a value is a finite number of a size that can be stored."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def is_count(value: object) -> bool:
    """Whether a value is a whole number of at least 0."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST


def is_time(value: object) -> bool:
    """Whether a value is a moment in unix seconds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LAST_TIME


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _maybe(fits: Check) -> Check:
    return lambda value: value is None or fits(value)


def _all(fits: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _one_of(*values: str) -> Check:
    return lambda value: value in values


def _with(fields: Mapping[str, Check]) -> Check:
    return lambda value: isinstance(value, dict) and all(fits(value.get(name)) for name, fits in fields.items())


def _shares(value: object) -> bool:
    return isinstance(value, dict) and all(map(_maybe(is_number), value.values()))


def _row(value: object) -> bool:
    """Numbers, some of them not known; in one piece, since nearly all of a journal are such."""
    return isinstance(value, list) and all(v is None or (type(v) in _NUMBERS and -LARGEST <= v <= LARGEST) for v in value)


def _curve(value: object) -> bool:
    """Inputs, values and outputs, as many of each."""
    return isinstance(value, list) and len(value) == 3 and all(map(_row, value)) and len({len(part) for part in value}) == 1


_NUMBERS = (float, int)
_CHOICES: dict[str, Check] = {"config": _is_text, "seed": is_count, "method": _is_text, "hyperparameters": _is_table}
_TRIAL = _with(
    {
        "trial": is_name,
        **_CHOICES,
        "settings": _is_table,
        "study": _maybe(is_count),
        "role": _one_of("trial", "reference"),
        "fork": _maybe(_with({"run": _is_text, "trial": _is_text, "at": is_count})),
    }
)
_MEMBER = _with(
    {
        "trial": is_name,
        "validation": _maybe(_row),
        "test": _maybe(_row),
        "train_loss": _maybe(is_number),
        "epochs": _maybe(is_count),
        "seconds": _maybe(is_number),
        "bytes": _maybe(is_number),
        "capacity": _maybe(_shares),
        "use": _maybe(_shares),
        "compressed": _maybe(_shares),
        "inferred": _maybe(_all(_all(is_number))),
        "fitted": _maybe(_all(lambda curve: _curve(curve) and bool(curve[0]))),
    }
)
_EVENTS: dict[str, dict[str, Check]] = {
    "sweep": {
        "name": is_name,
        "settings": _with({"home": _maybe(_is_text), "tracking_uri": _maybe(_is_text)}),
        "command": _is_text,
        "versions": _is_table,
        "git": _maybe(_is_text),
        **dict.fromkeys(("method", "benchmark", "network", "scenario", "data_digest"), _is_text),
        "tasks": lambda value: is_count(value) and 1 <= value <= MOST_TASKS,
    },
    "pack": {"pack": is_name, "plan": _is_table, "trials": _all(_TRIAL)},
    "start": {"pack": is_name, "attempt": is_count},
    "task": {"pack": is_name, "seen": is_count, "checkpoint": _maybe(is_place), "members": _all(_MEMBER)},
    "failed": {
        "trial": is_name,
        "pack": is_name,
        "reason": _is_text,
        "where": _maybe(_is_table),
        "traceback": _maybe(_is_text),
    },
    "done": {"trial": is_name, "pack": is_name, "artifacts": is_place, "seconds": is_number},
    "linked": {"trial": is_name, **_CHOICES, "sweep": _is_text},
    "rho": {"trial": is_name, "values": _row, "joint": _is_text, "random": _is_text},
    "stop": {"reason": _is_text, "detail": _maybe(_is_text)},
    "end": {
        "status": _one_of("done", "failed"),
        "ledger": _with(dict.fromkeys(("asked", "done", "skipped", "failed"), is_count)),
    },
}
