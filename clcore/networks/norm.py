"""Batch normalisation as pure tensors: what it saw of a batch is said, not written into the module.

Running statistics belong to whoever owns the weights - a task, a member of a pack - and so they are tensors like any other.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

EPS = 1e-5  # torch's default


class Norm(nn.Module):
    """Normalises each of ``width`` features by the batch in training and by given statistics otherwise.

    Args:
        width: features.
        scale: whether there is a ``weight`` to multiply with, shape [width].
        shift: whether there is a ``bias`` to add, shape [width].
    """

    mean: Tensor
    var: Tensor

    def __init__(self, width: int, scale: bool = True, shift: bool = True) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.ones(width)) if scale else None
        self.bias = nn.Parameter(torch.zeros(width)) if shift else None
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("var", torch.ones(width))
        #: Whether a batch is normalised by itself at test too (HopSupSup).
        self.by_batch = False
        #: Where the statistics of the first batch since it was set are said; see :func:`recording`.
        self.seen: dict[str, Tensor] | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalises ``hidden``, shape [batch, width, ...]."""
        by_batch = self.training or self.by_batch
        if self.training and self.seen == {}:
            self._record(hidden.detach())
        mean, var = (None, None) if by_batch else (self.mean, self.var)
        return torch.batch_norm(hidden, self.weight, self.bias, mean, var, by_batch, 0.0, EPS, torch.backends.cudnn.enabled)

    def _record(self, hidden: Tensor) -> None:
        """Mean and unbiased variance, as torch's running statistics hold them."""
        assert self.seen is not None
        dims = [0, *range(2, hidden.dim())]
        count = hidden.numel() // hidden.shape[1]
        var, mean = torch.var_mean(hidden, dims, correction=0)
        self.seen |= {"mean": mean, "var": var * (count / max(count - 1, 1))}


@contextmanager
def recording(norms: dict[str, Norm]) -> Iterator[dict[str, dict[str, Tensor]]]:
    """While it lasts, each norm says the statistics of the first training batch that passes it.

    Args:
        norms: name -> norm.

    Yields:
        Name -> ``mean`` and ``var`` of the batch (variance unbiased), shape [width]; empty for norms that saw none.
    """
    seen: dict[str, dict[str, Tensor]] = {name: {} for name in norms}
    for name, norm in norms.items():
        norm.seen = seen[name]
    try:
        yield seen
    finally:
        for norm in norms.values():
            norm.seen = None
