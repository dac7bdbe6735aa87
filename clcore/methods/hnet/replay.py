"""HNET+R: an ordinary classifier that rehearses images of old tasks; only the replay model's decoder is generated and held.

Old tasks' answers come from the classifier as it was before the task (soft targets; HNET, section 2.3 and appendix B).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

from torch import Tensor

from clcore.hyper import knob
from clcore.methods.base import At, Batch, Layout, Method, Stage, Tensors
from clcore.methods.distillation.old_answers import distilled
from clcore.methods.hnet.knobs import ReplayKnobs
from clcore.methods.hnet.method import HNET
from clcore.methods.hnet.replay_model import REPLAY, replay_rates, share_of
from clcore.methods.hnet.replay_models import replay_model
from clcore.networks.base import HEAD, Network

HEADS = "heads."


@dataclass(frozen=True)
class HNETReplayHyper(ReplayKnobs):
    """Hyperparameters of HNET+R."""

    decoder: str = knob("250-350", "hidden widths of the replay model's decoder", source="HNET, appendix C: split MNIST")
    replay_beta: float = knob(
        0.01, "weight of the decoder's regulariser", low=0, packed=True, source="HNET, appendix C: .01 on split MNIST",
        grid=(0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0), search=(1e-4, 1.0), log=True,
    )  # fmt: skip
    distill_temperature: float = knob(
        2.0, "old and new answers to replayed images are compared at logits divided by it", low=1e-3, packed=True,
        source="HNET's code: 2 (after van de Ven & Tolias, 2018)", levels=(0.5, 1.0, 2.0, 4.0),
    )  # fmt: skip


class HNETReplay(Method):
    """Generative replay whose generator is protected by a hypernetwork; at test it is a plain network."""

    Hyper = HNETReplayHyper
    clip = inf  # HNET's code does not clip
    training_only = REPLAY
    defaults: ClassVar[Mapping[str, Any]] = HNET.defaults

    def __init__(self, hyper: Any, network: Network, layout: Layout) -> None:
        super().__init__(hyper, network, layout)
        self.replay = replay_model(hyper, layout)

    def stages(self, at: At) -> Sequence[Stage]:
        """The classifier, and then the replay model unless the task is the last."""
        main = Stage("train", (at.task,), (*self.body, f"{HEAD}.", HEADS))
        return [main, Stage("replay", (at.task,), self.replay.trains)] if at.task < self.replay.tasks else [main]

    def start(self, weights: Tensors) -> Tensors:
        """*Packed.* The classifier and a new replay model."""
        return {**super().start(weights), **self.replay.start(next(iter(weights.values())))}

    def prepare(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* What the decoder's regulariser compares with."""
        return self.replay.hypernetwork.prepare(memory)

    def begin_task(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* Body and head, the heads of old tasks (they are rehearsed too), and the replay model."""
        heads = {name: tensor for name, tensor in memory.items() if name.startswith(HEADS)}
        return {**super().begin_task(memory, hp, at), **heads, **self.replay.begin(memory, at.task)}

    def loss(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batch: Batch) -> Tensor:
        """*Packed.* Cross-entropy, half of the loss on replayed images with soft targets; on validation data without them."""
        if at.stage == "replay":
            return self.replay.loss(params, memory, at, batch.inputs)
        real = super().loss(params, memory, hp, at, batch)
        if at.task == 0 or at.phase == "eval":
            return real
        images = self.replay.replay(memory, range(at.task), share_of(len(batch.labels), at.task))
        share = hp["replay_share"]
        return (1 - share) * real + share * self._rehearsed(params, memory, hp, at, images)

    def condition(
        self, grads: Tensors, params: Tensors, memory: Tensors, hp: Tensors, at: At,
        preview: Callable[[Tensors], Tensors],
    ) -> Tensors:  # fmt: skip
        """*Packed.* Old tasks' decoders are held by the hypernetwork's regulariser (HNET, eq. 2)."""
        return self.replay.hypernetwork.hold(grads, params, memory, hp["replay_beta"], preview)

    def rates(self, hp: Tensors) -> Tensors:
        """*Packed.* What is generated learns at a rate of its own, and its embeddings too."""
        return replay_rates(hp)

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* Keeps the classifier, all heads, and the replay model."""
        heads = {name: tensor for name, tensor in params.items() if name.startswith(HEADS)}
        return {**super().end_task(params, memory, hp, at, batches), **heads, **self.replay.end(params, at.task)}

    def samples(self, memory: Tensors, tasks_seen: int, count: int) -> Tensor:
        """*Packed.* New images of the tasks learned so far (:meth:`ReplayModel.samples`)."""
        return self.replay.samples(memory, tasks_seen, count)

    def _rehearsed(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, images: Tensor) -> Tensor:
        """Mean distillation loss of replayed images, shape [tasks, count, ...]."""
        now, temperature = self.effective_weights(params, memory, hp, at), hp["distill_temperature"]
        if not self.private_heads:
            before = At(at.task - 1, "eval", at.task)
            old = self.logits(self.effective_weights({}, memory, hp, before), images.flatten(0, 1), before)
            return distillation(self.logits(now, images.flatten(0, 1), at), old, temperature)
        losses = images.new_zeros(())
        for task in range(at.task):
            before = At(task, "eval", at.task)
            old = self.logits(self.effective_weights({}, memory, hp, before), images[task], before)
            head = {f"{HEAD}.{part}": params[f"{HEADS}{task}.{part}"] for part in self.head_parts}
            losses = losses + distillation(self.logits({**now, **head}, images[task], at), old, temperature)
        return losses / at.task


def distillation(logits: Tensor, old: Tensor, temperature: Tensor) -> Tensor:
    """Cross-entropy with soft targets, times the squared temperature; scalar.

    Args:
        logits: shape [batch, classes].
        old: of the classifier as it was, shape [batch, old classes]; classes that it did not have get probability 0 (van de Ven
            & Tolias; HNET's code gives them logit 0 instead, and so some probability).
        temperature: what both are divided by.
    """
    return distilled(logits, old, temperature).mean() * temperature**2


METHOD = HNETReplay
