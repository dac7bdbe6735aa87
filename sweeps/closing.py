"""The end of a call: the report, the journal's last line, what is printed, and the exit code."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rich.console import Console

from sweeps import report
from sweeps.asked import Asked
from sweeps.driver import HEARTBEATS, PACKS, Sweep
from sweeps.trainable import of_environment
from trackers.check import deep_link
from trackers.page import PAGE
from trackers.record import SweepRecord, TrialRecord
from trackers.repeat import resume_command

LOG = "log.txt"
DONE, FAILED, ENVIRONMENT = 0, 1, 3


def close(
    sweep: Sweep, asked: Asked, console: Console, stopped: str | None, finish: Callable[[], bool], experiment: str | None
) -> int:
    """Writes the report, ends the journal, waits for MLflow, and says what came out."""
    ledger = sweep.ledger
    record = report.with_links(sweep)
    rows: list[dict[str, Any]] = []
    try:
        rows = _write_end(sweep, record, stopped, lambda best: _repeat(asked, best))
    except OSError as error:
        if not of_environment(error):
            raise
        stopped = sweep.environment = sweep.environment or str(error)
    if not stopped:
        for scratch in (PACKS, HEARTBEATS):
            shutil.rmtree(sweep.folder / scratch, ignore_errors=True)
    published = finish()
    sweep.journal.close()
    if rows:
        report.print_table(console, record, rows)
    references = sum(t.role == "reference" for t in sweep.record.trials.values())
    lines = [report.ledger_line(ledger, references)]
    if not published:
        lines.append(f"MLflow at {asked.settings.tracking} could not be brought up to date; the journal has everything.")
    lines += _next_steps(asked, record, rows, experiment)
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    return _exit_code(sweep, console, stopped, ledger)


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
    if rows:
        best = record.trials[rows[0]["trials"].split()[0]]
        lines.append(f"repeat best    {_repeat(asked, best)}")
    return lines


def _repeat(asked: Asked, best: TrialRecord) -> str:
    return report.repeat_command(asked.settings, best, [*asked.space.values, *asked.space.ranges])


def _exit_code(sweep: Sweep, console: Console, stopped: str | None, ledger: dict[str, int]) -> int:
    if stopped:
        for line in (f"stopped: {stopped}. Go on with:", f"  {resume_command(sweep.folder.name, sweep.folder.parent)}"):
            console.print(line, highlight=False, soft_wrap=True, markup=False)
        if sweep.environment:
            return ENVIRONMENT
        return {"SIGINT": 130, "SIGTERM": 143}.get(stopped, DONE)
    failed = report.first_failure(sweep.record)
    if failed is None:
        return DONE
    console.print(f"trial {failed.trial} failed: {failed.reason}", style="red", highlight=False, markup=False)
    if failed.traceback:
        console.print(failed.traceback, highlight=False, markup=False)
    last = f"all failures: {sweep.folder / LOG}; the same call tries them again"
    console.print(last, highlight=False, soft_wrap=True, markup=False)
    return FAILED if ledger["failed"] else DONE
