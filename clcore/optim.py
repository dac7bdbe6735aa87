"""Optimisers as pure functions, of one member or of a whole pack with a learning rate of each member's own.

What there is one of for each member (rate, steps, norm) has no dimension for one member and shape [members] for a pack, so the
same elementwise functions serve both.

The formulas and their order of operations are torch.optim's; ``tests/test_optim.py`` holds them to it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isinf

import torch
from torch import Tensor

Tensors = dict[str, Tensor]

ADAM_BETA2 = 0.999
ADAM_EPS = 1e-8
RMSPROP_ALPHA = 0.99
RMSPROP_EPS = 1e-8


@dataclass(frozen=True)
class Optimizer:
    """One optimiser.

    Attributes:
        slots: names of the tensors it keeps for each parameter.
        step: (gradient, slots of that parameter, number of this step from 1, momentum) -> (what is multiplied by the
            learning rate and subtracted, new slots). Adam takes momentum for its beta1.
    """

    slots: tuple[str, ...]
    step: Callable[[Tensor, Tensors, Tensor, float], tuple[Tensor, Tensors]]

    def init(self, params: Tensors, members: int = 0) -> Tensors:
        """A fresh state: zeros for every slot, and the count of steps; ``members`` as in :func:`clip_by_norm`."""
        first = next(iter(params.values()))
        zeros = {f"{slot}.{n}": torch.zeros_like(t) for slot in self.slots for n, t in params.items()}
        return {**zeros, "steps": torch.zeros(first.shape[:members], dtype=first.dtype, device=first.device)}

    def direction(self, grads: Tensors, state: Tensors, momentum: float) -> tuple[Tensors, Tensors]:
        """What each parameter moves against, per unit of learning rate, and the state afterwards."""
        steps = state["steps"] + 1
        moves, after = {}, {"steps": steps}
        for name, grad in grads.items():
            slots = {slot: state[f"{slot}.{name}"] for slot in self.slots}
            moves[name], slots = self.step(grad, slots, steps, momentum)
            after |= {f"{slot}.{name}": tensor for slot, tensor in slots.items()}
        return moves, after

    def update(
        self, grads: Tensors, state: Tensors, params: Tensors, rates: Mapping[str, Tensor], momentum: float
    ) -> tuple[Tensors, Tensors]:
        """Parameters and state after one step; ``rates`` holds the learning rate of every parameter that has a gradient."""
        moves, state = self.direction(grads, state, momentum)
        moved = {n: torch.addcmul(params[n], per_member(rates[n], move), move, value=-1) for n, move in moves.items()}
        return {**params, **moved}, state


def _sgd(grad: Tensor, slots: Tensors, steps: Tensor, momentum: float) -> tuple[Tensor, Tensors]:
    return grad, {}


def _momentum(grad: Tensor, slots: Tensors, steps: Tensor, momentum: float) -> tuple[Tensor, Tensors]:
    velocity = torch.add(grad, slots["velocity"], alpha=momentum)
    return velocity, {"velocity": velocity}


def _adam(grad: Tensor, slots: Tensors, steps: Tensor, momentum: float) -> tuple[Tensor, Tensors]:
    """The move is (m / c1) / (sqrt(v) / sqrt(c2) + eps), written so that large tensors are gone over as seldom as possible."""
    first = torch.lerp(slots["first"], grad, 1 - momentum)
    second = torch.addcmul(ADAM_BETA2 * slots["second"], grad, grad, value=1 - ADAM_BETA2)
    unbias_first, unbias_second = (per_member(1 - beta**steps, grad) for beta in (momentum, ADAM_BETA2))
    scale = torch.addcmul(ADAM_EPS * unbias_first, second.sqrt(), unbias_first / unbias_second.sqrt())
    return first / scale, {"first": first, "second": second}


def _rmsprop(grad: Tensor, slots: Tensors, steps: Tensor, momentum: float) -> tuple[Tensor, Tensors]:
    square = torch.addcmul(RMSPROP_ALPHA * slots["square"], grad, grad, value=1 - RMSPROP_ALPHA)
    return grad / square.sqrt().add_(RMSPROP_EPS), {"square": square}


OPTIMIZERS = {
    "sgd": Optimizer((), _sgd),
    "momentum": Optimizer(("velocity",), _momentum),
    "adam": Optimizer(("first", "second"), _adam),
    "rmsprop": Optimizer(("square",), _rmsprop),
}


def per_member(values: Tensor, like: Tensor) -> Tensor:
    """One value a member, shaped to go with a tensor that has its own dimensions after the members'."""
    return values.reshape((*values.shape, *(1,) * (like.dim() - values.dim())))


def clip_by_norm(grads: Tensors, limit: float, members: int = 0) -> Tensors:
    """Scales a member's gradients so that their common 2-norm is at most ``limit`` (torch's ``clip_grad_norm_``).

    Args:
        grads: of one member, or of a pack.
        limit: the largest norm; infinity leaves all as they are.
        members: leading dimensions that count members: 0 or 1.
    """
    if isinf(limit):
        return grads
    squares = [g.square().flatten(members).sum(-1) if g.dim() > members else g.square() for g in grads.values()]
    norm = torch.stack(squares).sum(0).sqrt()
    factor = (limit / (norm + 1e-6)).clamp(max=1.0)
    return {name: grad * per_member(factor, grad) for name, grad in grads.items()}


def add_decay(grads: Tensors, params: Tensors, decay: float) -> Tensors:
    """Adds weight decay to the gradients - before a method protects weights, so that what is protected does not decay."""
    return {name: grad + decay * params[name] for name, grad in grads.items()} if decay else grads
