"""EWC as HAT's authors have it: a copy of the model, and a penalty summed over named parameters (Kirkpatrick et al. 2017)."""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRENGTH, CLIP, RATE = 5000.0, 100.0, 0.05


class Net(nn.Module):
    """A perceptron with a head a task."""

    def __init__(self, inputs: int, widths: tuple[int, ...], tasks: int) -> None:
        super().__init__()
        sizes = (inputs, *widths)
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in zip(sizes, widths, strict=False))
        self.last = nn.ModuleList(nn.Linear(widths[-1], 10) for _ in range(tasks))

    def forward(self, images: Tensor) -> list[Tensor]:
        hidden = images.flatten(1)
        for layer in self.layers:
            hidden = F.relu(layer(hidden))
        return [head(hidden) for head in self.last]


def second_task(inputs: int, widths: tuple[int, ...]) -> Callable[[Tensor, Tensor], None]:
    """A step, and its share of the pass over the training set that ends each epoch."""
    net = Net(inputs, widths, 10)
    before = deepcopy(net)
    fisher = {name: torch.rand_like(parameter) for name, parameter in net.named_parameters()}
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)

    def criterion(outputs: Tensor, labels: Tensor) -> Tensor:
        penalty = torch.zeros(())
        for (name, parameter), (_, then) in zip(net.named_parameters(), before.named_parameters(), strict=True):
            penalty = penalty + (fisher[name] * (then.detach() - parameter).pow(2)).sum() / 2
        return F.cross_entropy(outputs, labels) + STRENGTH * penalty

    def step(images: Tensor, labels: Tensor) -> None:
        loss = criterion(net(images)[1], labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()
        with torch.no_grad():
            outputs = net(images)[1]
            float(criterion(outputs, labels))
            int((outputs.max(1)[1] == labels).sum())

    return step
