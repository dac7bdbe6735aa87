"""Bools as bits, as tensors: eight a byte, the first in the lowest bit, as ``clcore.masks.pack_bits`` writes them.

Unlike there, everything stays on the device and works under ``torch.func.vmap``.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

BYTE = 8


def pack(values: Tensor) -> Tensor:
    """Bits of ``values`` (bool, shape [n]) as uint8, shape [ceil(n / 8)]."""
    padded = F.pad(values.to(torch.uint8), (0, -len(values) % BYTE)).reshape(-1, BYTE)
    return (padded << _places(values)).sum(-1, dtype=torch.uint8)


def unpack(packed: Tensor, count: int) -> Tensor:
    """The ``count`` bools that :func:`pack` packed."""
    return (packed[:, None] >> _places(packed) & 1).flatten()[:count].bool()


def _places(like: Tensor) -> Tensor:
    return torch.arange(BYTE, dtype=torch.uint8, device=like.device)
