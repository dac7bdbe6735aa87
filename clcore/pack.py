"""A pack: K members as one program. Every tensor has a leading member dimension, every hyperparameter is a vector of K."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from clcore.hyper import packed_names
from clcore.methods.base import Tensors


@dataclass(frozen=True)
class Member:
    """What may differ between the members of a pack.

    Attributes:
        hyper: hyperparameters of the method; fields that are not packed must be equal within a pack.
        lr: first learning rate of each task.
    """

    hyper: Any
    lr: float


def stack_hyper(members: Sequence[Member], dtype: torch.dtype, device: torch.device) -> Tensors:
    """Name -> value of every packed hyperparameter, shape [members]."""
    names = packed_names(type(members[0].hyper))
    return {n: torch.tensor([float(getattr(m.hyper, n)) for m in members], dtype=dtype, device=device) for n in names}


def stack(tensors: Tensors, members: int) -> Tensors:
    """Equal copies for each member, shape [members, ...]."""
    return {n: t.expand(members, *t.shape).contiguous() for n, t in tensors.items()}


def select(tensors: Tensors, members: Sequence[int]) -> Tensors:
    """The chosen members, in the order given (repeats allowed)."""
    if not tensors:
        return {}
    index = torch.tensor(members, dtype=torch.long, device=next(iter(tensors.values())).device)  # long also where none is chosen
    return {n: t.index_select(0, index) for n, t in tensors.items()}


def member(tensors: Tensors, index: int) -> Tensors:
    """One member's tensors, without the member dimension."""
    return {n: t[index] for n, t in tensors.items()}


def packed(function: Callable[..., Any], shared: int = 0) -> Callable[..., Any]:
    """``function`` of one member as a function of the pack.

    Members draw the same random numbers, so they differ only in their hyperparameters. A pack of one is run without vmap, whose
    bookkeeping would double the time of a small network's step.

    Args:
        function: of one member; its last ``shared`` arguments are the same for all.
        shared: how many.
    """

    def run(*args: Any) -> Any:
        own = len(args) - shared
        if _members(args[:own]) == 1:
            return _each(function(*(_each(arg, _first) for arg in args[:own]), *args[own:]), _as_pack)
        dims = tuple(0 if i < own else None for i in range(len(args)))
        return vmap(function, in_dims=dims, randomness="same")(*args)

    return run


def _members(args: Sequence[Any]) -> int:
    for arg in args:
        if isinstance(arg, Tensor):
            return len(arg)
        if arg:
            return len(next(iter(arg.values())))
    raise AssertionError("a packed function needs a tensor of each member")


def _each(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``change`` on every tensor of a dictionary, a tuple, or a tensor."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, dict):
        return {name: change(tensor) for name, tensor in tree.items()}
    return tuple(_each(part, change) for part in tree)


def _first(tensor: Tensor) -> Tensor:
    return tensor[0]


def _as_pack(tensor: Tensor) -> Tensor:
    return tensor[None]
