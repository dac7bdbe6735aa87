"""Incremental moment matching (Lee et al., 2017): each task is learned near the one before, then the tasks' weights are merged."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from clcore.hyper import knob
from clcore.methods.base import At, Batch, Tensors
from clcore.methods.penalties.fisher import fisher_knob
from clcore.methods.penalties.l2 import L2Transfer
from clcore.methods.penalties.penalty import IMPORTANCE, Penalty, combine

LAST = "last."


@dataclass(frozen=True)
class IMMMeanHyper:
    """Hyperparameters of IMM-mean."""

    strength: float = knob(
        1e-4, "lambda, weight of L2-transfer", low=0, packed=True, source="IMM, section 3.2; grid and default: HAT's code",
        grid=(1e-6, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2), search=(1e-6, 1), log=True,
    )  # fmt: skip
    alpha: float = knob(
        0.0, "share of the newest task in the merge; 0: equal shares for all tasks", low=0, high=1, packed=True,
        source="IMM, eq. 1; HAT's code: equal", search=(0.1, 0.9),
    )  # fmt: skip
    start_from: str = knob(
        "last", "what a task starts from and is held near: the weights of the task before, or the merged ones (HAT's code)",
        choices=("last", "merged"), source="IMM, section 3.2",
    )  # fmt: skip


@dataclass(frozen=True)
class IMMModeHyper(IMMMeanHyper):
    """Hyperparameters of IMM-mode."""

    strength: float = knob(
        0.01, "lambda, weight of L2-transfer", low=0, packed=True, source="IMM, section 3.2; grid and default: HAT's code",
        grid=(1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0), search=(1e-5, 10), log=True,
    )  # fmt: skip
    fisher: str = fisher_knob()
    reference_bug: bool = knob(
        False, "nothing is merged: the line that HAT's paper shows as IMM-mode, which is L2-transfer", source="HAT's code"
    )


class IMMMean(L2Transfer):
    """The shared body of all tasks is the mean of what each learned: sum_k alpha_k theta_k (IMM, eq. 1).

    Heads are not merged: one of a task's own is its own, a shared one stays as the last task left it, and so do statistics of
    normalisation.
    """

    Hyper = IMMMeanHyper
    training_only = (IMPORTANCE, LAST)
    hyper: IMMMeanHyper

    def centre(self, memory: Tensors, at: At) -> Tensors:
        """*Packed.* What the task starts from."""
        return {name: memory[LAST + name] if LAST + name in memory else memory[name] for name in self.protected}

    def begin_task(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* The weights of the task before, or the merged ones."""
        return super().begin_task(memory | self.centre(memory, at), hp, at)

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* Merges what the task learned into what the tasks before have in common."""
        share = self.share(hp, at)
        merged = {name: torch.lerp(memory[name], params[name], share) for name in self.body}
        return super().end_task(params, memory, hp, at, batches) | self.left(params) | merged

    def share(self, hp: Tensors, at: At) -> Tensor:
        """*Packed.* alpha of the newest of the tasks so far; of the first, all."""
        chosen = (hp["alpha"] > 0) & (at.task > 0)
        return torch.where(chosen, hp["alpha"], 1 / (at.task + 1))

    def left(self, params: Tensors) -> Tensors:
        """*Packed.* The weights the next task starts from, where they are not the merged ones."""
        return {LAST + name: params[name] for name in self.body} if self.hyper.start_from == "last" else {}


class IMMMode(IMMMean):
    """The merged body is the mode of the mixture's Gaussian: sum_k alpha_k F_k theta_k / sum_k alpha_k F_k (IMM, eq. 5).

    F_k is the Fisher information of task k; where no task has any, the mode is the mean.
    """

    Hyper = IMMModeHyper
    from_zero = (IMPORTANCE,)
    clip = 1000.0  # HAT's code
    hyper: IMMModeHyper

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* Merges by Fisher information, or with ``reference_bug`` not at all."""
        if self.hyper.reference_bug:
            return Penalty.end_task(self, params, memory, hp, at, batches)
        kept = Penalty.end_task(self, params, memory, hp, at, batches) | self.left(params)
        share, fisher = self.share(hp, at), self.task_fisher(params, memory, hp, at, batches)
        for n in self.body:
            old, new = (1 - share) * memory[IMPORTANCE + n], share * fisher[n]
            mode = combine(memory[n], old, params[n], new)
            mean = torch.lerp(memory[n], params[n], share)
            kept |= {n: torch.where(old + new > 0, mode, mean), IMPORTANCE + n: old + new}
        return kept
