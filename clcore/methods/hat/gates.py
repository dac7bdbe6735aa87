"""HAT's formulas: annealing, gates, gradient compensation, cumulative attention, regulariser.

Each is a pure function of tensors; the variants are those of the paper's Appendix D.
"""

from math import pi

import torch
from torch import Tensor

#: cosh is taken of at most this much, so that it stays finite (HAT's code, thres_cosh).
COSH_LIMIT = 50.0
#: Embeddings stay within plus and minus this (HAT, section 2.5; thres_emb).
EMBEDDING_LIMIT = 6.0
#: tan-annealing stops this short of its pole, at s of about 12,700.
TAN_LIMIT = 1 - 1e-4

SCHEDULES = ("code", "paper", "linear", "tan", "tan-beta")
GATES = ("sigmoid", "clamped-linear")
CUMULATIVE = ("max", "product", "decayed")
REGULARISERS = ("weighted", "l1", "l2")


def anneal(schedule: str, smax: Tensor, beta: Tensor, progress: Tensor | float, consumed: Tensor | float) -> Tensor:
    """The gates' slope s for one batch; it restarts every epoch.

    Args:
        schedule: ``paper``: 1/smax + (smax - 1/smax)(b-1)/(B-1) (HAT, eq. 3); ``code``: the same with the share of samples
            before the batch, which never quite reaches smax; ``linear``: smax (b-1)/(B-1); ``tan`` and ``tan-beta``: D.2.
        smax: the largest slope, >= 1.
        beta: factor of ``tan-beta``.
        progress: (b-1)/(B-1), in [0, 1].
        consumed: samples before the batch / samples of the epoch, in [0, 1).
    """
    if schedule == "linear":  # D.2 warns of s = 0: its compensation divides by s
        return torch.maximum(smax * progress, 1 / smax)
    if schedule in ("tan", "tan-beta"):
        share = torch.as_tensor(progress, dtype=smax.dtype, device=smax.device).clamp(max=TAN_LIMIT)
        return torch.tan(pi / 4 * (1 + share)) + 0 * smax if schedule == "tan" else 1 + beta * torch.tan(pi / 2 * share)
    ramp = progress if schedule == "paper" else consumed
    return 1 / smax + (smax - 1 / smax) * ramp


def gate(kind: str, embedding: Tensor, slope: Tensor, valid_range: Tensor) -> Tensor:
    """Attention of each unit, in [0, 1], shape [units].

    Args:
        kind: ``sigmoid``: sigma(s e) (HAT, eq. 1); ``clamped-linear``: clamp(s e / r + 1/2, 0, 1) (D.3).
        embedding: shape [units].
        slope: s.
        valid_range: r of the clamped-linear gate, > 0.
    """
    if kind == "sigmoid":
        return torch.sigmoid(slope * embedding)
    return (slope * embedding / valid_range + 0.5).clamp(0, 1)


def compensation(kind: str, embedding: Tensor, slope: Tensor, smax: Tensor) -> Tensor:
    """What an embedding's gradient is multiplied by, shape [units].

    For the sigmoid gate smax (cosh(s e) + 1) / (s (cosh(e) + 1)) (HAT, section 2.5); for the clamped-linear gate smax / s (D.3).
    """
    if kind == "clamped-linear":
        return (smax / slope).expand_as(embedding)
    numerator = torch.cosh((slope * embedding).clamp(-COSH_LIMIT, COSH_LIMIT)) + 1
    return smax / slope * numerator / (torch.cosh(embedding) + 1)


def with_analytic_gradient(attention: Tensor, embedding: Tensor, smax: Tensor) -> Tensor:
    """Sigmoid ``attention`` with the compensated derivative smax sigma(e)(1 - sigma(e)) in exact arithmetic.

    Equal to :func:`compensation` where float32 can hold the sigmoid's own derivative (|s e| below about 10), but without its
    one-sided noise beyond.
    """
    surrogate = smax * torch.sigmoid(embedding)
    return attention.detach() + (surrogate - surrogate.detach())


def accumulate(rule: str, attention: Tensor, before: Tensor, kappa: Tensor) -> Tensor:
    """Cumulative attention after a task, shape [units]: ``max`` (HAT, section 2.3); ``product`` and ``decayed`` by kappa (D.4)."""
    if rule == "product":
        return 1 - (1 - attention) * (1 - before)
    return torch.maximum(attention, before if rule == "max" else kappa * before)


def regulariser(kind: str, attention: Tensor, before: Tensor) -> Tensor:
    """R in [0, 1]: ``weighted`` counts only units that earlier tasks left free (HAT, eq. 5); ``l1``, ``l2``: D.6."""
    if kind == "weighted":
        free = 1 - before
        # With no free unit left numerator and denominator are both 0; R is then 0.
        return (attention * free).sum() / free.sum().clamp_min(torch.finfo(free.dtype).tiny)
    return attention.mean() if kind == "l1" else attention.square().mean()
