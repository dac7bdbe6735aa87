"""Multi-layer perceptron with any widths: linear, ReLU, dropout, units - the order of HAT's code."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from clcore.errors import BadValue
from clcore.networks.base import HEAD, INPUT_UNITS, Network, Units, Wire, dropout


class MLP(Network):
    """Fully connected network, e.g. 784-100-100 with one head a task.

    Args:
        input_shape: shape of one example, e.g. [1, 28, 28]; flattened.
        widths: units of each hidden layer.
        dropout: probability of dropping a hidden activation, in [0, 1).
        input_dropout: the same for the input (HAT's large networks: .2 and .5).
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        widths: Sequence[int],
        dropout: float = 0.0,
        input_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = [prod(input_shape), *widths]
        self.dropout, self.input_dropout = dropout, input_dropout
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))
        for i, size in enumerate(sizes):
            self.add_module(f"units{i}", Units(size))
        self.head = nn.Linear(sizes[-1], 1)  # methods supply their own, of the size they need
        self.units = {f"units{i}": size for i, size in enumerate(sizes)}
        self.wires = [Wire(f"layers.{i}.weight", f"layers.{i}.bias", f"units{i}", f"units{i + 1}") for i in range(len(widths))] + [
            Wire(f"{HEAD}.weight", f"{HEAD}.bias", f"units{len(widths)}", None)
        ]

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits, shape [batch, outputs], of ``inputs``, shape [batch, ...]."""
        hidden: Tensor = self.get_submodule(INPUT_UNITS)(inputs.flatten(1))
        if self.training and self.input_dropout:
            hidden = dropout(hidden, self.input_dropout, self.units[INPUT_UNITS])
        for i, layer in enumerate(self.layers, start=1):
            hidden = torch.relu(layer(hidden))
            if self.training and self.dropout:
                hidden = dropout(hidden, self.dropout, self.units[f"units{i}"])
            hidden = self.get_submodule(f"units{i}")(hidden)
        logits: Tensor = self.head(hidden)
        return logits


def from_text(argument: str, input_shape: Sequence[int], dropout: float = 0.0, input_dropout: float = 0.0) -> MLP:
    """The network behind ``mlp:WIDTH-WIDTH-...``, e.g. ``100-100``.

    Raises:
        BadValue: anything but whole numbers >= 1 joined by hyphens.
    """
    widths = argument.split("-")
    if not all(width.isascii() and width.isdigit() and int(width) > 0 for width in widths):
        raise BadValue("network", f"mlp:{argument}", "mlp: and the hidden widths joined by hyphens, e.g. mlp:100-100")
    return MLP(input_shape, [int(width) for width in widths], dropout, input_dropout)


NETWORK = from_text
