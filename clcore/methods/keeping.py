"""What a deployment keeps of a memory: tensors without the units that no task uses, and as few bytes a number as it takes."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from clcore import bits
from clcore.networks.base import HEAD, Network

if TYPE_CHECKING:
    from clcore.methods.terms import Tensors

#: What is one task's own is stored under this and its number.
HEADS, NORMS, FEATURE_NORMS = "heads", "norms", "fn"
_OWN = re.compile(rf"({HEADS}|{NORMS}|{FEATURE_NORMS})\.\d+\.")
#: A factor of at most this changes nothing that float32 can tell from 1: half of the distance of 1 to the next number.
NEGLIGIBLE = 2.0**-24


class Place(NamedTuple):
    """Which units the first and the second dimension of a tensor go with; None: none that could be cut.

    Attributes:
        rows: units of the first dimension.
        columns: units of the second dimension.
        repeat: columns a unit.
    """

    rows: str | None
    columns: str | None = None
    repeat: int = 1


def place_of(network: Network, name: str) -> Place:
    """Where a tensor of the network, or one that a task has for itself (``heads.2.weight``), lies among the units."""
    own = _OWN.match(name)
    plain = name if own is None else (f"{HEAD}." if own[1] == HEADS else "") + name[own.end() :]
    for wire in network.wires:
        if plain == wire.weight:
            return Place(wire.outputs, wire.inputs, wire.repeat)
        if plain == wire.bias:
            return Place(wire.outputs)
    module = plain.rpartition(".")[0]
    return Place(network.norms.get(module, module if module in network.units else None))


def cut(network: Network, tensors: "Tensors", units: Mapping[str, Tensor]) -> "Tensors":
    """Tensors without the rows and columns of units that are off.

    Args:
        network: whose wiring says which these are.
        tensors: of the network or of tasks, by name; a tensor may end before its units do.
        units: units name -> which are on, bool, shape [width]; units that are not named are all on.
    """
    return {name: _cut(tensor, place_of(network, name), units) for name, tensor in tensors.items()}


def spread(network: Network, tensors: "Tensors", units: Mapping[str, Tensor], widths: Mapping[str, int]) -> "Tensors":
    """What :func:`cut` was given, at full width; what it left out is 0 (variances: 1).

    Args:
        network: as for :func:`cut`.
        tensors: what it gave.
        units: as for :func:`cut`.
        widths: units name -> width of the whole.
    """
    found = {}
    for name, tensor in tensors.items():
        place, fill = place_of(network, name), float(name.endswith(".var"))
        for dim, (owner, repeat) in enumerate(((place.rows, 1), (place.columns, place.repeat))):
            if owner is not None and owner in units:
                on = units[owner].to(tensor.device).repeat_interleave(repeat)
                shape = [*tensor.shape[:dim], widths[owner] * repeat, *tensor.shape[dim + 1 :]]
                tensor = tensor.new_full(shape, fill).index_copy_(dim, on.nonzero().flatten(), tensor)
        found[name] = tensor
    return found


def of_task(memory: "Tensors", task: int) -> "Tensors":
    """What one task has for itself: its head and its normalisations."""
    own = tuple(f"{kind}.{task}." for kind in (HEADS, NORMS, FEATURE_NORMS))
    return {name: tensor for name, tensor in memory.items() if name.startswith(own)}


def tasks_with_heads(memory: "Tensors") -> int:
    """How many tasks have a head in memory."""
    return sum(name.startswith(f"{HEADS}.") and name.endswith(".weight") for name in memory)


def picked(tensors: "Tensors", chosen: Mapping[str, Tensor]) -> "Tensors":
    """The chosen entries of each tensor in a row, shape [n].

    Args:
        tensors: by name; those that have no choice are left out.
        chosen: name -> which, bool, shaped like the tensor.
    """
    return {name: tensors[name][on] for name, on in chosen.items()}


def placed(values: "Tensors", chosen: Mapping[str, Tensor]) -> "Tensors":
    """What :func:`picked` was given, with 0 in place of what it left out."""
    return {n: values[n].new_zeros(on.shape).masked_scatter(on.to(values[n].device), values[n]) for n, on in chosen.items()}


def as_written(tensors: "Tensors") -> "Tensors":
    """Floats as float32; all else as it is."""
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def as_integers(tensor: Tensor, largest: int) -> Tensor:
    """Whole numbers 0 .. ``largest`` in a byte each, or in as many as it takes."""
    return tensor.to(next(kind for kind in (torch.uint8, torch.int16, torch.int32) if largest <= torch.iinfo(kind).max))


def size_of(tensors: "Tensors") -> int:
    """Bytes of tensors as they are."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def packed_units(units: Mapping[str, Tensor]) -> Tensor:
    """Units in use, one bit each, all layers in a row; uint8."""
    return bits.pack(torch.cat([units[name] for name in units]))


def unpacked_units(packed: Tensor, widths: Mapping[str, int]) -> dict[str, Tensor]:
    """Units name -> which are in use, bool; ``widths`` in the order they were packed in."""
    parts = torch.split(bits.unpack(packed, sum(widths.values())), list(widths.values()))
    return dict(zip(widths, parts, strict=True))


def _cut(tensor: Tensor, place: Place, units: Mapping[str, Tensor]) -> Tensor:
    if place.rows is not None and place.rows in units:
        tensor = tensor[units[place.rows].to(tensor.device)[: len(tensor)]]
    if place.columns is not None and place.columns in units:
        tensor = tensor[:, units[place.columns].to(tensor.device).repeat_interleave(place.repeat)[: tensor.shape[1]]]
    return tensor
