"""What keeps old tasks: the weights generated for them must stay what they were before the present task (HNET, eq. 2).

    R = 1/(t-1) sum_{u<t} || f(e_u, theta*) - f(e_u, theta + dtheta) ||^2

theta* is what the task began with. dtheta is the lookahead: the step that the optimiser would take for the task's loss alone,
a constant. It is what the contract calls ``preview``, the very arithmetic of the step that follows. The authors' code has a
formula of its own for Adam, which adds eps to the uncorrected root of the second moment, so its eps is larger by
1/sqrt(1 - beta2^k), 32 times at the first step; where gradients are not tiny the two agree.

Two forms of the same number. *Direct* multiplies the weights of all old tasks out. *Delta-Gram* never does: with the last layer
A, what feeds it H, and dA, dH the changes since theta*, the changed weights are D = dA H + A* dH, and

    |D|^2 = <dA'dA, HH'> + 2 <dA'A*, H dH'> + <A*'A*, dH dH'>,

whose matrices have the width of the last hidden layer. Subtracting before squaring keeps float32 exact enough; expanding
|AH|^2 - 2 ... + |A*H*|^2 would not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clcore.methods.hnet.generator import Factors
from clcore.methods.hnet.gram import SquaredChange

FORMS = ("delta-gram", "direct")


@dataclass(frozen=True)
class Held:
    """Which generated weights of the old tasks are held: all, or those of the body and of each task's own outputs.

    Attributes:
        outputs: weights of the target network.
        prefix: that many from the start are held for every task.
        positions: more of them, for each task its own, shape [tasks, n]; -1 fills rows that have fewer.
    """

    outputs: int
    prefix: int
    positions: Tensor | None = None

    def of(self, tasks: Tensor) -> "Held":
        """The same for chosen tasks, shape [chosen]."""
        return self if self.positions is None else Held(self.outputs, self.prefix, self.positions[tasks])


def own_outputs(starts: Sequence[int], row_sizes: Sequence[int], rows: Sequence[tuple[int, int]]) -> Tensor:
    """Positions of each task's own rows in the head's tensors, for :class:`Held`.

    Args:
        starts: where each tensor of the head (weight, bias) begins in the flat vector.
        row_sizes: numbers in one row of each.
        rows: first and last (exclusive) output of each task.

    Returns:
        Shape [tasks, n], filled up with -1.
    """
    chosen = [
        [p for start, size in zip(starts, row_sizes, strict=True) for p in range(start + first * size, start + last * size)]
        for first, last in rows
    ]
    longest = max(map(len, chosen))
    return torch.tensor([row + [-1] * (longest - len(row)) for row in chosen])


def direct(now: Factors, then: Factors, held: Held) -> Tensor:
    """The regulariser with all weights multiplied out.

    Args:
        now: from theta + dtheta, of the old tasks.
        then: from theta*.
        held: what is compared.

    Returns:
        The sum of squared changes, mean over tasks; scalar.
    """
    squares = (_multiplied(now, held.outputs) - _multiplied(then, held.outputs)).square()
    total = squares[:, : held.prefix].sum()
    if held.positions is not None:
        total = total + (squares.gather(1, held.positions.clamp(min=0)) * (held.positions >= 0)).sum()
    return total / len(squares)


def delta_gram(now: Factors, then: Factors, held: Held, gram: Tensor | None = None) -> Tensor:
    """The regulariser without multiplying out; arguments and result as :func:`direct`.

    Args:
        now: from theta + dtheta, of the old tasks.
        then: from theta*.
        held: what is compared.
        gram: ``then.layer.T @ then.layer``, where it is at hand.
    """
    change = now.layer - then.layer
    whole, rest = divmod(held.prefix, len(change))
    total = _squared(change, then.layer, now.hidden[:, :whole], then.hidden[:, :whole], gram) if whole else 0.0
    if rest:  # the last chunk is cut off: of it only the first rows count
        total = total + _squared(change[:rest], then.layer[:rest], now.hidden[:, whole], then.hidden[:, whole])
    if held.positions is not None:
        total = total + _squared_at(change, then.layer, now.hidden, now.hidden - then.hidden, held.positions)
    return torch.as_tensor(total / len(now.hidden))


def _squared(change: Tensor, layer: Tensor, hidden: Tensor, before: Tensor, gram: Tensor | None = None) -> Tensor:
    """|change @ hidden + layer @ (hidden - before)|^2 in whichever way costs less; the hidden ones have shape [..., width]."""
    hidden, before = hidden.flatten(0, -2), before.flatten(0, -2)
    if len(hidden) <= hidden.shape[1]:
        return (change @ hidden.T + layer @ (hidden - before).T).square().sum()
    squared: Tensor = SquaredChange.apply(change, layer, layer.T @ layer if gram is None else gram, hidden, before)[0]  # type: ignore[no-untyped-call]
    return squared


def _squared_at(change: Tensor, layer: Tensor, hidden: Tensor, moved: Tensor, positions: Tensor) -> Tensor:
    """The same for single weights of each task, shape [tasks, n]: weight p is row p % chunk of chunk p // chunk."""
    rows, chunks = positions % len(change), positions.clamp(min=0) // len(change)
    chosen = chunks[..., None].expand(*chunks.shape, hidden.shape[-1])
    changes = (change[rows] * hidden.gather(1, chosen) + layer[rows] * moved.gather(1, chosen)).sum(-1)
    return (changes.square() * (positions >= 0)).sum()


def _multiplied(factors: Factors, outputs: int) -> Tensor:
    return (factors.hidden @ factors.layer.T).flatten(1)[:, :outputs]
