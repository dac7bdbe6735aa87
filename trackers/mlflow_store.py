"""The MLflow store behind a tracking URI: opening it once, and finding experiments and runs in it."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from clcore.errors import UserError
from trackers import view
from trackers.check import no_server, sqlite_path
from trackers.rows import clean

LOCK_SECONDS = 120  # a migration takes 1.3 s here; a slow network disk gets its time
TRACKING_ERRORS = (MlflowException, SQLAlchemyError, OSError)
_ADVISORY = 0x636C5377  # the number under which clsweep locks a PostgreSQL database
_REFUSED = (401, 403)
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the publisher retries; seven of MLflow's own stall for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def connect(tracking_uri: str) -> MlflowClient:
    """A client that reports nothing home and does not retry for minutes; what the user's environment says stays."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # migration steps are no news to a user
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # nor a traceback of what is told in a line
    return MlflowClient(tracking_uri)


def open_store(tracking_uri: str, artifact_root: Path) -> MlflowClient:
    """Creates or migrates the store, one process at a time.

    Args:
        tracking_uri: of MLflow.
        artifact_root: folder for artifacts, and for the lock of a database server.

    Raises:
        UserError: the store cannot be opened.
    """
    try:
        with store_lock(tracking_uri, artifact_root):
            client = connect(tracking_uri)
            client.search_experiments(max_results=1)
            return client
    except Timeout:
        raise UserError(f"another process has been preparing {tracking_uri} for {LOCK_SECONDS} s.") from None
    except TRACKING_ERRORS as error:
        raise UserError(f"cannot open the tracking store {tracking_uri}: {first_line(error)}") from None


def find_experiment(client: MlflowClient, tracking_uri: str, artifact_root: Path, name: str) -> str:
    """The id of an experiment, which is made when missing.

    Args:
        client: of the store.
        tracking_uri: of the same store.
        artifact_root: folder for the artifacts of a directly opened database; a server keeps its own.
        name: e.g. ``cl/split-digits``.

    Raises:
        UserError: it is in MLflow's trash.
    """
    with store_lock(tracking_uri, artifact_root):
        found = client.get_experiment_by_name(name)
        if found is None:
            place = None if _is_server(tracking_uri) else str(artifact_root / clean(name).replace("/", "-"))
            return _create_experiment(client, name, place)
    if found.lifecycle_stage != "active":
        raise UserError(f"MLflow's experiment {name!r} is in its trash: mlflow experiments restore -x {found.experiment_id}.")
    if found.tags.get(view.TAG) != view.view_state():  # made by an earlier clsweep
        client.set_experiment_tag(found.experiment_id, view.TAG, view.view_state())
    return str(found.experiment_id)


def all_runs(client: MlflowClient, experiments: list[str], query: str) -> Iterator[Run]:
    """All active runs that match, the oldest first (of two that should be one, everybody takes the same)."""
    token: Any = None
    while True:
        page = client.search_runs(experiments, query, order_by=["attributes.start_time ASC"], page_token=token)
        yield from page
        token = page.token
        if not token:
            return


@contextmanager
def store_lock(tracking_uri: str, artifact_root: Path) -> Iterator[None]:
    """Two processes that open the same new database at once break its migration; a server sees to its own."""
    scheme = urlsplit(tracking_uri).scheme
    if _is_server(tracking_uri):
        yield
        return
    if scheme.startswith("postgresql"):  # homes on other machines may share it, so it is itself what is locked
        with create_engine(tracking_uri, poolclass=NullPool).connect() as connection:
            connection.execute(text(f"SET lock_timeout = '{LOCK_SECONDS}s'"))
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY})
            yield  # closing the connection unlocks it
        return
    path = sqlite_path(tracking_uri).absolute() if scheme.startswith("sqlite") else artifact_root / "store"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=LOCK_SECONDS):
        yield


def ask_server(uri: str, timeout: float) -> None:
    """Sees whether an MLflow server is there and lets us in.

    Args:
        uri: ``http(s)://HOST[:PORT]``.
        timeout: seconds a request may take.

    Raises:
        UserError: it is not, or it refuses.
    """
    # /health answers whatever the host name, so it alone does not show a refusal
    search: dict[str, Any] = {"json": {"max_results": 1}}
    requests: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("/health", "GET", {}),
        ("/api/2.0/mlflow/experiments/search", "POST", search),
    )
    for endpoint, method, body in requests:
        status = _status_code(uri, endpoint, method, timeout, body)
        if status != 200:
            raise UserError(f"the server at {uri} answers {endpoint} with {status}: {_hint(status, uri)}.")


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def is_refusal(error: BaseException) -> bool:
    """Whether a server answered that it does not let us in: then it does not help to ask once more."""
    return _status_of(error) in _REFUSED


def reason(error: BaseException, uri: str) -> str:
    """Why a store could not be written, in a line, and what would help where that is known."""
    said = first_line(error)[:300]
    return f"{said}: {_hint(_status_of(error), uri)}" if is_refusal(error) else said


def _status_of(error: BaseException) -> int:
    """The status of the answer that an error tells of, 0 where it tells of none."""
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())
    response = getattr(error, "response", None)  # of requests, which MLflow sends files with
    return int(getattr(response, "status_code", 0))


def _status_code(uri: str, endpoint: str, method: str, timeout: float, body: dict[str, Any]) -> int:
    once = {"max_retries": 0, "timeout": timeout, "raise_on_status": False}
    try:
        return int(http_request(get_default_host_creds(uri), endpoint, method, **once, **body).status_code)
    except (MlflowException, OSError):
        raise UserError(no_server(uri)) from None


def _hint(status: int, uri: str) -> str:
    hints = {
        401: "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
        403: f"start it with --allowed-hosts {urlsplit(uri).netloc}, or log in",
        404: "it is no MLflow server, or lives under another path",
    }
    return hints.get(status, "look at the server's log")


def _create_experiment(client: MlflowClient, name: str, place: str | None) -> str:
    try:
        return str(client.create_experiment(name, artifact_location=place, tags={view.TAG: view.view_state()}))
    except MlflowException:
        found = client.get_experiment_by_name(name)  # somebody else may have made it since we looked
        if found is None:
            raise
        return str(found.experiment_id)


def _is_server(tracking_uri: str) -> bool:
    return urlsplit(tracking_uri).scheme in ("http", "https")
