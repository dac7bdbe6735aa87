"""``python trackers/publish.py SWEEP``: brings any MLflow to exactly what a sweep's journal says, as often as you like."""

import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clcore.errors import UserError
from trackers.command import Home, Sweep, console_here, find_sweep, run, say, some_uri

if TYPE_CHECKING:
    from trackers.record import SweepRecord

EXAMPLES = """
Examples:

  python trackers/publish.py tfm-grid-20d5a3a3

  python trackers/publish.py tfm-grid-20d5a3a3 --tracking-uri http://127.0.0.1:5000
"""

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


@app.command(epilog=EXAMPLES)
def publish(
    sweep: Sweep,
    home: Home = Path("runs"),
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="MLflow, also a new one", show_default="the sweep's, else sqlite:///HOME/mlflow.db", callback=some_uri),
    ] = None,
) -> None:
    """Writes to MLflow what it lacks of a sweep; what it has already is left as it is."""
    folder, console = find_sweep(sweep, home), console_here()
    uri, experiment = publish_sweep(folder, tracking_uri)
    from trackers.check import deep_link
    from trackers.view import table_link

    server = uri.startswith("http")
    say(console, f"{folder.name} is in MLflow at {uri}")
    if not server:
        say(console, f"open the UI    mlflow ui --backend-store-uri {uri}")
    base = uri if server else "http://127.0.0.1:5000"
    say(console, f"  then         {deep_link(base, experiment)}")
    say(console, f"  as a table   {table_link(base, experiment)}")


def publish_sweep(folder: Path, tracking_uri: str | None = None) -> tuple[str, str]:
    """Brings MLflow up to date with a sweep that no process runs.

    Args:
        folder: the sweep's, in its home.
        tracking_uri: of MLflow; None: the sweep's own, by default the database in its home.

    Returns:
        The tracking URI and MLflow's id of the experiment.

    Raises:
        UserError: the journal is damaged, a process runs this sweep, or the store cannot take it.
    """
    from trackers.lock import only_one
    from trackers.record import load

    record = load(folder)
    if not record.first:
        raise UserError(f"the journal of {folder} is empty: there is nothing to publish.")
    uri = tracking_uri or own_uri(record, folder)
    with only_one(folder):
        return uri, _publish(folder, uri, folder.absolute().parent)


def own_uri(record: "SweepRecord", folder: Path) -> str:
    """Where a sweep is recorded: where it was told to be, or in the database of its home, wherever that is by now."""
    from trackers.check import own_database

    return record.sweep["settings"].get("tracking_uri") or own_database(folder.absolute().parent)


def _publish(folder: Path, uri: str, home: Path) -> str:
    from trackers.check import ARTIFACTS, check_tracking

    check_tracking(uri, home)
    from trackers.mlflow_mend import follow_moved_files, forget_lost_files
    from trackers.mlflow_store import TRACKING_ERRORS, connect, first_line
    from trackers.mlflow_tracker import Publisher
    from trackers.record import load

    record, publisher = load(folder), Publisher(folder, uri, home / ARTIFACTS)
    try:
        follow_moved_files(uri)
        publisher.prepare(record.first["benchmark"])
        assert publisher.experiment_id is not None
        forget_lost_files(connect(uri), publisher.experiment_id, record.identity)
        publisher.close("KILLED")  # no process runs this sweep: nothing of it is to seem so
    except (*TRACKING_ERRORS, sqlite3.Error) as error:
        again = "what it has is right; the same call again writes the rest"
        raise UserError(f"MLflow at {uri} could not be brought up to date ({first_line(error)}): {again}.") from None
    return publisher.experiment_id


def main(words: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return run(app, words)


if __name__ == "__main__":
    sys.exit(main())
