"""Reading a record back from MLflow: masks and accuracies as tensors, leaderboards as Arrow tables."""

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from torch import Tensor

from clcore.errors import BadValue, UserError
from clcore.masks import Mask
from trackers.artifacts import LEADERBOARD, MASKS, MATRIX, read_leaderboard, read_masks, read_matrix

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

DEFAULT_URI = "sqlite:///runs/mlflow.db"  # where a sweep writes when it is not told otherwise


def masks(run_id: str, tracking_uri: str = DEFAULT_URI) -> dict[tuple[int, str], Mask]:
    """The masks of a trial.

    Args:
        run_id: MLflow's id of the trial's run.
        tracking_uri: of MLflow.

    Returns:
        (task, layer) -> mask.

    Raises:
        UserError: there is no such run, or it has no masks.
    """
    with tempfile.TemporaryDirectory() as folder:
        return read_masks(_fetch(_client(tracking_uri), run_id, MASKS, Path(folder)))


def matrix(run_id: str, tracking_uri: str = DEFAULT_URI, split: str = "test") -> Tensor:
    """The accuracy matrix of a trial.

    Args:
        run_id: MLflow's id of the trial's run.
        tracking_uri: of MLflow.
        split: ``"test"`` or ``"validation"``.

    Returns:
        float64 accuracies in [0, 1], shape [T + 1, T]: row t is after t tasks, NaN where not known.

    Raises:
        UserError: there is no such run, it has no matrix, or not of this split.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = read_matrix(_fetch(_client(tracking_uri), run_id, MATRIX, Path(folder)))
    if split not in found:
        raise BadValue("split", split, f"one of {', '.join(sorted(found)) or 'none'}")
    return found[split]


def leaderboard(sweep: str, tracking_uri: str = DEFAULT_URI) -> pa.Table:
    """The leaderboard of a sweep, one row a configuration, the best first.

    Args:
        sweep: its name (the newest of that name), or MLflow's id of its run.
        tracking_uri: of MLflow.

    Raises:
        UserError: there is no such sweep, or it has not ended.
    """
    client = _client(tracking_uri)
    run_id = sweep if re.fullmatch(r"[0-9a-f]{32}", sweep) else _newest(client, sweep)
    with tempfile.TemporaryDirectory() as folder:
        return read_leaderboard(_fetch(client, run_id, f"{LEADERBOARD}.parquet", Path(folder)))


def _client(tracking_uri: str) -> "MlflowClient":
    from trackers.check import check_tracking, sqlite_path
    from trackers.mlflow_store import connect

    if tracking_uri.startswith("sqlite") and not sqlite_path(tracking_uri).exists():
        raise UserError(f"there is no tracking database {sqlite_path(tracking_uri)}.")  # MLflow would make an empty one
    check_tracking(tracking_uri)
    return connect(tracking_uri)


def _newest(client: "MlflowClient", sweep: str) -> str:
    from trackers.mlflow_store import all_runs

    if "'" in sweep:
        raise BadValue("sweep", sweep, "the name of a sweep")
    experiments = [e.experiment_id for e in client.search_experiments(filter_string="name LIKE 'cl/%'")]
    found = list(all_runs(client, experiments, f"tags.`cl.sweep` = '{sweep}' and tags.`cl.role` = 'sweep'")) if experiments else []
    if not found:
        raise UserError(f"no sweep {sweep!r} is in this tracking store.")
    return str(found[-1].info.run_id)


def _fetch(client: "MlflowClient", run_id: str, name: str, folder: Path) -> Path:
    from trackers.mlflow_store import TRACKING_ERRORS, first_line

    try:
        client.get_run(run_id)
        files = {item.path for item in client.list_artifacts(run_id)}
        if name not in files:
            raise UserError(f"run {run_id} has no {name}; it has: {', '.join(sorted(files)) or 'no files'}.")
        return Path(client.download_artifacts(run_id, name, str(folder)))
    except TRACKING_ERRORS as error:
        raise UserError(f"cannot read {name} of run {run_id}: {first_line(error)}") from None
