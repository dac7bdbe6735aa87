"""The variational autoencoder whose decoder a hypernetwork generates for each task (HNET, appendix B)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from clcore.methods.base import At, Tensors
from clcore.methods.hnet.replay_model import ENCODER, ReplayModel, mlp


@dataclass(frozen=True)
class VAE(ReplayModel):
    """Its teacher is an encoder: from an image to means and logarithms of variances of the latent numbers."""

    prefix: ClassVar[str] = ENCODER

    def loss(self, params: Tensors, memory: Tensors, at: At, inputs: Tensor) -> Tensor:
        """Cross-entropy of the pixels and the prior's term, both a pixel (HNET, eqs. 3 to 5)."""
        images = self.real(inputs)
        encoded = mlp(self.teacher_of(params), images)
        return evidence_loss(images, encoded, lambda latent: self.decoded(params, memory, at.task, latent), at.phase == "train")


def evidence_loss(images: Tensor, encoded: Tensor, decode: Callable[[Tensor], Tensor], noisy: bool) -> Tensor:
    """Cross-entropy of the pixels and the prior's term, both a pixel (HNET, eqs. 3 to 5; Kingma & Welling, 2014); scalar.

    Args:
        images: in [0, 1], shape [n, pixels].
        encoded: means and logarithms of variances of their latent numbers, shape [n, 2 latent].
        decode: latent numbers, shape [n, latent] -> logits of pixels, shape [n, pixels].
        noisy: whether latent numbers are drawn; else they are their means.
    """
    mean, log_variance = encoded.chunk(2, -1)
    latent = mean + (log_variance / 2).exp() * torch.randn_like(mean) if noisy else mean
    prior = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(-1).mean()
    pixels: Tensor = F.binary_cross_entropy_with_logits(decode(latent), images)
    return pixels + prior / images.shape[-1]
