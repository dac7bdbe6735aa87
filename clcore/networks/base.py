"""What every network is made of: named units, and a wiring that says which units a weight joins."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import torch
from torch import Tensor, nn

from clcore.errors import BadValue
from clcore.networks.norm import Norm

INPUT_UNITS = "units0"
HEAD = "head"


NORMS = ("default", "none", "batch", "batch-scale", "batch-plain")


@dataclass(frozen=True)
class NetworkOptions:
    """What every network can be asked for, whatever its architecture.

    Attributes:
        dropout: probability of dropping a hidden activation, in [0, 1).
        input_dropout: the same for the input.
        init: ``default``, torch's own initialisation, or ``xavier``: Xavier uniform weights (HAT, section 4).
        bias: whether layers, the head included, have biases (RMN and SupSup have none).
        norm: batch normalisation before each ReLU: ``batch`` with scale and shift, ``batch-scale`` with a scale only (RMN's
            M-BN), ``batch-plain`` with neither (SupSup), ``none``, or ``default``: what the architecture's paper has.

    Raises:
        BadValue: a probability out of range, or an unknown word.
    """

    dropout: float = 0.0
    input_dropout: float = 0.0
    init: str = "default"
    bias: bool = True
    norm: str = "default"

    def __post_init__(self) -> None:
        for key in ("dropout", "input_dropout"):
            if not 0 <= getattr(self, key) < 1:
                raise BadValue(key, getattr(self, key), "a number of at least 0 and below 1")
        for key, known in (("init", ("default", "xavier")), ("norm", NORMS)):
            if getattr(self, key) not in known:
                raise BadValue(key, getattr(self, key), "one of " + ", ".join(known))

    def make_norm(self, width: int, default: str = "none") -> Norm | None:
        """The normalisation of a layer of ``width`` units; ``default`` is what the architecture has by itself."""
        kind = default if self.norm == "default" else self.norm
        return None if kind == "none" else Norm(width, scale=kind != "batch-plain", shift=kind == "batch")


#: What a network is made with where nothing is said.
PLAIN = NetworkOptions()


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


def in_a_row(layers: int, bias: bool, repeats: Sequence[int] = ()) -> list[Wire]:
    """Wires of ``layers.0``, ``layers.1``, .. between ``units0``, ``units1``, .., and of the head after them.

    Args:
        layers: how many there are.
        bias: whether they and the head have biases.
        repeats: ``Wire.repeat`` of the first layers; 1 for the others.
    """
    ends = [(f"layers.{i}", f"units{i}", f"units{i + 1}", repeats[i] if i < len(repeats) else 1) for i in range(layers)]
    return [
        Wire(f"{layer}.weight", f"{layer}.bias" if bias else None, inputs, outputs, repeat)
        for layer, inputs, outputs, repeat in [*ends, (HEAD, f"units{layers}", None, 1)]
    ]


def require_alone(name: str, argument: str) -> None:
    """Refuses anything after the colon of a network's name.

    Raises:
        BadValue: there is something.
    """
    if argument:
        raise BadValue("network", f"{name}:{argument}", f"{name} alone; it takes nothing after a colon")


class Network(nn.Module):
    """A network that knows nothing of methods.

    A subclass sets ``wires`` (in forward order, the head last) and ``units`` (name -> width, the input first) and
    registers its last layer as ``head``: a linear layer whose number of outputs the caller may change by supplying
    ``head.weight``, shape [outputs, features], and ``head.bias`` (unless it was made without biases).
    """

    wires: Sequence[Wire]
    units: dict[str, int]
    #: Module name of each batch normalisation -> the units it has the width of.
    norms: Mapping[str, str] = MappingProxyType({})
    #: Pairs of units (from, to) joined without weights: a unit of the second may be on although all weights into it are zero.
    shortcuts: Sequence[tuple[str, str]] = ()
    #: ``default``: torch's own; ``xavier``: Xavier uniform weights (HAT, section 4).
    init: str = "default"

    def bound(self, fan_in: Tensor, fan_out: Tensor) -> Tensor:
        """Weights are drawn uniformly within plus and minus this; methods that draw weights of their own use it too."""
        return (6 / (fan_in + fan_out)).sqrt() if self.init == "xavier" else fan_in.rsqrt()

    @cached_property
    def norm_modules(self) -> dict[str, Norm]:
        """Name -> normalisation."""
        modules = dict(self.named_modules())
        return {name: norm for name in self.norms if isinstance(norm := modules[name], Norm)}

    @cached_property
    def statistics(self) -> tuple[str, ...]:
        """Tensor names of all running means and variances."""
        return tuple(f"{name}.{part}" for name in self.norms for part in ("mean", "var"))

    @cached_property
    def affine(self) -> tuple[str, ...]:
        """Parameter names of all scales and shifts of normalisations."""
        return tuple(n for n, _ in self.named_parameters() if n.rpartition(".")[0] in self.norms)

    @property
    def head_parts(self) -> tuple[str, ...]:
        """What the head is made of: weight, and bias if it has one."""
        return ("weight",) if self.wires[-1].bias is None else ("weight", "bias")

    @property
    def features(self) -> int:
        """Width of the layer that feeds the head."""
        return self.units[self.wires[-1].inputs]

    @property
    def hidden_units(self) -> dict[str, int]:
        """Name -> width of all units but the input's."""
        return {name: width for name, width in self.units.items() if name != INPUT_UNITS}

    def placed(self, alive: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors that the network needs besides its weights where units are cut out of it.

        Args:
            alive: units name -> which are left, bool; units that are not named are all left.
        """
        return {}

    def body_wires(self) -> Iterator[Wire]:
        """All wires but the head's."""
        return iter(self.wires[:-1])

    def body_weights(self) -> dict[str, Tensor]:
        """Fresh copies of all parameters but the head's, as drawn when the network was built."""
        return {n: p.detach().clone() for n, p in self.named_parameters() if not n.startswith(f"{HEAD}.")}
