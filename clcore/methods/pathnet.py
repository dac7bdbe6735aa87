"""PathNet (Fernando et al., 2017): layers of modules, of which a task uses a path that a tournament finds and then fixes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

from clcore.errors import BadValue
from clcore.hyper import knob
from clcore.masks import Mask
from clcore.methods import keeping
from clcore.methods.base import STATE, At, Batch, Layout, Method, Tensors, symmetric
from clcore.networks.base import INPUT_UNITS, Network, Wire

#: Two individuals: the modules of each layer that a path goes through, shape [2, layers, active].
GENES, FITNESS = STATE + "genes", STATE + "fitness"
#: The path in training, and the one trained in the epoch before, of which a validation speaks; shape [layers, active].
TRAINED, PATH = STATE + "trained", STATE + "path"
#: Draws for the mutations of all generations, shape [generations, layers, active]: in [0, 1), and -2 to 2.
CHANCE, SHIFT = STATE + "chance", STATE + "shift"
#: Which modules belong to the path of an earlier task, shape [layers, modules].
FIXED = "fixed"
PATHS = "paths."


@dataclass(frozen=True)
class PathNetHyper:
    """Hyperparameters of PathNet."""

    modules: int = knob(
        10,
        "modules a layer, M; widths are multiples of it",
        low=2,
        source="PathNet, 2.4: 10; 2.5: 20; HAT's code: 16",
        levels=(5, 10, 20),
    )
    active: int = knob(
        3, "modules of each layer that a path goes through, N", low=1, source="PathNet, 2.4: 3; HAT's code: 3", levels=(1, 2, 3, 5)
    )
    generations: int = knob(
        20, "tournaments a task; afterwards the winner is trained alone", low=1, source="HAT's code: 20 of 5 to 200",
        grid=(5, 10, 20, 50, 100, 200),
    )  # fmt: skip
    turn_epochs: int = knob(
        2, "epochs that an individual is trained in each generation", low=1, source="resolved here", levels=(1, 2, 5)
    )


class PathNet(Method):
    """Modules are groups of units, each layer the sum of the active modules of the one before (HAT's code: two individuals).

    In turn both individuals are trained; the one with the higher training loss is replaced by a mutation of the other (each
    gene with probability 1 / (layers x active) moves by -2 to 2). The path kept with the best weights is the task's: its modules
    are fixed, all others are drawn anew. A module that is in a path twice counts twice.

    Raises:
        BadValue: a layer whose width is no multiple of the modules, or more active modules than there are.
    """

    Hyper = PathNetHyper
    regresses = True
    task_specific = True
    clip = 1000.0  # HAT's code
    training_only = (FIXED,)
    reads = (FIXED,)
    hyper: PathNetHyper

    def __init__(self, hyper: Any, network: Network, layout: Layout) -> None:
        super().__init__(hyper, network, layout)
        self.layers = list(network.hidden_units)
        if hyper.active > hyper.modules:
            raise BadValue("active", hyper.active, f"at most the {hyper.modules} modules of a layer")
        for units, width in network.hidden_units.items():
            if width % hyper.modules:
                raise BadValue("modules", hyper.modules, f"a divisor of {width}, the width of {units}")

    # -- shape ---------------------------------------------------------------------------------------------------------

    def copies(self, units: str) -> int:
        """How many modules a weight from these units stands for: all have the same, since what it sees is their sum."""
        return 1 if units == INPUT_UNITS else self.hyper.modules

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every weight: for all modules of its layer, and the inputs of one."""
        own = dict(self.network.named_parameters())
        found = {}
        for wire in self.network.body_wires():
            rows, columns, *kernel = own[wire.weight].shape
            found[wire.weight] = (rows, columns // self.copies(wire.inputs), *kernel)
        return found

    def owned(self, fixed: Tensor, units: str, like: Tensor) -> Tensor:
        """*Packed.* Which rows of a tensor belong to fixed modules; bool, shape [out, 1, ...]."""
        rows = fixed[self.layers.index(units)].repeat_interleave(len(like) // self.hyper.modules)
        return rows.reshape(-1, *(1,) * (like.dim() - 1))

    def gains(self, path: Tensor, like: Tensor) -> Tensors:
        """*Packed.* How often each unit's module is in a path, shape [layers, active]."""
        counts = (path[..., None] == torch.arange(self.hyper.modules, device=path.device)).sum(-2).to(like.dtype)
        widths = self.network.hidden_units
        return {f"{u}.gain": counts[i].repeat_interleave(widths[u] // self.hyper.modules) for i, u in enumerate(self.layers)}

    # -- the contract --------------------------------------------------------------------------------------------------

    def start(self, weights: Tensors) -> Tensors:
        """*Packed.* No modules yet: each task draws those that are not fixed."""
        like = weights[self.body[0]]
        shared = {name: like.new_zeros(self.shapes.get(name, weights[name].shape)) for name in self.body}
        return {**shared, FIXED: torch.zeros(len(self.layers), self.hyper.modules, dtype=torch.bool, device=like.device)}

    def begin_task(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* Fixed modules and new ones, two random paths, and the draws for their mutations."""
        like, h = memory[self.body[0]], self.hyper
        params: Tensors = {}
        for wire in self.network.body_wires():
            params |= self._drawn(memory, wire)
        params |= self.draw_head(self.layout.outputs[at.task], like, self.network.features // h.modules)  # of the modules' sum
        noise = torch.rand(2, len(self.layers), h.modules, dtype=like.dtype, device=like.device)
        genes = noise.argsort(-1)[..., : h.active]
        chance, shift = torch.rand(2, h.generations, *genes.shape[1:], dtype=like.dtype, device=like.device).unbind()
        unknown = noise.new_full((2,), torch.inf)
        paths = {GENES: genes, TRAINED: genes[0], PATH: genes[0], FITNESS: unknown, CHANCE: chance, SHIFT: (shift * 5).long() - 2}
        return {**params, **self.begin_norms(memory), **paths}

    def effective_weights(self, params: Tensors, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* The network whose units are those of all modules, with only those of the path on."""
        weights = super().effective_weights(params, memory, hp, at)
        for wire in self.network.wires:
            tiles = (1, self.copies(wire.inputs), *(1,) * (weights[wire.weight].dim() - 2))
            weights[wire.weight] = weights[wire.weight].repeat(tiles)
        known = TRAINED if at.phase == "train" else PATH
        path = params[known] if known in params else memory[f"{PATHS}{at.task}"]
        return {**weights, **self.gains(path, weights[self.body[0]])}

    def condition(
        self, grads: Tensors, params: Tensors, memory: Tensors, hp: Tensors, at: At,
        preview: Callable[[Tensors], Tensors],
    ) -> Tensors:  # fmt: skip
        """*Packed.* Modules of earlier paths stay."""
        held = {}
        for wire in self.network.body_wires():
            for name in (wire.weight, wire.bias):
                if name is not None:
                    held[name] = self.owned(memory[FIXED], str(wire.outputs), grads[name])
        return {name: grad.masked_fill(held[name], 0) if name in held else grad for name, grad in grads.items()}

    def end_epoch(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, loss: Tensor) -> Tensors:
        """*Packed.* Notes how the individual did, and after both have had their turn replaces the worse.

        In the last epoch the better of both is the path, whosever turn it was.
        """
        turn, genes = self._turn(at.epoch), params[GENES]
        own = torch.arange(2, device=loss.device) == turn
        fitness = torch.where(own, loss, params[FITNESS])
        last = params[TRAINED] if at.epoch + 1 < at.epochs else torch.where(fitness[0] <= fitness[1], genes[0], genes[1])
        generation, rest = divmod(at.epoch + 1, 2 * self.hyper.turn_epochs)
        if not rest and generation <= self.hyper.generations:
            chance, shift = (params[name][generation - 1] for name in (CHANCE, SHIFT))
            genes = self._tournament(genes, fitness, chance if generation < self.hyper.generations else chance + 1, shift)
        return {**params, GENES: genes, FITNESS: fitness, PATH: last, TRAINED: genes[self._turn(at.epoch + 1)]}

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* Keeps the path that came with the best weights, and fixes its modules."""
        path = params[PATH]
        used = (path[..., None] == torch.arange(self.hyper.modules, device=path.device)).any(-2)
        kept = super().end_task(params, memory, hp, at, batches)
        return {**kept, f"{PATHS}{at.task}": path, FIXED: memory[FIXED] | used}

    # -- for the record ------------------------------------------------------------------------------------------------

    def masks(self, memory: Tensors, task: int) -> dict[str, Mask]:
        """Units -> those of the modules in a task's path."""
        gains = self.gains(memory[f"{PATHS}{task}"], memory[self.body[0]])
        return {units: Mask("unit", (gains[f"{units}.gain"] > 0).cpu()) for units in self.layers}

    def kept(self, memory: Tensors, hp: Tensors) -> Tensors:
        """Modules in any path, paths of a byte a gene, heads and normalisations."""
        paths = {n: keeping.as_integers(t, self.hyper.modules - 1) for n, t in memory.items() if n.startswith(PATHS)}
        own = {n: t for n, t in memory.items() if n.startswith(("heads.", "norms."))}
        return {**keeping.as_written({**own, **keeping.picked(memory, self._rows(memory, memory[FIXED]))}), **paths}

    def restored(self, kept: Tensors, hp: Tensors, first: Tensors) -> Tensors:
        """Modules that are in no path are 0."""
        paths = torch.stack([tensor for name, tensor in kept.items() if name.startswith(PATHS)])
        fixed = (paths[..., None] == torch.arange(self.hyper.modules)).any(-2).any(0)
        return {**kept, **keeping.placed(kept, self._rows(first, fixed))}

    def _rows(self, like: Tensors, fixed: Tensor) -> Tensors:
        """Name -> which entries of weights and biases belong to fixed modules, bool."""
        ends = {name: str(w.outputs) for w in self.network.body_wires() for name in (w.weight, w.bias) if name is not None}
        return {name: self.owned(fixed, units, like[name]).expand(like[name].shape) for name, units in ends.items()}

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _turn(self, epoch: int) -> int:
        """Whose turn it is."""
        return epoch // self.hyper.turn_epochs % 2

    def _tournament(self, genes: Tensor, fitness: Tensor, chance: Tensor, shift: Tensor) -> Tensor:
        """The individuals after one: the winner stays in its place; above all chances the other becomes its equal."""
        first_wins = fitness[0] <= fitness[1]
        winner = torch.where(first_wins, genes[0], genes[1])
        mutant = mutated(winner, chance, shift, self.hyper.modules)
        return torch.where(first_wins, torch.stack([winner, mutant]), torch.stack([mutant, winner]))

    def _drawn(self, memory: Tensors, wire: Wire) -> Tensors:
        """One layer's modules, drawn for the inputs of one module where they are not fixed."""
        old = memory[wire.weight]
        fan_in = old.new_tensor(prod(old.shape[1:]))
        fan_out = old.new_tensor(len(old) // self.hyper.modules * prod(old.shape[2:]))
        drawn = {wire.weight: symmetric(old.shape, old) * self.network.bound(fan_in, fan_out)}
        if wire.bias is not None:
            drawn[wire.bias] = symmetric(memory[wire.bias].shape, old) * fan_in.rsqrt()
        owned = {name: self.owned(memory[FIXED], str(wire.outputs), memory[name]) for name in drawn}
        return {name: torch.where(owned[name], memory[name], new) for name, new in drawn.items()}


def mutated(path: Tensor, chance: Tensor, shift: Tensor, modules: int) -> Tensor:
    """*Packed.* Each gene moved with probability 1 / (layers x active) (PathNet, 2.4; HAT's code).

    Args:
        path: shape [layers, active], in [0, modules).
        chance: in [0, 1), shaped like the path.
        shift: -2 to 2, shaped like the path.
        modules: of a layer.
    """
    return torch.where(chance < 1 / path.numel(), (path + shift) % modules, path)


METHOD = PathNet
