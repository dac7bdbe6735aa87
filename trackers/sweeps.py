"""``python trackers/sweeps.py list | show | delete``: the sweeps of a home, looked at and removed."""

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markdown import Markdown
from rich.table import Table

from clcore.disk import bytes_in, bytes_text
from clcore.errors import NewerFormat, UserError
from trackers.command import Home, Sweep, console_here, find_sweep, run, say, some_uri, sweeps_in

if TYPE_CHECKING:
    from trackers.record import SweepRecord

EXAMPLES = """
Examples:

  python trackers/sweeps.py list

  python trackers/sweeps.py show tfm-grid-20d5a3a3

  python trackers/sweeps.py delete tfm-grid-20d5a3a3 --mlflow
"""

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False, epilog=EXAMPLES)


@app.callback()
def _sweeps() -> None:
    """The sweeps of a home: list them, show one, delete one."""


@app.command("list")
def list_(home: Home = Path("runs")) -> None:
    """Lists the sweeps of a home."""
    table, damaged = Table(pad_edge=False, header_style="bold"), []
    for name in ("sweep", "method", "benchmark", "status", "done", "failed", "open", "when", "size"):
        table.add_column(name, justify="right" if name in ("done", "failed", "open", "size") else "left", no_wrap=True)
    for folder in sweeps_in(home):
        try:
            table.add_row(*_cells(folder))
        except UserError as error:  # one that lost something must not hide the others
            damaged.append(f"{folder.name}: {error}")
            status = "of a newer clsweep" if isinstance(error, NewerFormat) else "damaged"
            table.add_row(folder.name, "", "", status, "", "", "", "", _size(folder))
    console = console_here()
    console.print(table, markup=False) if table.row_count else say(console, f"there is no sweep in {home}")
    for line in damaged:
        say(console, line)


@app.command()
def show(sweep: Sweep, home: Home = Path("runs")) -> None:
    """Shows a sweep: what was asked, how far it is, the best, what failed, and what to type next."""
    from trackers.describe import describe
    from trackers.repeat import publish_command, resume_command

    folder, console = find_sweep(sweep, home), console_here()
    record, place = _load(folder), shlex.quote(str(folder.parent))
    name = shlex.quote(folder.name)
    record.sweep["settings"]["home"] = str(folder.parent)  # where it is now
    text = describe(record)
    console.print(Markdown(text)) if console.is_terminal else say(console, text)
    said = {key: value for key, value in record.sweep["settings"].items() if value not in (None, {}, False)}
    say(console, f"\nsettings       {', '.join(f'{key} = {value}' for key, value in said.items())}")
    say(console, f"status         {_status(record, folder)}; {_size(folder)} in {folder}")
    say(console, f"go on          {resume_command(folder.name, folder.parent)}")
    say(console, f"publish        {publish_command(folder.name, folder.parent)}")
    say(console, f"move           python trackers/archive.py pack {name} --home {place}")


@app.command()
def delete(
    sweep: Sweep,
    home: Home = Path("runs"),
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    mlflow: Annotated[bool, typer.Option("--mlflow", help="also move its runs to MLflow's trash")] = False,
    tracking_uri: Annotated[str | None, typer.Option(help="MLflow", show_default="the sweep's", callback=some_uri)] = None,
) -> None:
    """Deletes a sweep from its home and, with --mlflow, from MLflow."""
    from trackers.lock import only_one

    if tracking_uri and not mlflow:
        raise UserError("--tracking-uri says which MLflow --mlflow means: give both, or neither.")
    folder, console = find_sweep(sweep, home), console_here()
    with only_one(folder):
        what = f"{folder} ({_size(folder)})" + (" and its runs in MLflow" if mlflow else "")
        for line in _linked_by(folder):
            say(console, line)
        if not yes and not _confirmed(f"Delete {what}?", sweep):
            say(console, "nothing was deleted")
            raise typer.Abort
        if mlflow:
            say(console, _delete_from_mlflow(folder, tracking_uri))
        _remove(folder)
    say(console, f"{folder} is deleted")


def _confirmed(question: str, sweep: str) -> bool:
    try:
        return typer.confirm(question)
    except typer.Abort as error:  # of Ctrl-C, or of an input that has ended
        if isinstance(error.__context__, EOFError):
            raise UserError(f"nobody answers: nothing was deleted; --yes deletes {sweep} without asking.") from None
        raise


def _load(folder: Path) -> "SweepRecord":
    from trackers.record import load

    record = load(folder)
    if not record.first:
        raise UserError(f"the journal of {folder} is empty.")
    return record


def _cells(folder: Path) -> list[str]:
    record = _load(folder)
    ledger = record.ledger
    still = ledger["asked"] - ledger["done"] - ledger["skipped"] - ledger["failed"]
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.last_time))
    counts = [str(ledger["done"] + ledger["skipped"]), str(ledger["failed"]), str(max(still, 0))]
    return [folder.name, record.sweep["method"], record.sweep["benchmark"], _status(record, folder), *counts, when, _size(folder)]


def _status(record: "SweepRecord", folder: Path) -> str:
    """One word: what the journal's last event says, and of a journal without an end whether its driver still runs."""
    from trackers.lock import is_held

    if is_held(folder):
        return "running"
    if record.end is not None:
        return "done" if record.end["status"] == "done" else "failed"
    return "stopped" if record.stop is not None else "broken off"


def _size(folder: Path) -> str:
    return bytes_text(bytes_in(folder))


def _linked_by(folder: Path) -> list[str]:
    """What other sweeps of the home lose with this one: trials that they did not run because it has them."""
    lines = []
    for other in sweeps_in(folder.parent):
        try:
            links = sum(link.sweep == folder.name for link in _load(other).linked.values()) if other != folder else 0
        except UserError:
            continue
        if links:
            lines.append(f"{other.name} takes {links} of its trials from {folder.name}; resumed, it would run them itself")
    return lines


def _delete_from_mlflow(folder: Path, tracking_uri: str | None) -> str:
    from trackers.mlflow_delete import delete_runs
    from trackers.mlflow_store import TRACKING_ERRORS, first_line
    from trackers.publish import own_uri

    record = _load(folder)
    uri = tracking_uri or own_uri(record, folder)
    try:
        count = delete_runs(record.identity, uri)
    except TRACKING_ERRORS as error:
        raise UserError(f"MLflow at {uri} could not delete the runs ({first_line(error)}); nothing else was deleted.") from None
    good = f"; for good: mlflow gc --backend-store-uri {uri}" if count and not uri.startswith("http") else ""
    return f"{count} runs are in the trash of MLflow at {uri}{good}"


def _remove(folder: Path) -> None:
    """The journal first, the manifest last: what is broken off in between is no sweep any more, and can be deleted again."""
    import shutil

    from trackers.lock import LOCK
    from trackers.manifest import MANIFEST
    from trackers.record import JOURNAL

    try:
        (folder / JOURNAL).unlink(missing_ok=True)
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name not in (MANIFEST, LOCK):
                path.unlink()
        shutil.rmtree(folder)
    except OSError as error:
        raise UserError(f"{folder} could not be deleted whole: {error.strerror} ({error.filename}).") from None


def main(words: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return run(app, words)


if __name__ == "__main__":
    sys.exit(main())
