"""Freezing: the body is learned on the first task and fixed afterwards; later tasks learn a head (HAT's "SGD-F")."""

from clcore.methods.base import At, Method, Tensors
from clcore.methods.finetune import NoHyper


class Freeze(Method):
    """All but the head is fixed after task 1, with dropout still on while heads are learned, as in HAT's code."""

    Hyper = NoHyper

    def begin_task(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* Everything at the first task, the head alone later."""
        params = super().begin_task(memory, hp, at)
        return params if at.task == 0 else {name: t for name, t in params.items() if name not in self.body}


METHOD = Freeze
