"""Processes that this one starts, in groups of their own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

_APART: ContextVar[bool] = ContextVar("apart", default=False)


@contextmanager
def apart() -> Iterator[None]:
    """What is started here does not hear the signals that are meant for the group of this process.

    ``timeout``, a service manager or a batch system tells the whole group to end. The driver is to hear that, and to end in good
    order what it has started; were Ray's own processes to hear it too, the driver would lose them before it could.
    """
    _registered()
    before = _APART.set(True)
    try:
        yield
    finally:
        _APART.reset(before)


@cache
def _registered() -> None:
    os.register_at_fork(after_in_child=_leave)  # there is no way back, so once a process


def _leave() -> None:
    if _APART.get():
        os.setpgid(0, 0)
