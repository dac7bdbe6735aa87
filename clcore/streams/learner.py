"""Learning a stream with one member: a mapping at a time, a new one when the method's watch says so (RMN, algorithm 2)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from clcore.benchmarks import Split
from clcore.methods.base import At, Batch, Method, Tensors
from clcore.pack import Member, member, packed, stack, stack_hyper
from clcore.randomness import torch_stream
from clcore.streams.sampler import confusion
from clcore.trainer import EVAL_BATCH, Pool, Trainer
from clcore.training import Training

#: What a watch says of a batch: learn it with the mapping in training; hold it until the next one; learn it, and what is held,
#: with a new mapping.
Verdict = Literal["known", "wait", "new"]


class Watch(Protocol):
    """A method's eyes on a stream; it looks at the learner and changes nothing in it."""

    def news(self, learner: "StreamLearner", batch: Batch) -> Tensor:
        """Which examples to learn from, bool, shape [batch]: what earlier mappings do not know."""

    def verdict(self, learner: "StreamLearner", batch: Batch) -> Verdict:
        """Whether the batch, of news alone, is of a task that no mapping knows."""

    def begun(self, learner: "StreamLearner") -> None:
        """A new mapping has begun."""


@dataclass
class Seen:
    """What is known of a stream so far.

    Attributes:
        step: batches seen.
        starts: batch at which each mapping began.
        used: share of the examples that were learned from, of each batch.
    """

    step: int = 0
    starts: list[int] = field(default_factory=list)
    used: list[float] = field(default_factory=list)


class StreamLearner:
    """Learns batch by batch.

    Args:
        method: task-specific, made for a domain-il layout of as many tasks as there may be mappings; all with equal classes.
        training: optimiser, rate, decay; what concerns epochs is not used.
        watch: the method's eyes.
        seed: of all randomness.
        device: where the weights are.
        dtype: float32; tests use float64.
    """

    def __init__(
        self, method: Method, training: Training, watch: Watch, seed: int, device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        self.method, self.watch, self.seed, self.dtype = method, watch, seed, dtype
        self.limit = len(method.layout.outputs)
        self.trainer = Trainer(method, training, seed, ("stream",))
        self.hp = stack_hyper([Member(method.hyper, training.lr)], dtype, torch.device(device))
        self.lr = torch.tensor([training.lr], dtype=dtype, device=device)
        self.seen = Seen()
        self.held: list[Batch] = []
        weights = {n: t.to(device, dtype) for n, t in method.network.body_weights().items()}
        with torch_stream(seed, "start"):
            self.memory: Tensors = packed(method.start)(stack(weights, 1))
        self._begin()

    @property
    def mappings(self) -> int:
        """Mappings begun, the one in training included."""
        return len(self.seen.starts)

    def feed(self, batch: Batch) -> list[float]:
        """Takes in one batch; the loss before each step that it led to (none while a batch is held)."""
        news = self.watch.news(self, batch)
        self.seen.used.append(float(news.double().mean()))
        losses: list[float] = []
        if int(news.sum()) > 1:  # a single example cannot be normalised by its batch
            self.held.append(Batch(batch.inputs[news], batch.labels[news]))
            verdict = self.watch.verdict(self, self.held[-1])
            if verdict == "new" and self.mappings < self.limit:
                self.memory = self._ended()
                self._begin()
            if verdict != "wait":
                losses = [self._step(held) for held in self.held]
                self.held = []
        self.seen.step += 1
        return losses

    def logits(self, mapping: int, inputs: Tensor) -> Tensor:
        """Outputs under a mapping as at test, shape [batch, classes]; the last is the one in training."""
        at = At(mapping, "eval", self.mappings)
        params = member(self.params, 0) if mapping == self.at.task else {}
        with torch.no_grad():
            weights = self.method.effective_weights(params, member(self.memory, 0), member(self.hp, 0), at)
            return self.method.logits(weights, inputs, at)

    def answers(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The mapping of each example, inferred, and its class; both shape [batch]."""
        memory = member(self._ended(), 0)
        ats = [At(task, "eval", self.mappings) for task in range(self.mappings)]
        with torch.no_grad():
            return self.method.answers(memory, member(self.hp, 0), inputs, ats)

    def measure(self, splits: Sequence[Split]) -> tuple[list[float], Tensor]:
        """Accuracy on each task, and what its examples were taken for, shape [tasks, mappings]."""
        rights, truth, inferred = [], [], []
        for task, split in enumerate(splits):
            right = 0
            for batch in Pool({task: split}, self.dtype).batches(EVAL_BATCH):
                mappings, classes = self.answers(batch.inputs)
                right += int((classes == batch.labels).sum())
                truth.append(torch.full_like(mappings, task))
                inferred.append(mappings)
            rights.append(right / len(split))
        return rights, confusion(torch.cat(truth), torch.cat(inferred), len(splits), self.mappings)

    def _begin(self) -> None:
        task = self.mappings
        self.at = At(task, "train", task + 1, epoch=0, epochs=1)  # so that every end of an epoch prunes
        self.seen.starts.append(self.seen.step)
        derived = packed(lambda m, h: self.method.prepare(m, h, self.at))(self.memory, self.hp)
        self.working = {**self.memory, **derived}
        with torch_stream(self.seed, "begin", task, "train"):
            self.params: Tensors = packed(lambda m, h: self.method.begin_task(m, h, self.at))(self.working, self.hp)
        self.state = self.trainer.start(self.params)
        self.watch.begun(self)

    def _step(self, batch: Batch) -> float:
        with torch_stream(self.seed, "noise", self.seen.step):
            self.params, self.state, loss = self.trainer.packed_step(
                self.params, self.state, self.working, self.hp, self.lr, batch, self.at
            )

        def end(params: Tensors, memory: Tensors, hp: Tensors, loss: Tensor) -> Tensors:
            return self.method.end_epoch(params, memory, hp, self.at, loss)

        with torch.no_grad():
            self.params = packed(end)(self.params, self.working, self.hp, loss)
        return float(loss)

    def _ended(self) -> Tensors:
        """Memory as it would be if the mapping in training ended now."""

        def end(params: Tensors, memory: Tensors, hp: Tensors) -> Tensors:
            return self.method.end_task(params, memory, hp, replace(self.at, phase="eval"), ())

        with torch.no_grad():
            ended: Tensors = packed(end)(self.params, self.memory, self.hp)
        return ended
