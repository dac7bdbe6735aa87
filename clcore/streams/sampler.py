"""A stream over the tasks of a benchmark, with sharp or fuzzy boundaries (CN-DPM, Lee et al. 2020; RMN, table 3)."""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from functools import cached_property
from itertools import accumulate, islice
from math import inf

import numpy as np
import torch
from torch import Tensor

from clcore.benchmarks import Benchmark, Split
from clcore.errors import BadValue
from clcore.methods.base import Batch
from clcore.randomness import numpy_stream


class Stream:
    """Batches of training data, one task after the other.

    Around each boundary the share of the next task grows linearly with every batch; a task is seen as often as without that.
    ``Batch.tasks`` says which task each example is of: for measuring, never for learning.

    Args:
        benchmark: in scenario domain-il or task-free, whose labels do not tell tasks apart.
        batch_size: examples a batch.
        passes: times each task's training data is gone through.
        transition: batches over which one task becomes the next; 0: at once.
        seed: of the order.
        dtype: of the inputs.
        most: most batches a task; 0: no limit.

    Raises:
        BadValue: another scenario, a batch larger than a task, or a transition longer than one.
    """

    def __init__(
        self, benchmark: Benchmark, batch_size: int, passes: int = 1, transition: int = 0, seed: int = 0,
        dtype: torch.dtype = torch.float32, most: int = 0,
    ) -> None:  # fmt: skip
        if not benchmark.shares_labels:
            raise BadValue("scenario", benchmark.scenario, "domain-il or task-free for a stream")
        self.splits, self.size, self.seed, self.dtype = [task.train for task in benchmark.tasks], batch_size, seed, dtype
        limit = most or inf
        self.lengths = [int(min(passes * len(split) // batch_size, limit)) for split in self.splits]
        if not min(self.lengths):
            smallest = passes * min(map(len, self.splits))
            raise BadValue("batch_size", batch_size, f"at most {smallest}, the examples of the shortest task in a stream")
        self.transition = transition
        if not 0 <= transition <= min(self.lengths):
            raise BadValue("transition", transition, f"from 0 to {min(self.lengths)}, the batches of the shortest task")

    def __len__(self) -> int:
        return sum(self.lengths)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    @cached_property
    def ends(self) -> list[int]:
        """Batches after which the part of each task has passed."""
        return list(accumulate(self.lengths))

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """The batches from number ``start`` on, as they are when all are drawn."""
        decks = [_deck(split, self.seed, task) for task, split in enumerate(self.splits)]
        every = self.shares()
        for shares in every[:start]:
            for task, count in shares.items():
                deque(islice(decks[task], count), maxlen=0)  # drawn, and let go
        for shares in every[start:]:
            parts = []
            for task, count in shares.items():
                positions = torch.from_numpy(np.array([next(decks[task]) for _ in range(count)]))
                inputs, labels = self.splits[task].batch(positions.to(self.splits[task].labels.device), self.dtype)
                parts.append((inputs, labels, torch.full_like(labels, task)))
            yield Batch(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def shares(self) -> list[dict[int, int]]:
        """Of each batch: task -> number of its examples."""
        begins, found = [0, *self.ends], []
        for step in range(begins.pop()):
            now = bisect_right(begins, step) - 1
            near = range(max(now - 1, 0), min(now + 2, len(begins)))  # a transition is no longer than a task
            grown = [self._grown(step - begins[task]) if task else 1.0 for task in near]  # how far it has replaced those before
            counts = [*(round(self.size * share) for share in grown), 0]
            found.append({t: counts[i] - counts[i + 1] for i, t in enumerate(near) if counts[i] > counts[i + 1]})
        return found

    def _grown(self, since: int) -> float:
        """Share of a task in the batch ``since`` batches after its boundary."""
        if not self.transition:
            return float(since >= 0)
        return min(max((since + 0.5) / self.transition + 0.5, 0.0), 1.0)


def _deck(split: Split, seed: int, task: int) -> Iterator[int]:
    """Positions of a task's examples without end, shuffled anew in each round."""
    turn = 0
    while True:
        yield from numpy_stream(seed, "stream", task, turn).permutation(len(split)).tolist()
        turn += 1


def confusion(truth: Tensor, inferred: Tensor, tasks: int, mappings: int) -> Tensor:
    """Share of each true task's examples that was taken for each mapping, shape [tasks, mappings].

    Args:
        truth: task of each example, shape [examples].
        inferred: mapping it was taken for, shape [examples].
        tasks: rows; those without an example are NaN.
        mappings: columns.
    """
    counts = torch.bincount(truth * mappings + inferred, minlength=tasks * mappings).reshape(tasks, mappings).double()
    return counts / counts.sum(1, keepdim=True)
