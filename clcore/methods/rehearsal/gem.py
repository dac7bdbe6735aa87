"""Gradient episodic memory (Lopez-Paz & Ranzato, 2017): a step must not raise the loss of any earlier task's stored examples."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, vmap

from clcore.hyper import knob
from clcore.methods.base import DERIVED, At, Batch, Tensors
from clcore.methods.distillation.old_answers import GROUPS
from clcore.methods.rehearsal.qp import non_negative
from clcore.methods.rehearsal.stored import STORED, StoredExamples, draw, stored_knob, whole

#: Added to the diagonal of the programme's matrix (GEM's code).
RIDGE = 1e-3


@dataclass(frozen=True)
class GEMHyper:
    """Hyperparameters of GEM."""

    stored: int = stored_knob(256, "GEM's code: 256 of permuted MNIST's tasks", levels=(64, 128, 256, 512, 1024))
    margin: float = knob(
        0.5, "least weight of each earlier task's gradient in a projection", low=0, packed=True, source="GEM, section 3: gamma .5",
        grid=(0.0, 0.1, 0.5, 1.0), search=(0.0, 1.0),
    )  # fmt: skip
    examples: int = knob(
        0, "stored examples of each task that a step looks at, drawn anew; 0: all", low=0, source="GEM: all", levels=(0, 64, 256)
    )


class GEM(StoredExamples):
    """Where the gradient g has a negative product with that of an earlier task, it is replaced by g + G^T v (GEM, eqs. 8 to 11).

    G holds the gradients of the earlier tasks' stored examples, v solves the dual programme. All that is trained counts, heads too.
    """

    Hyper = GEMHyper
    reads = (DERIVED, STORED)
    hyper: GEMHyper

    def condition(
        self, grads: Tensors, params: Tensors, memory: Tensors, hp: Tensors, at: At,
        preview: Callable[[Tensors], Tensors],
    ) -> Tensors:  # fmt: skip
        """*Packed.* The gradient, projected where it is against an earlier task."""
        if not at.task:
            return grads
        old = self.old_gradients(grads, params, memory, hp, at)
        gram = torch.stack([(flat := old[name].flatten(1)) @ flat.T for name in grads]).sum(0)
        products = torch.stack([old[name].flatten(1) @ grad.flatten() for name, grad in grads.items()]).sum(0)
        weights = dual(gram.double(), products.double(), hp["margin"].double()).to(products)
        weights = torch.where((products < 0).any(), weights, 0)
        return {name: grad + torch.tensordot(weights, old[name], 1) for name, grad in grads.items()}

    def old_gradients(self, grads: Tensors, params: Tensors, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* Name -> gradient of the mean loss of each earlier task's stored examples, shape [tasks, ...]."""
        like = params[self.body[0]]
        if self.hyper.examples:
            old = draw(memory, self.layout, at, self.hyper.examples, like)
            weights = like.new_full(old.labels.shape, 1 / self.hyper.examples)
        else:
            old, weights = whole(memory, self.layout, at, like)

        def one(own: Tensors, inputs: Tensor, labels: Tensor, weights: Tensor, group: Tensor | None) -> Tensor:
            batch = Batch(inputs[None], labels[None])
            return (self.old_losses({**params, **own}, memory, hp, at, batch, group) * weights).sum()

        groups = memory.get(GROUPS)
        each = vmap(grad(one), in_dims=(None, 0, 0, 0, None if groups is None else 0), randomness="different")
        found: Tensors = each({n: params[n] for n in grads}, old.inputs, self.among_old(old.labels), weights, groups)
        return found


def dual(gram: Tensor, products: Tensor, margin: Tensor, ridge: float = RIDGE) -> Tensor:
    """*Packed.* The v >= margin with the least v^T (G G^T + ridge I) v / 2 + (G g)^T v (GEM, eq. 11), shape [tasks].

    Args:
        gram: G G^T, shape [tasks, tasks].
        products: G g, shape [tasks].
        margin: scalar.
        ridge: as in GEM's code.
    """
    matrix = gram + ridge * torch.eye(len(products), dtype=gram.dtype, device=gram.device)
    return margin + non_negative(matrix, products + margin * matrix.sum(1))


METHOD = GEM
