"""Masks, accuracy matrices and leaderboards as files: Parquet with zstd, written whole or not at all.

Workers write these, so nothing here imports MLflow.
"""

import csv
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from clcore.disk import FULL, wanting
from clcore.errors import UserError
from clcore.masks import Kind, Mask
from trackers.schema import MOST_TASKS

#: Files of a trial: masks, accuracies, what it is made of, what the method keeps, and images that its replay model makes.
MASKS, MATRIX, CONFIG = "masks.parquet", "accuracy.parquet", "config.json"
WEIGHTS, SAMPLES = "checkpoint.safetensors", "samples.png"
LEADERBOARD = "leaderboard"
MaskSet = Mapping[tuple[int, str], Mask]

_MASK_METADATA = {"cl.mask.schema": "1", "bitorder": "little"}
_WRITE = {"compression": "zstd", "write_page_checksum": True}  # a flipped bit must not become another mask
# Statistics, and dictionaries of numbers, would be a twentieth of a small file.
_WRITE_MASKS = {**_WRITE, "write_statistics": False, "use_dictionary": ["layer", "kind"]}
_READ_MASKS = pa.schema(
    {"task": pa.int32(), "layer": pa.string(), "kind": pa.string(), "shape": pa.list_(pa.int32()), "bits": pa.large_binary()}
)
_READ_MATRIX = pa.schema({"seen": pa.int32(), "task": pa.int32(), "split": pa.string(), "accuracy": pa.float64()})
_LARGE = 1_000_000  # values; beyond it a column of many masks could pass the 2 GB of a plain binary column
_ANY_LAYER = 1 << 20  # rows a group: all of them


def write_masks(path: Path, masks: MaskSet) -> None:
    """Writes one row a (task, layer): task, layer, kind, shape, n values, ones (values that are not 0) and packed bits.

    Unit and ternary masks share one row group; weight masks (large) get one each, for readers of a single one.

    Args:
        path: the file, replaced at once.
        masks: (task, layer) -> mask of any shape.

    Raises:
        OSError: the disk is full or gone.
    """
    rows = [mask_row(task, layer, mask) for (task, layer), mask in masks.items()]
    large = any(row["n"] > _LARGE for row in rows)
    table = pa.Table.from_pylist(rows, schema=_mask_schema(large))
    group = 1 if any(row["kind"] == "weight" for row in rows) else _ANY_LAYER
    _atomic(path, lambda temporary: pq.write_table(table, temporary, row_group_size=group, **_WRITE_MASKS))


def read_masks(path: Path, task: int | None = None) -> dict[tuple[int, str], Mask]:
    """Reads what ``write_masks`` wrote.

    Args:
        path: the file.
        task: only the masks of this task, from 0; of weight masks nothing else is read from the disk.

    Raises:
        UserError: there is no such file, it is damaged, or it is not a file of masks.
    """
    table = _read(path, task)
    found = table.schema.metadata or {}
    if any(found.get(key.encode()) != value.encode() for key, value in _MASK_METADATA.items()):
        raise UserError(f"{path} is not a file of masks in schema 1.")
    rows = [row for row in _columns(table, _READ_MASKS, path).to_pylist() if task is None or row["task"] == task]
    masks = {(row["task"], row["layer"]): _mask(row, path) for row in rows}
    if len(masks) < len(rows):
        raise UserError(f"{path} is damaged: it has two masks of one task and layer.")
    return masks


def write_matrix(path: Path, matrices: Mapping[str, Tensor]) -> None:
    """Writes accuracy matrices in long format: seen, task (from 1), split, accuracy; unknown entries are left out.

    Args:
        path: the file, replaced at once.
        matrices: split (``"test"``, ``"validation"``) -> accuracies in [0, 1], shape [T + 1, T], NaN where not known.

    Raises:
        OSError: the disk is full or gone.
    """
    rows = [row for split, matrix in matrices.items() for row in matrix_rows(split, matrix)]
    tasks = max((matrix.shape[1] for matrix in matrices.values()), default=0)
    schema = pa.schema(
        [
            ("seen", pa.int32()),
            ("task", pa.int32()),
            ("split", pa.dictionary(pa.int8(), pa.string())),
            ("accuracy", pa.float64()),
        ],
        metadata={"cl.matrix.schema": "1", "tasks": str(tasks)},
    )
    table = pa.Table.from_pylist(rows, schema=schema)
    _atomic(path, lambda temporary: pq.write_table(table, temporary, **_WRITE))


def read_matrix(path: Path) -> dict[str, Tensor]:
    """Reads what ``write_matrix`` wrote.

    Returns:
        split -> float64 accuracies, shape [T + 1, T], NaN where not known.

    Raises:
        UserError: there is no such file, it is damaged, or it holds no accuracy matrix.
    """
    table = _read(path)
    found = table.schema.metadata or {}
    if found.get(b"cl.matrix.schema") != b"1":
        raise UserError(f"{path} is not an accuracy matrix in schema 1.")
    tasks = _task_count(found.get(b"tasks", b""), path)
    matrices: dict[str, Tensor] = {}
    for row in _columns(table, _READ_MATRIX, path).to_pylist():
        if not (0 <= row["seen"] <= tasks and 1 <= row["task"] <= tasks):
            raise UserError(f"{path} is damaged: it has no place for task {row['task']} after {row['seen']}, of {tasks}.")
        if row["split"] not in matrices:
            matrices[row["split"]] = torch.full((tasks + 1, tasks), torch.nan, dtype=torch.float64)
        matrices[row["split"]][row["seen"], row["task"] - 1] = row["accuracy"]
    return matrices


def write_inference(path: Path, inferred: Sequence[Sequence[float]]) -> None:
    """Writes as CSV which tasks (task-free: mappings) a task's test examples were taken for: one row a task, a column each.

    Args:
        path: the file, replaced at once.
        inferred: shares in [0, 1], [tasks, tasks or mappings]; at least one row.

    Raises:
        OSError: the disk is full or gone.
    """
    names = ["task", *(f"taken for {column}" for column in range(1, len(inferred[0]) + 1))]
    rows = [dict(zip(names, (task, *shares), strict=True)) for task, shares in enumerate(inferred, start=1)]
    _atomic(path, lambda temporary: _write_csv(temporary, names, rows))


def write_fit(path: Path, fitted: Sequence[Sequence[Sequence[float]]]) -> None:
    """Writes as CSV what a network says of each task's test inputs: task, input, value, output.

    Args:
        path: the file, replaced at once.
        fitted: inputs, values and outputs of each task, [tasks, 3, examples].

    Raises:
        OSError: the disk is full or gone.
    """
    names = ["task", "input", "value", "output"]
    rows = [
        dict(zip(names, (task, *point), strict=True))
        for task, curves in enumerate(fitted, start=1)
        for point in zip(*curves, strict=True)
    ]
    _atomic(path, lambda temporary: _write_csv(temporary, names, rows))


def write_leaderboard(folder: Path, rows: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Writes ``leaderboard.parquet`` and ``leaderboard.csv``.

    Args:
        folder: where; made when missing.
        rows: one a configuration, all with the same keys; a column of mixed types is stored as text.

    Returns:
        The two files.

    Raises:
        OSError: the disk is full or gone.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = leaderboard_table(rows)
    parquet, text = folder / f"{LEADERBOARD}.parquet", folder / f"{LEADERBOARD}.csv"
    _atomic(parquet, lambda temporary: pq.write_table(table, temporary, **_WRITE))
    _atomic(text, lambda temporary: _write_csv(temporary, names, rows))
    return [parquet, text]


def leaderboard_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table with a column for each key; a column of mixed types is stored as text."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names})


def write_text(path: Path, text: str) -> None:
    """Writes a text whole or not at all; what UTF-8 does not have becomes a question mark.

    Raises:
        OSError: the disk is full or gone.
    """
    _atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="replace"))


def read_leaderboard(path: Path) -> pa.Table:
    """Reads a leaderboard's Parquet file, or the one in a folder.

    Raises:
        UserError: there is no such file, it is damaged, or it is no leaderboard.
    """
    table = _read(path / f"{LEADERBOARD}.parquet" if path.is_dir() else path)
    if table.num_columns and "rank" not in table.column_names:
        raise UserError(f"{path} is no leaderboard: it has no column 'rank'.")
    return table


def _mask_schema(large: bool) -> pa.Schema:
    fields = {
        "task": pa.int32(),
        "layer": pa.dictionary(pa.int32(), pa.string()),
        "kind": pa.string(),
        "shape": pa.list_(pa.int32()),
        "n": pa.int64(),
        "ones": pa.int64(),
        "bits": pa.large_binary() if large else pa.binary(),
    }
    return pa.schema(list(fields.items()), metadata=_MASK_METADATA)


def mask_row(task: int, layer: str, mask: Mask) -> dict[str, Any]:
    """A mask as a row of the file of masks."""
    values = mask.values
    return {
        "task": task,
        "layer": layer,
        "kind": mask.kind,
        "shape": list(values.shape),
        "n": values.numel(),
        "ones": int(torch.count_nonzero(values)),
        "bits": mask.pack(),
    }


def _mask(row: dict[str, Any], path: Path) -> Mask:
    kind, shape = row["kind"], row["shape"]
    try:
        if row["task"] < 0 or kind not in get_args(Kind) or not shape or not all(size is not None and size >= 0 for size in shape):
            raise ValueError(f"there is no {kind!r} mask of shape {shape}")
        return Mask.unpack(kind, row["bits"], shape)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{path} is damaged at task {row['task']}, layer {row['layer']!r}: {error}") from None


def _task_count(said: bytes, path: Path) -> int:
    """T as a file of accuracies says it."""
    count = int(said) if re.fullmatch(rb"[0-9]{1,9}", said) else -1
    if not 0 <= count <= MOST_TASKS:
        raise UserError(f"{path} is damaged: it says no number of tasks.")
    return count


def matrix_rows(split: str, matrix: Tensor) -> list[dict[str, Any]]:
    """The known accuracies of a matrix as rows of the file of accuracies."""
    known = torch.isfinite(matrix).nonzero().tolist()
    return [{"seen": t, "task": u + 1, "split": split, "accuracy": float(matrix[t, u])} for t, u in known]


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):  # mixed types, or a whole number of more than 64 bits
        return pa.array([None if value is None else json.dumps(value) for value in values])


def _write_csv(path: Path, names: list[str], rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def _read(path: Path, task: int | None = None) -> pa.Table:
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        return file.read() if task is None else file.read_row_groups(_groups_with(file, task))
    except FileNotFoundError:
        raise UserError(f"there is no file {path}.") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # a column's name may be damaged, too
        raise UserError(f"{path} cannot be read as Parquet: {(str(error).splitlines() or [type(error).__name__])[0]}") from None


def _columns(table: pa.Table, schema: pa.Schema, path: Path) -> pa.Table:
    """The columns of a schema, with its types and without gaps; whatever else the table has is left out.

    Raises:
        UserError: the table has not got them.
    """
    try:
        found = table.select(schema.names).cast(schema)
    except (KeyError, pa.ArrowException) as error:
        raise UserError(f"{path} is damaged: {str(error).splitlines()[0]}.") from None
    if gaps := [name for name in schema.names if found[name].null_count]:
        raise UserError(f"{path} is damaged: {gaps[0]} is missing in a row.")
    return found


def _groups_with(file: pq.ParquetFile, task: int) -> list[int]:
    """The row groups that hold a task, by its column: pyarrow 25 aborts where statistics of a damaged file are asked for."""
    tasks = (file.read_row_group(group, columns=["task"]) for group in range(file.num_row_groups))
    return [group for group, found in enumerate(tasks) if "task" not in found.column_names or task in found["task"].to_pylist()]


def _atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Lets ``write`` fill a temporary file beside ``path`` and puts it in place when it is whole and on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        try:
            write(temporary)
        except OSError as error:
            with wanting(_size(write) if error.errno in FULL else None, path):
                raise
        temporary.chmod(0o644)  # mkstemp makes it private, but a record is shared like any other file
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _size(write: Callable[[Path], object]) -> int | None:
    """Bytes of a file for which there was no room: it is written once more, where there may be."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder) / "file")
            return (Path(folder) / "file").stat().st_size
    except OSError:
        return None
