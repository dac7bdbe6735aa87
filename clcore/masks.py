"""Masks: which units or weights a task uses, what that says about capacity and reuse, and masks as bytes.

HAT's monitoring quantities (Serra et al. 2018, figures 5, 6, 8 and table 4) are counts of weights. A
weight is in use where both units it joins are. Head outputs always are, and input units unless they are
masked too.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from clcore.networks.base import Wire

Kind = Literal["unit", "weight", "ternary"]
Shapes = Mapping[str, Sequence[int]]

# TFM's states of a feature (TFM, section 3.2): not there; read but not changed; read and changed.
MASKED, FORWARD_ONLY, NORMAL = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Mask:
    """One mask of one task.

    Attributes:
        kind: over units, over weights, or ternary over units.
        values: bool for units (shape [width]) and weights (their shape); uint8 codes 0 masked, 1 forward only, 2 normal
            for ternary (shape [width]).

    Raises:
        ValueError: values of the wrong type for the kind.
    """

    kind: Kind
    values: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        expected = torch.uint8 if self.kind == "ternary" else torch.bool
        if self.values.dtype != expected:
            raise ValueError(f"a {self.kind} mask has values of type {expected}, not {self.values.dtype}")

    def pack(self) -> bytes:
        """The values as bytes: 1 bit each, 2 for ternary."""
        return pack_ternary(self.values) if self.kind == "ternary" else pack_bits(self.values)

    @classmethod
    def unpack(cls, kind: Kind, data: bytes, shape: Sequence[int]) -> "Mask":
        """The mask that was packed.

        Args:
            kind: its kind.
            data: what ``pack`` returned.
            shape: of its values.

        Raises:
            ValueError: more or fewer bytes than the shape needs.
        """
        return cls(kind, (unpack_ternary if kind == "ternary" else unpack_bits)(data, shape))


class CompressedSize(NamedTuple):
    """Share of weights that remain when unused units are cut off, in [0, 1].

    Attributes:
        hidden: among the weights of the body.
        with_head: the same with the head's, whose columns of unused units go too.
    """

    hidden: float
    with_head: float


def pack_bits(values: Tensor) -> bytes:
    """Bools as bits, the first value in the lowest bit of the first byte; ceil(n/8) bytes.

    Args:
        values: bool, any shape, n values in all.
    """
    return np.packbits(values.bool().cpu().flatten().numpy(), bitorder="little").tobytes()


def unpack_bits(data: bytes, shape: Sequence[int]) -> Tensor:
    """The bools that ``pack_bits`` packed, with their shape.

    Raises:
        ValueError: more or fewer bytes than the shape needs.
    """
    count = prod(shape)
    _check_length(data, -(-count // 8))
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=count, bitorder="little")
    return torch.from_numpy(bits).bool().reshape(tuple(shape))


def pack_ternary(codes: Tensor) -> bytes:
    """Codes of 2 bits, four a byte, the first in the lowest bits; ceil(n/4) bytes (TFM, section 3.2).

    Args:
        codes: uint8 of 0, 1, 2, any shape, n values in all.

    Raises:
        ValueError: another code.
    """
    flat = codes.cpu().flatten()
    if bool(((flat < MASKED) | (flat > NORMAL)).any()):
        raise ValueError(f"ternary codes are 0, 1, 2, not {int(flat.max())}")
    return pack_bits(torch.stack([flat & 1, flat >> 1], dim=1))


def unpack_ternary(data: bytes, shape: Sequence[int]) -> Tensor:
    """The codes that ``pack_ternary`` packed, uint8, with their shape.

    Raises:
        ValueError: more or fewer bytes than the shape needs.
    """
    bits = unpack_bits(data, [prod(shape), 2]).to(torch.uint8)
    return (bits[:, 0] + 2 * bits[:, 1]).reshape(tuple(shape))


def weight_use(wires: Iterable[Wire], units: Mapping[str, Tensor], shapes: Shapes) -> dict[str, Tensor]:
    """Which weights join two units in use, up to the kernel positions of a convolution, which share their fate.

    Args:
        wires: the network's wiring.
        units: name -> units in use, shape [width]: bool, a gate (in use above 0.5, so that a weight is where
            ``min(a_i, a_j) > 0.5``) or a ternary code (in use unless 0). Units that are not named are all in use.
        shapes: name -> shape [out, in, ...] of the weights to look at.

    Returns:
        Weight name -> bool, shape [out, in].
    """
    return {wire.weight: _wire_use(wire, units, shapes[wire.weight]) for wire in wires if wire.weight in shapes}


def capacity(wires: Iterable[Wire], units: Mapping[str, Tensor], shapes: Shapes) -> dict[str, float]:
    """Share of weights in use, for each weight and over all of them under ``"total"``; in [0, 1].

    With the units of one task it is what the task uses; with cumulative gates, what all tasks so far have taken.

    Args:
        wires: the network's wiring.
        units: as in ``weight_use``.
        shapes: name -> shape of the weights to count, usually the body's (heads are private to tasks).
    """
    use = weight_use(wires, units, shapes)
    shares = {name: float(on.double().mean()) for name, on in use.items()}
    return {**shares, "total": _share(use, shapes)}


def reuse(wires: Sequence[Wire], units: Mapping[str, Tensor], later: Mapping[str, Tensor], shapes: Shapes) -> float:
    """Share of the weights one task uses that another uses too (HAT, figure 6); in [0, 1], 0.0 if the first uses none.

    Args:
        wires: the network's wiring.
        units: units of the task whose weights are counted, as in ``weight_use``.
        later: units of the task that may use them again.
        shapes: name -> shape of the weights to count.
    """
    first, second = weight_use(wires, units, shapes), weight_use(wires, later, shapes)
    used = _count(first, shapes)
    both = _count({name: on & second[name] for name, on in first.items()}, shapes)
    return both / used if used else 0.0


def compressed_size(wires: Sequence[Wire], units: Mapping[str, Tensor], shapes: Shapes) -> CompressedSize:
    """Size of the network when units that are not in use are cut off (HAT, table 4).

    Args:
        wires: the network's wiring.
        units: as in ``weight_use``.
        shapes: name -> shape of all weights, the task's head among them.
    """
    use = weight_use(wires, units, shapes)
    heads = {wire.weight for wire in wires if wire.outputs is None}
    body = {name: on for name, on in use.items() if name not in heads}
    return CompressedSize(hidden=_share(body, shapes), with_head=_share(use, shapes))


def sparsity(masks: Mapping[str, Tensor]) -> float:
    """Share of entries that are off, over all masks together; in [0, 1], 0.0 when there are none.

    RMN's S is this for the union of all tasks' weight masks.

    Args:
        masks: name -> bool, gate or ternary code, any shape.
    """
    total = sum(values.numel() for values in masks.values())
    return 1 - sum(int(_on(values).sum()) for values in masks.values()) / total if total else 0.0


def _wire_use(wire: Wire, units: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
    rows, columns = torch.ones(shape[0], dtype=torch.bool), torch.ones(shape[1], dtype=torch.bool)
    if wire.outputs is not None and wire.outputs in units:
        rows = _on(units[wire.outputs])
    if wire.inputs in units:
        columns = _on(units[wire.inputs]).repeat_interleave(wire.repeat)
    if (len(rows), len(columns)) != tuple(shape[:2]):
        raise ValueError(f"{wire.weight} of shape {list(shape)} cannot join {len(columns)} inputs to {len(rows)} units")
    return rows.unsqueeze(1) & columns


def _on(values: Tensor) -> Tensor:
    return (values > 0.5 if values.is_floating_point() else values.bool()).cpu()


def _count(use: Mapping[str, Tensor], shapes: Shapes) -> int:
    """Weights in use, kernel positions included."""
    return sum(int(on.sum()) * prod(shapes[name][2:]) for name, on in use.items())


def _share(use: Mapping[str, Tensor], shapes: Shapes) -> float:
    total = sum(prod(shapes[name]) for name in use)
    return _count(use, shapes) / total if total else 0.0


def _check_length(data: bytes, expected: int) -> None:
    if len(data) != expected:
        raise ValueError(f"{len(data)} bytes where the shape needs {expected}")
