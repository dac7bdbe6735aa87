"""Accuracy of a pack on the tasks of a benchmark: one row of the accuracy matrix at a time.

Where a benchmark asks for values in place of classes, the share of their variance that is explained takes the place of accuracy:
1 - (squared errors) / (squared distances from the mean), and 0 where that is less (no better than a constant).
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from clcore.benchmarks import Split
from clcore.methods.base import At, Method, Tensors
from clcore.pack import packed
from clcore.pool import Pool
from clcore.randomness import torch_stream
from clcore.trainer import EVAL_BATCH


class Evaluator:
    """Counts right answers (of values: how much of them is explained).

    A method whose weights differ between tasks is told the task in task-il; elsewhere it infers the task of every example, and
    in class-il a wrong task makes a wrong answer (van de Ven & Tolias, 2019).

    Args:
        method: the method.
        seed: the trial's seed (random guessing draws from it).
        dtype: type of the inputs.
    """

    def __init__(self, method: Method, seed: int, dtype: torch.dtype) -> None:
        self.method, self.seed, self.dtype = method, seed, dtype
        self.infers = method.task_specific and method.layout.scenario != "task-il"

    def accuracy(self, split: Split, params: Tensors, memory: Tensors, hp: Tensors, at: At, learned: Sequence[At] = ()) -> Tensor:
        """Share of right answers of each member, or of the values' variance it explains; shape [members], in [0, 1].

        Args:
            split: the examples.
            params: empty for a task learned before; what has just begun or been trained otherwise.
            memory: shape [members, ...].
            hp: shape [members].
            at: the task the examples belong to.
            learned: all tasks learned so far, where the task is to be inferred; empty where it is given.
        """
        at = replace(at, phase="eval")
        if learned and self.infers:
            return self.inferred(split, memory, hp, at, learned)[0]
        wanted = split.labels + self.method.label_offset(at.task)
        decided = self.decisions(split, params, memory, hp, at)
        if self.method.layout.targets == "values":
            return explained(decided, wanted)
        return (decided == wanted).sum(-1).double() / len(split)

    def decisions(self, split: Split, params: Tensors, memory: Tensors, hp: Tensors, at: At) -> Tensor:
        """What each member says of each example, shape [members, examples]; arguments as in :meth:`accuracy`."""
        at = replace(at, phase="eval")
        with torch.no_grad(), torch_stream(self.seed, "decide", at.seen, at.task):
            weights = packed(lambda p, m, h: self.method.effective_weights(p, m, h, at))(params, memory, hp)
            predict = packed(lambda w, m, h, x: self.method.predict(w, m, h, x, at), shared=1)
            batches = Pool({at.task: split}, self.dtype).batches(EVAL_BATCH)
            return torch.cat([predict(weights, memory, hp, batch.inputs) for batch in batches], -1)

    def inferred(self, split: Split, memory: Tensors, hp: Tensors, at: At, learned: Sequence[At]) -> tuple[Tensor, Tensor]:
        """Accuracy where the task is inferred, and what was inferred.

        Args:
            split: the examples.
            memory: shape [members, ...].
            hp: shape [members].
            at: the task the examples belong to.
            learned: all tasks learned so far.

        Returns:
            Share of right answers, shape [members], and share of the examples taken for each task so far, shape
            [members, tasks so far].
        """
        answers = packed(lambda m, h, x: self.method.answers(m, h, x, learned), shared=1)
        right, taken = [], []
        with torch.no_grad(), torch_stream(self.seed, "decide", at.seen, at.task):
            for batch in Pool({at.task: split}, self.dtype).batches(EVAL_BATCH):
                tasks, classes = answers(memory, hp, batch.inputs)
                correct = classes == batch.labels
                if self.method.layout.scenario == "class-il":
                    correct &= tasks == at.task
                right.append(correct.sum(-1))
                taken.append(F.one_hot(tasks, len(learned)).sum(-2))
        return torch.stack(right).sum(0).double() / len(split), torch.stack(taken).sum(0).double() / len(split)


def explained(values: Tensor, wanted: Tensor) -> Tensor:
    """Share of the variance of ``wanted`` that ``values`` explain (R squared), at least 0.

    Args:
        values: shape [members, examples].
        wanted: shape [examples].

    Returns:
        Shape [members], float64, in [0, 1].
    """
    errors = (values.double() - wanted.double()).square().sum(-1)
    spread = (wanted.double() - wanted.double().mean()).square().sum()
    return (1 - errors / spread).clamp(min=0)
