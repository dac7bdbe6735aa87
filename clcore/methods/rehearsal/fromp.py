"""FROMP (Pan et al., 2020): what the network says of a few stored examples of each earlier task is held, not its weights."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from clcore.hyper import knob
from clcore.methods.base import DERIVED, At, Batch, Tensors
from clcore.methods.distillation.old_answers import HEADS, OldAnswers
from clcore.methods.penalties.fisher import class_pulls
from clcore.methods.penalties.per_sample import PerSample
from clcore.methods.rehearsal.kernel import kernels, whitening
from clcore.methods.rehearsal.stored import as_inputs, as_stored
from clcore.networks.base import HEAD

POINTS, FISHER = "points.", "fisher."
INPUTS, BEFORE, WHITENING = DERIVED + "points", DERIVED + "before.", DERIVED + "whitening."


@dataclass(frozen=True)
class FROMPHyper:
    """Hyperparameters of FROMP; defaults are those of its code for permuted MNIST."""

    strength: float = knob(
        0.5, "tau, weight of the functional penalty, for a loss that is a mean", low=0, packed=True,
        source="FROMP's code: .5 for permuted MNIST, split: 10; grid: van de Ven's code",
        grid=(0.01, 0.1, 0.5, 1.0, 10.0, 100.0, 1000.0), search=(1e-3, 1e3), log=True,
    )  # fmt: skip
    stored: int = knob(
        200,
        "memorable points of each task, as many of each class",
        low=1,
        source="FROMP's code: 200 for permuted MNIST, split: 40",
        levels=(20, 40, 100, 200, 500),
    )
    select: str = knob(
        "uncertain", "memorable points: those the network is least sure of, or random ones (the paper's FRORP)",
        choices=("uncertain", "random"), source="FROMP, section 3; code",
    )  # fmt: skip
    prior: float = knob(
        1e-5, "precision of the weights' prior", low=1e-12, packed=True, source="FROMP's code: 1e-5 permuted, 1e-3 split MNIST",
        search=(1e-6, 1e-2), log=True,
    )  # fmt: skip
    jitter: float = knob(
        1e-5,
        "added to the diagonal of the kernels",
        low=1e-12,
        packed=True,
        source="FROMP's code: 1e-5, split: 1e-6",
        levels=(1e-7, 1e-6, 1e-5, 1e-4),
    )


class FROMP(OldAnswers):
    """Adds (tau / 2) sum_t sum_c (m - m*)^T K^-1 (m - m*) over earlier tasks t and classes c to the loss (FROMP, section 3).

    m are the probabilities of class c at the task's memorable points, m* those before the task, and K = J S J^T with the
    Jacobian J of m before the task and S = 1 / (prior + the diagonal Gauss-Newton matrix summed over all examples so far). In
    class-il the probabilities are among all classes so far (van de Ven's code); in task-il those of the task's own head.
    """

    Hyper = FROMPHyper
    training_only = (POINTS, FISHER)
    reads = (DERIVED,)
    clip = 1.0  # van de Ven's code
    #: The code for permuted MNIST; it clips the gradient over tau at .01.
    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"protocol": "fixed", "optimizer": "adam", "lr": 1e-3, "batch_size": 128, "epochs": 10, "clip": 0.005}
    )
    hyper: FROMPHyper

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Tensors of a task's network that are learned."""
        return (*self.body, *(f"{HEAD}.{part}" for part in self.head_parts))

    # -- the contract --------------------------------------------------------------------------------------------------

    def start(self, weights: Tensors) -> Tensors:
        """*Packed.* No example has been seen yet."""
        memory = super().start(weights)
        return memory | {FISHER + n: torch.zeros_like(memory[n]) for n in self.names if n in memory}

    def prepare(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* The points of all earlier tasks, m*, shape [classes, points], and W with W^T W = K^-1 of each."""
        if not at.task or at.phase == "eval":  # nothing is learned then
            return {}
        points = [as_inputs(memory[f"{POINTS}{task}"], self.layout, memory[self.body[0]]) for task in range(at.task)]
        derived = {INPUTS: torch.cat(points)}
        for task, inputs in enumerate(points):
            net = self.per_sample({}, memory, hp, At(task, "eval", at.seen))
            said = net.logits(inputs).softmax(-1)
            every = torch.eye(said.shape[-1], dtype=said.dtype, device=said.device)
            pulls = [said[:, c, None] * (every[c] - said) for c in range(said.shape[-1])]
            kernel = kernels(net, self.covariance(net, memory, hp, task), inputs, pulls)
            derived[f"{BEFORE}{task}"] = said.mT
            derived[f"{WHITENING}{task}"] = whitening(kernel, hp["jitter"].double()).to(said)
        return derived

    def loss(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batch: Batch) -> Tensor:
        """*Packed.* The task's loss and the penalty; both on validation data too."""
        own = super().loss(params, memory, hp, at, batch)
        return own + hp["strength"] / 2 * self.distance(params, memory, hp, at) if at.task else own

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* Adds the task's Gauss-Newton matrix, and stores its memorable points."""
        net = self.per_sample(params, memory, hp, At(at.task, "eval", at.seen))
        images, labels, doubts, total = [], [], [], dict.fromkeys(self.names, torch.zeros((), device=params[self.body[0]].device))
        for batch in batches:
            logits = net.logits(batch.inputs)
            sums = net.sums(batch.inputs, class_pulls("exact", logits, batch.labels), 2)
            total = {name: total[name] + part for name, part in sums.items()}
            images.append(as_stored(batch.inputs, self.layout))
            labels.append(batch.labels)
            doubts.append(1 - logits.softmax(-1).square().sum(-1))
        scores = torch.cat(doubts)
        scores = scores if self.hyper.select == "uncertain" else torch.rand_like(scores)
        chosen = memorable(scores, torch.cat(labels), self.hyper.stored, self.layout.outputs[at.task])
        points = {f"{POINTS}{at.task}": torch.cat(images)[chosen]}
        return super().end_task(params, memory, hp, at, batches) | points | self.summed(memory, total, at.task)

    # -- its parts -----------------------------------------------------------------------------------------------------

    def per_sample(self, params: Tensors, memory: Tensors, hp: Tensors, at: At) -> PerSample:
        """*Packed.* Gradients of single examples of a task's network."""
        return PerSample(self.network, self.effective_weights(params, memory, hp, at), self.names)

    def distance(self, params: Tensors, memory: Tensors, hp: Tensors, at: At) -> Tensor:
        """*Packed.* The sum over earlier tasks and classes of (m - m*)^T K^-1 (m - m*), without dropout (FROMP's code)."""
        final = replace(at, phase="eval")
        before = [memory[f"{BEFORE}{task}"] for task in range(at.task)]
        logits = self.logits(self.every_head(params, memory, hp, final), memory[INPUTS], final)
        parts = []
        for task, own in enumerate(torch.split(logits, [then.shape[-1] for then in before])):
            outputs = slice(self.layout.offset(task), self.layout.offset(task + 1)) if self.private_heads else slice(None)
            change = own[:, outputs].softmax(-1).mT - before[task]
            parts.append((memory[f"{WHITENING}{task}"] @ change[..., None]).square().sum())
        return torch.stack(parts).sum()

    def covariance(self, net: PerSample, memory: Tensors, hp: Tensors, task: int) -> Tensors:
        """*Packed.* S, of the tensors of a task's network."""
        found = {n: memory[FISHER + self.kept_as(n, task)][: len(net.weights[n])] for n in self.names}
        return {name: 1 / (total + hp["prior"]) for name, total in found.items()}

    def summed(self, memory: Tensors, found: Tensors, task: int) -> Tensors:
        """*Packed.* What was found of a task's network added to what memory has; a shared head's other outputs have none."""
        total: Tensors = {}
        for name, new in found.items():
            kept = FISHER + self.kept_as(name, task)
            before = memory.get(kept, torch.zeros_like(new))
            total[kept] = before + F.pad(new, (0, 0) * (new.dim() - 1) + (0, len(before) - len(new)))
        return total

    def kept_as(self, name: str, task: int) -> str:
        """What memory calls a tensor of a task's network."""
        private = self.private_heads and name.startswith(f"{HEAD}.")
        return f"{HEADS}{task}{name.removeprefix(HEAD)}" if private else name


def memorable(scores: Tensor, labels: Tensor, count: int, classes: int) -> Tensor:
    """*Packed.* Positions of the examples with the highest scores of each class, in order, shape [min(count, examples)].

    Where a class has fewer than its share, and for what is left over, those with the highest scores of all others.

    Args:
        scores: in [0, 1), shape [examples].
        labels: shape [examples].
        count: how many.
        classes: of which there are so many.
    """
    order = scores.argsort(descending=True, stable=True)
    own = labels.long()[order]
    rank = F.one_hot(own, classes).cumsum(0).gather(1, own[:, None])[:, 0]
    preferred = scores[order] + (rank <= count // classes)
    chosen: Tensor = order[preferred.topk(min(count, len(labels))).indices].sort().values
    return chosen


METHOD = FROMP
