"""Expected log-likelihood of labels under independent Gaussian function values: the left of FRCL, eq. 4."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clcore.methods.losses import cross_entropy

#: Smallest variance of a function value (gpflow, which FRCL's code is made with).
LEAST = 1e-10
#: Probability that a label is not the largest output's, points of the quadrature, how far normal CDFs keep off 0 and 1 (gpflow).
SLIP, NODES, MARGIN = 1e-3, 20, 1e-4


def softmax_loss(mean: Tensor, variance: Tensor, labels: Tensor, samples: int) -> Tensor:
    """*Packed.* Cross-entropy, mean over examples and values drawn for them.

    Args:
        mean: of the function values, shape [batch, outputs].
        variance: shape [batch, outputs].
        labels: shape [batch].
        samples: values drawn for each example.
    """
    noise = torch.randn(samples, *mean.shape, dtype=mean.dtype, device=mean.device)
    drawn = mean + variance.clamp(min=LEAST).sqrt() * noise
    return cross_entropy(drawn.flatten(0, 1), labels.repeat(samples)).mean()


def robustmax_loss(mean: Tensor, variance: Tensor, labels: Tensor, nodes: Tensor) -> Tensor:
    """*Packed.* -E log p(y|f), mean over examples, where the label is the largest output's but for a slip (FRCL's code: gpflow's).

    The probability that an output is the largest is an integral over its own value, by Gauss-Hermite quadrature.

    Args:
        mean: of the function values, shape [batch, outputs].
        variance: shape [batch, outputs].
        labels: shape [batch].
        nodes: by :func:`hermite`.
    """
    scale, outputs = variance.clamp(min=LEAST).sqrt(), mean.shape[-1]
    own = labels.long()[:, None]
    values = mean.gather(-1, own) + scale.gather(-1, own) * nodes[0]
    below = torch.special.ndtr((values[:, :, None] - mean[:, None]) / scale[:, None]) * (1 - 2 * MARGIN) + MARGIN
    others = 1 - F.one_hot(own, outputs).to(mean)
    largest = ((below.log() * others).sum(-1).exp() * nodes[1]).sum(-1)
    right, wrong = math.log(1 - SLIP), math.log(SLIP / max(1, outputs - 1))
    loss: Tensor = -(largest * right + (1 - largest) * wrong).mean()
    return loss


def hermite(like: Tensor) -> Tensor:
    """Places and weights of a quadrature over the standard normal, shape [2, nodes], with the type and device of ``like``."""
    places, weights = np.polynomial.hermite.hermgauss(NODES)
    return torch.from_numpy(np.stack([places * math.sqrt(2), weights / math.sqrt(math.pi)])).to(like)
