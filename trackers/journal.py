"""The append-only event log of a sweep: the truth, written before anything else.

One line is one event, a JSON object ``{"n": sequence number, "time": unix seconds, "event": kind, ...}``; what the
kinds hold is defined in ``trackers.schema``. Numbers that JSON does not have (NaN, infinities) are stored as ``null``,
so every line is strict JSON that any tool can read; whoever reads a number takes ``null`` as "not known".

A process that dies while writing leaves a last line without its end; it was never reported as written, so opening the
journal cuts it off and reading ignores it. Damage anywhere else is an error, never skipped.

One process writes a journal at a time (the sweep's lock sees to that); any number may read it meanwhile.
"""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from clcore.disk import wanting
from clcore.errors import UserError
from trackers.schema import is_count, is_time, read_json, strict

Event = dict[str, Any]


class Journal:
    """Writes events, each with one system call, and knows the next sequence number."""

    def __init__(self, path: Path) -> None:
        """Opens or creates a journal for appending and cuts off a torn last line.

        Args:
            path: the file, usually ``<sweep folder>/journal.jsonl``; missing folders are made.

        Raises:
            UserError: the file holds a damaged line.
            OSError: the file cannot be written.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            events, self._end = read(path)
        except UserError:
            os.close(self._file)
            raise
        os.ftruncate(self._file, self._end)
        self._next = events[-1]["n"] + 1 if events else 0

    def append(self, kind: str, *, sync: bool = False, **fields: Any) -> Event:
        """Writes one event.

        Args:
            kind: what happened, e.g. ``"task"``.
            sync: wait until the line is on the disk (task boundaries, ends), so that a power cut cannot lose it.
            **fields: what the schema of this kind asks for, in plain Python values.

        Returns:
            The event as it was written.

        Raises:
            OSError: the disk is full or gone. Nothing of the event is in the file then, so a later call may succeed.
            TypeError: a field is not plain data.
        """
        with self._lock:
            event: Event = strict({"n": self._next, "time": time.time(), "event": kind, **fields})
            line = json.dumps(event, allow_nan=False, separators=(",", ":")).encode() + b"\n"
            self._write(line, sync)
            self._end += len(line)
            self._next += 1
            return event

    def close(self) -> None:
        """Closes the file; calling it twice does no harm."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def _write(self, line: bytes, sync: bool) -> None:
        at = self._end
        try:
            with wanting(len(line), self.path):
                while line:  # a disk that fills up takes a part of the line first and refuses the rest
                    written = os.pwrite(self._file, line, at)
                    line, at = line[written:], at + written
                if sync:
                    os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, self._end)
            raise


def read(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Reads the events from a place in the journal on, without a torn last line.

    Args:
        path: the journal.
        offset: where the last reading ended, in bytes; 0 for all of it.

    Returns:
        The events and the offset for the next reading.

    Raises:
        UserError: there is no such file, or a line is not an event.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        raise UserError(f"there is no journal at {path}.") from None
    except OSError as error:
        raise UserError(f"the journal {path} cannot be read: {error.strerror}.") from None
    whole = data[: data.rfind(b"\n") + 1]
    events = [_event(line, path, offset, index) for index, line in enumerate(whole.splitlines())]
    return events, offset + len(whole)


def _event(line: bytes, path: Path, offset: int, index: int) -> Event:
    try:
        event = read_json(line)
    except ValueError as error:
        raise _damaged(path, offset, index, str(error)) from None
    if not isinstance(event, dict) or not is_count(event.get("n")) or not is_time(event.get("time")) or not _is_kind(event):
        raise _damaged(path, offset, index, "it is not an event")
    return event


def _is_kind(event: Event) -> bool:
    return isinstance(event.get("event"), str)


def _damaged(path: Path, offset: int, index: int, why: str) -> UserError:
    with path.open("rb") as file:
        number = file.read(offset).count(b"\n") + index + 1
    return UserError(f"{path}, line {number} is damaged ({why}): restore the file, or remove that line if it can be lost.")
