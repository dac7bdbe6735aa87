"""The end of a call: the report, the journal's last line, what is printed, and the exit code."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import Console

from sweeps import report
from sweeps.asked import Asked
from sweeps.driver import BUDGET, HEARTBEATS, PACKS, Sweep
from sweeps.keeping import kept_lines
from sweeps.storage import discard
from sweeps.trainable import of_environment
from trackers.check import deep_link
from trackers.command import say
from trackers.cost import cost, cost_line
from trackers.page import PAGE
from trackers.record import SweepRecord
from trackers.repeat import publish_command, resume_command
from trackers.trial_record import TrialRecord
from trackers.view import table_link

if TYPE_CHECKING:
    from trackers.mlflow_thread import PublisherThread

LOG = "log.txt"
DONE, FAILED, ENVIRONMENT = 0, 1, 3
#: Seconds that the end waits for a tracking store that takes nothing, and where the disk is full (the store may be on it).
PATIENCE, LITTLE_PATIENCE = 60.0, 5.0


def close(sweep: Sweep, asked: Asked, console: Console, stopped: str | None, thread: "PublisherThread") -> int:
    """Writes the report, ends the journal, waits for MLflow, and says what came out."""
    ledger = sweep.ledger
    record = sweep.whole
    rows: list[dict[str, Any]] = []
    try:
        rows = _write_end(sweep, record, stopped, lambda best: _repeat(asked, best))
    except OSError as error:
        if not of_environment(error):
            raise
        stopped = sweep.environment = sweep.environment or str(error)
    if not stopped:
        _clear(sweep, asked.settings.own_storage)
    missing = _publish_rest(sweep, asked, console, thread)
    sweep.journal.close()
    if rows:
        report.print_table(console, record, rows)
    references = sum(t.role == "reference" for t in sweep.record.trials.values())
    lines = [report.ledger_line(ledger, references), f"cost           {cost_line(cost(record))}"]
    lines += [*kept_lines(sweep.record), *missing, *_next_steps(asked, record, rows, thread.publisher.experiment_id)]
    for line in lines:
        say(console, line)
    return _exit_code(sweep, console, stopped, ledger)


def _clear(sweep: Sweep, storage: str | None) -> None:
    """Takes away what only a sweep that goes on needs."""
    for scratch in (PACKS, HEARTBEATS):
        discard(sweep.folder / scratch)
    if storage is not None:
        discard(f"{storage}/{PACKS}")


def _publish_rest(sweep: Sweep, asked: Asked, console: Console, thread: "PublisherThread") -> list[str]:
    """Waits for MLflow; gives the lines that say what it lacks."""
    patience = LITTLE_PATIENCE if sweep.environment else PATIENCE
    uri = asked.settings.tracking
    if thread.error is not None:
        waiting = f"MLflow at {uri} cannot be written: trying for {patience:.0f} s more; all is safe in the journal"
        say(console, waiting)
    if thread.finish(patience):
        return []
    lacking = f"{thread.publisher.unpublished} run(s) of this sweep are not up to date in MLflow at {uri}"
    why = f" ({thread.error})" if thread.error else ""
    return [
        f"{lacking}{why}; the journal has everything. Send the rest with:",
        f"  {publish_command(sweep.folder.name, sweep.folder.parent)}",
    ]


def _write_end(
    sweep: Sweep, record: SweepRecord, stopped: str | None, repeat: Callable[[TrialRecord], str]
) -> list[dict[str, Any]]:
    """The report and the journal's last line; returns the leaderboard's rows."""
    ledger = sweep.ledger
    reason = "environment" if sweep.environment else sweep.stopping or "interrupted"
    status = "failed" if ledger["failed"] else "done"
    last: dict[str, Any] = {"reason": reason, "detail": stopped} if stopped else {"status": status, "ledger": ledger}
    final: dict[str, Any] = {"stop" if stopped else "end": last}
    rows = report.write_report(sweep.folder, replace(record, **final), repeat)
    sweep.journal.append("stop" if stopped else "end", sync=True, **last)
    return rows


def _next_steps(asked: Asked, record: SweepRecord, rows: list[dict[str, Any]], experiment: str | None) -> list[str]:
    settings = asked.settings
    lines = [f"files          {asked.folder}", f"the story      {asked.folder / report.REPORT / PAGE}"]
    lines.append(f"open the UI    {report.ui_command(settings)}")
    base = settings.tracking if settings.tracking.startswith("http") else "http://127.0.0.1:5000"
    if experiment:
        lines.append(f"  then         {deep_link(base, experiment)}")
        lines.append(f"  as a table   {table_link(base, experiment)}")
    if rows:
        best = record.trials[rows[0]["trials"].split()[0]]
        lines.append(f"repeat best    {_repeat(asked, best)}")
    return lines


def _repeat(asked: Asked, best: TrialRecord) -> str:
    return report.repeat_command(asked.settings, best, [*asked.space.values, *asked.space.ranges])


def _exit_code(sweep: Sweep, console: Console, stopped: str | None, ledger: dict[str, int]) -> int:
    if stopped:
        more = ""
        if sweep.environment:
            more = f" ({shutil.disk_usage(sweep.folder).free} bytes are free)"
        elif stopped == BUDGET:
            more = f" ({sweep.budget:g} s a call; --time-budget says another)"
        for line in (f"stopped: {stopped}{more}. Go on with:", f"  {resume_command(sweep.folder.name, sweep.folder.parent)}"):
            say(console, line)
        if sweep.environment:
            return ENVIRONMENT
        return {"SIGINT": 130, "SIGTERM": 143}.get(stopped, DONE)
    failed = report.first_failure(sweep.record)
    if failed is None:
        return DONE
    console.print(f"trial {failed.trial} failed: {failed.reason}", style="red", highlight=False, markup=False)
    if failed.traceback:
        console.print(failed.traceback, highlight=False, markup=False)
    say(console, f"all failures: {sweep.folder / LOG}; the same call tries them again")
    return FAILED if ledger["failed"] else DONE
