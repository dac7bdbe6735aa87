"""An export's file: tensors as safetensors, and how they are run as JSON in its header."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from clcore import checkpoint
from clcore.checkpoint import DamagedCheckpoint
from clcore.errors import BadValue

FORMAT = 1
#: What the header says is under this name, in JSON.
SAID = "clsweep"
SUFFIX = ".safetensors"
#: What a file is of.
ALL, TASK = "all tasks", "one task"


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        path: the file.
        bytes: of the file.
        header: bytes of it that are its header; the rest are tensors.
        task: the task, from 0; None: all.
        weights: of one task: how many weights its body has left, without biases and normalisations.
        full: of one task: how many the network's body has.
        weights_with_head: the same with the task's head.
        full_with_head: the same with the task's head.
        gate: of one task: the largest gate of a unit that was cut out; at 0 nothing is lost at all.
    """

    path: Path
    bytes: int
    header: int
    task: int | None = None
    weights: int = 0
    full: int = 0
    weights_with_head: int = 0
    full_with_head: int = 0
    gate: float = 0.0

    @property
    def kept(self) -> int:
        """Bytes of the tensors: of all tasks together, the method's ``stored_bytes``."""
        return self.bytes - self.header

    @property
    def share(self) -> float:
        """Share of the body's weights that one task has left (HAT, table 4)."""
        return self.weights / self.full if self.full else 1.0


def write(path: Path, kind: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> tuple[int, int]:
    """Writes a file, whole or not at all; its folder is made if need be.

    Args:
        path: where; ends in ``.safetensors``.
        kind: ``ALL`` or ``TASK``.
        tensors: by name.
        facts: anything JSON can hold; NaN is not.

    Returns:
        Bytes of the file, and of its header.

    Raises:
        BadValue: a path of another ending.
    """
    if path.suffix != SUFFIX:
        raise BadValue("file", str(path), f"a path that ends in {SUFFIX}")
    path.parent.mkdir(parents=True, exist_ok=True)
    said = {"format": FORMAT, "kind": kind, "digest": _digest(tensors), **facts}
    checkpoint.write_tensors(path, tensors, {SAID: json.dumps(said, allow_nan=False)})
    path.chmod(0o644)  # it was made private, but is there to be given away
    return path.stat().st_size, checkpoint.read_header(path)[0]


def read(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`write` wrote.

    Raises:
        DamagedCheckpoint: it is missing, damaged, of another kind, or no export.
    """
    _, header = checkpoint.read_header(path)
    try:
        said = json.loads(header[SAID])
        found = said["format"], said["kind"], said["digest"]
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedCheckpoint(f"{path.name} is not an export of clsweep's: {error!r}") from None
    if found[:2] != (FORMAT, kind):
        raise DamagedCheckpoint(f"{path.name} is an export of {found[1]} in format {found[0]}, not of {kind} in format {FORMAT}")
    tensors = checkpoint.read_tensors(path)
    if found[2] != _digest(tensors):
        raise DamagedCheckpoint(f"{path.name} is damaged: its tensors are not those it was written with")
    return tensors, said


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
