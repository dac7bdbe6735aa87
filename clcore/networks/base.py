"""What every network is made of: named units, and a wiring that says which units a weight joins."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

INPUT_UNITS = "units0"
HEAD = "head"


class Units(nn.Module):
    """The point where a hidden activation (or the input) can be gated: ``h * gain + shift``.

    Both are absent, and cost nothing, unless the method supplies them under the network's tensor names,
    e.g. ``units1.gain``, shape [width].
    """

    gain: Tensor | None
    shift: Tensor | None

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("gain", None)
        self.register_buffer("shift", None)

    def forward(self, hidden: Tensor) -> Tensor:
        """Applies gain and shift to ``hidden``, shape [batch, width, ...]."""
        trailing = (1,) * (hidden.dim() - 2)
        if self.gain is not None:
            hidden = hidden * self.gain.reshape(-1, *trailing)
        if self.shift is not None:
            hidden = hidden + self.shift.reshape(-1, *trailing)
        return hidden


def dropout(hidden: Tensor, probability: float, width: int) -> Tensor:
    """Dropout whose noise does not depend on how many units are in use.

    A method that grows slices a layer to the widest member of its pack. Noise drawn for that slice would differ from what a
    member draws alone, so it is drawn for the full width and cut.

    Args:
        hidden: shape [batch, units in use, ...].
        probability: of dropping an activation, in [0, 1).
        width: units of the full layer.
    """
    shape = (hidden.shape[0], width, *hidden.shape[2:])
    kept = torch.rand(shape, dtype=hidden.dtype, device=hidden.device) >= probability
    return hidden * kept[:, : hidden.shape[1]] / (1 - probability)


@dataclass(frozen=True)
class Wire:
    """One weight (and its bias) with the units it joins.

    Attributes:
        weight: tensor name, e.g. ``layers.1.weight``, shape [out, in, ...].
        bias: tensor name of the bias, shape [out], or None.
        inputs: name of the units that feed it.
        outputs: name of the units it feeds; None for the head.
        repeat: how many consecutive columns belong to one input unit (the positions of a flattened convolution,
            channel-major); 1 elsewhere.
    """

    weight: str
    bias: str | None
    inputs: str
    outputs: str | None
    repeat: int = 1


class Network(nn.Module):
    """A network that knows nothing of methods.

    A subclass sets ``wires`` (in forward order, the head last) and ``units`` (name -> width, the input first) and
    registers its last layer as ``head``: a linear layer whose number of outputs the caller may change by supplying
    ``head.weight``, shape [outputs, features], and ``head.bias``.
    """

    wires: Sequence[Wire]
    units: dict[str, int]
    #: ``default``: torch's own; ``xavier``: Xavier uniform weights (HAT, section 4).
    init: str = "default"

    def bound(self, fan_in: Tensor, fan_out: Tensor) -> Tensor:
        """Weights are drawn uniformly within plus and minus this; methods that draw weights of their own use it too."""
        return (6 / (fan_in + fan_out)).sqrt() if self.init == "xavier" else fan_in.rsqrt()

    @property
    def features(self) -> int:
        """Width of the layer that feeds the head."""
        return self.units[self.wires[-1].inputs]

    @property
    def hidden_units(self) -> dict[str, int]:
        """Name -> width of all units but the input's."""
        return {name: width for name, width in self.units.items() if name != INPUT_UNITS}

    def body_wires(self) -> Iterator[Wire]:
        """All wires but the head's."""
        return iter(self.wires[:-1])

    def body_weights(self) -> dict[str, Tensor]:
        """Fresh copies of all parameters but the head's, as drawn when the network was built."""
        return {n: p.detach().clone() for n, p in self.named_parameters() if not n.startswith(f"{HEAD}.")}
