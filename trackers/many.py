"""Many finished trials at once: leaderboards, accuracies and masks as tensors and Arrow tables; ``docs/tracking.md`` has examples.

``trials`` finds them, in a home or in any MLflow, and reads no files yet; the others read files of those they are given, and
keep their order. ``trackers.compare`` says what masks have in common.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from clcore.errors import BadValue, UserError
from clcore.masks import Mask
from trackers.artifacts import MASKS, MATRIX, leaderboard_table, mask_row, matrix_rows, read_masks, read_matrix
from trackers.finished import Trial, in_home, in_mlflow
from trackers.labels import varying
from trackers.summary import Configuration, board, ranked

_WHO = pa.schema([("sweep", pa.string()), ("trial", pa.string()), ("config", pa.string()), ("seed", pa.int64())])
_ACCURACY = pa.schema(
    [*_WHO, ("split", pa.string()), ("seen", pa.int32()), ("task", pa.int32()), ("accuracy", pa.float64())],
)
_MASK = pa.schema(
    [
        *_WHO,
        ("task", pa.int32()),
        ("layer", pa.string()),
        ("kind", pa.string()),
        ("shape", pa.list_(pa.int32())),
        ("n", pa.int64()),
        ("ones", pa.int64()),
    ]
)


def trials(where: str | Path, *names: str) -> list[Trial]:
    """Finished trials, references aside.

    Args:
        where: a home folder, or the tracking URI of an MLflow (``sqlite:///PATH``, ``http://HOST:PORT``, ...).
        *names: names of sweeps; in an MLflow also ids of runs, of trials or of sweeps. None of them: all there are.

    Returns:
        In the order in which they were planned (in a home) or begun (in MLflow), sweep by sweep. In a home, what a sweep did not
        run because another sweep there had it, is among its trials.

    Raises:
        UserError: there is no such home, store, sweep or run, it is of another program or a newer format, or is damaged.
    """
    return in_mlflow(where, names) if isinstance(where, str) and ":/" in where else in_home(Path(where), names)


def leaderboard(found: Sequence[Trial]) -> pa.Table:
    """One row a configuration, over all its seeds in all sweeps, the best on validation data first.

    Args:
        found: finished trials.

    Returns:
        rank, config, method, what varies between the trials, seeds (how many), means and standard deviations of the accuracies
        after the last task (in [0, 1]), forgetting, bytes, seconds, and the trials; null is not known.
    """
    groups: dict[str, list[Trial]] = {}
    for trial in found:
        groups.setdefault(trial.config, []).append(trial)
    configurations = [Configuration(c, g[0].method, g[0].values, [t.final for t in g]) for c, g in groups.items()]
    keys = sorted({*varying(trial.values for trial in found)} - {"method", "seed"})
    return leaderboard_table(board(ranked(configurations), keys))


def matrices(found: Sequence[Trial], split: str = "test") -> Tensor:
    """The accuracy matrices of trials of as many tasks.

    Args:
        found: finished trials, at least one.
        split: ``"test"`` or ``"validation"``.

    Returns:
        float64 accuracies in [0, 1], shape [trials, T + 1, T]: row t is after t tasks, NaN where not known.

    Raises:
        UserError: a file is missing or damaged, there are no data of this split, or the trials have different tasks.
    """
    read = [_matrix(trial, split) for trial in found]
    tasks = sorted({matrix.shape[1] for matrix in read})
    if len(tasks) != 1:
        many = " and ".join(map(str, tasks))
        raise UserError(f"the trials have {many} tasks: take those of one benchmark." if tasks else "there is no trial to read.")
    return torch.stack(read)


def matrix_table(found: Sequence[Trial]) -> pa.Table:
    """All known accuracies, one a row: sweep, trial, config, seed, split, seen (tasks learned), task (from 1), accuracy.

    Raises:
        UserError: a file is missing or damaged.
    """
    rows = [
        {**_who(trial), **row}
        for trial in found
        for split, matrix in trial.read(MATRIX, read_matrix).items()
        for row in matrix_rows(split, matrix)
    ]
    return pa.Table.from_pylist(rows, schema=_ACCURACY)


def masks(found: Sequence[Trial], task: int | None = None) -> list[dict[tuple[int, str], Mask]]:
    """The masks of each trial: (task from 0, layer) -> mask.

    Args:
        found: finished trials, of a method that has masks.
        task: only those of this task.

    Raises:
        UserError: a file is missing or damaged.
    """
    return list(_masks(found, task))


def mask_table(found: Sequence[Trial]) -> pa.Table:
    """One row a mask: sweep, trial, config, seed, task (from 0), layer, kind, shape, n (entries), ones (of them in use).

    Raises:
        UserError: a file is missing or damaged.
    """
    rows = [
        {**_who(trial), **mask_row(task, layer, mask)}
        for trial, own in zip(found, _masks(found, None), strict=True)
        for (task, layer), mask in own.items()
    ]
    return pa.Table.from_pylist(rows, schema=_MASK)


def _masks(found: Sequence[Trial], task: int | None) -> Iterator[dict[tuple[int, str], Mask]]:
    for trial in found:
        yield trial.read(MASKS, lambda path: read_masks(path, task))


def _matrix(trial: Trial, split: str) -> Tensor:
    own: dict[str, Tensor] = trial.read(MATRIX, read_matrix)
    if split not in own:
        raise BadValue("split", split, f"one of {', '.join(sorted(own)) or 'none'} for trial {trial.trial}")
    return own[split]


def _who(trial: Trial) -> dict[str, Any]:
    return {"sweep": trial.sweep, "trial": trial.trial, "config": trial.config, "seed": trial.seed}
