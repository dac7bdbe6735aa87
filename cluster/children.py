"""Processes that we start and end: each in a session of its own, which ends with us whatever becomes of us."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

#: Linux: the signal that a process gets when its parent is gone.
PR_SET_PDEATHSIG = 1
#: Seconds that a process has for a good end before it is killed.
PATIENCE = 5.0


def start(words: Sequence[str], environment: Mapping[str, str], output: Path | None = None) -> "subprocess.Popen[bytes]":
    """Starts a process.

    Args:
        words: the command.
        environment: variables over those of this process.
        output: a file that it writes to; None: where we write.
    """
    whole = {**os.environ, **environment}
    if output is None:
        return subprocess.Popen(words, env=whole, start_new_session=True, preexec_fn=_tied)
    with output.open("ab") as file:
        return subprocess.Popen(
            words, env=whole, start_new_session=True, preexec_fn=_tied, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )


def end(process: "subprocess.Popen[bytes]", patience: float = PATIENCE) -> None:
    """Ends a process and everything of its session: by SIGTERM, and what is left then by SIGKILL."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    kill(process)


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Ends a process and everything of its session at once."""
    for pid in session(process.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def session(leader: int) -> list[int]:
    """The processes of a session; Ray's workers have groups of their own, but stay in their node's session."""
    return [pid for pid in _all() if _session_of(pid) == leader]


def _all() -> list[int]:
    """Every process of the machine."""
    if sys.platform == "linux":  # images of containers may lack ps
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    listed = subprocess.run(["ps", "-A", "-o", "pid="], capture_output=True, text=True, check=True).stdout
    return [int(pid) for pid in listed.split()]


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _tied() -> None:
    """Asks the kernel for SIGTERM when our parent dies, so that a killed launcher leaves nothing behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
