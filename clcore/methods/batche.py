"""BatchE (Wen et al., 2020): weights of the first task, seen by each task through two vectors a layer; ABatchE infers the task.

ABatchE (SupSup, App. C) repeats the images once a task, gives each repetition the vectors of another task, and takes the task
whose outputs are the surest of all images together: here ``images=16 infer_batch=16`` in domain-il or class-il.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from clcore.hyper import knob
from clcore.methods.base import At, Batch, Tensors
from clcore.methods.one_head import OneHead, multi_head_knob, per_column, per_row
from clcore.methods.uncertainty import entropy
from clcore.networks.base import HEAD

#: The vectors of a layer: factors on its inputs (r) and on its outputs (s).
INPUTS, OUTPUTS = "fast.inputs.", "fast.outputs."


@dataclass(frozen=True)
class BatchEHyper:
    """Hyperparameters of BatchE and ABatchE."""

    weights: str = knob(
        "first-task", "where the shared weights come from: learned on the first task, or as they were drawn (Rand W)",
        choices=("first-task", "random"), source="Wen et al. 2020; SupSup, table 2 (BatchE - Rand W)",
    )  # fmt: skip
    weight_rate: float = knob(
        0.01, "factor on the learning rate of the shared weights, in the first task", low=0, packed=True,
        source="SupSup, App. D.3: 1e-4, and .01 for vectors", grid=(0.01, 0.1, 1.0), search=(1e-3, 1), log=True,
    )  # fmt: skip
    first_weights: str = knob(
        "kaiming", "first weights: normal with variance 2 / inputs, or as the network draws them", choices=("kaiming", "network"),
        source="SupSup, App. D.3",
    )  # fmt: skip
    multi_head: bool = multi_head_knob()
    objective: str = knob(
        "entropy", "what the inferred task has the least of: entropy, or 1 - the largest probability (M)",
        choices=("entropy", "confidence"), source="SupSup, App. C",
    )  # fmt: skip
    images: int = knob(
        1,
        "of the examples that share a task, how many are looked at to find it",
        low=1,
        source="SupSup, App. C: 16 are enough",
        levels=(1, 4, 16, 64),
    )
    infer_batch: int = knob(1, "how many test examples in a row share a task", low=1, source="SupSup, App. C: all that are seen")


class BatchE(OneHead):
    """Rank-one factors a task: W o (s r^T) in every layer (SupSup, eq. 10).

    Biases of the network's layers, if it has any, are shared and fixed like its weights; factors do not apply to them.
    """

    Hyper = BatchEHyper
    regresses = True
    defaults: ClassVar = MappingProxyType[str, Any](
        {"protocol": "fixed", "optimizer": "adam", "lr": 0.01, "batch_size": 128, "bias": False}
    )
    hyper: BatchEHyper

    def start(self, weights: Tensors) -> Tensors:
        """*Packed.* The shared weights, and no vectors yet."""
        memory = super().start(weights)
        if self.hyper.first_weights == "kaiming":
            fan_in = {name: prod(shape[1:]) for name, shape in self.seen_by_task.items()}
            memory |= {name: torch.randn_like(memory[name]) * (2 / count) ** 0.5 for name, count in fan_in.items()}
        for name in self.seen_by_task:
            rows, columns = memory[name].shape[:2]
            memory |= {OUTPUTS + name: memory[name].new_zeros(0, rows), INPUTS + name: memory[name].new_zeros(0, columns)}
        return memory

    def begin_task(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* Vectors of random signs, what a task has for itself, and the shared weights if it is to learn them."""
        params = super().begin_task(memory, hp, at)
        if at.task > 0 or self.hyper.weights == "random":
            params = {name: tensor for name, tensor in params.items() if name not in self.shared}
        for name in self.seen_by_task:
            params |= {kind + name: random_signs(memory[kind + name]) for kind in (OUTPUTS, INPUTS)}
        return params

    def effective_weights(self, params: Tensors, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* W o (s r^T)."""
        weights = super().effective_weights(params, memory, hp, at)
        for name in self.seen_by_task:
            s, r = (params[kind + name] if kind + name in params else memory[kind + name][at.task] for kind in (OUTPUTS, INPUTS))
            s = s[: self.layout.outputs[at.task]] if name == f"{HEAD}.weight" else s
            weights[name] = weights[name] * per_row(s, weights[name]) * per_column(r, weights[name])
        return weights

    def rates(self, hp: Tensors) -> Tensors:
        """*Packed.* Shared weights learn at a rate of their own."""
        return {name: hp["weight_rate"] for name in self.shared}

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* Adds the task's vectors to those of the others."""
        names = [kind + name for kind in (OUTPUTS, INPUTS) for name in self.seen_by_task]
        vectors = {name: torch.cat([memory[name], params[name][None]]) for name in names}
        return {**super().end_task(params, memory, hp, at, batches), **vectors}

    def infer_task(
        self, memory: Tensors, hp: Tensors, inputs: Tensor, ats: Sequence[At], outputs: Sequence[Tensor]
    ) -> Tensor:  # fmt: skip
        """*Packed.* For every ``infer_batch`` examples in a row the surest task, by their first ``images`` (SupSup, eq. 15)."""
        doubt = entropy if self.hyper.objective == "entropy" else lambda logits: -logits.softmax(-1).amax(-1)
        return surest(torch.stack([doubt(logits) for logits in outputs]), self.hyper.images, self.hyper.infer_batch)

    @property
    def from_seed(self) -> tuple[str, ...]:
        """Shared weights, unless they are learned."""
        return () if self.hyper.weights == "first-task" else self.shared


def surest(doubt: Tensor, images: int, together: int) -> Tensor:
    """*Packed.* The task of each example, shape [batch], where several in a row are of one task.

    Args:
        doubt: of each task and example, shape [tasks, batch].
        images: how many of the first of each group count.
        together: examples a group; the last may have fewer.
    """
    place = torch.arange(doubt.shape[-1], device=doubt.device)
    group = place // together
    counted = torch.where(place % together < images, doubt, 0)
    total = counted.new_zeros(len(doubt), -(-len(place) // together)).index_add(1, group, counted)
    return total.argmin(0)[group]


def random_signs(like: Tensor) -> Tensor:
    """+1 or -1 alike often, for vectors like those in memory, shape [tasks, width]; shape [width]."""
    drawn = torch.rand(like.shape[1], dtype=like.dtype, device=like.device)
    return torch.where(drawn < 0.5, -torch.ones_like(drawn), torch.ones_like(drawn))


METHOD = BatchE
