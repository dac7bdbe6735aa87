"""What the learner says after every task."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from clcore.masks import Mask, capacity, compressed_size, reuse, sparsity
from clcore.methods.base import Method, Tensors
from clcore.networks.base import HEAD


@dataclass(frozen=True)
class MemberReport:
    """What one member reached.

    Attributes:
        member: its place in the pack the learner was made with.
        validation: accuracy on each task's validation data, [tasks]; NaN for tasks not learned yet or without such data.
        test: accuracy on each task's test data, [tasks]; NaN for tasks after the next one.
        train_loss: mean loss of the last epoch.
        epochs: epochs trained on this task.
        bytes: what a deployment must keep for the tasks so far.
        overhead_bytes: those of them that are no weights of the network and no heads.
        learning_bytes: what must be kept for further tasks to be learned.
        capacity: layer -> share of its weights that some task so far uses, and ``total``; empty without masks.
        use: the same for this task alone.
        reuse: share of this task's weights that each task so far uses too, [tasks so far] (HAT, Fig. 6).
        inferred: share of each task's test examples that was taken for each task, [tasks so far, tasks so far], or (task-free)
            for each mapping, [tasks so far, mappings]; empty where the task is given, and between two evaluations of all tasks
            (RMN, Fig. 2).
        compressed: share of weights that is left when only this task's units are kept, heads excluded and included; or what the
            method says of itself (:meth:`clcore.methods.base.Method.compressed`).
        fitted: where values are learned from single numbers: each task's test inputs, their values, and what the network says,
            [tasks so far, 3, examples] (HNET, Fig. 2).
    """

    member: int
    validation: list[float]
    test: list[float]
    train_loss: float = float("nan")
    epochs: int = 0
    bytes: int = 0
    overhead_bytes: int = 0
    learning_bytes: int = 0
    capacity: dict[str, float] = field(default_factory=dict)
    use: dict[str, float] = field(default_factory=dict)
    reuse: list[float] = field(default_factory=list)
    compressed: dict[str, float] = field(default_factory=dict)
    inferred: list[list[float]] = field(default_factory=list)
    fitted: list[list[list[float]]] = field(default_factory=list)


@dataclass(frozen=True)
class MemberFailure:
    """A member that gave up: its place in the pack, and where its loss stopped being a number (all from 0)."""

    member: int
    task: int
    epoch: int
    step: int


@dataclass(frozen=True)
class Report:
    """The pack after a task.

    Attributes:
        seen: tasks learned; 0 for the untrained network.
        members: those still sound.
        failures: those that failed during this task.
        seconds: wall time of the task for the whole pack.
        share: a member's share of these seconds, in (0, 1].
    """

    seen: int
    members: list[MemberReport]
    failures: list[MemberFailure]
    seconds: float
    share: float = 1.0


def units_in_use(masks: dict[str, Mask]) -> dict[str, Tensor]:
    """Units name -> which a task uses, bool; weight masks are left out."""
    return {name: mask.values.bool() for name, mask in masks.items() if mask.kind != "weight"}


def weights_in_use(masks: dict[str, Mask]) -> dict[str, Tensor]:
    """Weight name -> which entries a task uses, bool; masks of units are left out."""
    return {name: mask.values for name, mask in masks.items() if mask.kind == "weight"}


def sizes(method: Method, memory: Tensors, hp: Tensors) -> dict[str, object]:
    """What one member stores, as fields of :class:`MemberReport`: while it learns, and in a deployment."""
    stored, overhead = method.deployed_bytes(memory, hp)
    return {"bytes": stored, "overhead_bytes": overhead, "learning_bytes": method.learning_bytes(memory)}


def monitoring(method: Method, memory: Tensors, seen: int) -> dict[str, object]:
    """HAT's monitoring quantities of one member after ``seen`` tasks, as fields of :class:`MemberReport`."""
    if seen and (stored := method.compressed(memory)):
        return {"compressed": stored}
    masks = [method.masks(memory, task) for task in range(seen)]
    if masks and weights_in_use(masks[-1]):
        return of_weights([weights_in_use(task) for task in masks])
    tasks = [units_in_use(task) for task in masks]
    if not tasks or not tasks[-1]:
        return {}
    shapes = {name: tuple(p.shape) for name, p in method.network.named_parameters()}
    shapes[f"{HEAD}.weight"] = (method.layout.outputs[seen - 1], method.network.features)
    body = {name: shape for name, shape in shapes.items() if not name.startswith(f"{HEAD}.")}
    wires = method.network.wires
    taken = {name: torch.stack([t[name] for t in tasks]).any(0) for name in tasks[-1]}
    compressed = compressed_size(wires, tasks[-1], shapes)
    return {
        "capacity": capacity(wires, taken, body),
        "use": capacity(wires, tasks[-1], body),
        "reuse": [reuse(wires, tasks[-1], past, body) for past in tasks],
        "compressed": {"hidden": compressed.hidden, "with_head": compressed.with_head},
    }


def of_weights(tasks: Sequence[dict[str, Tensor]]) -> dict[str, object]:
    """The same where tasks have masks over weights, counted over the entries of the masks; RMN's sparsity S is 1 - capacity.

    Args:
        tasks: weight name -> which entries a task uses, of each task so far.
    """
    last = tasks[-1]
    taken = {name: torch.stack([task[name] for task in tasks]).any(0) for name in last}
    used = sum(int(on.sum()) for on in last.values())
    both = [sum(int((on & past[name]).sum()) for name, on in last.items()) for past in tasks]
    return {"capacity": _shares(taken), "use": _shares(last), "reuse": [count / used if used else 0.0 for count in both]}


def _shares(masks: dict[str, Tensor]) -> dict[str, float]:
    return {**{name: float(on.double().mean()) for name, on in masks.items()}, "total": 1 - sparsity(masks)}
