"""Masks as bits on the device, and products with many of them that never hold them all as numbers.

The bits are those of ``clcore.masks.pack_bits``, but everything stays on the device and works under ``torch.func.vmap``.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

BYTE = 8
#: Most numbers that are unpacked at a time (64 MB of float32).
CHUNK = 2**24


def pack(mask: Tensor) -> Tensor:
    """*Packed.* Bools, or zeros and ones, shape [n], as bits: uint8, shape [ceil(n / 8)], the first in the lowest bit."""
    padded = F.pad(mask.to(torch.uint8), (0, -len(mask) % BYTE)).reshape(-1, BYTE)
    return (padded << torch.arange(BYTE, dtype=torch.uint8, device=mask.device)).sum(-1, dtype=torch.uint8)


def unpack(packed: Tensor, count: int, dtype: torch.dtype = torch.bool) -> Tensor:
    """*Packed.* What :func:`pack` packed.

    Args:
        packed: uint8, shape [..., ceil(n / 8)].
        count: n.
        dtype: bool, or a type for zeros and ones.

    Returns:
        Shape [..., n].
    """
    table = torch.arange(256, device=packed.device)[:, None] >> torch.arange(BYTE, device=packed.device) & 1
    return F.embedding(packed.int(), table.to(dtype)).flatten(-2)[..., :count]


def products(vectors: Tensor, packed: Tensor) -> Tensor:
    """*Packed.* Inner product of each vector with each mask, shape [vectors, masks].

    Args:
        vectors: shape [vectors, n].
        packed: shape [masks, ceil(n / 8)].
    """
    padded = F.pad(vectors, (0, -vectors.shape[-1] % BYTE))
    parts = padded.reshape(len(padded), -1, BYTE).unbind(-1)
    chunks = torch.split(packed, _at_once(packed))
    return torch.cat([_sum([part @ _plane(chunk, bit, part).mT for bit, part in enumerate(parts)]) for chunk in chunks], dim=-1)


def mixtures(shares: Tensor, packed: Tensor, count: int) -> Tensor:
    """*Packed.* Weighted sums of the masks, shape [sums, n].

    Args:
        shares: weight of each mask in each sum, shape [sums, masks].
        packed: shape [masks, ceil(n / 8)].
        count: n.
    """
    size = _at_once(packed)
    chunks = list(zip(torch.split(shares, size, dim=-1), torch.split(packed, size), strict=True))
    planes = [_sum([share @ _plane(chunk, bit, share) for share, chunk in chunks]) for bit in range(BYTE)]
    return torch.stack(planes, dim=-1).flatten(-2)[..., :count]


def _plane(packed: Tensor, bit: int, like: Tensor) -> Tensor:
    """One bit of every byte as a number: an eighth of the masks, and twice as fast as unpacking them all."""
    return ((packed >> bit) & 1).to(like.dtype)


def _sum(tensors: list[Tensor]) -> Tensor:
    return torch.stack(tensors).sum(0)


def _at_once(packed: Tensor) -> int:
    return max(1, CHUNK // packed.shape[-1])
