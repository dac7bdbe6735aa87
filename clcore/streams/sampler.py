"""A stream over the tasks of a benchmark, with sharp or fuzzy boundaries (CN-DPM, Lee et al. 2020; RMN, table 3)."""

from collections.abc import Iterator
from itertools import accumulate

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
        benchmark: in scenario domain-il, whose labels do not tell tasks apart.
        batch_size: examples a batch.
        passes: times each task's training data is gone through.
        transition: batches over which one task becomes the next; 0: at once.
        seed: of the order.
        dtype: of the inputs.

    Raises:
        BadValue: another scenario, or a transition longer than a task.
    """

    def __init__(
        self, benchmark: Benchmark, batch_size: int, passes: int = 1, transition: int = 0, seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        if benchmark.scenario != "domain-il":
            raise BadValue("scenario", benchmark.scenario, "domain-il for a stream")
        self.splits, self.size, self.seed, self.dtype = [task.train for task in benchmark.tasks], batch_size, seed, dtype
        self.lengths = [passes * len(split) // batch_size for split in self.splits]
        self.transition = transition
        if not 0 <= transition <= min(self.lengths):
            raise BadValue("transition", transition, f"from 0 to {min(self.lengths)}, the batches of the shortest task")

    def __len__(self) -> int:
        return sum(self.lengths)

    def __iter__(self) -> Iterator[Batch]:
        decks = [_deck(split, self.seed, task) for task, split in enumerate(self.splits)]
        for shares in self.shares():
            parts = []
            for task, count in shares.items():
                positions = torch.from_numpy(np.array([next(decks[task]) for _ in range(count)]))
                inputs, labels = self.splits[task].batch(positions.to(self.splits[task].labels.device), self.dtype)
                parts.append((inputs, labels, torch.full_like(labels, task)))
            yield Batch(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def shares(self) -> list[dict[int, int]]:
        """Of each batch: task -> number of its examples."""
        ends = list(accumulate(self.lengths))
        found = []
        for step in range(ends[-1]):
            grown = [1.0, *(self._grown(step - end) for end in ends[:-1]), 0.0]  # how far each task has replaced those before
            counts = [round(self.size * share) for share in grown]
            found.append({t: counts[t] - counts[t + 1] for t in range(len(ends)) if counts[t] > counts[t + 1]})
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
