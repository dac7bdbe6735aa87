"""Separate heads on fixed features: the body is learned on the first task or not at all (SupSup's baselines)."""

from dataclasses import dataclass

from clcore.hyper import knob
from clcore.methods.base import At, Method, Tensors


@dataclass(frozen=True)
class SeparateHeadsHyper:
    """Hyperparameters of separate heads."""

    features: str = knob(
        "first-task", "where the body comes from: learned on the first task, or as it was drawn (Rand W)",
        choices=("first-task", "random"), source="SupSup, table 2 (Separate Heads, and - Rand W)",
    )  # fmt: skip


class SeparateHeads(Method):
    """A head and statistics of normalisation a task, in every scenario; the rest is fixed.

    It differs from ``freeze`` in that statistics are the task's own, and that tasks never share a head.
    """

    Hyper = SeparateHeadsHyper
    regresses = True
    task_specific = True
    private_affine = False
    hyper: SeparateHeadsHyper

    def begin_task(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* A head and statistics, and at the first task the body if it is to be learned."""
        params = super().begin_task(memory, hp, at)
        learned = at.task == 0 and self.hyper.features == "first-task"
        return params if learned else {name: tensor for name, tensor in params.items() if name not in self.body}

    @property
    def from_seed(self) -> tuple[str, ...]:
        """The body, unless it is learned."""
        return () if self.hyper.features == "first-task" else self.body


METHOD = SeparateHeads
