"""The examples of one or several tasks as one set that batches are drawn from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clcore.benchmarks import Split
from clcore.benchmarks.base import as_seen
from clcore.methods.base import Batch, Stage


@dataclass(frozen=True)
class _Views:
    """How tasks see the same images: for each task what :class:`Split` says in ``pixels`` and ``blank``, shape [tasks, C*H*W]."""

    pixels: Tensor
    blank: Tensor | None

    def of(self, raw: Tensor, which: Tensor) -> Tensor:
        """Images as their tasks see them: one gather for all, not one a task."""
        blank = None if self.blank is None else self.blank.index_select(0, which)
        return as_seen(raw, self.pixels.index_select(0, which), blank)


class Pool:
    """The examples of one or several tasks as one set; a batch is an index, not a copy of the data.

    Args:
        splits: task -> its examples.
        dtype: type of the inputs.
    """

    def __init__(self, splits: Mapping[int, Split], dtype: torch.dtype) -> None:
        self.splits, self.dtype = splits, dtype
        parts = list(splits.values())
        self.device = parts[0].labels.device
        lengths = torch.tensor([len(split) for split in parts])
        self._which = torch.repeat_interleave(torch.arange(len(parts)), lengths).to(self.device)
        self._tasks = torch.tensor(list(splits), device=self.device)
        self._places = torch.cat([torch.arange(len(split)) for split in parts]).to(self.device)
        self._union = _union(parts) if len(parts) > 1 else None  # one task is read as it is
        self._views = _views(parts) if self._union is not None else None

    def __len__(self) -> int:
        return len(self._places)

    def batch(self, positions: Tensor) -> Batch:
        """The examples at ``positions``, shape [batch]; where tasks see images differently, grouped by task."""
        if len(self.splits) == 1:
            return Batch(*next(iter(self.splits.values())).batch(positions, self.dtype))
        if self._union is None or self._views is not None:
            positions = positions[self._which[positions].argsort(stable=True)]
        which = self._which[positions]
        if self._union is None:
            return Batch(*self._apart(positions, which), self._tasks[which])
        raw = self._union.raw(positions)
        raw = raw if self._views is None else self._views.of(raw, which)
        return Batch(self._union.normalised(raw, self.dtype), self._union.labels[positions], self._tasks[which])

    def batches(self, size: int, order: Tensor | None = None) -> Iterator[Batch]:
        """All examples, ``size`` at a time, the last partial batch included.

        Args:
            size: examples a batch.
            order: positions, shape [examples]; as stored if None.
        """
        order = torch.arange(len(self), device=self.device) if order is None else order
        for positions in torch.split(order, size):
            yield self.batch(positions)

    def _apart(self, positions: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels of examples that are grouped by task, from images of each task's own."""
        chosen = [(split, self._places[positions[which == place]]) for place, split in enumerate(self.splits.values())]
        inputs, labels = zip(*(split.batch(places, self.dtype) for split, places in chosen if len(places)), strict=True)
        return torch.cat(inputs), torch.cat(labels)


def stage_pool(stage: Stage, splits: Mapping[int, Split | None], dtype: torch.dtype) -> Pool | None:
    """The examples of a stage's tasks, or None where there are none."""
    chosen = {t: split for t in stage.tasks if (split := splits[t]) is not None}
    return Pool(chosen, dtype) if chosen else None


def _union(parts: Sequence[Split]) -> Split | None:
    """All examples as one split that leaves images as they are; None where they are not of the same images."""
    first = parts[0]
    if any(part.images is not first.images or part.scaling != first.scaling for part in parts):
        return None
    rows, labels = torch.cat([part.rows for part in parts]), torch.cat([part.labels for part in parts])
    return replace(first, rows=rows, labels=labels, pixels=None, blank=None)


def _views(parts: Sequence[Split]) -> _Views | None:
    """How each part sees the images; None where all see them as they are."""
    if all(part.pixels is None for part in parts):
        return None
    plain = torch.arange(parts[0].images[0].numel(), device=parts[0].images.device)
    none = torch.zeros_like(plain, dtype=torch.bool)
    pixels = torch.stack([plain if part.pixels is None else part.pixels for part in parts])
    blank = torch.stack([none if part.blank is None else part.blank for part in parts])
    return _Views(pixels, blank if blank.any() else None)
