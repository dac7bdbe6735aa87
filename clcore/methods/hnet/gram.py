"""The squared change of generated weights, from factors, with its gradient written out.

Autograd goes over the last layer - by far the largest tensor - a dozen times for the gradient of these products; written out, it
goes twice. With the last layer A = A* + dA and what feeds it H = H* + dH the change is D = dA H' + A* dH', and

    |D|^2 = <dA'dA, H'H> + 2 <dA'A*, H'dH> + <A*'A*, dH'dH>,

whose gradient with respect to H is 2 H (dA'dA + dA'A*) + 2 dH (A*'dA + A*'A*), since dH moves with H.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class SquaredChange(Function):
    """|D|^2 as a function of dA and H; A* and H* are constants.

    Its arguments are those of :meth:`forward`; only the first of its results is meant for others.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(change: Tensor, layer: Tensor, gram: Tensor, hidden: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The squared norm, and products that the gradient needs again.

        Args:
            change: dA, shape [rows, width].
            layer: A*, shape [rows, width].
            gram: A*'A*, shape [width, width].
            hidden: H, shape [n, width].
            before: H*, shape [n, width].
        """
        own, cross, moved = change.T @ change, change.T @ layer, hidden - before
        both = own * (hidden.T @ hidden) + 2 * cross * (hidden.T @ moved) + gram * (moved.T @ moved)
        return both.sum(), own, cross

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        """Keeps what the gradient needs."""
        _, own, cross = output
        ctx.mark_non_differentiable(own, cross)
        ctx.save_for_backward(*inputs, own, cross)

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients with respect to dA and H."""
        change, layer, gram, hidden, before, own, cross = ctx.saved_tensors
        scale, moved = 2 * above[0], hidden - before
        of_change = torch.addmm(change @ (scale * (hidden.T @ hidden)), layer, scale * (moved.T @ hidden))
        of_hidden = torch.addmm(hidden @ (own + cross), moved, cross.T + gram)
        return of_change, None, None, scale * of_hidden, None
