"""Residual networks for small images (He et al. 2016): what resnet18 and resnet32 have in common.

All convolutions that write to one residual stream share the stream's units: a sum of differently gated units would be neither
one's. Inside a block the first convolution has units of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clcore.errors import BadValue
from clcore.networks.base import HEAD, INPUT_UNITS, Network, NetworkOptions, Units, Wire, dropout
from clcore.networks.images import require_images
from clcore.networks.norm import Norm


@dataclass(frozen=True)
class Style:
    """How the blocks of a residual network are made.

    Attributes:
        widths: channels of each stage; every stage but the first halves height and width.
        blocks: blocks a stage, of two convolutions each.
        projected: whether a shortcut between stages is a convolution of 1 x 1; otherwise it takes every second position and
            puts zero channels on both sides ("option A").
        conv_bias: whether convolutions have biases although a normalisation follows them.
    """

    widths: tuple[int, ...]
    blocks: int
    projected: bool
    conv_bias: bool


class Block(nn.Module):
    """Two convolutions added to what came in, then ReLU: ``relu(conv2(units(relu(conv1(h)))) + shortcut(h))``.

    A normalisation follows each convolution. Dropout is between the two (Zagoruyko & Komodakis 2016).
    """

    places: Tensor | None

    def __init__(self, inputs: int, outputs: int, stride: int, style: Style, options: NetworkOptions) -> None:
        super().__init__()
        self.inputs, self.outputs, self.stride, self.dropout = inputs, outputs, stride, options.dropout
        self.conv1, self.norm1 = convolution(inputs, outputs, stride, style, options)
        self.units = Units(outputs)
        self.conv2, self.norm2 = convolution(outputs, outputs, 1, style, options)
        self.projects = style.projected and not self.keeps_shape
        if self.projects:
            self.shortcut, self.shortcut_norm = convolution(inputs, outputs, stride, style, options, kernel=1)
        self.register_buffer("places", None)  # where channels are cut out: see :meth:`Residual.placed`

    @property
    def keeps_shape(self) -> bool:
        """Whether what comes in can be added as it is."""
        return self.stride == 1 and self.inputs == self.outputs

    @property
    def before(self) -> int:
        """Zero channels in front of what a shortcut without weights carries."""
        return (self.outputs - self.inputs) // 2

    def forward(self, hidden: Tensor) -> Tensor:
        """The next state of the stream, before its units, shape [batch, channels in use, height, width]."""
        inner = torch.relu(self.norm1(self.conv1(hidden)))
        if self.training and self.dropout:
            inner = dropout(inner, self.dropout, self.outputs)
        change = self.norm2(self.conv2(self.units(inner)))
        return torch.relu(change + self._carried(hidden, change.shape[1]))

    def _carried(self, hidden: Tensor, width: int) -> Tensor:
        if self.projects:
            projected: Tensor = self.shortcut_norm(self.shortcut(hidden))
            return projected
        if self.places is not None:
            return F.pad(hidden[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, 1)).index_select(1, self.places)
        return hidden if self.keeps_shape else padded(hidden, self.stride, self.before, width)


def padded(hidden: Tensor, stride: int, before: int, width: int) -> Tensor:
    """Shortcut without weights: every ``stride``-th position, zero channels before and after.

    Args:
        hidden: shape [batch, channels in use, height, width].
        stride: of the block.
        before: zero channels put in front; it depends on the full widths alone, so that a channel arrives at the same place
            however many are in use.
        width: channels in use after the block; what is beyond them is not there yet and left out.
    """
    after = max(width - before - hidden.shape[1], 0)
    return F.pad(hidden[:, :, ::stride, ::stride], (0, 0, 0, 0, before, after))[:, :width]


def convolution(
    inputs: int, outputs: int, stride: int, style: Style, options: NetworkOptions, kernel: int = 3
) -> tuple[nn.Conv2d, nn.Module]:
    """A convolution and the normalisation after it, which is the identity where there is none."""
    norm = options.make_norm(outputs, "batch")
    bias = options.bias and (style.conv_bias or norm is None)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=bias)
    return conv, nn.Identity() if norm is None else norm


class Residual(Network):
    """A convolution, stages of residual blocks, each map's mean, the head.

    Args:
        name: of the network, for messages.
        input_shape: [channels, height, width].
        style: widths, blocks and shortcuts.
        options: biases, normalisation (batch by default), dropout within blocks and of the input.

    Raises:
        BadValue: inputs that are no images.
    """

    def __init__(self, name: str, input_shape: Sequence[int], style: Style, options: NetworkOptions) -> None:
        super().__init__()
        channels, _, _ = require_images(name, input_shape)
        self.input_dropout = options.input_dropout
        self.units0 = Units(channels)
        self.stem, self.stem_norm = convolution(channels, style.widths[0], 1, style, options)
        self.streams = nn.ModuleList(Units(width) for width in style.widths)
        self.blocks = nn.ModuleList()
        self.entered: list[int] = []  # the stream each block writes to
        for stage, width in enumerate(style.widths):
            for place in range(style.blocks):
                first = stage > 0 and place == 0
                before = style.widths[stage - 1] if first else width
                self.blocks.append(Block(before, width, 2 if first else 1, style, options))
                self.entered.append(stage)
        self.head = nn.Linear(style.widths[-1], 1, bias=options.bias)  # methods supply their own, of the size they need
        joints = list(self._joints())
        self.units = {INPUT_UNITS: channels, **{units: self._width(units) for _, _, _, units in joints}}
        self.norms = {norm: units for _, norm, _, units in joints if isinstance(self.get_submodule(norm), Norm)}
        streams = [f"streams.{stage}" for stage in range(len(style.widths))]
        self.shortcuts = () if style.projected else tuple(pairwise(streams))
        wires = [self._wire(layer, inputs, outputs) for layer, _, inputs, outputs in joints]
        self.wires = [*wires, self._wire(HEAD, joints[-1][-1], None)]

    def _joints(self) -> Iterator[tuple[str, str, str, str]]:
        """Each convolution, its normalisation, and the units it joins, in forward order."""
        stream = "streams.0"
        yield "stem", "stem_norm", INPUT_UNITS, stream
        for index, stage in enumerate(self.entered):
            name, after = f"blocks.{index}", f"streams.{stage}"
            if hasattr(self.blocks[index], "shortcut"):
                yield f"{name}.shortcut", f"{name}.shortcut_norm", stream, after
            yield f"{name}.conv1", f"{name}.norm1", stream, f"{name}.units"
            yield f"{name}.conv2", f"{name}.norm2", f"{name}.units", after
            stream = after

    def placed(self, alive: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of each shortcut that puts zero channels on both sides: which channel each of the next stream is.

        The one after the last is a channel of zeros.
        """
        found = {}
        for index, (block, stage) in enumerate(zip(self.blocks, self.entered, strict=True)):
            assert isinstance(block, Block)
            if not (block.projects or block.keeps_shape):
                sources, targets = (alive[f"streams.{s}"] for s in (stage - 1, stage))
                number = torch.where(sources, sources.cumsum(0) - 1, sources.sum())
                whole = torch.full((len(targets),), int(sources.sum()))
                end = max(block.before, min(block.before + len(number), len(whole)))
                whole[block.before : end] = number[: end - block.before]
                found[f"blocks.{index}.places"] = whole[targets].to(torch.int32)
        return found

    def _width(self, units: str) -> int:
        module = self.get_submodule(units)
        assert isinstance(module, Units)
        return module.width

    def _wire(self, layer: str, inputs: str, outputs: str | None) -> Wire:
        bias = self.get_submodule(layer).bias
        return Wire(f"{layer}.weight", None if bias is None else f"{layer}.bias", inputs, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits, shape [batch, outputs], of ``inputs``, shape [batch, channels, height, width]."""
        hidden: Tensor = self.units0(inputs)
        if self.training and self.input_dropout:
            hidden = dropout(hidden, self.input_dropout, self.units[INPUT_UNITS])
        hidden = self.streams[0](torch.relu(self.stem_norm(self.stem(hidden))))
        for block, stage in zip(self.blocks, self.entered, strict=True):
            hidden = self.streams[stage](block(hidden))
        logits: Tensor = self.head(hidden.mean((2, 3)))
        return logits


def filters(name: str, argument: str, default: int) -> int:
    """Channels of the first stage, from what follows the network's name.

    Raises:
        BadValue: neither nothing nor a whole number >= 1.
    """
    if not argument:
        return default
    if not (argument.isascii() and argument.isdigit() and int(argument) > 0):
        allowed = f"{name}, or {name}: and the number of filters of the first stage, e.g. {name}:{default}"
        raise BadValue("network", f"{name}:{argument}", allowed)
    return int(argument)
