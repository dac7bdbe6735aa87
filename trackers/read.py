"""Reading a record back from MLflow: masks and accuracies as tensors, leaderboards as Arrow tables."""

import tempfile
from pathlib import Path

import pyarrow as pa
from torch import Tensor

from clcore.errors import BadValue
from clcore.masks import Mask
from trackers.artifacts import LEADERBOARD, MASKS, MATRIX, read_leaderboard, read_masks, read_matrix
from trackers.recorded import client_of, fetch, is_run_id, sweep_run

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
        return read_masks(fetch(client_of(tracking_uri), run_id, MASKS, Path(folder)))


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
        found = read_matrix(fetch(client_of(tracking_uri), run_id, MATRIX, Path(folder)))
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
    client = client_of(tracking_uri)
    run_id = sweep if is_run_id(sweep) else sweep_run(client, sweep).info.run_id
    with tempfile.TemporaryDirectory() as folder:
        return read_leaderboard(fetch(client, run_id, f"{LEADERBOARD}.parquet", Path(folder)))
