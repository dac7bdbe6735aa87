"""MEGA-II (Guo et al., 2020): steps go between the gradient of the task and that of stored examples, by their losses."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad_and_value

from clcore.hyper import knob
from clcore.methods.base import DERIVED, At, Tensors
from clcore.methods.distillation.old_answers import GROUPS
from clcore.methods.hnet.replay_model import share_of
from clcore.methods.rehearsal.stored import STORED, StoredExamples, stored_knob


@dataclass(frozen=True)
class MEGAHyper:
    """Hyperparameters of MEGA-II."""

    stored: int = stored_knob(
        250, "A-GEM's code, whose settings MEGA takes: 25 a class of permuted MNIST's tasks", levels=(50, 100, 250, 500, 1000)
    )
    examples: int = knob(
        256,
        "stored examples of earlier tasks, in all, that a step looks at",
        low=1,
        source="A-GEM's code: 256",
        levels=(64, 128, 256),
    )


class MEGA(StoredExamples):
    """The gradient g is turned towards that of stored examples, and keeps its length (MEGA, section 3.3)."""

    Hyper = MEGAHyper
    reads = (DERIVED, STORED)
    hyper: MEGAHyper

    def condition(
        self, grads: Tensors, params: Tensors, memory: Tensors, hp: Tensors, at: At,
        preview: Callable[[Tensors], Tensors],
    ) -> Tensors:  # fmt: skip
        """*Packed.* The turned gradient."""
        if not at.task:
            return grads
        old = self.drawn(memory, at, share_of(self.hyper.examples, at.task), params[self.body[0]])

        def mean(own: Tensors) -> Tensor:
            return self.old_losses({**params, **own}, memory, hp, at, old, memory.get(GROUPS)).mean()

        reference, loss = grad_and_value(mean)({name: params[name] for name in grads})
        return turned(grads, reference, hp["loss"], loss)


def turned(grads: Tensors, reference: Tensors, loss: Tensor, old_loss: Tensor) -> Tensors:
    """*Packed.* The vector u as long as g with the largest l cos(u, g) + l_r cos(u, r) (MEGA, eq. 6).

    That sum is <u, l g/|g| + l_r r/|r|> / |u|, so u lies along the vector in the angle brackets: no angle has to be worked out.

    Args:
        grads: g.
        reference: r.
        loss: l >= 0.
        old_loss: l_r >= 0.
    """
    length = _norm(grads)
    mixed = {n: loss * _over(g, length) + old_loss * _over(reference[n], _norm(reference)) for n, g in grads.items()}
    along = _norm(mixed)
    return {n: torch.where(along > 0, _over(mixed[n], along) * length, g) for n, g in grads.items()}


def _norm(tensors: Tensors) -> Tensor:
    return torch.stack([tensor.square().sum() for tensor in tensors.values()]).sum().sqrt()


def _over(tensor: Tensor, length: Tensor) -> Tensor:
    """Zeros where the length is 0."""
    return tensor / torch.where(length == 0, 1, length)


METHOD = MEGA
