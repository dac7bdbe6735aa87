"""One HTML file that tells a sweep to people without a server: pictures inside, no script, nothing fetched."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trackers.artifacts import write_text
from trackers.cost import cost
from trackers.describe import duration, made_with, percent, state
from trackers.labels import choices_text, chosen, show, varying_in
from trackers.page_html import Html, document, element, join, pictures, section, table
from trackers.pictures_all import BEST
from trackers.record import SweepRecord
from trackers.repeat import resume_command
from trackers.summary import Configuration
from trackers.trial_record import TrialRecord

PAGE = "index.html"
ROWS = 50  # of the leaderboard
FAILURES = 50
_NO = "–"  # noqa: RUF001 - a dash in a table
_SWEEP_PICTURES = {
    "accuracy": "Average test accuracy on the tasks learned so far; the best configurations on validation data in colour.",
    "leaderboard": "The best configurations: means over seeds, with one standard deviation to each side.",
    "parallel": "A line is a configuration; where it meets an axis is its value. Lighter ones scored better, the thick one best.",
    "importance": "How much each hyperparameter had to do with being in the best quarter; the shares add up to 100 %.",
    "over_trials": "Validation accuracy of each trial in the order in which they ended, and the best until then.",
    "cost": "Seconds of training of each trial.",
}
_BROAD = "accuracy"  # it has its legend beside it
_TRIAL_PICTURES = {
    "matrix": "Each row is the network after one more task. Below and left of the white line are tasks that it has learned.",
    "progress": "What it knew after each task, and what it had lost of earlier ones since they were learned.",
    "capacity": "The share of each layer's weights that the tasks so far use together (lines), and the latest task alone (bars).",
    "overlap": "Of the units or weights that one task uses (row), the share that another task (column) uses too.",
    "inference": "What each task's test examples were taken for where the task is not told.",
    "samples": "Images that its replay model makes, a row a task.",
    "fit": "The curves that were to be learned, dashed, and what the network makes of them.",
}


@dataclass(frozen=True)
class Told:
    """What a page tells besides the record: configurations, the best first; how to repeat the best; a digest of the pictures."""

    found: Sequence[Configuration]
    repeat: str | None
    drawn: str


def write_page(folder: Path, record: SweepRecord, told: Told) -> None:
    """Writes ``index.html`` with the folder's pictures in it.

    Args:
        folder: the report's.
        record: the sweep.
        told: what the record does not say.

    Raises:
        OSError: the disk is full or gone.
    """
    write_text(folder / PAGE, page(folder, record, told))


def drawn(folder: Path) -> str | None:
    """The digest of the pictures that the folder's page was made with; None where there is no such page."""
    try:
        with (folder / PAGE).open(encoding="utf-8", errors="replace") as file:
            found = re.search(r'<meta name="clsweep-pictures" content="([0-9a-f]*)">', file.read(1000))
    except OSError:
        return None
    return found and found[1]


def page(folder: Path, record: SweepRecord, told: Told) -> Html:
    """The page's text; ``folder`` holds the pictures."""
    parts = [
        _asked(record),
        _won(folder, record, told),
        _leaderboard(record, told.found),
        section("The sweep in pictures", _pictures(folder, "", _SWEEP_PICTURES)) if told.found else None,
        _cost(record),
        _failed(record),
        _linked(record),
        _repeat(record, told.repeat),
    ]
    title = f"{record.name}: {record.sweep['method']} on {record.sweep['benchmark']}"
    return document(title, parts, {"clsweep-pictures": told.drawn})


def _asked(record: SweepRecord) -> Html:
    sweep, settings = record.sweep, record.sweep["settings"]
    facts = {name: sweep[name] for name in ("method", "benchmark", "tasks", "scenario", "network")}
    facts |= {name: show(settings[name]) for name in ("space", "trials", "seeds") if settings.get(name) is not None}
    varied: list[list[object]] = [[f"varied: {key}", _values(record, key)] for key in varying_in(record)]
    rows: list[list[object]] = [[name, value] for name, value in facts.items()]
    return join(
        element("h1", record.name),
        element("p", f"{sweep['method']} on {sweep['benchmark']}, {sweep['scenario']}: {state(record)}.", class_="lead"),
        element("h2", "What was asked"),
        table([], [*rows, *varied, ["digest of the data", sweep["data_digest"]], ["asked as", record.first["command"]]]),
    )


def _values(record: SweepRecord, key: str) -> str:
    """The values of a key, or their range where there are many."""
    found = [chosen(t).get(key) for t in record.trials.values() if t.role == "trial"]
    words = list(dict.fromkeys(show(value) for value in found))
    if len(words) <= 12:
        return ", ".join(words)
    numbers = [value for value in found if isinstance(value, int | float)]
    return f"{show(min(numbers))} to {show(max(numbers))}" if len(numbers) == len(found) else f"{len(words)} values"


def _won(folder: Path, record: SweepRecord, told: Told) -> Html:
    if not told.found:
        return section("What won", element("p", "No trial has finished."))
    best = told.found[0]
    named = choices_text(best.choices, varying_in(record)) or best.method
    seeds = f" (mean of {len(best.finals)} seeds)" if len(best.finals) > 1 else ""
    validation = percent(best.mean("validation"), best.spread("validation"))
    sentence = join(
        element("strong", named),
        f", with {validation} on validation data, {percent(best.mean('test'), best.spread('test'))} on test data and ",
        f"{percent(best.mean('forgetting'))} forgotten{seeds}. ",
        "Ranked on validation data alone."
        if math.isfinite(best.rank_key)
        else "There is no validation data, so nothing is ranked.",
    )
    rows: list[list[object]] = [[key, show(value)] for key, value in best.choices.items()]
    trial = record.trials[best.finals[0].trial]
    return section(
        "What won",
        element("p", sentence, class_="lead"),
        element("details", element("summary", "All its values"), table(["key", "value"], rows)),
        element("p", f"Its pictures, of trial {trial.trial} (seed {trial.seed}):"),
        _pictures(folder, BEST, _TRIAL_PICTURES),
    )


def _leaderboard(record: SweepRecord, found: Sequence[Configuration]) -> Html | None:
    if not found:
        return None
    keys = varying_in(record)
    head = ["", *(key.rsplit(".", 1)[-1] for key in keys), "seeds", "validation", "test", "forgetting", "kB", "seconds"]
    rows: list[list[object]] = [[rank, *_row(c, keys)] for rank, c in enumerate(found[:ROWS], start=1)]
    more = element("p", f"… and {len(found) - ROWS} more in leaderboard.csv.") if len(found) > ROWS else None
    note = "Average accuracy after the last task; mean and standard deviation over seeds; the best on validation data first."
    return section("Leaderboard", element("p", note, class_="quiet"), table(head, rows, numbers=0), more)


def _row(c: Configuration, keys: Sequence[str]) -> list[object]:
    return [
        *(show(c.choices[key]) if key in c.choices else _NO for key in keys),
        len(c.finals),
        percent(c.mean("validation"), c.spread("validation")),
        percent(c.mean("test"), c.spread("test")),
        percent(c.mean("forgetting")),
        f"{c.mean('bytes') / 1000:,.1f}" if math.isfinite(c.mean("bytes")) else _NO,
        f"{c.mean('seconds'):.1f}",
    ]


def _cost(record: SweepRecord) -> Html:
    """What the trials took: all of it, and what of it came to nothing."""
    found = cost(record)
    counted = ", ".join(f"{record.ledger[key]} {key}" for key in ("asked", "done", "skipped", "failed"))
    rows: list[list[object]] = [
        ["trials", counted],
        ["running, by the clock", duration(record.seconds)],
        ["training, all trials together", f"{found.total:,.1f} s"],
        ["of it in trials that failed", _share(found.failed, found.total)],
        ["of it done again, or lost with a worker", _share(found.repeated, found.total)],
    ]
    if found.references:
        rows.append(["of it for references of the forgetting ratio", _share(found.references, found.total)])
    if found.cpu:
        rows.append(["processor time", f"{found.cpu:,.1f} s"])
    if found.peak:
        rows.append(["most memory of a worker", f"{found.peak / 1e6:,.0f} MB"])
    return section("What it cost", table([], rows))


def _share(seconds: float, total: float) -> str:
    return f"{seconds:,.1f} s ({100 * seconds / total if total else 0:.1f} %)"


def _failed(record: SweepRecord) -> Html:
    failed = [t for t in record.trials.values() if t.status == "failed"]
    if not failed:
        return section("What failed", element("p", "Nothing."))
    keys = varying_in(record)
    rows: list[list[object]] = [[t.trial, t.seed, _named(t, keys), _reason(t)] for t in failed[:FAILURES]]
    more = element("p", f"… and {len(failed) - FAILURES} more in log.txt.") if len(failed) > FAILURES else None
    return section("What failed, and why", table(["trial", "seed", "configuration", "reason"], rows), more)


def _named(trial: TrialRecord, keys: Sequence[str]) -> str:
    return choices_text(chosen(trial), keys) or trial.method


def _reason(trial: TrialRecord) -> Html:
    reason = element("span", trial.reason or "unknown")
    if not trial.traceback:
        return reason
    return join(reason, element("details", element("summary", "traceback"), element("pre", trial.traceback)))


def _linked(record: SweepRecord) -> Html | None:
    if not record.linked:
        return None
    sweeps: dict[str, int] = {}
    for trial in record.linked.values():
        sweeps[trial.sweep] = sweeps.get(trial.sweep, 0) + 1
    rows: list[list[object]] = [[name, count] for name, count in sweeps.items()]
    return section("Answered by earlier sweeps, not run again", table(["sweep", "trials"], rows, numbers=1))


def _repeat(record: SweepRecord, repeat: str | None) -> Html:
    commands = {
        "Run the best again": repeat,
        "Go on where it stopped": resume_command(record.name, record.sweep["settings"].get("home")),
    }
    commands["Ask the same again"] = record.first["command"]
    lines = (join(element("p", f"{what}:"), element("pre", command)) for what, command in commands.items() if command)
    return section("How to repeat it", *lines, element("p", f"Made with {made_with(record)}.", class_="quiet"))


def _pictures(folder: Path, prefix: str, known: Mapping[str, str]) -> Html:
    found = [(folder / f"{prefix}{name}.png", words) for name, words in known.items()]
    return pictures([(path, words, path.stem == _BROAD) for path, words in found if path.is_file()])
