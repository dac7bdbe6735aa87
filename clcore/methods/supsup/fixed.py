"""What SupSup and HopSupSup share: a network whose weights are signed constants from a seed and are never trained."""

from functools import cached_property
from typing import Any

from torch import Tensor

from clcore.methods.base import Layout, Method, Tensors
from clcore.methods.supsup import masks
from clcore.networks.base import HEAD, Network

FIXED = "fixed."


class FixedWeights(Method):
    """A method that trains no weight; one output layer serves all tasks.

    Args:
        hyper: as for every method.
        network: its weights give their signs; what it has besides (biases) stays as it was drawn.
        layout: as for every method.
        outputs: neurons of the output layer.
    """

    task_specific = True
    reads = (FIXED,)

    def __init__(self, hyper: Any, network: Network, layout: Layout, outputs: int) -> None:
        super().__init__(hyper, network, layout)
        self.outputs = outputs

    @property
    def from_seed(self) -> tuple[str, ...]:
        """All weights: a deployment keeps the seed they come from."""
        return (FIXED,)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every weight, the head's last."""
        own = dict(self.network.named_parameters())
        body = {wire.weight: tuple(own[wire.weight].shape) for wire in self.network.body_wires()}
        return {**body, f"{HEAD}.weight": (self.outputs, self.network.features)}

    def start(self, weights: Tensors) -> Tensors:
        """*Packed.* The fixed tensors of body and head."""
        drawn = {**{name: weights[name] for name in self.body}, **self.draw_head(self.outputs, weights[self.body[0]])}
        return {FIXED + n: masks.signed_constant(t) if n in self.shapes else t for n, t in drawn.items()}


def fixed(memory: Tensors) -> dict[str, Tensor]:
    """Name -> the network's fixed tensors."""
    return {name.removeprefix(FIXED): tensor for name, tensor in memory.items() if name.startswith(FIXED)}
