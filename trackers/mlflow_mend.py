"""A sweep's files in MLflow that are not where MLflow looks for them: found again, or to be sent again."""

import contextlib
import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow.tracking import MlflowClient

from trackers.check import ARTIFACTS, sqlite_path
from trackers.mlflow_store import all_runs, store_lock

_UPLOADED = ("cl.artifacts", "cl.report", "cl.pictures")


def follow_moved_files(tracking_uri: str) -> int:
    """Points a database that was moved or copied with its home to the files that came along.

    MLflow notes the absolute path of every run's files. They are beside the database, in ``mlflow-artifacts``.

    Args:
        tracking_uri: of MLflow; only a SQLite file that exists is looked at.

    Returns:
        How many experiments were pointed elsewhere.
    """
    if not tracking_uri.startswith("sqlite") or not sqlite_path(tracking_uri).exists():
        return 0
    path = sqlite_path(tracking_uri).absolute()
    with store_lock(tracking_uri, path.parent), contextlib.closing(sqlite3.connect(path, timeout=30)) as database, database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
            return 0  # not MLflow's yet
        query = "SELECT experiment_id, artifact_location FROM experiments WHERE name LIKE 'cl/%'"
        moved = [(i, old, new) for i, old in database.execute(query) if (new := _new_place(old, path.parent)) is not None]
        for experiment, old, new in moved:
            _repoint(database, experiment, old, str(new))
    return len(moved)


def forget_lost_files(client: MlflowClient, experiment: str, sweep_id: str) -> None:
    """Takes the mark "sent" off the runs whose files MLflow does not have, so that publishing sends them again.

    Args:
        client: of the store.
        experiment: MLflow's id.
        sweep_id: the sweep's identity.
    """
    for run in all_runs(client, [experiment], f"tags.`cl.sweep_id` = '{sweep_id}'"):
        marks = [tag for tag in _UPLOADED if tag in run.data.tags]
        if marks and not client.list_artifacts(run.info.run_id):
            for tag in marks:
                client.delete_tag(run.info.run_id, tag)


def _new_place(noted: str | None, home: Path) -> Path | None:
    """Where an experiment's files are now; None where they are as noted, or somewhere that is not ours to say."""
    parts = urlsplit(noted or "")
    if parts.scheme not in ("", "file"):
        return None
    old = Path(unquote(parts.path) if parts.scheme else noted or "")
    new = home / ARTIFACTS / old.name
    if old.parent.name != ARTIFACTS or old == new:
        return None
    return new if new.is_dir() or not old.exists() else None


def _repoint(database: sqlite3.Connection, experiment: int, old: str, new: str) -> None:
    database.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (new, experiment))
    for table, column in (("runs", "artifact_uri"), ("logged_models", "artifact_location")):
        database.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE experiment_id = ? AND substr({column}, 1, ?) = ?",
            (new, len(old) + 1, experiment, len(old) + 1, f"{old}/"),
        )
