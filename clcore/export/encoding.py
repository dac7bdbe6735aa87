"""Weights in the fewest bytes of three forms, from which they come back bit for bit: masked networks are mostly zeros.

- as they are: 4 bytes each;
- sparse: a bit each that says which are not 0, and these;
- signed: where all that are not 0 are of one size, a bit each, a sign's bit for these, and the size (SupSup).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from clcore import bits
from clcore.methods import keeping
from clcore.methods.base import Tensors

BITS, VALUES, SIGNS, SIZE = ":bits", ":values", ":signs", ":size"
SPARSE, SIGNED = "sparse", "signed"


def encoded(tensors: Tensors) -> tuple[Tensors, dict[str, dict[str, Any]]]:
    """Tensors to write, and form and shape of each that is not written as it is."""
    written: Tensors = {}
    forms = {}
    for name, tensor in tensors.items():
        choices = {"": {name: tensor}, **(_forms(name, tensor) if tensor.is_floating_point() else {})}
        form = min(choices, key=lambda kind: keeping.size_of(choices[kind]))
        written |= choices[form]
        if form:
            forms[name] = {"form": form, "shape": list(tensor.shape)}
    return written, forms


def decoded(written: Tensors, forms: Mapping[str, Mapping[str, Any]]) -> Tensors:
    """What :func:`encoded` was given; where a value was -0, it is 0.

    Raises:
        KeyError, ValueError, RuntimeError: they do not belong together.
    """
    rest = {name: tensor for name, tensor in written.items() if ":" not in name}
    return {**rest, **{name: _decoded(name, written, said["form"], said["shape"]) for name, said in forms.items()}}


def _forms(name: str, tensor: Tensor) -> dict[str, Tensors]:
    on = tensor != 0
    values = tensor[on]
    which = {name + BITS: bits.pack(on.flatten())}
    forms = {SPARSE: {**which, name + VALUES: values}}
    if len(values) and bool((values.abs() == values[0].abs()).all()):
        forms[SIGNED] = {**which, name + SIGNS: bits.pack(values < 0), name + SIZE: values[:1].abs()}
    return forms


def _decoded(name: str, written: Tensors, form: str, shape: list[int]) -> Tensor:
    on = bits.unpack(written[name + BITS], torch.Size(shape).numel()).reshape(shape)
    if form == SIGNED:
        values = (1 - 2 * bits.unpack(written[name + SIGNS], int(on.sum()), torch.float32)) * written[name + SIZE]
    else:
        values = written[name + VALUES]
    if len(values) != int(on.sum()):
        raise ValueError(f"{name} has {len(values)} values for {int(on.sum())} places")
    return values.new_zeros(shape).masked_scatter(on, values)
