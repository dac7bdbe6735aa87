"""HopSupSup: masks of units, absorbed by a Hopfield network of fixed size and found again from the data (SupSup, App. B)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from clcore import bits
from clcore.errors import BadValue
from clcore.hyper import knob
from clcore.masks import Mask
from clcore.methods import keeping
from clcore.methods.base import At, Batch, Layout, Tensors
from clcore.methods.supsup import hopfield, inference, masks
from clcore.methods.supsup.fixed import FixedWeights, fixed
from clcore.networks.base import Network

SCORES = "scores."
PSI = "psi."
MEAN = "mean"
MASKS = "masks"
#: A gradient of fewer than this many of its layer's smallest steps is rounding.
ROUNDING = 64


@dataclass(frozen=True)
class HopSupSupHyper:
    """Hyperparameters of HopSupSup; defaults are the paper's."""

    gamma: float = knob(
        1.5e-3, "weight of the Hopfield energy against the entropy at the end of a recovery", low=0, packed=True,
        source="SupSup, App. B.2: 1.5e-3; the other values are ours", grid=(5e-4, 1.5e-3, 5e-3), search=(1e-4, 1e-2), log=True,
    )  # fmt: skip
    recovery_lr: float = knob(
        500.0, "learning rate of a recovery", low=0, packed=True, source="SupSup, App. B.2", search=(50, 5000), log=True
    )
    recovery_momentum: float = knob(
        0.9, "momentum of a recovery", low=0, high=0.9999, source="SupSup, App. B.2", levels=(0.0, 0.5, 0.9, 0.99)
    )
    recovery_decay: float = knob(
        1e-4, "weight decay of a recovery", low=0, source="SupSup, App. B.2", levels=(0.0, 1e-5, 1e-4, 1e-3)
    )
    recovery_batch: int = knob(64, "test examples a step of a recovery", low=2, source="SupSup, App. B.2", levels=(16, 64, 256))


class HopSupSup(FixedWeights):
    """One mask of all hidden units a task; no mask is kept where the task is to be inferred.

    Storkey's rule stores each task's mask, a layer's units in a network of their own; a mask that a layer had before is not stored
    again, which would erase it. At test the mask is found by descent on energy and entropy, from the mean of all masks.

    What differs from the paper:

    - ReLU in place of Swish, and the mask multiplies what comes out of it instead of what goes in (the same for ReLU and 0/1
      masks, but a unit that is off still gets a gradient).
    - A recovery goes over the examples that the evaluator hands over at a time (1024), not over all test data of a task, so it has
      16 steps in place of about 31; these examples are then classified under the mask found, as one batch.
    - In task-il, which the paper does not have, the mask of the given task is kept, one bit a unit, and nothing is recovered.

    As in the paper a batch is normalised by itself at test too, so an example's answer depends on those it comes with.
    """

    Hyper = HopSupSupHyper
    private_affine = False
    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"protocol": "fixed", "optimizer": "momentum", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "batch_size": 128,
         "epochs": 1, "lr_schedule": "cosine", "bias": False, "norm": "batch-plain"}
    )  # fmt: skip

    def __init__(self, hyper: Any, network: Network, layout: Layout) -> None:
        classes = sum(layout.outputs) if layout.scenario == "class-il" else max(layout.outputs)
        super().__init__(hyper, network, layout, classes)
        self.units = network.hidden_units
        for norm in network.norm_modules.values():
            norm.by_batch = True

    def label_offset(self, task: int) -> int:
        """In class-il the output layer has the classes of all tasks from the first on, so that every mask is learned under them."""
        return self.layout.offset(task) if self.layout.scenario == "class-il" else 0

    # -- learning ------------------------------------------------------------------------------------------------------

    def start(self, weights: Tensors) -> Tensors:
        """*Packed.* The fixed weights and an empty Hopfield network a layer."""
        like, total = weights[self.body[0]], sum(self.units.values())
        zeros = {PSI + name: torch.zeros(width, width).to(like) for name, width in self.units.items()}
        none = torch.zeros(0, -(-total // 8), dtype=torch.uint8, device=like.device)
        return {**super().start(weights), **zeros, MEAN: torch.zeros(total).to(like), MASKS: none}

    def begin_task(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* Scores of zero: every unit is on."""
        return {SCORES + name: torch.zeros_like(part) for name, part in self._split(memory[MEAN]).items()}

    def effective_weights(self, params: Tensors, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* The fixed weights, with the task's mask as gains of the units (SupSup, eq. 8)."""
        if params:
            mask = {name: masks.threshold(params[SCORES + name]) for name in self.units}
        elif at.task >= len(memory[MASKS]):
            raise BadValue("task", at.task, "left out: its mask is absorbed in the connections, and found again from inputs")
        else:
            mask = self._split(bits.unpack(memory[MASKS][at.task], sum(self.units.values()), memory[MEAN].dtype))
        return self._gated(memory, mask)

    def condition(
        self, grads: Tensors, params: Tensors, memory: Tensors, hp: Tensors, at: At,
        preview: Callable[[Tensors], Tensors],
    ) -> Tensors:  # fmt: skip
        """*Packed.* No gradient where there is only its rounding.

        A unit that moves all outputs alike (its head weights have one sign) has a gradient of 0. From scores of 0 its rounding
        would say whether the unit stays on, and a mask would be another on every machine.
        """
        limits = {name: ROUNDING * torch.finfo(g.dtype).eps * g.abs().amax() for name, g in grads.items()}
        return {name: torch.where(g.abs() > limits[name], g, 0.0) for name, g in grads.items()}

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* Stores the task's mask in the Hopfield networks and in the mean (SupSup, eq. 6)."""
        mask = torch.cat([masks.threshold(params[SCORES + name]) for name in self.units])
        earlier = bits.unpack(memory[MASKS], len(mask), mask.dtype)
        columns = zip(torch.split(earlier, list(self.units.values()), dim=-1), self._split(mask).items(), strict=True)
        psi = {PSI + name: _stored(memory[PSI + name], part, before) for before, (name, part) in columns}
        mean = memory[MEAN] + (2 * mask - 1 - memory[MEAN]) / (len(memory[MASKS]) + 1)
        return {**memory, **psi, MEAN: mean, MASKS: torch.cat([memory[MASKS], bits.pack(mask)[None]])}

    def _gated(self, memory: Tensors, mask: Tensors) -> Tensors:
        """The network's tensors under a mask of its units; running statistics are there but not looked at."""
        gains = {f"{name}.gain": part for name, part in mask.items()}
        return {**fixed(memory), **self.fresh_statistics(next(iter(mask.values()))), **gains}

    def _split(self, flat: Tensor) -> Tensors:
        return dict(zip(self.units, torch.split(flat, list(self.units.values())), strict=True))

    # -- inference -----------------------------------------------------------------------------------------------------

    def answers(self, memory: Tensors, hp: Tensors, inputs: Tensor, ats: Sequence[At]) -> tuple[Tensor, Tensor]:
        """*Packed.* The classes under the mask recovered from these examples.

        In class-il a class says its task. In domain-il, where the task does not count, it is that of the most similar mask.
        """
        mask = masks.threshold(self.recovered(memory, hp, inputs))
        logits = self.logits(self._gated(memory, self._split(mask)), inputs, ats[-1])
        if self.layout.scenario != "class-il" and not len(memory[MASKS]):  # a deployment has none
            return torch.full((len(inputs),), -1, device=inputs.device), self.decide(logits)
        if self.layout.scenario != "class-il":
            similar = (bits.unpack(memory[MASKS], len(mask), mask.dtype) == mask).sum(-1)
            return similar.argmax().expand(len(inputs)), self.decide(logits)
        owners = torch.tensor([at.task for at in ats for _ in range(self.layout.outputs[at.task])], device=logits.device)
        firsts = torch.tensor([self.layout.offset(at.task) for at in ats], device=logits.device)
        decided = self.decide(logits[:, : len(owners)])  # the classes seen so far
        tasks = owners[decided]
        return tasks, decided - firsts[tasks]

    def recovered(self, memory: Tensors, hp: Tensors, inputs: Tensor) -> Tensor:
        """*Packed.* Scores whose signs are the mask found for ``inputs``, shape [units] (SupSup, App. B.2)."""
        batches = torch.split(inputs, self.hyper.recovery_batch)
        at = At(0, "eval", 1)

        def energy(scores: Tensor) -> Tensor:
            zs = self._split(2 * masks.threshold(scores) - 1)
            return torch.stack([hopfield.energy(memory[PSI + name], z) for name, z in zs.items()]).sum()

        def entropy(scores: Tensor, step: int) -> Tensor:
            weights = self._gated(memory, self._split(masks.threshold(scores)))
            return inference.entropy(self.logits(weights, batches[step], at))

        constants = hopfield.Recovery(hp["gamma"], hp["recovery_lr"], self.hyper.recovery_momentum, self.hyper.recovery_decay)
        return hopfield.recover(memory[MEAN], len(batches), energy, entropy, constants)

    # -- for the record ------------------------------------------------------------------------------------------------

    def masks(self, memory: Tensors, task: int) -> dict[str, Mask]:
        """Units -> which of them a task keeps."""
        mask = self._split(bits.unpack(memory[MASKS][task], len(memory[MEAN]), memory[MEAN].dtype))
        return {name: Mask("unit", part.bool().cpu()) for name, part in mask.items()}

    def kept(self, memory: Tensors, hp: Tensors) -> Tensors:
        """The connections and the mean, however many tasks; in task-il one bit a unit and task instead; weights from a seed."""
        if self.layout.scenario == "task-il":
            return {MASKS: memory[MASKS]}
        return keeping.as_written({n: t for n, t in memory.items() if n == MEAN or n.startswith(PSI)})

    def restored(self, kept: Tensors, hp: Tensors, first: Tensors) -> Tensors:
        """Where masks are absorbed none is left, so a task cannot be given, and which it is says only a class (class-il)."""
        return {**first, **kept}


def _stored(psi: Tensor, mask: Tensor, earlier: Tensor) -> Tensor:
    """Connections with one more mask, shape [units], unless it is among the earlier ones, shape [tasks, units]."""
    known = (earlier == mask).all(-1).any(0)
    return torch.where(known, psi, hopfield.store(psi, 2 * mask - 1))


METHOD = HopSupSup
