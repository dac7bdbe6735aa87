"""What scores are before a task is learned: drawn, zero, or carried over from earlier tasks (SupSup, 4.2 and App. D.5)."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from clcore.methods.base import symmetric


def fresh(shape: Sequence[int], like: Tensor) -> Tensor:
    """Scores drawn uniformly within +-1/sqrt(fan_in) (SupSup's code: Kaiming uniform with a = sqrt(5)).

    Args:
        shape: of the weight, [out, in, ...].
        like: gives type and device.
    """
    bound: float = prod(shape[1:]) ** -0.5
    return symmetric(shape, like) * bound


def from_masks(mean: Tensor, drawn: Tensor, centred: bool) -> Tensor:
    """Scores from the running mean of the earlier tasks' masks, scaled to the norm of drawn ones (SupSup, App. D.5).

    Args:
        mean: of the masks, in [0, 1], shape of the weight.
        drawn: fresh scores of that shape.
        centred: for threshold masks, whose scores' signs decide: half of the tasks is then the limit (resolved here). Otherwise
            weights that no task used get the smallest positive score: at 0 the absolute value has no gradient, and they could
            never come in.
    """
    raw = mean - 0.5 if centred else mean
    scaled: Tensor = raw * (drawn.norm() / raw.norm().clamp_min(torch.finfo(raw.dtype).tiny))
    return scaled if centred else scaled.clamp_min(torch.finfo(raw.dtype).tiny)
