"""RMN as its paper writes it down (no code of its authors' is known): layers make their mask at each pass (Kaushik et al. 2021)."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BETA, RATE = 40.0, 0.002


class Relevant(nn.Module):
    """A layer without bias whose weights go through a mapping a task."""

    def __init__(self, inputs: int, outputs: int, tasks: int) -> None:
        super().__init__()
        self.weight = nn.Linear(inputs, outputs, bias=False).weight
        self.mappings = nn.ParameterList(nn.Parameter(torch.rand(outputs, inputs)) for _ in range(tasks))
        self.log_beta = nn.Parameter(torch.tensor(BETA).log())
        self.pruned = torch.zeros(outputs, inputs, dtype=torch.bool)
        self.used = torch.rand(outputs, inputs) < 0.5
        self.task = 1

    def forward(self, hidden: Tensor) -> Tensor:
        mask = torch.sigmoid(self.log_beta.exp() * (self.mappings[self.task] - 0.5))
        return F.linear(hidden, self.weight * mask.masked_fill(self.pruned, 0.0))


def second_task(inputs: int, widths: tuple[int, ...]) -> Callable[[Tensor, Tensor], None]:
    """A step of the second of ten tasks."""
    sizes = (inputs, *widths, 10)
    layers = [Relevant(before, after, 10) for before, after in pairwise(sizes)]
    norms = [nn.BatchNorm1d(width, affine=False) for width in widths]
    weights = [layer.weight for layer in layers]
    mappings = [parameter for layer in layers for parameter in (layer.mappings[1], layer.log_beta)]
    optimizer = torch.optim.Adam([{"params": weights}, {"params": mappings}], lr=RATE)

    def step(images: Tensor, labels: Tensor) -> None:
        hidden = images.flatten(1)
        for layer, norm in zip(layers, norms, strict=False):
            hidden = F.relu(norm(layer(hidden)))
        optimizer.zero_grad()
        F.cross_entropy(layers[-1](hidden), labels).backward()
        for layer in layers:
            layer.weight.grad[layer.used] = 0  # what an earlier task uses is frozen
        optimizer.step()
        for layer in layers:
            layer.mappings[1].data.clamp_(0, 1)

    return step
