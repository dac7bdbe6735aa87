"""Progressive networks (Rusu et al., 2016): each task has a column of units, which also read the columns of the tasks before."""

from collections.abc import Callable
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

from clcore.errors import BadValue
from clcore.masks import Mask
from clcore.methods import keeping
from clcore.methods.base import DERIVED, At, Layout, Method, Tensors, symmetric
from clcore.methods.finetune import NoHyper
from clcore.networks.base import HEAD, INPUT_UNITS, Network, Wire

NEW, ACTIVE = DERIVED + "new.", DERIVED + "active."


class PNN(Method):
    """Columns with linear lateral connections (PNN, eq. 1), as blocks of one network's layers.

    Units of each layer are divided evenly among the tasks: those of task t read columns up to t, and are fixed afterwards. The
    network is as large as all columns together (HAT's code: 1.117 times as wide as that of other methods, for as many weights).
    The paper's non-linear adapters in the lateral connections are left out. Normalisations are each task's own.

    Raises:
        BadValue: a layer with fewer units than there are tasks.
    """

    Hyper = NoHyper
    regresses = True
    task_specific = True
    reads = (NEW, ACTIVE)

    def __init__(self, hyper: Any, network: Network, layout: Layout) -> None:
        super().__init__(hyper, network, layout)
        self.tasks = len(layout.outputs)
        narrowest = min(network.hidden_units.values())
        if narrowest < self.tasks:
            allowed = f"one with at least {self.tasks} units in each layer, a column for each task"
            raise BadValue("network", f"a layer of {narrowest}", allowed)

    # -- columns -------------------------------------------------------------------------------------------------------

    @cached_property
    def columns(self) -> dict[str, Tensor]:
        """Units name -> the task whose column each unit is in, shape [width]; inputs are there for all."""
        hidden = {units: torch.arange(width) * self.tasks // width for units, width in self.network.hidden_units.items()}
        return {INPUT_UNITS: torch.zeros(self.network.units[INPUT_UNITS], dtype=torch.long), **hidden}

    @cached_property
    def widths(self) -> dict[str, list[int]]:
        """Units name -> how many there are in the columns of tasks 0, 0..1, 0..2 and so on."""
        return {units: [int((column <= t).sum()) for t in range(self.tasks)] for units, column in self.columns.items()}

    def joined(self, wire: Wire, task: int) -> Tensor:
        """Which weights come with a task's column: into its units, from columns up to its own; bool, shape [out, in]."""
        assert wire.outputs is not None
        sources = self.columns[wire.inputs].repeat_interleave(wire.repeat)
        return (self.columns[wire.outputs] == task)[:, None] & (sources <= task)

    def active(self, units: str, task: int, like: Tensor) -> Tensor:
        """1 for units in columns up to a task's, else 0; shape [width], with the type and device of ``like``."""
        return (self.columns[units] <= task).to(like)

    # -- the contract --------------------------------------------------------------------------------------------------

    def start(self, weights: Tensors) -> Tensors:
        """*Packed.* No columns yet: each task draws its own."""
        return {name: torch.zeros_like(weights[name]) for name in self.body}

    def prepare(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* What belongs to the task's column, bool, with the dimensions of the tensors, and which units are on."""
        found = {}
        for wire in self.network.body_wires():
            weight = memory[wire.weight]
            found[NEW + wire.weight] = self.joined(wire, at.task).reshape(*weight.shape[:2], *(1,) * (weight.dim() - 2))
            if wire.bias is not None:
                found[NEW + wire.bias] = self.columns[str(wire.outputs)] == at.task
        like = memory[self.body[0]]
        on = {ACTIVE + units: self.active(units, at.task, like) for units in self.network.hidden_units}
        return {**on, **{name: mask.to(like.device) for name, mask in found.items()}}

    def begin_task(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* The columns so far with the task's drawn in, and a head on all of them."""
        params: Tensors = {}
        for wire in self.network.body_wires():
            params |= self._grown(memory, wire, at.task)
        return {**params, **self._head(memory[self.body[0]], at.task), **self.begin_norms(memory)}

    def effective_weights(self, params: Tensors, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* All columns; units of later tasks are off."""
        weights = super().effective_weights(params, memory, hp, at)
        like = weights[self.body[0]]
        known = {units: memory.get(ACTIVE + units) for units in self.network.hidden_units}
        on = {units: self.active(units, at.task, like) if gain is None else gain for units, gain in known.items()}
        return {**weights, **{f"{units}.gain": gain for units, gain in on.items()}}

    def condition(
        self, grads: Tensors, params: Tensors, memory: Tensors, hp: Tensors, at: At,
        preview: Callable[[Tensors], Tensors],
    ) -> Tensors:  # fmt: skip
        """*Packed.* Only the task's column learns, and what is its own besides."""
        return {n: torch.where(memory[NEW + n], g, 0) if NEW + n in memory else g for n, g in grads.items()}

    # -- for the record ------------------------------------------------------------------------------------------------

    def masks(self, memory: Tensors, task: int) -> dict[str, Mask]:
        """Weight -> which of its entries a task uses: those of its column and of the ones before."""
        return {wire.weight: Mask("weight", self._used(memory, wire, task)) for wire in self.network.body_wires()}

    def kept(self, memory: Tensors, hp: Tensors) -> Tensors:
        """Weights of the columns so far, and of each task's normalisations and head what belongs to them."""
        tasks = keeping.tasks_with_heads(memory)
        kept: Tensors = keeping.picked(memory, self._there(memory, tasks - 1)) if tasks else {}
        for task in range(tasks):
            kept |= keeping.cut(self.network, keeping.of_task(memory, task), self._units(task))
        return keeping.as_written(kept)

    def restored(self, kept: Tensors, hp: Tensors, first: Tensors) -> Tensors:
        """Later columns are 0."""
        tasks = keeping.tasks_with_heads(kept)
        memory = keeping.placed(kept, self._there(first, tasks - 1))
        for task in range(tasks):
            memory |= keeping.spread(self.network, keeping.of_task(kept, task), self._units(task), self.network.units)
        return memory

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _units(self, task: int) -> Tensors:
        """Hidden units in columns up to a task's, bool."""
        return {units: self.columns[units] <= task for units in self.network.hidden_units}

    def _there(self, like: Tensors, task: int) -> Tensors:
        """Name -> which weights and biases are in columns up to a task's, bool."""
        found = {}
        for wire in self.network.body_wires():
            found[wire.weight] = self._used(like, wire, task)
            if wire.bias is not None:
                found[wire.bias] = self.columns[str(wire.outputs)] <= task
        return {name: on.to(like[name].device) for name, on in found.items()}

    def _used(self, memory: Tensors, wire: Wire, task: int) -> Tensor:
        used = torch.stack([self.joined(wire, t) for t in range(task + 1)]).any(0)
        shape = memory[wire.weight].shape
        return used.reshape(*shape[:2], *(1,) * (len(shape) - 2)).expand(shape)

    def _grown(self, memory: Tensors, wire: Wire, task: int) -> Tensors:
        """One layer with the weights and biases of a new column, drawn for the inputs it has."""
        old, new = memory[wire.weight], memory[NEW + wire.weight]
        positions = prod(old.shape[2:])
        fan_in = old.new_tensor(self.widths[wire.inputs][task] * wire.repeat * positions)
        fan_out = old.new_tensor(self.widths[str(wire.outputs)][task] * positions)
        result = {wire.weight: torch.where(new, symmetric(old.shape, old) * self.network.bound(fan_in, fan_out), old)}
        if wire.bias is not None:
            bias = symmetric(memory[wire.bias].shape, old) * fan_in.rsqrt()
            result[wire.bias] = torch.where(memory[NEW + wire.bias], bias, memory[wire.bias])
        return result

    def _head(self, like: Tensor, task: int) -> Tensors:
        """A head that reads the columns so far."""
        units = self.network.wires[-1].inputs
        head = self.draw_head(self.layout.outputs[task], like, fan_in=self.widths[units][task])
        return {**head, f"{HEAD}.weight": head[f"{HEAD}.weight"] * self.active(units, task, like)}


METHOD = PNN
