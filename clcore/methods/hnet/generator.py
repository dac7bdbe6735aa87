"""The hypernetwork: a small network that turns a task's embedding into all weights of a target network (HNET, section 2.1).

A full hypernetwork gives all weights at once. A chunked one gives them piece by piece: it is run once a chunk, with an embedding
of the chunk beside that of the task, so it can be smaller than what it generates (section 2.2). The last layer is linear, so
all weights are the product of two small matrices, :class:`Factors`; the regulariser is worked out on these.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import isqrt, prod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from clcore.errors import BadValue
from clcore.methods.base import Tensors, symmetric

THETA = "theta."
CHUNKS = THETA + "chunks"

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "elu": F.elu,
    "sigmoid": torch.sigmoid,
    "leaky": F.leaky_relu,
    "linear": lambda hidden: hidden,
}


class Factors(NamedTuple):
    """Generated weights before they are multiplied out: those of chunk c are ``layer @ hidden[:, c]``.

    Attributes:
        layer: the last layer with its bias as last column, shape [chunk, hidden + 1].
        hidden: what feeds it, with ones as last column, shape [embeddings, chunks, hidden + 1].
    """

    layer: Tensor
    hidden: Tensor


@dataclass(frozen=True)
class Generator:
    """The shape of a hypernetwork; its tensors, theta, are a flat dictionary under ``theta.``.

    Attributes:
        outputs: weights of the target network, P.
        embedding: numbers in a task's embedding.
        layers: widths of the hidden layers; none: a linear hypernetwork.
        chunk: weights generated at a time; 0: all at once, a full hypernetwork.
        chunk_embedding: numbers in a chunk's embedding; a full hypernetwork has none.
        activation: one of ``ACTIVATIONS``, after each hidden layer.
        gain: factor on the first weights of the last layer, > 0.
    """

    outputs: int
    embedding: int
    layers: tuple[int, ...] = (25, 25)
    chunk: int = 0
    chunk_embedding: int = 8
    activation: str = "elu"
    gain: float = 1.0

    @property
    def rows(self) -> int:
        """Outputs of the last layer."""
        return self.chunk or self.outputs

    @property
    def chunks(self) -> int:
        """How often the hypernetwork is run for one target network."""
        return -(-self.outputs // self.rows)

    @property
    def width(self) -> int:
        """Numbers that feed the last layer, without the one for its bias."""
        return self.layers[-1] if self.layers else self.embedding + (self.chunk_embedding if self.chunk else 0)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of each tensor of theta."""
        result: dict[str, tuple[int, ...]] = {CHUNKS: (self.chunks, self.chunk_embedding)} if self.chunk else {}
        fan_in = self.embedding + (self.chunk_embedding if self.chunk else 0)
        for index, width in enumerate((*self.layers, self.rows)):
            name = self._name(index)
            result |= {f"{name}.weight": (width, fan_in), f"{name}.bias": (width,)}
            fan_in = width
        return result

    @property
    def size(self) -> int:
        """Numbers in theta, chunk embeddings included and task embeddings not."""
        return sum(prod(shape) for shape in self.shapes.values())

    def draw(self, like: Tensor) -> Tensors:
        """A new theta: Xavier uniform weights, zero biases, N(0, 1) chunk embeddings (HNET's code); type and device of ``like``."""
        theta, last = {}, f"{self._name(len(self.layers))}.weight"
        for name, shape in self.shapes.items():
            if name == CHUNKS:
                theta[name] = torch.randn(*shape, dtype=like.dtype, device=like.device)
            elif len(shape) > 1:
                theta[name] = symmetric(shape, like) * (6 / sum(shape)) ** 0.5 * (self.gain if name == last else 1.0)
            else:
                theta[name] = torch.zeros(*shape, dtype=like.dtype, device=like.device)
        return theta

    def draw_embedding(self, like: Tensor) -> Tensor:
        """A new task embedding from N(0, 1), shape [embedding] (HNET's code)."""
        return torch.randn(self.embedding, dtype=like.dtype, device=like.device)

    def hidden(self, theta: Tensors, embeddings: Tensor) -> Tensor:
        """What feeds the last layer, shape [n, chunks, hidden], for task embeddings, shape [n, embedding]."""
        hidden = embeddings[:, None, :]
        if self.chunk:  # the task's embedding comes first
            tasks = hidden.expand(-1, self.chunks, -1)
            hidden = torch.cat([tasks, theta[CHUNKS].expand(len(embeddings), -1, -1)], -1)
        for index in range(len(self.layers)):
            name = self._name(index)
            hidden = ACTIVATIONS[self.activation](F.linear(hidden, theta[f"{name}.weight"], theta[f"{name}.bias"]))
        return hidden

    def generate(self, theta: Tensors, embedding: Tensor) -> Tensor:
        """All weights of one task's target network, shape [outputs]: chunks end to end, the tail of the last cut off."""
        name = self._name(len(self.layers))
        chunks = F.linear(self.hidden(theta, embedding[None])[0], theta[f"{name}.weight"], theta[f"{name}.bias"])
        return chunks.flatten()[: self.outputs]

    def factors(self, theta: Tensors, embeddings: Tensor) -> Factors:
        """The generated weights of several embeddings, shape [n, embedding], not multiplied out."""
        return Factors(self.last_layer(theta), self.feeding(theta, embeddings))

    def last_layer(self, theta: Tensors) -> Tensor:
        """The factor that all embeddings share: ``Factors.layer``."""
        name = self._name(len(self.layers))
        return torch.cat([theta[f"{name}.weight"], theta[f"{name}.bias"][:, None]], 1)

    def feeding(self, theta: Tensors, embeddings: Tensor) -> Tensor:
        """The factor that each embedding, shape [n, embedding], has of its own: ``Factors.hidden``."""
        hidden = self.hidden(theta, embeddings)
        return torch.cat([hidden, torch.ones_like(hidden[..., :1])], -1)

    def _name(self, index: int) -> str:
        return f"{THETA}hidden.{index}" if index < len(self.layers) else f"{THETA}output"


@dataclass(frozen=True)
class Target:
    """The order in which the flat vector holds the target network's tensors: one after the other, each row by row.

    Attributes:
        shapes: name -> shape, in order.
    """

    shapes: Mapping[str, tuple[int, ...]]

    @property
    def size(self) -> int:
        """Numbers in all tensors."""
        return sum(prod(shape) for shape in self.shapes.values())

    def start(self, name: str) -> int:
        """Where a tensor begins in the flat vector."""
        names = list(self.shapes)
        return sum(prod(self.shapes[n]) for n in names[: names.index(name)])

    def split(self, flat: Tensor) -> Tensors:
        """The tensors that a flat vector, shape [size], holds."""
        parts = torch.split(flat, [prod(shape) for shape in self.shapes.values()])
        return {name: part.reshape(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}


def widths(text: str, knob: str = "layers") -> tuple[int, ...]:
    """The hidden layers that a text like ``25-25`` or ``none`` means; ``knob`` is what it was given for.

    Raises:
        BadValue: anything but whole numbers >= 1 joined by hyphens, or ``none``.
    """
    parts = [] if text.lower() == "none" else text.split("-")
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise BadValue(knob, text, "none, or widths joined by hyphens, e.g. 25-25")
    return tuple(map(int, parts))


def fitted(generator: Generator, compression: float, tasks: int) -> Generator:
    """The hypernetwork with the largest chunk for which it stores no more than a share of the target network.

    Args:
        generator: any chunk.
        compression: largest (theta + task embeddings) / weights of the target network, > 0.
        tasks: embeddings to be stored.

    Returns:
        The fitted hypernetwork; where no chunk is small enough, the one that stores least.
    """
    budget = compression * generator.outputs - tasks * generator.embedding
    per_row = replace(generator, chunk=1).width + 1
    least = max(1, isqrt(generator.outputs * generator.chunk_embedding // per_row))  # where d/dchunk of the size is zero
    trial = replace(generator, chunk=generator.outputs)
    while trial.size > budget and trial.chunk > least:
        trial = replace(trial, chunk=max(least, trial.chunk - max(1, int((trial.size - budget) // per_row))))
    return trial
