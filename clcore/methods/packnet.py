"""PackNet (Mallya & Lazebnik, 2018): a task trains the free weights, gives back the small ones, and keeps the rest for itself."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from clcore import bits
from clcore.hyper import knob
from clcore.masks import Mask
from clcore.methods import keeping
from clcore.methods.base import DERIVED, STATE, At, Batch, Method, Stage, Tensors

#: Number of the task that a weight belongs to, from 1; 0: free. Bits of equal value of all weights together, a row each.
OWNER = "owner"
OWNED = DERIVED + "owned."
KEPT = STATE + "kept."
RETRAIN = "retrain"


@dataclass(frozen=True)
class PackNetHyper:
    """Hyperparameters of PackNet."""

    prune: float = knob(
        0.75, "share of a task's weights, in each layer, that is given back to later tasks", low=0, high=0.999, packed=True,
        source="PackNet, section 4: .5 and .75", grid=(0.5, 0.75, 0.9), search=(0.3, 0.95),
    )  # fmt: skip


class PackNet(Method):
    """Iterative pruning: one owner a weight, of all weights but the heads'.

    A task uses its own weights and those of the tasks before it. It is trained twice: on all free weights, and then, once the
    smallest of them are 0, on the survivors. Biases, and scales and shifts of normalisations, are the first task's; statistics
    of normalisations are each task's own (the paper keeps those of its pretrained network).
    """

    Hyper = PackNetHyper
    regresses = True
    task_specific = True
    private_affine = False
    reads = (OWNED,)
    hyper: PackNetHyper

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every weight that has an owner."""
        own = dict(self.network.named_parameters())
        return {wire.weight: tuple(own[wire.weight].shape) for wire in self.network.body_wires()}

    @cached_property
    def count(self) -> int:
        """How many weights have an owner."""
        return sum(map(prod, self.shapes.values()))

    # -- the contract --------------------------------------------------------------------------------------------------

    def start(self, weights: Tensors) -> Tensors:
        """*Packed.* The initial weights, all free."""
        free = torch.zeros(self.count, dtype=torch.bool, device=weights[self.body[0]].device)
        return {**super().start(weights), OWNER: bits.pack(free)[None]}

    def prepare(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* Which weights belong to earlier tasks."""
        return {OWNED + name: owner > 0 for name, owner in self.owners(memory).items()}

    def begin_task(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* All weights, those given back as 0, and a head."""
        everything = {KEPT + name: torch.ones_like(memory[name], dtype=torch.bool) for name in self.shapes}
        return {**super().begin_task(memory, hp, at), **everything}

    def stages(self, at: At) -> Sequence[Stage]:
        """Training, and training once more after pruning."""
        return [Stage("train", (at.task,)), Stage(RETRAIN, (at.task,))]

    def effective_weights(self, params: Tensors, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* The weights that belong to the task or to one before it; in training, the free ones too."""
        weights = super().effective_weights(params, memory, hp, at)
        if self.body[0] not in params:
            used = {name: (owner > 0) & (owner <= at.task + 1) for name, owner in self.owners(memory).items()}
        elif at.stage == RETRAIN:
            used = {name: params[KEPT + name] for name in self.shapes}
        else:
            used = {}
        return {name: tensor * used[name] if name in used else tensor for name, tensor in weights.items()}

    def condition(
        self, grads: Tensors, params: Tensors, memory: Tensors, hp: Tensors, at: At,
        preview: Callable[[Tensors], Tensors],
    ) -> Tensors:  # fmt: skip
        """*Packed.* Weights of earlier tasks and pruned ones stay, and so do biases after the first task.

        Their gradient is 0 from the task's first step on, so an optimiser's memory of them is 0 too and does not move them.
        """
        held = {name: memory[OWNED + name] for name in self.shapes}
        if at.stage == RETRAIN:
            held = {name: owned | ~params[KEPT + name] for name, owned in held.items()}
        fixed = {name for name in self.body if name not in held and at.task > 0}
        kept = {n: torch.zeros_like(g) if n in fixed else g for n, g in grads.items()}
        return {n: g.masked_fill(held[n], 0) if n in held else g for n, g in kept.items()}

    def end_epoch(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, loss: Tensor) -> Tensors:
        """*Packed.* What would survive pruning now, so that whichever epoch is the best brings its own choice."""
        if at.stage == RETRAIN:
            return params
        owned = {name: memory[OWNED + name] for name in self.shapes}
        return {**params, **{KEPT + n: owned[n] | survivors(params[n], ~owned[n], hp["prune"]) for n in self.shapes}}

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* The survivors are the task's, all other free weights are 0."""
        pruned = {name: params[name] * params[KEPT + name] for name in self.shapes}
        own = {n: owner + (at.task + 1) * (params[KEPT + n] & (owner == 0)) for n, owner in self.owners(memory).items()}
        flat = torch.cat([owner.flatten() for owner in own.values()])
        rows = [bits.pack(flat >> place & 1) for place in range((at.task + 1).bit_length())]
        return {**super().end_task({**params, **pruned}, memory, hp, at, batches), OWNER: torch.stack(rows)}

    def masks(self, memory: Tensors, task: int) -> dict[str, Mask]:
        """Weight -> which of its entries a task uses: its own and those of the tasks before."""
        return {n: Mask("weight", ((owner > 0) & (owner <= task + 1)).cpu()) for n, owner in self.owners(memory).items()}

    def kept(self, memory: Tensors, hp: Tensors) -> Tensors:
        """Weights that a task owns, and for each weight the bits of its owner's number; all else as it is."""
        owned = {name: owner > 0 for name, owner in self.owners(memory).items()}
        return {**super().kept(memory, hp), **keeping.as_written(keeping.picked(memory, owned))}

    def restored(self, kept: Tensors, hp: Tensors, first: Tensors) -> Tensors:
        """Free weights are 0."""
        return {**kept, **keeping.placed(kept, {name: owner > 0 for name, owner in self.owners(kept).items()})}

    def owners(self, memory: Tensors) -> Tensors:
        """*Packed.* Weight -> number of the task each entry belongs to, 0 where it is free; int16, with the weight's shape."""
        rows = bits.unpack(memory[OWNER], self.count, torch.int16)
        flat = torch.stack([row << place for place, row in enumerate(rows.unbind())]).sum(0, dtype=torch.int16)
        parts = torch.split(flat, [prod(shape) for shape in self.shapes.values()])
        return {name: part.reshape(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}


def survivors(weights: Tensor, free: Tensor, share: Tensor) -> Tensor:
    """*Packed.* The free weights of a layer that pruning leaves, bool, with the shape of the weights (PackNet, section 3).

    Those up to the magnitude of rank ``share`` times their number go; of weights that are alike, all.

    Args:
        weights: of one layer.
        free: which of them belong to no earlier task, bool.
        share: of them that is pruned, in [0, 1).
    """
    magnitude = weights.abs().masked_fill(~free, torch.inf)
    rank = (share * free.sum()).round().long()
    cutoff = magnitude.flatten().sort().values.gather(0, (rank - 1).clamp(min=0)[None])
    return free & ((magnitude > cutoff) | (rank == 0))


METHOD = PackNet
