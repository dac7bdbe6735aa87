"""Masks of many tasks as bits, and products with them that never hold them all as numbers."""

import torch
from torch import Tensor

#: Most numbers that are unpacked at a time (64 MB of float32).
CHUNK = 2**24


def pack(mask: Tensor) -> Tensor:
    """*Packed.* Zeros and ones, shape [n], as bits: uint8, shape [ceil(n / 8)], the first in the lowest bit."""
    padded = torch.nn.functional.pad(mask, (0, -len(mask) % 8)).reshape(-1, 8)
    powers = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=mask.dtype, device=mask.device)
    return (padded * powers).sum(-1).to(torch.uint8)


def unpack(packed: Tensor, count: int, like: Tensor) -> Tensor:
    """*Packed.* What :func:`pack` packed, as zeros and ones.

    Args:
        packed: uint8, shape [..., ceil(n / 8)].
        count: n.
        like: gives the type.

    Returns:
        Shape [..., n].
    """
    table = torch.arange(256, device=packed.device)[:, None] >> torch.arange(8, device=packed.device) & 1
    return torch.nn.functional.embedding(packed.int(), table.to(like.dtype)).flatten(-2)[..., :count]


def products(vectors: Tensor, packed: Tensor) -> Tensor:
    """*Packed.* Inner product of each vector with each mask, shape [vectors, masks].

    Args:
        vectors: shape [vectors, n].
        packed: shape [masks, ceil(n / 8)].
    """
    padded = torch.nn.functional.pad(vectors, (0, -vectors.shape[-1] % 8))
    parts = padded.reshape(len(padded), -1, 8).unbind(-1)
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
    planes = [_sum([share @ _plane(chunk, bit, share) for share, chunk in chunks]) for bit in range(8)]
    return torch.stack(planes, dim=-1).flatten(-2)[..., :count]


def _plane(packed: Tensor, bit: int, like: Tensor) -> Tensor:
    """One bit of every byte as a number: an eighth of the masks, and twice as fast as unpacking them all."""
    return ((packed >> bit) & 1).to(like.dtype)


def _sum(tensors: list[Tensor]) -> Tensor:
    return torch.stack(tensors).sum(0)


def _at_once(packed: Tensor) -> int:
    return max(1, CHUNK // packed.shape[-1])
