"""SupSup as its authors have it: layers as 1x1 convolutions, scores sorted at each pass (Wortsman et al. 2020, App. E)."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DENSITY, MOST, RATE = 8.0, 0.5, 1e-4


class Subnet(torch.autograd.Function):
    """1 for the largest scores, 0 for the others; the gradient passes straight through."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, share: float) -> Tensor:
        found = scores.clone()
        _, order = scores.flatten().sort()
        flat, dropped = found.flatten(), int((1 - share) * scores.numel())
        flat[order[:dropped]] = 0
        flat[order[dropped:]] = 1
        return flat.view_as(scores)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class Masked(nn.Conv2d):
    """A layer of fixed weights with scores a task."""

    def __init__(self, inputs: int, outputs: int, tasks: int) -> None:
        super().__init__(inputs, outputs, 1, bias=False)
        self.scores = nn.ParameterList(nn.Parameter(torch.empty_like(self.weight)) for _ in range(tasks))
        for scores in self.scores:
            nn.init.kaiming_uniform_(scores, a=5**0.5)
        self.weight.requires_grad = False
        self.share = min(MOST, DENSITY * (inputs + outputs) / (inputs * outputs))
        self.task = 0

    def forward(self, images: Tensor) -> Tensor:
        subnet = Subnet.apply(self.scores[self.task].abs(), self.share)
        return F.conv2d(images, self.weight * subnet)


def second_task(inputs: int, widths: tuple[int, ...]) -> Callable[[Tensor, Tensor], None]:
    """A step of the second of ten tasks."""
    sizes = (inputs, *widths, 10)
    layers = [Masked(before, after, 10) for before, after in pairwise(sizes)]
    for layer in layers:
        layer.task = 1
    net = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))[:-1]
    optimizer = torch.optim.RMSprop([layer.scores[1] for layer in layers], lr=RATE)

    def step(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images.view(len(images), -1, 1, 1)).flatten(1), labels)
        loss.backward()
        optimizer.step()

    return step
