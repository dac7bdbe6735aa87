"""Is this tracking store usable? Asked before a sweep starts, answered in three seconds, leaving nothing behind."""

import os
import socket
import sqlite3
import tempfile
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from clcore.errors import UserError

TIMEOUT = 2.0  # seconds a probe may wait
#: Folder in a home of the artifacts of the database there.
ARTIFACTS = "mlflow-artifacts"
_PASSWORDS = {
    "postgresql": "PGPASSWORD or ~/.pgpass",
    "mysql": "?read_default_file=FILE",
    "http": "MLFLOW_TRACKING_PASSWORD",
    "https": "MLFLOW_TRACKING_PASSWORD",
}
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433, "http": 80, "https": 443}


def own_database(home: Path) -> str:
    """The tracking URI of the database in a home folder: where a sweep is recorded that was not told otherwise."""
    return f"sqlite:///{home / 'mlflow.db'}"


def check_password(uri: str) -> None:
    """Sees that a tracking URI can be shown.

    Raises:
        UserError: it holds a password.
    """
    if password_of(uri):
        other = _PASSWORDS.get(_scheme(uri), "the database's own configuration")
        raise UserError(f"the tracking URI holds a password, which every record would show: leave it out, and use {other}.")


def password_of(uri: str) -> str | None:
    """The password in a URI, before its host or in its query; None where it has none.

    Raises:
        ValueError: it is no URI.
    """
    parts = urlsplit(uri)
    return dict(parse_qsl(parts.query)).get("password") if parts.password is None else unquote(parts.password)


def _scheme(uri: str) -> str:
    return urlsplit(uri).scheme.split("+")[0].lower()


def check_tracking(uri: str, home: Path | None = None) -> None:
    """Sees whether a sweep could be tracked there.

    Args:
        uri: an MLflow tracking URI: ``sqlite:///PATH``, ``http(s)://HOST[:PORT]`` or another database's.
        home: the sweep's home folder, the one folder that may still be missing because the sweep makes it.

    Raises:
        UserError: it cannot; one line says why and what would do.
    """
    check_password(uri)
    scheme = _scheme(uri)
    if scheme == "sqlite":
        _check_sqlite(uri, home)
    elif scheme in ("http", "https"):
        _check_server(uri, scheme)
    elif scheme in _PORTS:
        _check_database(uri, scheme)
    elif scheme in ("", "file"):
        raise UserError(
            f"tracking URI {uri!r} is a folder, and MLflow 3 no longer maintains its file store: "
            f"use a database such as sqlite:///{Path(urlsplit(uri).path or uri) / 'mlflow.db'}."
        )
    else:
        raise UserError(
            f"tracking URI {uri!r} has the unknown scheme {scheme!r}: use sqlite:///PATH, http://HOST:PORT or postgresql://.."
        )


def deep_link(base: str, experiment_id: str) -> str:
    """The page of an experiment that shows the curves of all trials at the first click.

    MLflow folds child runs under their parent and then charts nothing; sorting by a metric lists them flat.

    Args:
        base: address of the MLflow server, e.g. ``http://127.0.0.1:5000``.
        experiment_id: MLflow's id of the experiment.
    """
    order = quote("metrics.`acc/avg`", safe=".")
    view = f"workflowType=machine_learning&compareRunsMode=CHART&orderByKey={order}&orderByAsc=false"
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs?{view}"


def sqlite_path(uri: str) -> Path:
    """The file behind ``sqlite:///relative`` or ``sqlite:////absolute``.

    Raises:
        UserError: the URI names no file.
    """
    _, slashes, name = uri.partition(":///")
    name = name.partition("?")[0]
    if not slashes or not name or name == ":memory:":
        raise UserError(f"tracking URI {uri!r} names no database file: use sqlite:///PATH/mlflow.db.")
    return Path(name)


def _check_sqlite(uri: str, home: Path | None) -> None:
    path = sqlite_path(uri)
    folder = path.absolute().parent
    if path.is_dir():
        raise UserError(f"tracking URI {uri!r}: {path} is a folder, not a database file.")
    if not folder.exists() and home is not None and folder == home.absolute():
        while not folder.exists():
            folder = folder.parent
    if not folder.is_dir():
        raise UserError(f"tracking URI {uri!r}: there is no folder {folder}; make it first.")
    try:
        _lock_existing(path) if path.exists() else _lock_new(folder)
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"tracking URI {uri!r}: the database cannot be written there ({error}).") from None


def _lock_existing(path: Path) -> None:
    database = sqlite3.connect(path, timeout=TIMEOUT, isolation_level=None)
    try:
        database.execute("BEGIN IMMEDIATE")
        database.execute("ROLLBACK")
    finally:
        database.close()


def _lock_new(folder: Path) -> None:
    handle, name = tempfile.mkstemp(dir=folder, prefix=".clsweep-probe-", suffix=".db")
    os.close(handle)
    try:
        database = sqlite3.connect(name, timeout=TIMEOUT, isolation_level=None)
        try:
            database.execute("BEGIN EXCLUSIVE")
            database.execute("CREATE TABLE probe (x)")
            database.execute("COMMIT")
        finally:
            database.close()
    finally:
        for left in (name, f"{name}-journal", f"{name}-wal", f"{name}-shm"):
            Path(left).unlink(missing_ok=True)


def _check_server(uri: str, scheme: str) -> None:
    """Where nobody listens, that is said before MLflow is imported, which takes seconds; behind a proxy only MLflow can tell."""
    if scheme not in getproxies() or proxy_bypass(urlsplit(uri).hostname or ""):
        try:
            _connect(uri, scheme)
        except OSError:
            raise UserError(no_server(uri)) from None
    from trackers.mlflow_store import ask_server

    ask_server(uri, TIMEOUT)


def no_server(uri: str) -> str:
    """What is said where no MLflow server answers."""
    return f"no MLflow server answers at {uri}: start one (mlflow server), or use sqlite:///PATH."


def _check_database(uri: str, scheme: str) -> None:
    if urlsplit(uri).hostname is not None:  # else a unix socket
        try:
            _connect(uri, scheme)
        except OSError as error:
            raise UserError(f"tracking store {uri} does not answer ({error}).") from None
    if scheme == "postgresql":
        _enter_postgres(uri)


def _enter_postgres(uri: str) -> None:
    """MLflow would try a wrong password or name for two minutes."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    try:
        create_engine(uri, poolclass=NullPool, connect_args={"connect_timeout": int(TIMEOUT)}).connect().close()
    except ModuleNotFoundError as error:
        raise UserError(f"PostgreSQL needs the package {error.name}: pip install 'clsweep[postgres]'.") from None
    except SQLAlchemyError as error:
        said = str(error).splitlines()[0]
        raise UserError(f"tracking store {uri} cannot be entered ({said}).") from None


def _connect(uri: str, scheme: str) -> None:
    parts = urlsplit(uri)
    try:
        port = parts.port or _PORTS[scheme]
    except ValueError as error:
        raise UserError(f"tracking URI {uri!r}: {error}.") from None
    socket.create_connection((parts.hostname or "", port), timeout=TIMEOUT).close()
