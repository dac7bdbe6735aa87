"""One process a sweep: who runs, publishes, packs or deletes it holds the lock file in its folder."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from clcore.errors import UserError

LOCK = "lock"


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Holds the sweep's lock.

    Args:
        folder: the sweep's, made when missing and taken away again when nothing was put into it.

    Raises:
        UserError: another process works on this sweep now, or the folder cannot be written.
    """
    made = [f for f in (folder, *folder.parents) if not f.exists()]
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UserError(f"sweep {folder.name} is being run by another process right now.") from None
    except OSError as error:
        raise UserError(f"sweep folder {folder} cannot be written: {error.strerror or error}.") from None
    try:
        yield
    finally:
        lock.release()
        _remove_unused(made)


def is_held(folder: Path) -> bool:
    """Whether a process works on this sweep now; one that may not be asked counts as idle."""
    if not (folder / LOCK).is_file():
        return False
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False


def _remove_unused(folders: list[Path]) -> None:
    """Takes away folders that hold nothing but the lock: the call failed before anything was started."""
    for folder in folders:
        if folder.is_dir() and {path.name for path in folder.iterdir()} <= {LOCK}:
            shutil.rmtree(folder)
