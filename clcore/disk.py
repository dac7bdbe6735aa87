"""A full disk, told with the number of bytes that were wanted of it."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

#: What writing fails with where there is no room: the disk is full, or its user's share of it.
FULL = (errno.ENOSPC, errno.EDQUOT)


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
