"""The kinds of nodes in a cluster: nodes of a kind train alike, and a pack may land on any of them."""

import platform
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clcore.errors import UserError
from sweeps.each_node import ask_each
from sweeps.resources import GIB, ROUNDING, machine_bytes, packs_on, processor

if TYPE_CHECKING:
    from sweeps.settings import Settings

#: Seconds that nodes have to say what they are.
PATIENCE = 60.0
#: How Ray's name of a node's GPUs begins.
LABEL = "accelerator_type:"


@dataclass(frozen=True, order=True)
class Kind:
    """What nodes that train alike have in common.

    Attributes:
        processor: its model.
        gpu: Ray's name for its GPUs, e.g. ``H100``; empty where it has none.
        cores: that Ray gives out on it.
        gpus: that Ray gives out on it.
        memory: GiB of its machine, to the next one.
        sharing: packs at a time that share a memory: that of a GPU, or of the machine where packs are trained on processors.
    """

    processor: str
    gpu: str
    cores: float
    gpus: float
    memory: int
    sharing: int


@dataclass(frozen=True)
class Group:
    """The nodes of a kind.

    Attributes:
        nodes: Ray's ids, the node with the least memory first.
        workers: packs that they run at a time, together.
    """

    nodes: tuple[str, ...]
    workers: int


def kinds_of(settings: "Settings", device: str) -> dict[Kind, Group]:
    """The kinds of those nodes of the joined cluster that can run packs; a node that does not answer is left out.

    Args:
        settings: what a pack asks for.
        device: torch device of packs.

    Raises:
        UserError: none answers.
    """
    import ray

    able = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"] and packs_on(node["Resources"], settings)}
    task = ray.remote(num_cpus=0)(described)
    answers = ask_each(task, {name: (name, ()) for name in able}, PATIENCE)
    known = {name: answer for name, answer in answers.items() if isinstance(answer, tuple)}
    if not known:
        raise UserError(
            f"the cluster is not ready. None of the {len(able)} nodes that can run packs gave an answer in {PATIENCE:.0f} s."
        )
    return grouped(able, known, settings, device)


def described() -> tuple[str, str, int]:
    """This machine, as one of its nodes tells: name, model of the processor, bytes of memory."""
    return platform.node(), processor(), machine_bytes()


def grouped(
    nodes: Mapping[str, Mapping[str, float]], told: Mapping[str, tuple[str, str, int]], settings: "Settings", device: str
) -> dict[Kind, Group]:
    """Nodes by their kinds.

    Args:
        nodes: what each has, by Ray's names.
        told: what each has said of its machine (:func:`described`).
        settings: what a pack asks for.
        device: torch device of packs.
    """
    machines: Counter[str] = Counter()  # several nodes may be on one machine
    for name, (machine, _, _) in told.items():
        machines[machine] += packs_on(nodes[name], settings)
    on_gpu = int(1 / settings.gpus_per_trial + ROUNDING) if 0 < settings.gpus_per_trial < 1 else 1
    found: dict[Kind, list[tuple[int, str]]] = defaultdict(list)
    for name, (machine, model, memory) in told.items():
        has = nodes[name]
        gpu = next((key.removeprefix(LABEL) for key in sorted(has) if key.startswith(LABEL)), "")
        sharing = on_gpu if device.startswith("cuda") else machines[machine]
        kind = Kind(model, gpu, has.get("CPU", 0), has.get("GPU", 0), round(memory / GIB), sharing)
        found[kind].append((memory, name))
    return {
        kind: Group(tuple(name for _, name in sorted(found[kind])), sum(packs_on(nodes[name], settings) for _, name in found[kind]))
        for kind in sorted(found)
    }
