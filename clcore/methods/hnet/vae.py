"""The replay model: a variational autoencoder whose decoder a hypernetwork generates for each task (HNET, appendix B).

The decoder is told the task twice: its weights come from the task's embedding, and beside the latent numbers it is given a
constant of the task, drawn once from N(0, 1). The encoder is an ordinary network; it serves only the task in training.

Images are made and compared in [0, 1]. Inputs of a benchmark are normalised; what they were in [0, 1] follows from the smallest
and the largest value an input can have, which :class:`clcore.methods.base.Layout` says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from clcore.methods.base import At, Layout, Tensors, symmetric
from clcore.methods.hnet.generator import Target, widths
from clcore.methods.hnet.hypernetwork import EMBEDDING, Hypernetwork
from clcore.methods.hnet.knobs import ReplayKnobs
from clcore.methods.hnet.regulariser import Held

ENCODER, DECODER = "encoder.", "decoder."
CONDITIONS = DECODER + "conditions"


@dataclass(frozen=True)
class ReplayModel:
    """Learns to make images of each task, and keeps making those of old ones.

    Attributes:
        shape: of an image, e.g. (1, 28, 28).
        tasks: tasks it is to learn: all but the last of a benchmark.
        low: value of a black pixel in the benchmark's inputs.
        high: value of a white one.
        encoder: its tensors.
        decoder: the tensors that the hypernetwork generates.
        latent: numbers an image is encoded as.
        condition: constant numbers a task.
        hypernetwork: generates the decoder.
    """

    shape: tuple[int, ...]
    tasks: int
    low: float
    high: float
    encoder: Target
    decoder: Target
    latent: int
    condition: int
    hypernetwork: Hypernetwork

    def start(self, like: Tensor) -> Tensors:
        """An encoder, a hypernetwork for the decoder, and each task's constant, shape [tasks, condition]."""
        weights = {}
        for name, shape in self.encoder.shapes.items():
            bound = (6 / sum(shape)) ** 0.5 if len(shape) > 1 else 0.0  # HNET's code: Xavier uniform, biases zero
            weights[ENCODER + name] = symmetric(shape, like) * bound
        constants = torch.randn(self.tasks, self.condition, dtype=like.dtype, device=like.device)
        return weights | self.hypernetwork.start(like) | {CONDITIONS: constants}

    def begin(self, memory: Tensors, task: int) -> Tensors:
        """What is trained: the encoder and the hypernetwork; nothing at the last task, which is never replayed."""
        if task >= self.tasks:
            return {}
        return {ENCODER + name: memory[ENCODER + name] for name in self.encoder.shapes} | self.hypernetwork.begin(memory)

    def end(self, params: Tensors, task: int) -> Tensors:
        """What is kept."""
        if task >= self.tasks:
            return {}
        return {ENCODER + name: params[ENCODER + name] for name in self.encoder.shapes} | self.hypernetwork.end(params, task)

    def loss(self, params: Tensors, memory: Tensors, at: At, inputs: Tensor) -> Tensor:
        """Cross-entropy of the pixels and the prior's term, both a pixel (HNET, eqs. 3 to 5); without noise in phase eval.

        Args:
            params: in training.
            memory: of one member.
            at: the task.
            inputs: shape [batch, ...].
        """
        images = (inputs.flatten(1) - self.low) / (self.high - self.low)
        encoded = _mlp({name: params[ENCODER + name] for name in self.encoder.shapes}, images)
        mean, log_variance = encoded[:, : self.latent], encoded[:, self.latent :]
        noise = torch.randn_like(mean) if at.phase == "train" else torch.zeros_like(mean)
        latent = mean + (log_variance / 2).exp() * noise
        made = self._decode(self.hypernetwork.weights(params, memory, at.task), memory[CONDITIONS][at.task], latent)
        prior = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(-1).mean()
        pixels: Tensor = F.binary_cross_entropy_with_logits(made, images)
        return pixels + prior / prod(self.shape)

    def replay(self, memory: Tensors, tasks: Sequence[int], count: int) -> Tensor:
        """New images of old tasks as a benchmark's inputs, shape [tasks, count, *shape], from the memory's decoders."""
        made = []
        for task in tasks:
            constants = memory[CONDITIONS]
            latent = torch.randn(count, self.latent, dtype=constants.dtype, device=constants.device)
            made.append(torch.sigmoid(self._decode(self.hypernetwork.weights({}, memory, task), constants[task], latent)))
        images = torch.stack(made).reshape(len(made), count, *self.shape)
        return self.low + (self.high - self.low) * images

    def _decode(self, flat: Tensor, constants: Tensor, latent: Tensor) -> Tensor:
        inputs = torch.cat([latent, constants.expand(len(latent), -1)], -1)
        return _mlp(self.decoder.split(flat), inputs)


def replay_model(hyper: ReplayKnobs, layout: Layout) -> ReplayModel:
    """The replay model for a benchmark's images; fully connected, whatever the classifier is.

    Raises:
        BadValue: widths that are none.
    """
    pixels = prod(layout.shape)
    encoder = Target(_layers((pixels, *widths(hyper.encoder, "encoder"), 2 * hyper.latent)))
    decoder = Target(_layers((hyper.latent + hyper.condition_size, *widths(hyper.decoder, "decoder"), pixels)))
    tasks = len(layout.outputs) - 1
    hypernetwork = Hypernetwork(
        hyper.generator(decoder.size, hyper.replay_chunk, tasks), Held(decoder.size, decoder.size), DECODER, hyper.regulariser,
        hyper.lookahead, hyper.reg_batch, hyper.continue_embeddings,
    )  # fmt: skip
    parts = encoder, decoder, hyper.latent, hyper.condition_size, hypernetwork
    return ReplayModel(layout.shape, tasks, layout.low, layout.high, *parts)


def share_of(batch: int, tasks: int) -> int:
    """Replayed images of each old task: as many in all as are new, rounded up (HNET's code)."""
    return -(-batch // tasks)


#: Parameters that the stage of the replay model trains.
REPLAY = (ENCODER, DECODER)
#: The part of them that learns at the embeddings' rate.
REPLAY_EMBEDDING = DECODER + EMBEDDING


def _layers(sizes: Sequence[int]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        shapes |= {f"{index}.weight": (outputs, inputs), f"{index}.bias": (outputs,)}
    return shapes


def _mlp(tensors: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
    """Layers with ReLU between them."""
    layers = len(tensors) // 2
    for index in range(layers):
        hidden = F.linear(hidden, tensors[f"{index}.weight"], tensors[f"{index}.bias"])
        hidden = torch.relu(hidden) if index < layers - 1 else hidden
    return hidden
