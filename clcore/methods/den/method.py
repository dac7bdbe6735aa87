"""The method: select and retrain what a task needs, grow where that is not enough, split units that have moved too far."""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from clcore.errors import BadValue
from clcore.masks import Mask
from clcore.methods import keeping
from clcore.methods.base import DERIVED, STATE, At, Batch, Layout, Method, Stage, Tensors
from clcore.methods.den.knobs import DENHyper
from clcore.methods.den.splitting import Split, nothing, plan, split_bias, split_head, split_weight
from clcore.methods.penalties.agscl import columns, rows, shrinkage
from clcore.networks.base import HEAD, INPUT_UNITS, Network, Wire

#: The task that each unit came with; of free units the number of tasks. Shape [width].
STAMP = "stamp."
#: What weights were before the task, and which of them earlier tasks have.
WAS, OLD = DERIVED + "was.", DERIVED + "old."
#: Units in use; weights that the stage trains; units under group sparsity; the loss that retraining came to.
ON, LEARNS, NEW, LOSS = STATE + "on.", STATE + "learns.", STATE + "new.", STATE + "loss"
SELECT, RETRAIN, EXPAND, SPLIT = "select", "retrain", "expand", "split"
#: Keeps a share of a width from being rounded up by the last bit of a float.
ROUNDING = 1e-4


class DEN(Method):
    """Four runs a task (DEN, algorithm 1): a sparse head; the units it reaches; new units; the network after units were split.

    A network is made as large as it may become; units not in use are off. New units are added only if the loss of retraining, of
    its last epoch, is above tau, and those whose incoming weights the group sparsity made 0 are taken back. A split unit is what it
    was again, and a copy goes on. Each task uses the units there were when it was learned, so weights of earlier tasks may still
    move, by less than sigma before the split.

    As in DEN's code all that is trained has L1, L2 and the pull to old weights, where the paper's equations have one each; L1 and
    group sparsity are proximal steps, with the learning rate times their strength. As in the paper, and other than in its code, the
    head is trained to its end before units are selected (there for one step), all classes select, and units are split also where
    the network did not grow. The loss is that of classes, not of a sigmoid for each.

    Raises:
        BadValue: a network with units that more than one layer or a shortcut leads to: drift and split are said of one layer.
    """

    Hyper = DENHyper
    defaults = MappingProxyType({"optimizer": "adam", "lr": 0.001, "batch_size": 256, "protocol": "fixed", "epochs": 20})
    regresses = True
    task_specific = True
    reads = (DERIVED,)

    def __init__(self, hyper: Any, network: Network, layout: Layout) -> None:
        super().__init__(hyper, network, layout)
        self.tasks = len(layout.outputs)
        layers = [wire.outputs for wire in network.body_wires()]
        if network.shortcuts or len(set(layers)) < len(layers):
            raise BadValue(
                "network", type(network).__name__, "one whose units each have one layer of incoming weights, and no shortcut"
            )

    # -- units ---------------------------------------------------------------------------------------------------------

    def in_use(self, memory: Tensors, task: int) -> Tensors:
        """*Packed.* Units name -> which of them a task uses, bool; of the inputs all."""
        used = {units: memory[STAMP + units] <= task for units in self.network.hidden_units}
        return self._with_inputs(used, memory[self.body[0]].device)

    def inside(self, units: Tensors, like: Tensors) -> Tensors:
        """*Packed.* Name -> which weights and biases are between some units, bool; shaped to go with ``like``."""
        found = {}
        for wire in self.network.body_wires():
            weight, into = like[wire.weight], units[str(wire.outputs)]
            found[wire.weight] = (rows(into, weight) & columns(units[wire.inputs], wire, weight)).expand(weight.shape)
            if wire.bias is not None:
                found[wire.bias] = into
        return found

    def reached(self, params: Tensors) -> Tensors:
        """*Packed.* Units in use from which a path leads to the head, over weights that are not 0; of the inputs all."""
        found = {units: torch.zeros_like(params[ON + units]) for units in self.network.hidden_units}
        for wire in reversed(self.network.wires):
            joined = params[wire.weight].flatten(2) if params[wire.weight].dim() > 2 else params[wire.weight][..., None]
            reads = (joined != 0).any(-1) & (True if wire.outputs is None else found[wire.outputs][:, None])
            if wire.inputs in found:
                found[wire.inputs] = found[wire.inputs] | reads.any(0).reshape(-1, wire.repeat).any(-1) & params[ON + wire.inputs]
        return self._with_inputs(found, params[self.body[0]].device)

    # -- the contract --------------------------------------------------------------------------------------------------

    def start(self, weights: Tensors) -> Tensors:
        """*Packed.* The initial weights; all units are free."""
        like = weights[self.body[0]]
        stamps = {STAMP + u: torch.full((width,), self.tasks, device=like.device) for u, width in self.network.hidden_units.items()}
        return {**super().start(weights), **stamps}

    def prepare(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* The weights to be held near what they are."""
        held = self.inside(self.in_use(memory, self.tasks - 1), memory)
        return {**{OLD + name: mask for name, mask in held.items()}, **{WAS + name: memory[name] for name in held}}

    def begin_task(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* Body and head; the first task has its share of units, all of which it trains, the others a head first."""
        params = super().begin_task(memory, hp, at)
        on = self.in_use(memory, self.tasks - 1)
        if not any(name.startswith("heads.") for name in memory):
            on |= {u: self._share(hp["first"], width) for u, width in self.network.hidden_units.items()}
        body = self.inside(on, memory)
        if at.task:
            body = {name: torch.zeros_like(mask) for name, mask in body.items()}
        state = {NEW + units: torch.zeros_like(on[units]) for units in self.network.hidden_units}
        return {**params, **state, **self._set(on, body, on, params), LOSS: torch.zeros_like(hp["tau"])}

    def stages(self, at: At) -> Sequence[Stage]:
        """One for the first task, then the four."""
        if not at.task:
            return [Stage("train", (at.task,))]
        head = Stage(SELECT, (at.task,), (f"{HEAD}.", *self.own_affine))
        return [head, *(Stage(name, (at.task,)) for name in (RETRAIN, EXPAND, SPLIT))]

    def begin_stage(self, params: Tensors, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* What retraining may change, the units added to the network, or the split."""
        if at.stage == RETRAIN:
            chosen = self.reached(params)
            return {**params, **self._set(self._on(params), self.inside(chosen, params), chosen, params)}
        return self._expanded(params, hp) if at.stage == EXPAND else self._split(params, memory, hp)

    def effective_weights(self, params: Tensors, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* The network with the task's units on."""
        weights = super().effective_weights(params, memory, hp, at)
        like = weights[self.body[0]]
        on = self._on(params) if LOSS in params else self.in_use(memory, at.task)
        return {**weights, **{f"{units}.gain": on[units].to(like.dtype) for units in self.network.hidden_units}}

    def condition(
        self, grads: Tensors, params: Tensors, memory: Tensors, hp: Tensors, at: At,
        preview: Callable[[Tensors], Tensors],
    ) -> Tensors:  # fmt: skip
        """*Packed.* Of what the stage trains, with decay and the pull to what weights were."""
        found = dict(grads)
        for name, grad in grads.items():
            if LEARNS + name in params:
                total = grad + hp["l2"] * params[name]
                if OLD + name in memory:
                    total = total + hp["hold"] * torch.where(memory[OLD + name], params[name] - memory[WAS + name], 0)
                found[name] = torch.where(params[LEARNS + name], total, 0)
        return found

    def after_step(self, params: Tensors, before: Tensors, grads: Tensors, hp: Tensors) -> Tensors:
        """*Packed.* The proximal steps: of all that was trained, and of the incoming weights of each new unit."""
        after = dict(params)
        for name in grads:
            if LEARNS + name in params:
                after[name] = torch.where(params[LEARNS + name], shrunk(params[name], hp["lr"] * hp["l1"]), params[name])
        for wire in self.network.body_wires():
            if wire.weight in grads:
                weight, trained = after[wire.weight], params[LEARNS + wire.weight]
                kept = shrinkage([torch.where(trained, weight, 0)], hp["lr"] * hp["group"])
                grouped = trained & rows(params[NEW + str(wire.outputs)], weight)
                after[wire.weight] = torch.where(grouped, rows(kept, weight) * weight, weight)
        return after

    def end_epoch(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, loss: Tensor) -> Tensors:
        """*Packed.* The loss that retraining has come to."""
        return {**params, LOSS: loss} if at.stage == RETRAIN else params

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* Weights between units in use; the stamps of those that came; head and normalisations of the task."""
        on = self._on(params)
        written = {n: torch.where(mask, params[n], memory[n]) for n, mask in self.inside(on, params).items()}
        stamps = {STAMP + u: memory[STAMP + u] for u in self.network.hidden_units}
        came = {name: on[name.removeprefix(STAMP)] & (stamp == self.tasks) for name, stamp in stamps.items()}
        stamps = {name: torch.where(came[name], at.task, stamp) for name, stamp in stamps.items()}
        return {**memory, **written, **stamps, **self.stored_head(params, at), **self.stored_norms(params, at)}

    # -- for the record ------------------------------------------------------------------------------------------------

    def masks(self, memory: Tensors, task: int) -> dict[str, Mask]:
        """Units -> which of them a task uses."""
        used = self.in_use(memory, task)
        return {units: Mask("unit", used[units].cpu()) for units in self.network.hidden_units}

    def kept(self, memory: Tensors, hp: Tensors) -> Tensors:
        """Weights between the units in use, a byte a unit for its stamp, and of each task's head and normalisations its units'."""
        tasks = keeping.tasks_with_heads(memory)
        if not tasks:
            return {}
        kept = keeping.cut(self.network, {name: memory[name] for name in self.body}, self.in_use(memory, tasks - 1))
        for task in range(tasks):
            kept |= keeping.cut(self.network, keeping.of_task(memory, task), self.in_use(memory, task))
        stamps = {n: keeping.as_integers(t, self.tasks) for n, t in memory.items() if n.startswith(STAMP)}
        return {**keeping.as_written(kept), **stamps}

    def restored(self, kept: Tensors, hp: Tensors, first: Tensors) -> Tensors:
        """Units in no use have weights of 0."""
        stamps = {name: tensor.long() for name, tensor in kept.items() if name.startswith(STAMP)}
        known = {**first, **stamps}
        tasks, widths = keeping.tasks_with_heads(kept), self.network.units
        body = {name: kept[name] for name in self.body}
        memory = {**stamps, **keeping.spread(self.network, body, self.in_use(known, tasks - 1), widths)}
        for task in range(tasks):
            memory |= keeping.spread(self.network, keeping.of_task(kept, task), self.in_use(known, task), widths)
        return memory

    # -- parts ---------------------------------------------------------------------------------------------------------

    @cached_property
    def last(self) -> Wire:
        """The head's wire."""
        return self.network.wires[-1]

    def _share(self, first: Tensor, width: int) -> Tensor:
        return torch.arange(width, device=first.device) < (first * width - ROUNDING).ceil().clamp(min=1)

    def _with_inputs(self, units: Tensors, device: torch.device) -> Tensors:
        every = torch.ones(self.network.units[INPUT_UNITS], dtype=torch.bool, device=device)
        return {INPUT_UNITS: every, **units}

    def _on(self, params: Tensors) -> Tensors:
        on = {units: params[ON + units] for units in self.network.hidden_units}
        return self._with_inputs(on, params[self.body[0]].device)

    def _set(self, on: Tensors, body: Tensors, head: Tensors, params: Tensors) -> Tensors:
        """The state of a stage: units in use, and what is trained of the body, and of the head by its inputs."""
        weight = params[f"{HEAD}.weight"]
        parts = {f"{HEAD}.weight": columns(head[self.last.inputs], self.last, weight).expand(weight.shape)}
        if "bias" in self.head_parts:
            parts[f"{HEAD}.bias"] = torch.ones_like(params[f"{HEAD}.bias"], dtype=torch.bool)
        learns = {LEARNS + name: mask for name, mask in {**body, **parts}.items()}
        return {**{ON + units: on[units] for units in self.network.hidden_units}, **learns}

    def _expanded(self, params: Tensors, hp: Tensors) -> Tensors:
        """With new units, where the loss is too high; they and the head are trained (DEN, eq. 5)."""
        before = self._on(params)
        grows = params[LOSS] > hp["tau"]
        new = {u: ~before[u] & ((~before[u]).cumsum(0) <= hp["grow"]) & grows for u in self.network.hidden_units}
        on = {units: tensor | new[units] if units in new else tensor for units, tensor in before.items()}
        held = self.inside(before, params)
        body = {name: mask & ~held[name] for name, mask in self.inside(on, params).items()}
        state = self._set(on, body, on, params)
        own = {n: mask & grows if n.startswith(f"{LEARNS}{HEAD}.") else mask for n, mask in state.items()}
        return {**params, **own, **{NEW + units: mask for units, mask in new.items()}}

    def _split(self, params: Tensors, memory: Tensors, hp: Tensors) -> Tensors:
        """Without new units that came to nothing, and with copies of units that have moved; all is trained (DEN, eq. 6)."""
        old = self.in_use(memory, self.tasks - 1)
        plans = {INPUT_UNITS: nothing(self.network.units[INPUT_UNITS], params[self.body[0]].device)}
        for wire in self.network.body_wires():
            units, weight = str(wire.outputs), params[wire.weight]
            fed = (torch.where(params[LEARNS + wire.weight], weight, 0).flatten(1) != 0).any(-1)
            on = params[ON + units] & (old[units] | fed)
            moved = torch.where(memory[OLD + wire.weight], weight - memory[WAS + wire.weight], 0)
            plans[units] = plan(moved.flatten(1).norm(dim=-1), old[units], on, hp["sigma"], hp["grow"])
        after = {**params, **self._applied(params, memory, plans)}
        used = {units: split.on for units, split in plans.items()}
        none = {NEW + units: torch.zeros_like(params[NEW + units]) for units in self.network.hidden_units}
        return {**after, **none, **self._set(used, self.inside(used, params), used, params)}

    def _applied(self, params: Tensors, memory: Tensors, plans: dict[str, Split]) -> Tensors:
        """All that a unit has, after the split."""
        found = {}
        for wire in self.network.body_wires():
            into = plans[str(wire.outputs)]
            found[wire.weight] = split_weight(
                params[wire.weight], memory[WAS + wire.weight], into, plans[wire.inputs].columns(wire.repeat)
            )
            if wire.bias is not None:
                found[wire.bias] = split_bias(params[wire.bias], memory[WAS + wire.bias], into)
        name = f"{HEAD}.weight"
        found[name] = split_head(params[name], plans[self.last.inputs].columns(self.last.repeat))
        for name in (*(STATE + n for n in self.network.statistics), *self.own_affine):
            found[name] = params[name][plans[self.network.norms[name.removeprefix(STATE).rpartition(".")[0]]].source]
        return found


def shrunk(values: Tensor, by: Tensor) -> Tensor:
    """*Packed.* The proximal step of an L1 penalty: each value closer to 0 by ``by``, or 0."""
    return values.sign() * (values.abs() - by).clamp(min=0)
