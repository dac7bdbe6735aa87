"""DEN's split: a unit that a task has moved too far is restored, and a free unit becomes the copy that the task goes on with."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """What becomes of the units of one layer; each shape [width].

    Attributes:
        old: units of earlier tasks, bool.
        restored: those of them that are as they were again, bool.
        copies: free units that become copies, bool.
        source: the unit that each is a copy of; of the others, itself.
        on: units in use afterwards, bool.
    """

    old: Tensor
    restored: Tensor
    copies: Tensor
    source: Tensor
    on: Tensor

    @property
    def own(self) -> Tensor:
        """Units that the task has added, copies and others; bool."""
        return self.on & ~self.old

    def columns(self, repeat: int) -> "Split":
        """The same of the columns of a layer of which ``repeat`` belong to each unit."""
        places = torch.arange(repeat, device=self.source.device)
        source = (self.source[:, None] * repeat + places).flatten()
        old, restored, copies, on = (t.repeat_interleave(repeat) for t in (self.old, self.restored, self.copies, self.on))
        return Split(old, restored, copies, source, on)


def nothing(width: int, device: torch.device) -> Split:
    """*Packed.* Units that all tasks have from the start: the inputs."""
    every = torch.arange(width, device=device) >= 0
    return Split(every, ~every, ~every, torch.arange(width, device=device), every)


def plan(drift: Tensor, old: Tensor, on: Tensor, limit: Tensor, most: Tensor) -> Split:
    """*Packed.* Which units are split (DEN, algorithm 4).

    Where there are more than ``most`` or than free units, those that have moved the furthest are.

    Args:
        drift: how far the incoming weights of each unit have moved, shape [width].
        old: units of earlier tasks, bool, shape [width].
        on: units in use, bool, shape [width].
        limit: sigma, a scalar: units that have moved further are to be split.
        most: how many at most, a scalar.
    """
    wanted, free = old & (drift > limit), ~on
    order = torch.where(wanted, drift, -1).argsort(descending=True)
    count = torch.minimum(torch.minimum(wanted.sum(), free.sum()), most)
    restored = wanted & (order.argsort() < count)
    place = free.cumsum(0) - 1  # among the free units
    copies = free & (place < count)
    source = torch.where(copies, order[place.clamp(min=0)], torch.arange(len(on), device=on.device))
    return Split(old, restored, copies, source, on | copies)


def split_weight(now: Tensor, was: Tensor, rows: Split, columns: Split) -> Tensor:
    """*Packed.* The weights of a layer after a split.

    What reads a restored unit and is the task's own reads its copy instead. Older units do not read copies yet: these weights start
    at 0, for with both the unit and its copy they would count twice (resolved here; DEN's code copies them).

    Args:
        now: shape [out, in, ...].
        was: before the task, shape [out, in, ...].
        rows: of the units it feeds.
        columns: of its columns.
    """
    across = (1, -1, *(1,) * (now.dim() - 2))
    down = (-1, *(1,) * (now.dim() - 1))
    moved = now[rows.source][:, columns.source].masked_fill(columns.restored.reshape(across), 0)
    restored = was.masked_fill(~columns.old.reshape(across), 0)
    kept = now.masked_fill(columns.copies.reshape(across), 0)
    older = torch.where(rows.restored.reshape(down), restored, kept)
    return torch.where(rows.own.reshape(down), moved, older)


def split_bias(now: Tensor, was: Tensor, rows: Split) -> Tensor:
    """*Packed.* The biases of a layer after a split; shapes [out]. Copies have their source's (DEN's code draws them)."""
    return torch.where(rows.restored, was, now[rows.source])


def split_head(now: Tensor, columns: Split) -> Tensor:
    """*Packed.* The head of the task after a split, shape [outputs, in]: it reads copies in place of what was restored."""
    return now[:, columns.source].masked_fill(columns.restored, 0)
