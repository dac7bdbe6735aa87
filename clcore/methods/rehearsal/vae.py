"""A plain variational autoencoder as the model that makes images of earlier tasks; it learns to go on by its own images."""

from dataclasses import dataclass

import torch
from torch import Tensor

from clcore.methods.base import Tensors, symmetric
from clcore.methods.hnet.generator import Target
from clcore.methods.hnet.replay_model import DECODER, ENCODER, mlp
from clcore.methods.hnet.vae import evidence_loss


@dataclass(frozen=True)
class PlainVAE:
    """Both networks are fully connected. Images are made and compared in [0, 1], and given and taken as a benchmark's inputs.

    Attributes:
        shape: of an image, e.g. (1, 28, 28).
        low: value of a black pixel in the benchmark's inputs.
        high: value of a white one.
        encoder: its tensors: from pixels to means and logarithms of variances of the latent numbers.
        decoder: its tensors: from latent numbers to logits of pixels.
        latent: numbers an image is made from.
    """

    shape: tuple[int, ...]
    low: float
    high: float
    encoder: Target
    decoder: Target
    latent: int

    @property
    def names(self) -> tuple[str, ...]:
        """Of all its tensors in params and memory."""
        return (*(ENCODER + name for name in self.encoder.shapes), *(DECODER + name for name in self.decoder.shapes))

    def start(self, like: Tensor) -> Tensors:
        """First weights by torch's default: uniform within 1 / sqrt(inputs) (van de Ven's code); biases are 0."""
        shapes = [*self.encoder.shapes.values(), *self.decoder.shapes.values()]
        drawn = [symmetric(s, like) * s[1] ** -0.5 if len(s) > 1 else like.new_zeros(s) for s in shapes]
        return dict(zip(self.names, drawn, strict=True))

    def loss(self, tensors: Tensors, inputs: Tensor, noisy: bool) -> Tensor:
        """Cross-entropy of the pixels and the prior's term, both a pixel; scalar.

        Args:
            tensors: its own and perhaps others.
            inputs: as in the benchmark, shape [n, ...].
            noisy: whether latent numbers are drawn; else they are their means.
        """
        images = (inputs.flatten(1) - self.low) / (self.high - self.low)
        encoded = mlp({n: tensors[ENCODER + n] for n in self.encoder.shapes}, images)
        return evidence_loss(images, encoded, lambda latent: self._decoded(tensors, latent), noisy)

    def images(self, tensors: Tensors, count: int) -> Tensor:
        """New images as a benchmark's inputs, shape [count, *shape]."""
        like = tensors[self.names[0]]
        made = torch.sigmoid(self._decoded(tensors, torch.randn(count, self.latent, dtype=like.dtype, device=like.device)))
        return (self.low + (self.high - self.low) * made).reshape(count, *self.shape)

    def _decoded(self, tensors: Tensors, latent: Tensor) -> Tensor:
        return mlp({n: tensors[DECODER + n] for n in self.decoder.shapes}, latent)
