"""From the accuracy matrix to numbers with names: pure functions, each with its formula, range, sign and source.

The matrix ``A`` is float64, shape [T+1, T], of accuracies in [0, 1]. Row 0 is the untrained network, row t the
network after t tasks; column u-1 is task u. In the formulas tasks count from 1, and t = ``seen`` tasks are learned. An
entry that is NaN (a failed trial, or a task that was not measured) makes every number that uses it NaN.
"""

import torch
from torch import Tensor


def average_accuracy(matrix: Tensor, seen: int) -> float:
    """Mean accuracy on the tasks learned so far: ``mean_{u<=t} A[t, u]``.

    Range [0, 1], higher is better. Source: Lopez-Paz & Ranzato 2017 (ACC); HNET's "final" accuracy.

    Args:
        matrix: accuracies, shape [T+1, T].
        seen: tasks learned, 1 .. T.
    """
    return _mean(_check(matrix, seen)[seen, :seen])


def during_accuracy(matrix: Tensor, seen: int) -> float:
    """Mean accuracy on each task right after it was learned: ``mean_{u<=t} A[u, u]``.

    Range [0, 1], higher is better; together with ``average_accuracy`` it separates learning from forgetting.
    Source: von Oswald et al. 2020 (HNET), "during".

    Args:
        matrix: accuracies, shape [T+1, T].
        seen: tasks learned, 1 .. T.
    """
    return _mean(_diagonal(_check(matrix, seen))[:seen])


def forgetting_vs_diagonal(matrix: Tensor, seen: int) -> float:
    """What old tasks lost since they were learned: ``mean_{u<t} (A[u, u] - A[t, u])``.

    Range [-1, 1]; positive = forgot, negative = later tasks helped; 0.0 after one task. Source: the bracketed
    numbers of Masana et al. 2020 (TFM) with the other sign, averaged over old tasks.

    Args:
        matrix: accuracies, shape [T+1, T].
        seen: tasks learned, 1 .. T.
    """
    old = seen - 1
    return _mean((_diagonal(_check(matrix, seen)) - matrix[seen])[:old])


def forgetting_max_previous(matrix: Tensor, seen: int) -> float:
    """What old tasks lost against their best time: ``mean_{u<t} (max_{1<=l<t} A[l, u] - A[t, u])``.

    Range [-1, 1]; positive = forgot; never below ``forgetting_vs_diagonal``; 0.0 after one task. Where a task was not
    measured before it was learned (NaN at l < u), only the measured l count. Source: Chaudhry et al. 2018, equation 3.

    Args:
        matrix: accuracies, shape [T+1, T].
        seen: tasks learned, 1 .. T.
    """
    if seen == 1:
        return 0.0
    old = seen - 1
    past = _check(matrix, seen)[1:seen, :old]
    unmeasured = past.isnan() & torch.ones_like(past, dtype=torch.bool).triu(1)  # above the diagonal: not learned yet
    return _mean(past.masked_fill(unmeasured, -torch.inf).amax(0) - matrix[seen, :old])


def backward_transfer(matrix: Tensor, seen: int) -> float:
    """BWT, what later tasks did to old ones: ``mean_{u<t} (A[t, u] - A[u, u])``.

    Range [-1, 1]; negative = forgot; the negative of ``forgetting_vs_diagonal``; 0.0 after one task.
    Source: Lopez-Paz & Ranzato 2017 (GEM), equation 3.

    Args:
        matrix: accuracies, shape [T+1, T].
        seen: tasks learned, 1 .. T.
    """
    old = seen - 1
    return _mean((_check(matrix, seen)[seen] - _diagonal(matrix))[:old])


def forward_transfer_vs_init(matrix: Tensor, seen: int) -> float:
    """FWT, what earlier tasks did for a task before it is learned: ``mean_{2<=u<=t} (A[u-1, u] - A[0, u])``.

    Range [-1, 1]; positive = earlier tasks helped; 0.0 after one task. The untrained network is that of the same
    seed. Source: Lopez-Paz & Ranzato 2017 (GEM), equation 4.

    Args:
        matrix: accuracies, shape [T+1, T].
        seen: tasks learned, 1 .. T.
    """
    before = _check(matrix, seen)[:-1].diagonal()  # A[u-1, u] for u = 1 .. T
    return _mean((before - matrix[0])[1:seen])


def forgetting_ratio(matrix: Tensor, joint: Tensor, random: Tensor, seen: int) -> float:
    """HAT's rho after t tasks: ``mean_{u<=t} ((A[t, u] - R[u]) / (J[t, u] - R[u]) - 1)``.

    0 = as good as joint training on tasks 1..t, -1 = as bad as a random classifier; at best slightly above 0. NaN or
    infinite where joint training is exactly as good as the random classifier. Source: Serra et al. 2018, section 4.1; R
    is the diagonal of the random run, as in their ``plot_results.py``.

    Args:
        matrix: accuracies, shape [T+1, T].
        joint: J, accuracies of the joint run, re-trained from the initial weights on tasks 1..t, shape [T+1, T].
        random: accuracies of the stratified random classifier's run, shape [T+1, T]; only its diagonal is read.
        seen: tasks learned, 1 .. T.

    Raises:
        ValueError: the three matrices differ in shape.
    """
    if not matrix.shape == joint.shape == random.shape:
        raise ValueError(f"shapes differ: {list(matrix.shape)}, joint {list(joint.shape)}, random {list(random.shape)}")
    chance = _diagonal(_check(random, seen))[:seen]
    return _mean((matrix[seen, :seen] - chance) / (joint[seen, :seen] - chance) - 1)


def named(matrix: Tensor, seen: int) -> dict[str, float]:
    """All numbers that need no reference run, by name.

    Args:
        matrix: accuracies, shape [T+1, T].
        seen: tasks learned, 1 .. T.
    """
    formulas = (
        average_accuracy,
        during_accuracy,
        forgetting_vs_diagonal,
        forgetting_max_previous,
        backward_transfer,
        forward_transfer_vs_init,
    )
    return {formula.__name__: formula(matrix, seen) for formula in formulas}


def _check(matrix: Tensor, seen: int) -> Tensor:
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1] + 1:
        raise ValueError(f"an accuracy matrix has shape [T+1, T], not {list(matrix.shape)}")
    if not 1 <= seen <= matrix.shape[1]:
        raise ValueError(f"seen = {seen} is not between 1 and {matrix.shape[1]} tasks")
    return matrix


def _diagonal(matrix: Tensor) -> Tensor:
    """A[u, u] for u = 1 .. T, shape [T]."""
    return matrix[1:].diagonal()


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else 0.0
