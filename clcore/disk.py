"""Bytes on a disk: how many a folder has, how they are told, and what is said where there is no room for them."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

#: What writing fails with where there is no room: the disk is full, or its user's share of it.
FULL = (errno.ENOSPC, errno.EDQUOT)


def bytes_text(count: float) -> str:
    """A number of bytes as a person reads it, e.g. ``2.5 MB``; units are powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def bytes_in(folder: Path) -> int:
    """Bytes of all files below a folder, 0 where there is none; a link counts as itself, and what goes meanwhile does not count."""
    return sum(_size(os.path.join(place, name)) for place, _, names in os.walk(folder) for name in names)


def _size(path: str) -> int:
    try:
        found = os.lstat(path)
    except FileNotFoundError:  # a running sweep replaces its checkpoints
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode) else 0


def innermost(path: Path) -> Path:
    """The innermost part of a path that is there already."""
    path = path.absolute()
    return path if path.exists() else innermost(path.parent)


@contextlib.contextmanager
def wanting(size: int | None, path: Path) -> Iterator[None]:
    """Around the writing of a file.

    Args:
        size: bytes that are to be written, where that is known.
        path: to where.

    Raises:
        OSError: as it was, but where there was no room its text says how many bytes were wanted, and for what.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL or size is None:
            raise
        raise OSError(error.errno, f"No space left on device; {size} bytes were wanted", str(path)) from error
