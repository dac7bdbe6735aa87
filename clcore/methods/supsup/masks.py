"""Supermasks: fixed weights, the scores trained in their place, and the 0/1 masks that scores give.

Weights never change. A mask keeps either a given number of entries, those of largest absolute score (edge-popup; SupSup, App. E),
or all entries with score >= 0 (SupSup's code for GNu). Gradients pass straight through to the scores.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

#: Bits of a number that :func:`topk` looks at together: a histogram of them should not be longer than the layer.
SHORT, LONG = 8, 16
#: Scores from which on two passes with long digits cost less than four with short ones (measured on a CPU: about 40,000).
MANY = 2**15
#: Largest share of a layer's weights that a mask may keep by the density budget (SupSup's code).
MOST_KEPT = 0.5


def signed_constant(drawn: Tensor) -> Tensor:
    """Weights of one size and the drawn signs: +-sqrt(2 / fan_in) (SupSup's code, signed constant; Kaiming's gain for ReLU).

    Args:
        drawn: weights as the network drew them from the trial's seed, shape [out, in, ...]; only their signs matter.
    """
    size: float = (2 / prod(drawn.shape[1:])) ** 0.5
    return (2 * (drawn >= 0).to(drawn.dtype) - 1) * size


def kept_share(shape: Sequence[int], density: Tensor) -> Tensor:
    """Share of a layer's weights that is kept, in (0, 0.5], double precision: min(.5, s (out + in) / (out in kh kw)) (ER budget).

    Args:
        shape: of the weight, [out, in] or [out, in, kh, kw].
        density: s, > 0; scalar.
    """
    return (density.double() * (shape[0] + shape[1]) / prod(shape)).clamp(max=MOST_KEPT)


def kept(count: int, share: Tensor) -> Tensor:
    """How many of ``count`` weights a share keeps: count - floor((1 - share) count), int64 scalar (SupSup's code)."""
    return count - ((1 - share.double()) * count).floor().long()


def threshold(scores: Tensor) -> Tensor:
    """Mask of the scores >= 0, as numbers 0 and 1 (SupSup's code for GNu, NNs); its gradient is passed on as it is."""
    return _straight_through((scores >= 0).to(scores.dtype), scores)


def topk(scores: Tensor, kept: Tensor) -> Tensor:
    """*Packed.* Mask of exactly ``kept`` scores of largest size, as numbers 0 and 1 (SupSup, App. E).

    Its gradient reaches a score times the score's sign. Among equals the later ones are kept, as a stable ascending sort has it.

    Args:
        scores: any shape, n entries; none of them NaN.
        kept: how many, in [1, n]; int64 scalar, and so each member of a pack may keep its own number.
    """
    sizes = scores.abs()
    return _straight_through(_largest(sizes.detach().flatten(), kept).reshape(scores.shape).to(scores.dtype), sizes)


def _largest(sizes: Tensor, kept: Tensor) -> Tensor:
    """Bool, shape [n]: the ``kept`` largest of ``sizes``, shape [n], all >= 0.

    Floats >= 0 are in the order of their bits, so the bits are gone through from the highest digit to the lowest, with a histogram
    of each: a tenth of the time of sorting, no number leaves the device, and the count may differ between members.
    """
    bits = sizes.view(torch.int64 if sizes.dtype == torch.float64 else torch.int32)
    length = SHORT if len(sizes) < MANY else LONG
    missing = kept.to(bits.dtype)  # how many to keep among those that have the digits so far of the smallest one kept
    prefix = torch.zeros_like(missing)
    for shift in range(8 * sizes.element_size() - length, -1, -length):
        shifted = bits >> shift
        digits, counted = shifted.bitwise_and(2**length - 1).long(), (shifted >> length) == prefix
        counts = torch.zeros(2**length, dtype=bits.dtype, device=bits.device).scatter_add(0, digits, counted.to(bits.dtype))
        at_least = counts.flip(0).cumsum(0, dtype=bits.dtype).flip(0)
        digit = (at_least >= missing).sum(dtype=bits.dtype) - 1
        missing = missing - (at_least - counts).gather(0, digit.long()[None])[0]
        prefix = (prefix << length) | digit
    tied = bits == prefix
    place = tied.cumsum(0, dtype=bits.dtype)
    return (bits > prefix) | (tied & (place > place[-1] - missing))


def _straight_through(mask: Tensor, scores: Tensor) -> Tensor:
    return mask + (scores - scores.detach())
