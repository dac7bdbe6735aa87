"""State to files and back: tensors as safetensors, the rest as JSON, written so that a reader never sees half of it."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from clcore.disk import wanting
from clcore.errors import UserError

FORMAT = 1
TENSORS, FACTS = "state.safetensors", "state.json"
#: Bytes of a safetensors file that say how long its header is.
LENGTH = 8


class DamagedCheckpoint(UserError):  # noqa: N818
    """A checkpoint that is incomplete, damaged, or of another version."""


def write(folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Writes a checkpoint; the JSON comes last, so a folder that has it is complete.

    Args:
        folder: made if need be.
        tensors: name -> tensor.
        facts: anything JSON can hold; NaN is not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = _bytes(tensors)
    text = json.dumps({"format": FORMAT, "digest": _digest(data), **facts}, allow_nan=False)
    _replace(folder / TENSORS, data)
    _replace(folder / FACTS, text.encode())


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`write` wrote.

    Raises:
        DamagedCheckpoint: a file is missing or cannot be read, or the format is not ours.
    """
    try:
        facts = json.loads((folder / FACTS).read_text())
        data = (folder / TENSORS).read_bytes()
        tensors = _tensors(data)
    except (OSError, ValueError) as error:
        raise DamagedCheckpoint(f"checkpoint {folder} cannot be read: {error}") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise DamagedCheckpoint(f"checkpoint {folder} has another format than {FORMAT}")
    if facts.pop("digest", None) != _digest(data):  # flipped bits, or a crash between the two files of an overwritten one
        raise DamagedCheckpoint(f"checkpoint {folder} is damaged: {TENSORS} is not what {FACTS} belongs to")
    return tensors, facts


def read_own(folder: Path, pack: list[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`write` wrote for this pack: its facts' ``pack`` says the same.

    Raises:
        DamagedCheckpoint: it cannot be read, or is of another pack.
    """
    tensors, facts = read(folder)
    if facts.get("pack") != pack:
        raise DamagedCheckpoint(f"checkpoint {folder} is of another pack")
    return tensors, facts


def write_tensors(path: Path, tensors: Mapping[str, Tensor], said: Mapping[str, str] | None = None) -> None:
    """Writes one safetensors file, whole or not at all; ``said`` goes into its header."""
    _replace(path, _bytes(tensors, said))


def size_of(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the file that :func:`write_tensors` makes."""
    return len(_bytes(tensors))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """What :func:`write_tensors` wrote.

    Raises:
        DamagedCheckpoint: it is missing or cannot be read.
    """
    try:
        return _tensors(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DamagedCheckpoint(f"{path.name} cannot be read: {error}") from error


def read_header(path: Path) -> tuple[int, dict[str, str]]:
    """Bytes of the header of a safetensors file, and what was said in it.

    Raises:
        DamagedCheckpoint: it is missing or cannot be read.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH), "little")
            said = json.loads(file.read(length)).get("__metadata__", {})
    except (OSError, ValueError, AttributeError, MemoryError, OverflowError) as error:
        raise DamagedCheckpoint(f"{path.name} cannot be read: {error}") from error
    return LENGTH + length, said


def _tensors(data: bytes) -> dict[str, Tensor]:
    """What :func:`_bytes` made.

    Raises:
        ValueError: it is something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return dict(load(data))
    except (KeyError, SafetensorError) as error:
        raise ValueError(str(error)) from error


def _bytes(tensors: Mapping[str, Tensor], said: Mapping[str, str] | None = None) -> bytes:
    from safetensors.torch import save

    data: bytes = save(_apart(tensors), None if said is None else dict(said))
    return data


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As they are, or copies of those that share memory: safetensors refuses them, and a memory may hold one under two names."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        here = tensor.detach().cpu().contiguous()
        found[name] = here.clone() if here.untyped_storage().data_ptr() in seen else here
        seen.add(here.untyped_storage().data_ptr())
    return found


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _replace(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with wanting(len(data), path), os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
