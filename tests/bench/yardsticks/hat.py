"""HAT as its authors' code is organised: one module, loops over named parameters, gates worked out anew, ``torch.optim``.

Written from the paper's description and from what ``docs/performance.md`` says of that code, to be measured against; the numbers it
learns are HAT's (Serra et al. 2018, eqs. 1 to 5), the way it gets them is the slow one on purpose.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Step = Callable[[Tensor, Tensor], None]
LIMIT, CLIP, SATURATED = 6.0, 10_000.0, 50.0


class Net(nn.Module):
    """A perceptron with a table of embeddings a layer and a head a task."""

    def __init__(self, inputs: int, widths: tuple[int, ...], classes: tuple[int, ...]) -> None:
        super().__init__()
        sizes = (inputs, *widths)
        for index, (before, after) in enumerate(zip(sizes, widths, strict=False)):
            setattr(self, f"fc{index}", nn.Linear(before, after))
            setattr(self, f"efc{index}", nn.Embedding(len(classes), after))
        self.depth = len(widths)
        self.last = nn.ModuleList(nn.Linear(widths[-1], count) for count in classes)

    def masks(self, task: Tensor, slope: float) -> list[Tensor]:
        return [torch.sigmoid(slope * getattr(self, f"efc{index}")(task)) for index in range(self.depth)]

    def forward(self, task: Tensor, images: Tensor, slope: float) -> tuple[list[Tensor], list[Tensor]]:
        masks, hidden = self.masks(task, slope), images.flatten(1)
        for index, mask in enumerate(masks):
            hidden = F.relu(getattr(self, f"fc{index}")(hidden))
            hidden = hidden * mask.expand_as(hidden)
        return [head(hidden) for head in self.last], masks  # the heads of all tasks, of which one is looked at


class Trainer:
    """One model, one task after another."""

    def __init__(self, net: Net, smax: float, c: float, lr: float) -> None:
        self.net, self.smax, self.c, self.lr = net, smax, c, lr
        self.device = next(net.parameters()).device
        self.past: list[Tensor] | None = None
        self.back: dict[str, Tensor] = {}
        self.restart(lr)

    def restart(self, lr: float) -> None:
        """A fresh optimiser, as at each task and each time the rate drops."""
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=lr)

    def criterion(self, outputs: Tensor, labels: Tensor, masks: list[Tensor]) -> Tensor:
        penalty, count = torch.zeros(()), torch.zeros(())
        for index, mask in enumerate(masks):
            free = 1 - self.past[index] if self.past is not None else torch.ones_like(mask)
            penalty = penalty + (mask * free).sum()
            count = count + free.sum()
        return F.cross_entropy(outputs, labels) + self.c * penalty / count

    def step(self, task: int, images: Tensor, labels: Tensor, progress: float) -> float:
        slope = (self.smax - 1 / self.smax) * progress + 1 / self.smax
        outputs, masks = self.net(torch.tensor([task], device=self.device), images, slope)
        loss = self.criterion(outputs[task], labels, masks)
        self.optimizer.zero_grad()
        loss.backward()
        if task > 0:
            for name, parameter in self.net.named_parameters():
                if name in self.back and parameter.grad is not None:
                    parameter.grad.data *= self.back[name]
        for name, parameter in self.net.named_parameters():
            if name.startswith("efc"):
                numerator = torch.cosh(torch.clamp(slope * parameter.data, -SATURATED, SATURATED)) + 1
                denominator = torch.cosh(parameter.data) + 1
                parameter.grad.data *= self.smax / slope * numerator / denominator
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), CLIP)
        self.optimizer.step()
        for name, parameter in self.net.named_parameters():
            if name.startswith("efc"):
                parameter.data = torch.clamp(parameter.data, -LIMIT, LIMIT)
        return float(loss.detach())

    def evaluate(self, task: int, images: Tensor, labels: Tensor) -> tuple[float, int]:
        """Loss summed over a batch, and how many are right."""
        with torch.no_grad():
            outputs, masks = self.net(torch.tensor([task], device=self.device), images, self.smax)
            loss = self.criterion(outputs[task], labels, masks)
            right = (outputs[task].max(1)[1] == labels).float()
            return float(loss.cpu().numpy()) * len(labels), int(right.sum().cpu().numpy())

    def close(self, task: int) -> None:
        """The masks of all tasks so far, and what they leave of each gradient (eq. 2)."""
        masks = [mask.detach() for mask in self.net.masks(torch.tensor([task], device=self.device), self.smax)]
        self.past = masks if self.past is None else [torch.max(a, b) for a, b in zip(self.past, masks, strict=True)]
        for index, after in enumerate(self.past):
            before = self.past[index - 1].view(1, -1) if index else torch.ones(1, 1)
            weight = getattr(self.net, f"fc{index}").weight
            self.back[f"fc{index}.weight"] = 1 - torch.min(after.view(-1, 1).expand_as(weight), before.expand_as(weight))
            self.back[f"fc{index}.bias"] = 1 - after.view(-1)


def second_task(inputs: int, widths: tuple[int, ...]) -> Step:
    """A step, and its share of the pass over the training set that ends each epoch."""
    trainer = Trainer(Net(inputs, widths, (10,) * 10), 400.0, 0.75, 0.05)
    trainer.close(0)

    def step(images: Tensor, labels: Tensor) -> None:
        trainer.step(1, images, labels, 0.5)
        trainer.evaluate(1, images, labels)

    return step
