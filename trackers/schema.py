"""What the events of a journal are, and whether one is what it should be, before anybody relies on it.

A journal may be damaged, or come from somebody else in an archive: what passes here can be replayed, published and
shown, and the paths in it stay inside the sweep's folder.

The events, schema 1 (this is the one definition; ``null`` in place of a number means "not known"; times are in seconds,
T is the number of tasks, ``seen`` counts learned tasks: 0 is the untrained network, t is after t tasks):

======= ============================================================================================================
sweep   format: 1, name, settings: {}, command: str, versions: {}, git: commit | null, method, benchmark, network,
        scenario, tasks: T, data_digest, varied: [keys that the space varies]. Comes first, and again at each resume; the
        last one counts.
pack    pack, plan: {members, threads, compiled, drop}, trials: [{trial, config, seed, method, hyperparameters: {},
        settings: {}, study: int | null, role: "trial" | "reference"; and where it was forked fork: {run: MLflow's id of
        the run it was forked from, trial, at: first task (from 1) learned with values of its own}}]
start   pack, attempt: int, lost: seconds that the attempt before worked after its last report, as far as is known
task    pack, seen, checkpoint: path relative to the sweep folder | URI of a folder elsewhere | null, members: [{trial,
        validation: [T] | null, test: [T], train_loss, epochs, seconds and cpu_seconds (of this task alone, a member's share
        of its pack's), memory: most bytes its worker used at a time, bytes, overhead_bytes, learning_bytes (of a
        deployment, those of it beside the network's weights and heads, and to learn further tasks: older journals
        have the first alone), capacity: {layer: fraction, and "total" if
        the method has one}, reuse: [..] | null; and where the method has masks use: {layer: fraction, "total"} of
        this task alone, compressed: {hidden, with_head}: share of weights left with this task's units only, or {stored}:
        what is stored in place of the network's weights, as a share of them; and where the task was inferred inferred:
        [[..]]: share of each task's test examples taken for each task so far; and where values are learned fitted: [[inputs,
        values, outputs]] on each task's test data}]
again   pack, seen, checkpoint, seconds (of all members): a task learned once more after a loss. The rows of its ``task`` event
        are what counts, and they are the same.
failed  trial, pack, reason, where: {task, epoch, step} | null, traceback: str | null, seconds of the task it failed in
done    trial, pack, artifacts: folder relative to the sweep folder, seconds
dropped trial, parts: [weights | masks | boundaries], bytes, why: these files of a finished trial are taken away, and why
linked  trial, config, seed, sweep: the name of the sweep that has it, method, hyperparameters
rho     trial, values: [T] (after 1..T tasks), joint: trial, random: trial
stop    reason: "interrupted" | "environment" | .., detail
end     status: "done" | "failed", ledger: {asked, done, skipped, failed}
======= ============================================================================================================

Format 1 is the first. Keys that were added to it since (varied, use, compressed, inferred, fitted, fork, lost, cpu_seconds, memory,
failed's seconds) may be missing; unknown keys are left alone; a change that old code would misread raises the format, and old
code then refuses the journal. A checkpoint that is a URI (``--storage``), ``again`` and ``dropped`` were added too: old code
refuses an event that has the first, or is one of the others.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

from clcore.errors import NewerFormat, UserError

Check = Callable[[Any], bool]

LARGEST = 1e18  # of any number; MLflow's database holds 64 bits
LAST_TIME = 1e11  # unix seconds, the year 5138
#: Kinds of stores besides a sweep's folder that checkpoints may be kept in.
STORES = ("file", "s3", "gs")
#: What may be taken away of a finished trial: its last state, its masks, its states at earlier task boundaries.
PARTS = ("weights", "masks", "boundaries")
MOST_TASKS = 4096  # a trial's accuracies are a square of them


def check_format(what: str, found: object, known: int) -> None:
    """Sees whether a format is one that can be read.

    Args:
        what: what has it, e.g. ``"the journal"``.
        found: the format it names.
        known: the newest format that this code knows, at least 1; it reads all up to it.

    Raises:
        NewerFormat: it is newer.
        UserError: it is no format at all.
    """
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise UserError(f"{what} has format {found!r}, which is none: it is damaged, or not clsweep's.")
    if found > known:
        raise NewerFormat(f"{what} has format {found}, and this clsweep reads up to format {known}: a newer one wrote it.")


def read_json(data: bytes) -> Any:
    """What JSON says, where all its words can be written down again.

    Raises:
        ValueError: it is damaged, too deep, or has half of a character in it (a lone surrogate).
    """
    try:
        found = json.loads(data)
        if b"\\u" in data:
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return found


def strict(value: Any) -> Any:
    """Plain data with None for every number that JSON does not have, and lists in place of tuples."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    return value


def wrong_field(event: Mapping[str, Any]) -> str | None:
    """The first field of an event that is missing or not what it should be; None where all are right."""
    kind = event["event"]
    fields = {**_EVENTS[kind], **{name: fits for name, fits in _LATER.get(kind, {}).items() if name in event}}
    return next((name for name, fits in fields.items() if name not in event or not fits(event[name])), None)


def is_name(value: object) -> bool:
    """Whether a value can be the name of one folder, shown as it is."""
    return isinstance(value, str) and 0 < len(value) < 256 and value.isprintable() and value[0] != "." and not {*value} & {*"/\\"}


def is_place(value: object) -> bool:
    """Whether a value is a path below a folder: relative, no part of it hidden or going up."""
    return isinstance(value, str) and all(map(is_name, value.split("/"))) and not PurePosixPath(value).is_absolute()


def is_store(value: object) -> bool:
    """Whether a value is the URI of a folder in a known kind of store, without credentials and queries."""
    if not isinstance(value, str) or not value.isprintable() or {*value} & {*" \\?#@"}:
        return False
    scheme, found, rest = value.partition("://")
    authority, *parts = rest.split("/")
    return found != "" and scheme in STORES and (authority == "") == (scheme == "file") and not {*parts} & {"", ".", ".."}


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


def _is_checkpoint(value: object) -> bool:
    return is_place(value) or is_store(value)


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
        "cpu_seconds": _maybe(is_number),
        "memory": _maybe(is_count),
        "bytes": _maybe(is_number),
        "overhead_bytes": _maybe(is_number),
        "learning_bytes": _maybe(is_number),
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
    "task": {"pack": is_name, "seen": is_count, "checkpoint": _maybe(_is_checkpoint), "members": _all(_MEMBER)},
    "again": {"pack": is_name, "seen": is_count, "checkpoint": _maybe(_is_checkpoint), "seconds": _maybe(is_number)},
    "failed": {
        "trial": is_name,
        "pack": is_name,
        "reason": _is_text,
        "where": _maybe(_is_table),
        "traceback": _maybe(_is_text),
    },
    "done": {"trial": is_name, "pack": is_name, "artifacts": is_place, "seconds": is_number},
    "dropped": {"trial": is_name, "parts": _all(_one_of(*PARTS)), "bytes": is_count, "why": _is_text},
    "linked": {"trial": is_name, **_CHOICES, "sweep": _is_text},
    "rho": {"trial": is_name, "values": _row, "joint": _is_text, "random": _is_text},
    "stop": {"reason": _is_text, "detail": _maybe(_is_text)},
    "end": {
        "status": _one_of("done", "failed"),
        "ledger": _with(dict.fromkeys(("asked", "done", "skipped", "failed"), is_count)),
    },
}
#: Fields that were added later: checked where they are there.
_LATER: dict[str, dict[str, Check]] = {
    "sweep": {"varied": _maybe(_all(_is_text))},
    "start": {"lost": _maybe(is_number)},
    "failed": {"seconds": _maybe(is_number)},
}
