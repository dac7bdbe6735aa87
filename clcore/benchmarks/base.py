"""What is learned, in which order: splits of examples, tasks, and a benchmark - a sequence of tasks."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from clcore.benchmarks.options import SHARED_LABELS

Scenario = Literal["task-il", "domain-il", "class-il", "task-free"]
Targets = Literal["classes", "values"]
Moved = dict[int, tuple[Tensor, Tensor]]
AnySplit = TypeVar("AnySplit", "Split", "Split | None")


@dataclass(frozen=True, eq=False)
class Split:
    """Examples of one task. The images are those of the whole source and shared; rows say which are meant.

    A permuted or rotated task is a rearrangement of pixels at the moment a batch is made, not a copy of the images:
    250 permutations of MNIST cost 250 x 6 kB instead of 250 x 47 MB.

    Attributes:
        images: uint8 (or floats that are used as they are), shape [N, C, H, W].
        labels: the task's own labels 0 .. classes-1, int64, shape [n]; where numbers are learned, those, float32.
        rows: which image each example is, int64, shape [n].
        pixels: for each flattened pixel of an example the pixel of the image it comes from, int64, shape [C*H*W];
            None leaves images as they are.
        scale: largest raw value, and their divisor; an input is ``(raw / scale - mean) / std``.
        mean: subtracted after scaling.
        std: divisor after that.
        blank: pixels that come from nowhere (a rotation's corners) and are black, bool, shape [C*H*W]; None for none.
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    rows: Tensor = field(repr=False)
    pixels: Tensor | None = field(repr=False)
    scale: float
    mean: float
    std: float
    blank: Tensor | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, positions: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Normalised inputs, shape [b, C, H, W], and labels, shape [b].

        Args:
            positions: places within this split (not rows of ``images``), int64, shape [b], on the split's device.
            dtype: of the inputs.
        """
        raw = self.raw(positions)
        if self.pixels is not None:
            raw = as_seen(raw, self.pixels, self.blank)
        return self.normalised(raw, dtype), self.labels[positions]

    def raw(self, positions: Tensor) -> Tensor:
        """Images as they are stored, shape [b, C, H, W]."""
        return self.images.index_select(0, self.rows[positions])  # six times as fast as brackets, at 64 images on a CPU

    def normalised(self, raw: Tensor, dtype: torch.dtype) -> Tensor:
        """Inputs, of images as the task sees them."""
        return raw.to(dtype).div_(self.scale).sub_(self.mean).div_(self.std)

    @property
    def scaling(self) -> tuple[float, float, float]:
        """What decides how images become inputs."""
        return self.scale, self.mean, self.std

    def to(self, device: torch.device | str) -> "Split":
        """The same split on a device. For a whole benchmark use ``Benchmark.to``, which copies shared images once."""
        return _move_split(self, torch.device(device), {})


def as_seen(raw: Tensor, pixels: Tensor, blank: Tensor | None) -> Tensor:
    """Images as their task sees them, or each as its own task does.

    Args:
        raw: as they are stored, shape [b, C, H, W].
        pixels: as for :class:`Split`, shape [C*H*W], or one row an image, shape [b, C*H*W].
        blank: the same.
    """
    flat = raw.flatten(1).gather(1, pixels.expand(len(raw), -1))  # a quarter of the time of brackets
    if blank is not None:
        flat = flat.masked_fill(blank, 0)
    return flat.view_as(raw)


@dataclass(frozen=True, eq=False)
class Task:
    """One task, without its test data: those only ``Benchmark.test`` hands out.

    Attributes:
        index: place in the sequence, from 0.
        name: for people, e.g. ``"digits 0/1"``.
        classes: the source's class ids in the order of the task's labels.
        offset: first output of this task where tasks have their own outputs (task-il, class-il): the classes of all
            earlier tasks; 0 in domain-il and task-free, where tasks share them.
        train: what is learned from.
        validation: what everything that selects may see; None with ``validation="none"``.
    """

    index: int
    name: str
    classes: tuple[int, ...]
    offset: int
    train: Split
    validation: Split | None


@dataclass(frozen=True, eq=False)
class Benchmark:
    """A sequence of tasks.

    Attributes:
        name: as it was asked for.
        scenario: what is known at test time (van de Ven & Tolias 2019): the task; only that labels are shared; nothing.
            task-free: labels are shared, and while learning too nothing says which task it is.
        tasks: in the order they are learned.
        _test: the test split of each task; read through ``test`` only.
        input_shape: (C, H, W) of one input.
        digest: sha256 of all tensors and of how the tasks are made, 16 hex digits; computed when not given.
        targets: whether labels are classes, or values that a network's only output is to take.
    """

    name: str
    scenario: Scenario
    tasks: tuple[Task, ...]
    _test: tuple[Split, ...] = field(repr=False)
    input_shape: tuple[int, int, int]
    digest: str = ""
    targets: Targets = "classes"

    def __post_init__(self) -> None:
        if len(self._test) != len(self.tasks):
            raise ValueError(f"{len(self.tasks)} tasks but {len(self._test)} test splits")
        if not self.digest:
            object.__setattr__(self, "digest", _digest(self))

    @property
    def shares_labels(self) -> bool:
        """Whether all tasks have the same labels."""
        return self.scenario in SHARED_LABELS

    @property
    def outputs_total(self) -> int:
        """Outputs of one head that serves all tasks: every task's own, or the shared ones."""
        return max(task.offset + len(task.classes) for task in self.tasks)

    def test(self, task: int) -> Split:
        """The test examples of a task: for the record, never for a choice.

        Args:
            task: index of the task, from 0.
        """
        return self._test[task]

    def to(self, device: torch.device | str) -> "Benchmark":
        """The same benchmark on a device; a tensor that many tasks share is copied once."""
        target = torch.device(device)
        moved: Moved = {}
        tasks = tuple(
            replace(
                task,
                train=_move_split(task.train, target, moved),
                validation=_move_split(task.validation, target, moved),
            )
            for task in self.tasks
        )
        return replace(self, tasks=tasks, _test=tuple(_move_split(split, target, moved) for split in self._test))


def _move_split(split: AnySplit, device: torch.device, moved: Moved) -> AnySplit:
    if split is None:
        return split
    tensors: dict[str, Any] = {name: _move(getattr(split, name), device, moved) for name in _TENSORS}
    return replace(split, **tensors)


def _move(tensor: Tensor | None, device: torch.device, moved: Moved) -> Tensor | None:
    if tensor is None:
        return None
    if id(tensor) not in moved:
        moved[id(tensor)] = (tensor, tensor.to(device))  # the original is kept, so that its id stays its own
    return moved[id(tensor)][1]


_TENSORS = ("images", "labels", "rows", "pixels", "blank")


def _splits(benchmark: Benchmark) -> Iterator[Split | None]:
    for task, test in zip(benchmark.tasks, benchmark._test, strict=True):
        yield from (task.train, task.validation, test)


def _digest(benchmark: Benchmark) -> str:
    """Digest of what is learned, not of its name: each distinct tensor is hashed once, however many tasks share it."""
    tensors: dict[int, str] = {}

    def of(tensor: Tensor | None) -> str | None:
        if tensor is None:
            return None
        if id(tensor) not in tensors:
            array = tensor.cpu().contiguous().numpy()
            tensors[id(tensor)] = f"{array.dtype}{array.shape}" + hashlib.sha256(array.data).hexdigest()
        return tensors[id(tensor)]

    construction = [
        benchmark.scenario,
        [(task.classes, task.offset) for task in benchmark.tasks],
        [
            split and [*(of(getattr(split, name)) for name in _TENSORS), split.scale, split.mean, split.std]
            for split in _splits(benchmark)
        ],
    ]
    return hashlib.sha256(json.dumps(construction).encode()).hexdigest()[:16]
