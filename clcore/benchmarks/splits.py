"""Stratified, seeded, disjoint: how rows are divided."""

import numpy as np
import torch
from torch import Tensor

from clcore.randomness import numpy_stream


def stratified(labels: Tensor, fraction: float, seed: int, stream: str) -> tuple[Tensor, Tensor]:
    """Divides rows into two disjoint parts with the same share of every class.

    Each class has a random stream of its own, so that leaving classes out does not move the others.

    Args:
        labels: class of each row, int64, shape [n].
        fraction: share of the second part, in (0, 1); rounded per class, at least one row and never all.
        seed: the trial's seed, or a constant.
        stream: name of the random stream, e.g. ``"validation"``.

    Returns:
        The rows of the first and of the second part, int64, ascending, shapes [n - m] and [m].
    """
    second = torch.zeros(len(labels), dtype=torch.bool)
    for label in np.unique(labels.numpy()).tolist():
        rows = (labels == label).nonzero().squeeze(1).numpy()
        count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        second[torch.from_numpy(numpy_stream(seed, stream, label).permutation(rows)[:count])] = True
    return (~second).nonzero().squeeze(1), second.nonzero().squeeze(1)
