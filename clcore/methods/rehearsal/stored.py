"""Examples of earlier tasks in memory: images as they came, a byte a pixel where they were bytes, and labels."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clcore.hyper import knob
from clcore.methods.base import At, Batch, Layout, Tensors
from clcore.methods.distillation.old_answers import OldAnswers

STORED = "stored."
IMAGES, LABELS = STORED + "images.", STORED + "labels."


def stored_knob(default: int, source: str, levels: tuple[int, ...]) -> Any:
    """How many examples are stored: a field for the hyperparameters of every method that stores any."""
    return knob(default, "examples stored of each task, drawn at random; 0: all", low=0, source=source, levels=levels)


class StoredExamples(OldAnswers):
    """A method that stores examples of each task; it has a hyperparameter ``stored``."""

    training_only = (STORED,)

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* Stores examples of the task."""
        return {**super().end_task(params, memory, hp, at, batches), **sample(self.layout, batches, at.task, self.hyper.stored)}

    def drawn(self, memory: Tensors, at: At, count: int, like: Tensor) -> Batch:
        """*Packed.* As :func:`draw`, with labels that index the old outputs."""
        old = draw(memory, self.layout, at, count, like)
        return Batch(old.inputs, self.among_old(old.labels))


def sample(layout: Layout, batches: Iterable[Batch], task: int, count: int) -> Tensors:
    """*Packed.* So many random examples of a task, for memory; all if ``count`` is 0 or more than there are."""
    return pick(layout, [(as_stored(batch.inputs, layout), batch.labels) for batch in batches], task, count)


def pick(layout: Layout, found: Sequence[tuple[Tensor, Tensor]], task: int, count: int) -> Tensors:
    """*Packed.* As :func:`sample`, of inputs as they are stored, and labels."""
    images, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    places = torch.randperm(len(labels), device=labels.device)[: count or None]
    kind = torch.uint8 if max(layout.outputs) <= 256 else torch.int32
    return {f"{IMAGES}{task}": images[places], f"{LABELS}{task}": labels[places].to(kind)}


def draw(memory: Tensors, layout: Layout, at: At, count: int, like: Tensor) -> Batch:
    """*Packed.* Random stored examples of each earlier task, with repetition.

    Args:
        memory: of one member.
        layout: of the benchmark.
        at: the task in training, not the first.
        count: examples of each task.
        like: gives the type of the inputs.

    Returns:
        Inputs of shape [tasks, count, ...] and labels of shape [tasks, count].
    """
    images, labels = [], []
    for task in range(at.task):
        own = memory[f"{LABELS}{task}"]
        chosen = torch.randint(len(own), (count,), device=own.device)
        images.append(memory[f"{IMAGES}{task}"][chosen])
        labels.append(own[chosen])
    return Batch(as_inputs(torch.stack(images), layout, like), torch.stack(labels).long())


def whole(memory: Tensors, layout: Layout, at: At, like: Tensor) -> tuple[Batch, Tensor]:
    """*Packed.* All stored examples, and the weights with which the loss of each task is a mean over its own, shape [tasks, n].

    n is the largest number stored of a task; the others are filled up with examples of weight 0. Arguments as for :func:`draw`.
    """
    sizes = [len(memory[f"{LABELS}{task}"]) for task in range(at.task)]
    images, labels = (
        torch.stack([_filled(memory[f"{prefix}{task}"], max(sizes)) for task in range(at.task)]) for prefix in (IMAGES, LABELS)
    )
    weights = torch.stack([_filled(like.new_full((size,), 1 / size), max(sizes)) for size in sizes])
    return Batch(as_inputs(images, layout, like), labels.long()), weights


def _filled(tensor: Tensor, length: int) -> Tensor:
    return F.pad(tensor, (0, 0) * (tensor.dim() - 1) + (0, length - len(tensor)))


def as_stored(inputs: Tensor, layout: Layout) -> Tensor:
    """*Packed.* Inputs as they are stored: a byte a pixel where they were bytes."""
    if not layout.levels:
        return inputs
    return ((inputs - layout.low) * (layout.levels / (layout.high - layout.low))).round().to(torch.uint8)


def as_inputs(images: Tensor, layout: Layout, like: Tensor) -> Tensor:
    """*Packed.* Stored images as inputs, of the type of ``like``."""
    if not layout.levels:
        return images.to(like)
    return images.to(like) * ((layout.high - layout.low) / layout.levels) + layout.low
