"""AGS-CL (Jung et al., 2020): unimportant nodes are made sparse and used again, important ones are held, a node at a time."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clcore.hyper import knob
from clcore.methods.base import DERIVED, At, Batch, Method, Tensors, symmetric
from clcore.methods.penalties.penalty import IMPORTANCE
from clcore.networks.base import HEAD, INPUT_UNITS, Network, Wire

OLD, OPEN = DERIVED + "old.", DERIVED + "open."


@dataclass(frozen=True)
class AGSCLHyper:
    """Hyperparameters of AGS-CL."""

    strength: float = knob(
        400.0, "lambda, how hard important nodes are held", low=0, packed=True, source="AGS-CL, eq. 2: CIFAR-100; 1000: Omniglot",
        grid=(1.0, 10.0, 100.0, 400.0, 1000.0, 10000.0), search=(1, 1e5), log=True,
    )  # fmt: skip
    mu: float = knob(
        10.0, "group sparsity of unimportant nodes", low=0, packed=True, source="AGS-CL, eq. 2: CIFAR-100; 7: Omniglot",
        search=(0.1, 50), log=True,
    )  # fmt: skip
    eta: float = knob(
        0.9,
        "what is left of importance with each new task",
        low=0,
        high=1,
        packed=True,
        source="AGS-CL's code: .9",
        levels=(0.0, 0.5, 0.9, 0.99),
    )
    rho: float = knob(
        0.3, "share of unimportant nodes that is drawn anew for the next task", low=0, high=1, packed=True,
        source="AGS-CL, section 4: .3, .2, .5 or .1", search=(0.1, 0.5),
    )  # fmt: skip


class AGSCL(Method):
    """Two proximal steps after each epoch, on each node's incoming weights and bias (AGS-CL, section 3.2).

    Nodes with importance 0 are shrunk by a group lasso; the others are pulled back towards what they were after the task before.
    A node's importance is its mean activation after ReLU (of other functions, its size). After a task, weights out of unimportant
    nodes are 0, and those into important nodes stay so. Scale and shift of a normalisation are a group of their own. A head that
    tasks share has as importance the mean probability of each class, and no sparsity: the paper has a head a task.
    """

    Hyper = AGSCLHyper
    defaults = MappingProxyType({"optimizer": "adam", "lr": 0.001, "batch_size": 256, "epochs": 100, "lr_min": 1e-6})
    training_only = (IMPORTANCE,)
    reads = (DERIVED, IMPORTANCE)

    @cached_property
    def groups(self) -> list[tuple[str, tuple[str, ...]]]:
        """Units and the tensors of which each row belongs to one of them."""
        wires = [(w.outputs or HEAD, (w.weight, *((w.bias,) if w.bias else ()))) for w in self.wires]
        norms = [(units, tuple(n for n in self.body if n.rpartition(".")[0] == norm)) for norm, units in self.network.norms.items()]
        return [(units, tensors) for units, tensors in [*wires, *norms] if tensors]

    @cached_property
    def wires(self) -> list[Wire]:
        """Wires of all weights that tasks share."""
        body = list(self.network.body_wires())
        return body if self.private_heads else [*body, self.network.wires[-1]]

    def start(self, weights: Tensors) -> Tensors:
        """*Packed.* No node is important yet."""
        memory = super().start(weights)
        widths = {units: memory[tensors[0]] for units, tensors in self.groups}
        return memory | {IMPORTANCE + units: torch.zeros_like(like.reshape(len(like), -1)[:, 0]) for units, like in widths.items()}

    def prepare(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* The weights to be held, and which weights may be other than 0: none from unimportant to important nodes."""
        old = {OLD + name: memory[name] for _, tensors in self.groups for name in tensors}
        between = [wire for wire in self.wires if wire.inputs != INPUT_UNITS]
        for wire in between if at.task else ():
            used = memory[IMPORTANCE + (wire.outputs or HEAD)] > 0
            closed = columns(memory[IMPORTANCE + wire.inputs] == 0, wire, memory[wire.weight]) & rows(used, memory[wire.weight])
            old[OPEN + wire.weight] = (~closed).to(memory[wire.weight])
        return old

    def condition(
        self, grads: Tensors, params: Tensors, memory: Tensors, hp: Tensors, at: At,
        preview: Callable[[Tensors], Tensors],
    ) -> Tensors:  # fmt: skip
        """*Packed.* Weights from unimportant to important nodes, which are 0, stay so."""
        return {n: g * memory[OPEN + n] if OPEN + n in memory else g for n, g in grads.items()}

    def end_epoch(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, loss: Tensor) -> Tensors:
        """*Packed.* The proximal steps (AGS-CL, eq. 4 and 5)."""
        after = dict(params)
        for units, tensors in self.groups:
            importance = memory[IMPORTANCE + units]
            now, old = ([source[prefix + n] for n in tensors] for source, prefix in ((params, ""), (memory, OLD)))
            change = [a - b for a, b in zip(now, old, strict=True)]
            kept = shrinkage(now, hp["lr"] * hp["mu"] * (units != HEAD))
            moved = shrinkage(change, hp["lr"] * hp["strength"] * importance)
            for name, w, d, w_old in zip(tensors, now, change, old, strict=True):
                after[name] = torch.where(rows(importance > 0, w), w_old + rows(moved, w) * d, rows(kept, w) * w)
        return after

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* Adds the nodes' importance, and makes unimportant ones ready for the next task."""
        kept = super().end_task(params, memory, hp, at, batches)
        weights = self.effective_weights(params, memory, hp, At(at.task, "eval", at.seen))
        for units, active in self._activity(weights, at, batches).items():
            old = memory.get(IMPORTANCE + units)
            if old is not None:
                kept[IMPORTANCE + units] = hp["eta"] * old + F.pad(active, (0, len(old) - len(active)))
        self._disconnect(kept, at)
        self._renew(kept, hp["rho"])
        return kept

    def _activity(self, weights: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """Mean activation of each unit, and mean probability of each output."""
        total: Tensors = {}
        count = 0
        for batch in batches:
            with activations(self.network) as seen:
                logits = self.logits(weights, batch.inputs, At(at.task, "eval", at.seen))
            for units, calls in (seen | {HEAD: [logits.softmax(-1)]}).items():
                mean = (
                    torch.stack([hidden.abs().flatten(2).mean(2) if hidden.dim() > 2 else hidden.abs() for hidden in calls])
                    .mean(0)
                    .sum(0)
                )
                total[units] = total[units] + mean if units in total else mean
            count += len(batch.labels)
        return {units: active / count for units, active in total.items()}

    def _disconnect(self, kept: Tensors, at: At) -> None:
        """Nothing is read from unimportant nodes."""
        for wire in self.network.wires:
            if wire.inputs == INPUT_UNITS:
                continue
            private = wire.outputs is None and self.private_heads
            name = f"heads.{at.task}.weight" if private else wire.weight
            kept[name] = kept[name] * columns(kept[IMPORTANCE + wire.inputs] > 0, wire, kept[name])

    def _renew(self, kept: Tensors, rho: Tensor) -> None:
        """Draws a share of the unimportant nodes anew."""
        chosen = {units: drawn(kept[IMPORTANCE + units] == 0, rho) for units in self.network.hidden_units}
        for units, tensors in self.groups:
            fan_in = kept[tensors[0]][0].numel()
            for name in tensors if units != HEAD else ():
                fresh = self._fresh(name, kept[name], fan_in)
                kept[name] = torch.where(rows(chosen[units], fresh), fresh, kept[name])

    def _fresh(self, name: str, like: Tensor, fan_in: int) -> Tensor:
        """A tensor as the network draws it at first; scales are 1 and shifts 0."""
        if name in self.network.affine:
            return torch.full_like(like, float(name.endswith(".weight")))
        fans = torch.tensor([fan_in, len(like) * (like[0, 0].numel() if like.dim() > 1 else 1)]).to(like)
        return symmetric(like.shape, like) * (self.network.bound(*fans) if like.dim() > 1 else fans[0].rsqrt())


def shrinkage(group: list[Tensor], by: Tensor) -> Tensor:
    """*Packed.* max(0, 1 - by / norm) of each row of some tensors together, shape [rows]: the proximal step of ``by * norm``."""
    norm = (
        torch.stack([tensor.flatten(1).square().sum(1) if tensor.dim() > 1 else tensor.square() for tensor in group]).sum(0).sqrt()
    )
    return (1 - by / torch.where(norm > 0, norm, 1)).clamp(min=0)


def drawn(free: Tensor, rho: Tensor) -> Tensor:
    """*Packed.* A random choice of the share ``rho`` of the units that are free, rounded up; bool, shape [units]."""
    noise = torch.rand(free.shape, dtype=rho.dtype, device=free.device)
    rank = torch.where(free, noise, 2).argsort().argsort()
    count = free.sum()
    return free & (rank < count - (count * (1 - rho) + 1e-6).floor())


def rows(values: Tensor, like: Tensor) -> Tensor:
    """*Packed.* Values of the rows of a tensor, shaped to go with it."""
    return values.reshape(-1, *(1,) * (like.dim() - 1))


def columns(values: Tensor, wire: Wire, like: Tensor) -> Tensor:
    """*Packed.* Values of the units that feed a weight, shaped to go with it."""
    return values.repeat_interleave(wire.repeat).reshape(1, -1, *(1,) * (like.dim() - 2))


@contextmanager
def activations(network: Network) -> Iterator[dict[str, list[Tensor]]]:
    """While it lasts, what comes out of each units of a network, one tensor a call, shape [batch, width, ...]."""
    seen: dict[str, list[Tensor]] = {}

    def hook(units: str) -> Any:
        def note(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            seen.setdefault(units, []).append(output)

        return note

    handles = [network.get_submodule(units).register_forward_hook(hook(units)) for units in network.hidden_units]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


METHOD = AGSCL
