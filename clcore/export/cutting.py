"""Which units of one task's network do nothing, and the network without them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from clcore.masks import Mask
from clcore.methods import keeping
from clcore.methods.base import Tensors
from clcore.networks.base import HEAD, Network

Alive = dict[str, Tensor]


def alive_by_gain(network: Network, weights: Tensors) -> Alive:
    """Hidden units -> which have a gate that is more than rounding, or a shift; bool, at the widths of the weights."""
    alive = {}
    for units, width in _widths(network, weights).items():
        on = torch.ones(width, dtype=torch.bool)
        if f"{units}.gain" in weights:
            on = weights[f"{units}.gain"].abs() > keeping.NEGLIGIBLE
        if f"{units}.shift" in weights:
            on = on | (weights[f"{units}.shift"] != 0)
        alive[units] = on
    return {units: _one_at_least(on) for units, on in alive.items()}


def alive_by_mask(network: Network, weights: Tensors, masks: Mapping[str, Mask]) -> Alive:
    """The same by the masks of units that a method says; units without one are all alive."""
    widths = _widths(network, weights)
    on = {u: masks[u].values.bool()[:n] if u in masks else torch.ones(n, dtype=torch.bool) for u, n in widths.items()}
    return {units: _one_at_least(values) for units, values in on.items()}


def read_by_none(network: Network, weights: Tensors, alive: Alive) -> Alive:
    """Without those that no living unit reads: all weights from them are 0.

    Units from which a shortcut without weights leads are taken as read.
    """
    carried = {units for units, _ in network.shortcuts}
    alive, before = dict(alive), -1
    while (now := sum(int(on.sum()) for on in alive.values())) != before:
        before = now
        for units in alive:
            if units not in carried:
                readers = [
                    _reads(weights[w.weight], w.repeat, alive.get(str(w.outputs))) for w in network.wires if w.inputs == units
                ]
                alive[units] = _one_at_least(alive[units] & torch.stack(readers).any(0))
    return alive


def without(network: Network, weights: Tensors, alive: Alive) -> Tensors:
    """The tensors of the network that is left, without gains of 1 and shifts of 0, which need not be there."""
    small = keeping.cut(network, weights, alive) | network.placed(alive)
    idle = {"gain": 1.0, "shift": 0.0}
    owned = {name: name.rpartition(".") for name in small}
    gates = {name: idle[leaf] for name, (owner, _, leaf) in owned.items() if owner in network.units and leaf in idle}
    return {name: tensor for name, tensor in small.items() if not (name in gates and bool((tensor == gates[name]).all()))}


def _widths(network: Network, weights: Tensors) -> dict[str, int]:
    """Hidden units -> how many there are in these weights."""
    return {str(wire.outputs): len(weights[wire.weight]) for wire in network.wires if wire.weight != f"{HEAD}.weight"}


def _reads(weight: Tensor, repeat: int, rows: Tensor | None) -> Tensor:
    """Which of the units that feed a weight it reads, bool."""
    own = weight if rows is None else weight[rows]
    return (own.flatten(2) if own.dim() > 2 else own[..., None]).ne(0).any(-1).any(0).reshape(-1, repeat).any(-1)


def _one_at_least(on: Tensor) -> Tensor:
    """A layer keeps one unit, so that it stays a layer."""
    if on.any() or not len(on):
        return on
    return torch.arange(len(on)) == 0
