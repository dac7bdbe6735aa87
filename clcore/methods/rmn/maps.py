"""RMN's mappings: how relevant each weight is to a task, and how that becomes a mask.

A mapping holds one real number in [0, 1] a weight. While a task is learned its mask is the pseudo-round of the mapping, which
has a derivative; at test it is rounded.
"""

from math import ceil

import torch
from torch import Tensor

#: Where a mapping is rounded, and the middle of the pseudo-round.
MIDDLE = 0.5
#: Learned beta stays within these.
BETA_LOW, BETA_HIGH = 1.0, 200.0
#: A loss has converged where this many epochs together brought less than this share of improvement ...
PATIENCE, IMPROVEMENT = 5, 1e-3
#: ... looked for after this share of the epochs, and taken for granted after that one (RMN: epochs 20 to 80 of 100).
EARLIEST, LATEST = 0.2, 0.8


def pseudo_round(maps: Tensor, beta: Tensor | float) -> Tensor:
    """LR(x; beta) = 1 / (1 + exp(-beta (x - 1/2))), in (0, 1), shape of ``maps`` (RMN, eq. 7).

    Args:
        maps: in [0, 1].
        beta: tightness, > 0; with beta to infinity this is rounding.
    """
    return torch.sigmoid(beta * (maps - MIDDLE))


def hard_round(maps: Tensor) -> Tensor:
    """Which weights a task uses at test, bool: where the pseudo-round is above one half, whatever its beta."""
    return maps > MIDDLE


def straight_through(soft: Tensor, hard: Tensor) -> Tensor:
    """The values of ``hard`` (bool) with the derivative of ``soft``."""
    return hard.to(soft.dtype) + (soft - soft.detach())


def skewed_normal(like: Tensor, loc: Tensor, scale: Tensor, skew: Tensor) -> Tensor:
    """A clipped, skewed normal draw with support [0, 1], shape of ``like`` (RMN, section 4; its parameters are resolved here).

    z = delta |u0| + sqrt(1 - delta^2) u1 with delta = skew / sqrt(1 + skew^2) (Azzalini, 1985).

    Args:
        like: gives shape, type and device.
        loc: where the draw would be without scale.
        scale: of the draw, >= 0.
        skew: alpha; > 0 draws mass above ``loc``, 0 is the normal.
    """
    delta = skew * (1 + skew * skew).rsqrt()
    folded, plain = torch.randn_like(like).abs(), torch.randn_like(like)
    return (loc + scale * (delta * folded + (1 - delta * delta).sqrt() * plain)).clamp(0, 1)


def below(masks: Tensor, mu: Tensor) -> Tensor:
    """Which mask entries are pruned, bool: those that have not tightened towards 1 (RMN, algorithm 1, line 8)."""
    return masks <= mu


def remember(losses: Tensor, loss: Tensor) -> Tensor:
    """The newest epochs' losses with another one, oldest first, shape [``PATIENCE`` + 1]."""
    return torch.cat([losses[1:], loss.reshape(1)])


def converged(losses: Tensor, epoch: int, epochs: int) -> Tensor:
    """Whether the mappings are to be pruned now, bool, shape [].

    The paper prunes "whenever the task loss converges"; the rule is resolved here.

    Args:
        losses: mean training losses of the newest epochs, oldest first, shape [``PATIENCE`` + 1]; infinite before the first.
        epoch: the epoch that just ended, from 0.
        epochs: most epochs of the task.
    """
    done = epoch + 1
    if done >= ceil(LATEST * epochs):
        return torch.ones_like(losses[0], dtype=torch.bool)
    if done < EARLIEST * epochs:
        return torch.zeros_like(losses[0], dtype=torch.bool)
    oldest, newest = losses[0], losses[-1]
    return torch.isfinite(oldest) & (oldest - newest < IMPROVEMENT * oldest.abs())
