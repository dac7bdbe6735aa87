"""SupSup as a method: one supermask a task over weights that are never trained, and the task inferred from a superposition."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import vmap

from clcore import bits
from clcore.errors import BadValue
from clcore.hyper import knob
from clcore.masks import Mask
from clcore.methods import keeping
from clcore.methods.base import At, Batch, Layout, Tensors
from clcore.methods.supsup import inference, masks, scores
from clcore.methods.supsup.fixed import FixedWeights, fixed
from clcore.methods.supsup.inference import HALVINGS
from clcore.methods.supsup.nns import MaskChoice
from clcore.networks.base import HEAD, Network

SCORES = "scores."
MASKS = "masks"
MASK_SUM = "mask-sum"
SCORE_MEAN = "score-mean."
NORMS = "norms."


@dataclass(frozen=True)
class SupSupHyper:
    """Hyperparameters of SupSup.

    Where the task is not given (GNs, GNu) the paper's experiments have ``mask=threshold`` and ``outputs`` of 100 or more.
    """

    mask: str = knob(
        "topk", "topk: the weights of largest |score| (GG); threshold: score >= 0 (GNu)", choices=("topk", "threshold"),
        source="SupSup, App. E; its code",
    )  # fmt: skip
    density: float = knob(
        8.0, "s of topk: each layer keeps the share min(.5, s (out + in) / (out in kh kw))", low=1e-3, packed=True,
        source="SupSup, table 2; its code (--er-sparsity)", grid=(1.0, 2.0, 4.0, 8.0, 16.0, 32.0), search=(1, 64), log=True,
    )  # fmt: skip
    score_init: str = knob(
        "kaiming", "a task's first scores: drawn, zero, or the mean of the earlier masks or scores (transfer)",
        choices=("kaiming", "zeros", "mask-mean", "score-mean"), source="SupSup, App. D.5; score-mean: its code",
    )  # fmt: skip
    outputs: int = knob(
        0, "neurons of the output layer, superfluous ones included; 0: the classes of a task", low=0,
        source="SupSup, App. I: 100 and 500 of LeNet, 25 to 200 tried", levels=(0, 25, 100, 200, 500),
    )  # fmt: skip
    inference: str = knob(
        "one-shot", "how the task is found; entropy: each mask by itself, a forward pass a task",
        choices=("one-shot", "binary", "entropy"), source="SupSup, algorithms 1 and 2",
    )  # fmt: skip
    halving: str = knob(
        "code", "of an odd number, binary keeps the larger half or (paper) the smaller", choices=HALVINGS,
        source="SupSup, algorithm 2; its code",
    )  # fmt: skip
    base: int = knob(2, "binary keeps one in this many a round (gamma = 1/base)", low=2, source="SupSup, App. F", levels=(2, 4, 8))
    superfluous: bool = knob(
        False, "objective G in place of H where there are superfluous neurons", packed=True,
        source="SupSup, App. I",
    )  # fmt: skip
    images: int = knob(
        1,
        "of the examples that share a task, how many are looked at to find it",
        low=1,
        source="SupSup, 4.2: 1; 128",
        levels=(1, 8, 32, 128),
    )
    infer_batch: int = knob(128, "how many test examples in a row share a task", low=1, source="SupSup's code")
    eps_nns: float = knob(
        0.125, "task-free: a new mask begins where k max nu < 1 + eps", low=0,
        source="SupSup, section 3.4; its code: 1/8, best between .1 and .2", levels=(0.05, 0.125, 0.25, 0.5),
    )  # fmt: skip
    period: int = knob(
        100, "task-free: batches between two looks at which mask to train", low=1, source="SupSup's code", levels=(10, 50, 100, 500)
    )


class SupSup(FixedWeights):
    """Supermasks in superposition.

    The output layer is masked too: one layer of ``outputs`` neurons for all tasks, whose classes are the first of them. Networks
    with normalisation have statistics a task; a superposition has the mean of theirs, as its weights have of the masks.
    """

    Hyper = SupSupHyper
    training_only = (SCORE_MEAN,)
    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"protocol": "fixed", "optimizer": "rmsprop", "lr": 1e-4, "batch_size": 128, "bias": False}
    )

    def __init__(self, hyper: Any, network: Network, layout: Layout) -> None:
        self.real = max(layout.outputs)
        super().__init__(hyper, network, layout, hyper.outputs or self.real)
        if self.outputs < self.real:
            raise BadValue("outputs", hyper.outputs, f"0, or at least the {self.real} classes of a task")

    @cached_property
    def count(self) -> int:
        """How many weights are masked."""
        return sum(prod(shape) for shape in self.shapes.values())

    # -- learning ------------------------------------------------------------------------------------------------------

    def start(self, weights: Tensors) -> Tensors:
        """*Packed.* The fixed weights, and no mask yet."""
        like = weights[self.body[0]]
        none = torch.zeros(0, -(-self.count // 8), dtype=torch.uint8, device=like.device)
        return {**super().start(weights), MASKS: none, MASK_SUM: torch.zeros(self.count, dtype=like.dtype, device=like.device)}

    def begin_task(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* The first scores of every weight, and fresh normalisations."""
        weights = fixed(memory)
        drawn = {name: scores.fresh(shape, weights[name]) for name, shape in self.shapes.items()}
        first = {name: self._first_scores(name, values, memory) for name, values in drawn.items()}
        return {**{SCORES + name: values for name, values in first.items()}, **self.begin_norms(weights)}

    def effective_weights(self, params: Tensors, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* The fixed weights under the task's mask (SupSup, section 3.2)."""
        if SCORES + f"{HEAD}.weight" in params:
            mask = {name: self._mask(params[SCORES + name], hp) for name in self.shapes}
        else:
            mask = self._split(bits.unpack(memory[MASKS][at.task], self.count, memory[MASK_SUM].dtype))
        return {**self._masked(memory, mask), **self.norms_of(params, memory, at)}

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* Adds the task's mask as bits, and what the first scores of later tasks come from."""
        learned = {name: params[SCORES + name] for name in self.shapes}
        mask = torch.cat([self._mask(values, hp).flatten() for values in learned.values()])
        kept = {MASKS: torch.cat([memory[MASKS], bits.pack(mask)[None]]), MASK_SUM: memory[MASK_SUM] + mask}
        if self.hyper.score_init == "score-mean":
            before = {name: memory.get(SCORE_MEAN + name, torch.zeros_like(values)) for name, values in learned.items()}
            kept |= {SCORE_MEAN + n: before[n] + (values - before[n]) / len(kept[MASKS]) for n, values in learned.items()}
        return {**memory, **kept, **self.stored_norms(params, at)}

    def _mask(self, values: Tensor, hp: Tensors) -> Tensor:
        """A weight's mask from its scores, as numbers 0 and 1."""
        if self.hyper.mask == "threshold":
            return masks.threshold(values)
        return masks.topk(values, masks.kept(values.numel(), masks.kept_share(values.shape, hp["density"])))

    def _first_scores(self, name: str, drawn: Tensor, memory: Tensors) -> Tensor:
        if self.hyper.score_init == "zeros":
            return torch.zeros_like(drawn)
        if self.hyper.score_init == "kaiming" or not len(memory[MASKS]):
            return drawn
        if self.hyper.score_init == "score-mean":
            return memory[SCORE_MEAN + name]
        mean = self._split(memory[MASK_SUM])[name] / len(memory[MASKS])
        return scores.from_masks(mean, drawn, centred=self.hyper.mask == "threshold")

    def _masked(self, memory: Tensors, mask: Tensors) -> Tensors:
        """The network's fixed tensors, the masked ones times their mask."""
        return {name: tensor * mask[name] if name in mask else tensor for name, tensor in fixed(memory).items()}

    def _split(self, flat: Tensor) -> Tensors:
        """A flat mask (or mixture of masks), shape [weights], by name."""
        parts = torch.split(flat, [prod(shape) for shape in self.shapes.values()])
        return {name: part.reshape(shape) for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)}

    # -- inference -----------------------------------------------------------------------------------------------------

    def answers(self, memory: Tensors, hp: Tensors, inputs: Tensor, ats: Sequence[At]) -> tuple[Tensor, Tensor]:
        """*Packed.* The task of every ``infer_batch`` examples in a row, from the first ``images`` of them, and their classes."""
        if self.hyper.inference == "entropy":
            return super().answers(memory, hp, inputs, ats)
        norms = self._stacked_norms(memory, ats)
        tasks, classes = [], []
        for groups in self._groups(inputs):
            found = self.infer_groups(memory, hp, groups[:, : self.hyper.images], norms)
            weights = bits.unpack(memory[MASKS][found], self.count, memory[MASK_SUM].dtype)
            own = {name: tensor[found] for name, tensor in norms.items()}
            logits = vmap(self._superposed, in_dims=(None, 0, 0, 0))(memory, weights, own, groups)
            tasks.append(found.repeat_interleave(groups.shape[1]))
            classes.append(self.decide(logits).flatten())
        return torch.cat(tasks), torch.cat(classes)

    def watch(self) -> MaskChoice:
        """Finds tasks, new and old, in a stream by the beliefs in its masks (SupSup, NNs)."""
        return MaskChoice(self.belief_gradient, self.hyper.eps_nns, self.hyper.period)

    def belief_gradient(self, memory: Tensors, hp: Tensors, inputs: Tensor) -> Tensor:
        """*Packed.* dH/dalpha of examples that share a task, where all masks in memory are believed alike; shape [masks]."""
        total = len(memory[MASKS])
        norms = self._stacked_norms(memory, [At(task, "eval", total) for task in range(total)])
        alpha = torch.full((1, total), 1 / total, dtype=inputs.dtype, device=inputs.device)
        return self._belief_gradient(memory, hp, inputs[None], norms, alpha, total)[0]

    def infer_groups(self, memory: Tensors, hp: Tensors, images: Tensor, norms: Tensors) -> Tensor:
        """*Packed.* The task of each group, shape [groups] (SupSup, algorithms 1 and 2).

        Args:
            memory: of one member.
            hp: of one member.
            images: shape [groups, images, channels, height, width].
            norms: tensors of the normalisations of all tasks, shape [tasks, ...].
        """
        left = total = len(memory[MASKS])
        alive = torch.ones(len(images), total, dtype=torch.bool, device=images.device)
        while left > 1:
            alpha = alive.to(images.dtype) / left
            gradient = self._belief_gradient(memory, hp, images, norms, alpha, left)
            left = inference.next_count(left, self.hyper.halving, total if self.hyper.inference == "one-shot" else self.hyper.base)
            alive = inference.survivors(gradient, alive, left)
        return alive.long().argmax(-1)

    def _belief_gradient(self, memory: Tensors, hp: Tensors, images: Tensor, norms: Tensors, alpha: Tensor, left: int) -> Tensor:
        """dH/dalpha of each group, shape [groups, tasks]."""
        if left == len(memory[MASKS]):  # all tasks alike: their sum is known
            mixture = (memory[MASK_SUM] / left).expand(len(images), -1)
        else:
            mixture = bits.mixtures(alpha, memory[MASKS], self.count)
        mixed = {name: torch.tensordot(alpha, tensor, dims=1) for name, tensor in norms.items()}

        def objective(mixtures: Tensor) -> Tensor:
            logits = vmap(self._superposed, in_dims=(None, 0, 0, 0))(memory, mixtures, mixed, images)
            return vmap(lambda y: self._uncertainty(y, hp))(logits)

        return inference.belief_gradient(objective, mixture, memory[MASKS])

    def _superposed(self, memory: Tensors, mixture: Tensor, norms: Tensors, inputs: Tensor) -> Tensor:
        """Logits under one mixture of masks, shape [batch, outputs]."""
        return self.logits({**self._masked(memory, self._split(mixture)), **norms}, inputs, At(0, "eval", 1))

    def _uncertainty(self, logits: Tensor, hp: Tensors) -> Tensor:
        """H, or G where it is asked for and has neurons to look at; scalar."""
        if self.outputs == self.real:
            return inference.entropy(logits)
        return torch.where(hp["superfluous"] > 0, inference.superfluous(logits, self.real), inference.entropy(logits))

    def _stacked_norms(self, memory: Tensors, ats: Sequence[At]) -> Tensors:
        each = [self.norms_of({}, memory, at) for at in ats]
        return {name: torch.stack([norms[name] for norms in each]) for name in each[0]}

    def _groups(self, inputs: Tensor) -> Iterator[Tensor]:
        """Examples that share a task, shape [groups, examples, ...]: few enough at once, and the last partial group by itself."""
        size = self.hyper.infer_batch
        whole = len(inputs) // size * size
        if whole:
            groups = inputs[:whole].reshape(-1, size, *inputs.shape[1:])
            yield from torch.split(groups, max(1, bits.CHUNK // self.count))
        if whole < len(inputs):
            yield inputs[None, whole:]

    # -- for the record ------------------------------------------------------------------------------------------------

    def masks(self, memory: Tensors, task: int) -> dict[str, Mask]:
        """Weight -> which of its entries a task keeps."""
        flat = bits.unpack(memory[MASKS][task], self.count, memory[MASK_SUM].dtype)
        return {name: Mask("weight", mask.bool().cpu()) for name, mask in self._split(flat).items()}

    def kept(self, memory: Tensors, hp: Tensors) -> Tensors:
        """Per task one bit a weight and its normalisations; weights come from a seed, and the sum of all masks is worked out."""
        return keeping.as_written({n: t for n, t in memory.items() if n == MASKS or n.startswith(NORMS)})

    def restored(self, kept: Tensors, hp: Tensors, first: Tensors) -> Tensors:
        """The sum of the masks is that of their bits."""
        total = bits.unpack(kept[MASKS], self.count, first[MASK_SUM].dtype).sum(0)
        return {**super().restored(kept, hp, first), MASK_SUM: total}
