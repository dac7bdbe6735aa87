"""The end of a sweep: the table, the files, and what to type next."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sweeps.importance import importances
from sweeps.settings import Settings, typed_words
from trackers import page
from trackers.artifacts import write_leaderboard, write_text
from trackers.describe import describe
from trackers.labels import show, varying_in
from trackers.pictures_all import draw_report, draw_trials, fingerprint
from trackers.record import SweepRecord
from trackers.repeat import CUT, PROGRAM, fork_command, plain
from trackers.summary import configurations, leaderboard
from trackers.trial_record import TrialRecord

#: Rows of the table in the terminal.
ROWS = 10
REPORT = "report"


def write_report(folder: Path, record: SweepRecord, repeat: Callable[[TrialRecord], str]) -> list[dict[str, Any]]:
    """Writes leaderboard, pictures and the page to the sweep's report folder, and pictures to those of its best trials.

    Args:
        folder: the sweep's.
        record: the sweep, with what other sweeps have run of it.
        repeat: the command that runs a trial again.

    Returns:
        The leaderboard's rows.
    """
    rows, found = leaderboard(record), configurations(record)
    target, drawn = folder / REPORT, fingerprint(record)
    target.mkdir(exist_ok=True)
    if rows:
        write_leaderboard(target, rows)
        draw_trials(folder, record, found)
    if rows and page.drawn(target) != drawn:
        draw_report(folder, target, record, found, importances)
    write_text(target / "leaderboard.md", describe(record) + "\n")
    best = repeat(record.trials[found[0].finals[0].trial]) if found else None
    page.write_page(target, record, page.Told(found, best, drawn))
    return rows


def print_table(console: Console, record: SweepRecord, rows: list[dict[str, Any]]) -> None:
    """The best configurations: what they scored, what they forgot, what they cost."""
    keys = varying_in(record)
    table = Table(title=f"Best configurations of {record.name}", title_justify="left", header_style="bold", pad_edge=False)
    for name in ("", *keys, "seeds", "valid. %", "test %", "forgot %", "kB", "s"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows[:ROWS]:
        table.add_row(str(row["rank"]), *(show(row[key]) for key in keys), str(row["seeds"]), *_numbers(row))
    console.print(table)
    if len(rows) > ROWS:
        console.print(f"... and {len(rows) - ROWS} more in leaderboard.csv", style="dim")


def _numbers(row: dict[str, Any]) -> list[str]:
    stored = row["bytes"]
    return [
        _percent(row["acc_avg_validation"], row["acc_avg_validation_std"]),
        _percent(row["acc_avg"], row["acc_avg_std"]),
        _percent(row["forgetting"]),
        "-" if stored is None else f"{stored / 1000:.1f}",
        "-" if row["seconds"] is None else f"{row['seconds']:.1f}",
    ]


def _percent(value: float | None, spread: float | None = None) -> str:
    if value is None:
        return "-"
    return f"{100 * value:z.1f}" + (f" ±{100 * spread:.1f}" if spread is not None else "")


def ledger_line(ledger: dict[str, int], references: int) -> str:
    """For instance ``24 asked = 23 done + 0 skipped (finished before) + 1 failed``."""
    left = ledger["asked"] - ledger["done"] - ledger["skipped"] - ledger["failed"]
    parts = [f"{ledger['done']} done", f"{ledger['skipped']} skipped (finished before)", f"{ledger['failed']} failed"]
    parts += [f"{left} open"] if left else []
    own = f"; {references} reference runs for the forgetting ratio" if references else ""
    return f"{ledger['asked']} trials asked = " + " + ".join(parts) + own


def first_failure(record: SweepRecord) -> TrialRecord | None:
    """The first failed trial, with a traceback if any has one."""
    failed = [trial for trial in record.trials.values() if trial.status == "failed"]
    return next((trial for trial in failed if trial.traceback), failed[0] if failed else None)


def ui_command(settings: Settings) -> str:
    """How to look at the record."""
    uri = settings.tracking
    if uri.startswith("http"):
        return f"open {uri}"
    return f"mlflow ui --backend-store-uri {shlex.quote(uri)}"


def repeat_command(settings: Settings, best: TrialRecord, varied: list[str]) -> str:
    """How to run the best trial alone, in a home of its own so that it is not taken for finished."""
    if settings.fork:
        return fork_command(settings.fork, settings.assign, settings.tracking, str(settings.home / "repeat"))
    choices = {**best.settings, **best.hyperparameters}
    values = {**settings.assign, **{key: plain(choices[key]) for key in varied}}
    words = [*PROGRAM, "--method", settings.method, "--space", "default"]
    words += typed_words(settings, ("benchmark", "network", *CUT, "data_dir"))
    for key, value in values.items():
        words += ["--set", f"{key}={value}"]
    return shlex.join([*words, "--seeds", f"{best.seed},", "--home", str(settings.home / "repeat")])
