"""HNET as its authors have it: a module that generates all weights, Adam's next step worked out beside it, a loop over old tasks.

Von Oswald et al. 2020, eq. 2, with the chunks of section 2.2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BETA, RATE = 0.01, 0.001


@dataclass(frozen=True)
class Shape:
    """Of a hypernetwork: widths of its hidden layers, and numbers of a task's embedding, a chunk, and a chunk's embedding."""

    layers: tuple[int, ...]
    embedding: int
    chunk: int
    chunk_embedding: int


class Hypernetwork(nn.Module):
    """Task embeddings, chunk embeddings, and the layers between them and the weights."""

    def __init__(self, shape: Shape, outputs: int, tasks: int) -> None:
        super().__init__()
        self.outputs, count = outputs, -(-outputs // shape.chunk)
        self.tasks = nn.ParameterList(nn.Parameter(torch.randn(shape.embedding)) for _ in range(tasks))
        self.chunks = nn.Parameter(torch.randn(count, shape.chunk_embedding))
        sizes = (shape.embedding + shape.chunk_embedding, *shape.layers, shape.chunk)
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))

    @property
    def theta(self) -> list[nn.Parameter]:
        return [self.chunks, *self.layers.parameters()]

    def forward(self, task: int, moved: list[Tensor] | None = None) -> Tensor:
        theta = self.theta if moved is None else [p + d for p, d in zip(self.theta, moved, strict=True)]
        hidden = torch.cat([self.tasks[task].expand(len(theta[0]), -1), theta[0]], 1)
        pairs = list(zip(theta[1::2], theta[2::2], strict=True))
        for index, (weight, bias) in enumerate(pairs):
            hidden = F.linear(hidden, weight, bias)
            hidden = hidden if index == len(pairs) - 1 else F.elu(hidden)
        return hidden.flatten()[: self.outputs]


def next_step(optimizer: torch.optim.Adam) -> list[Tensor]:
    """What Adam would add to each parameter, with its state left as it is."""
    moves = []
    for group in optimizer.param_groups:
        (first, second), rate, eps = group["betas"], group["lr"], group["eps"]
        for parameter in group["params"]:
            gradient = parameter.grad.detach().clone()
            state = optimizer.state.get(parameter) or {}
            mean = state["exp_avg"].clone() if state else torch.zeros_like(gradient)
            square = state["exp_avg_sq"].clone() if state else torch.zeros_like(gradient)
            count = int(state["step"]) + 1 if state else 1
            mean.mul_(first).add_(gradient, alpha=1 - first)
            square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
            size = rate * (1 - second**count) ** 0.5 / (1 - first**count)
            moves.append(-size * mean / (square.sqrt() + eps))
    return moves


def second_task(inputs: int, widths: tuple[int, ...], shape: Shape) -> Callable[[Tensor, Tensor], None]:
    """A step of the second of two tasks, whose heads are both generated."""
    sizes = (inputs, *widths, 20)
    shapes = [form for before, after in pairwise(sizes) for form in ((after, before), (after,))]
    counts = [torch.Size(form).numel() for form in shapes]
    net = Hypernetwork(shape, sum(counts), 2)
    targets = [net(0).detach()]
    theta, embedding = torch.optim.Adam(net.theta, lr=RATE), torch.optim.Adam([net.tasks[1]], lr=RATE)

    def step(images: Tensor, labels: Tensor) -> None:
        theta.zero_grad()
        embedding.zero_grad()
        weights = [part.view(form) for part, form in zip(net(1).split(counts), shapes, strict=True)]
        hidden = images.flatten(1)
        for index in range(0, len(weights), 2):
            hidden = F.linear(hidden, weights[index], weights[index + 1])
            hidden = hidden if index == len(weights) - 2 else F.relu(hidden)
        F.cross_entropy(hidden[:, 10:], labels).backward(retain_graph=True)
        moved = next_step(theta)
        held = torch.zeros(())
        for task, target in enumerate(targets):
            held = held + (target - net(task, moved)).pow(2).sum()
        (BETA * held / len(targets)).backward()
        theta.step()
        embedding.step()

    return step
