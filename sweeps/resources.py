"""What a pack asks for, and how many of them the nodes of a cluster can run at the same time."""

import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from clcore.errors import UserError

if TYPE_CHECKING:  # it needs torch, whose import takes seconds
    from sweeps.settings import Settings

GIB = 1024**3
#: So that a third of a GPU fits three times.
ROUNDING = 1e-9
#: Where Linux says how much memory a container may use.
CONTAINER = Path("/sys/fs/cgroup/memory.max")
#: Where Linux says what the processor is.
PROCESSOR = Path("/proc/cpuinfo")


def pack_resources(settings: "Settings") -> dict[str, float]:
    """What Ray sets aside for each pack: cores, GPUs and bytes of memory."""
    asked = {"cpu": float(settings.cpus), "gpu": settings.gpus_per_trial}
    return asked | ({"memory": float(int(settings.memory * GIB))} if settings.memory else {})


def packs_on(node: Mapping[str, float], settings: "Settings") -> int:
    """Packs that fit on a node at the same time.

    Args:
        node: what it has, by Ray's names: ``CPU``, ``GPU``, ``memory`` (bytes).
        settings: what a pack asks for.
    """
    asked = pack_resources(settings)
    shares = [node.get("CPU", 0) / asked["cpu"]]
    if asked["gpu"] >= 1:
        shares.append(node.get("GPU", 0) / asked["gpu"])
    elif asked["gpu"]:
        shares.append(node.get("GPU", 0) * int(1 / asked["gpu"] + ROUNDING))  # a share never lies on two GPUs
    if "memory" in asked:
        shares.append(node.get("memory", 0) / asked["memory"])
    return int(min(shares) + ROUNDING)


def room_for(nodes: Sequence[Mapping[str, float]], settings: "Settings") -> int:
    """Packs that a cluster can run at the same time.

    Args:
        nodes: what each of its nodes has, by Ray's names.
        settings: what a pack asks for.

    Raises:
        UserError: no node can hold even one.
    """
    room = sum(packs_on(node, settings) for node in nodes)
    if room:
        return room
    asked = f"--cpus {settings.cpus} --gpus-per-trial {settings.gpus_per_trial:g}"
    asked += f" --memory {settings.memory:g}" if settings.memory else ""
    raise UserError(f"{asked} is more than any node of the cluster has: {_described(nodes)}.")


def machine_bytes() -> int:
    """Bytes of memory of this machine, or of the container that we are in."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # where there is no limit it says "max"
        return min(whole, int(CONTAINER.read_text()))
    return whole


def processor() -> str:
    """Model of this machine's processor."""
    with suppress(OSError):  # Linux
        for line in PROCESSOR.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _described(nodes: Sequence[Mapping[str, float]]) -> str:
    kinds = Counter((node.get("CPU", 0), node.get("GPU", 0), round(node.get("memory", 0) / GIB)) for node in nodes)
    shown = [f"{count} with {cpu:g} CPUs, {gpu:g} GPUs, {memory:g} GiB" for (cpu, gpu, memory), count in kinds.items()]
    return "; ".join(shown) or "it has none"
