"""``cluster/launch.py`` in a process of its own, and the Ray nodes it starts."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from sweep_kit import ROOT, alive, descendants

LAUNCH = str(ROOT / "cluster" / "launch.py")
#: Ray gives a silent node up after some seconds; by itself it takes a quarter of a minute.
IMPATIENT = {
    "RAY_health_check_initial_delay_ms": "2000", "RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
}  # fmt: skip
LISTENING, LOOPBACK = "0A", ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")


def start_launch(*words, cwd, **environment) -> subprocess.Popen:
    """``python cluster/launch.py`` in a process and a session of its own."""
    return subprocess.Popen(
        [sys.executable, LAUNCH, *map(str, words)], cwd=cwd, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": python_path(), **IMPATIENT, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_hear_ctrl_c,
    )  # fmt: skip


def _hear_ctrl_c() -> None:
    """Where the tests themselves are a job in the background, the shell has SIGINT ignored, and so would all below them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def python_path() -> str:
    """Our code first, then what was on the path."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def leaders(below: dict[int, str], what: str) -> list[int]:
    """The processes that lead nodes: of the head (``--head``), or of the others (``--address``)."""
    return [pid for pid, name in below.items() if "ray.scripts.scripts" in name and f"\0start\0{what}" in name]


def session(leader: int) -> list[int]:
    """All processes of a node, whatever groups they are in."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getsid(int(entry.name)) == leader:
                found.append(int(entry.name))
        except ProcessLookupError:
            continue
    return found


def strike(leader: int, number: int = signal.SIGKILL) -> None:
    """Sends a signal to all of a node: its raylet, its agents, its workers."""
    for pid in session(leader):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def packs_below(below: dict[int, str]) -> list[int]:
    """Workers that train packs."""
    return [pid for pid, name in below.items() if name.startswith("ray::") and "ImplicitFunc" in name and alive(pid)]


def drivers_below(pid: int) -> list[int]:
    """Drivers of sweeps."""
    return [child for child, name in descendants(pid).items() if "\0cluster.driven\0" in name]


def open_to_others(pids) -> set[str]:
    """Addresses, as the kernel writes them, on which these processes listen and others than this machine can reach them."""
    sockets = set()
    for pid in pids:
        try:
            sockets |= {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
        except OSError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            cells = row.split()
            if cells[3] == LISTENING and f"socket:[{cells[9]}]" in sockets and cells[1].partition(":")[0] not in LOOPBACK:
                found.add(cells[1])
    return found
