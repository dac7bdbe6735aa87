"""Learning a stream with one member: a mapping at a time, a new one when the method's watch says so (RMN, algorithm 2)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from clcore.benchmarks import Split
from clcore.methods.base import At, Batch, Method, Tensors
from clcore.pack import Member, member, packed, stack, stack_hyper
from clcore.pool import Pool
from clcore.randomness import torch_stream
from clcore.streams.sampler import confusion
from clcore.trainer import EVAL_BATCH, Trainer
from clcore.training import Training

#: What a watch says of a batch: learn it with the mapping in training; hold it until the next one; learn it, and what is held,
#: with a new mapping; or (a number) with that mapping from now on, where the watch returns to old ones.
Verdict = Literal["known", "wait", "new"] | int


class Watch(Protocol):
    """A method's eyes on a stream; it looks at the learner and changes nothing in it.

    Attributes:
        returns: whether an old mapping may be trained on. The learner then keeps the parameters and the optimiser state of all
            mappings while the stream lasts: for SupSup two floats a weight and mapping.
    """

    returns: bool

    def news(self, learner: "StreamLearner", batch: Batch) -> Tensor:
        """Which examples to learn from, bool, shape [batch]: what earlier mappings do not know."""

    def verdict(self, learner: "StreamLearner", batch: Batch) -> Verdict:
        """Whether the batch, of news alone, is of a task that no mapping knows."""

    def begun(self, learner: "StreamLearner") -> None:
        """A new mapping has begun."""

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """What it remembers: tensors, and what JSON can hold."""

    def restore(self, tensors: Tensors, facts: dict[str, Any]) -> None:
        """Goes on from :meth:`state`."""


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

    Attributes:
        memory: what is kept of the mappings that are closed, shape [1, ...], as all tensors here.
        params: of the open mappings: the one in training, and where the watch returns to old ones all others too.
        states: their optimisers'.
        held: batches that wait for a verdict.
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
        self.params: dict[int, Tensors] = {}
        self.states: dict[int, Tensors] = {}
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
            if isinstance(verdict, int):
                self._train_on(verdict)
            elif verdict == "new" and self.mappings < self.limit:
                self._begin()
            if verdict != "wait":
                losses = [self._step(held) for held in self.held]
                self.held = []
        self.seen.step += 1
        return losses

    def logits(self, mapping: int, inputs: Tensor) -> Tensor:
        """Outputs under a mapping as at test, shape [batch, classes]."""
        at = At(mapping, "eval", self.mappings)
        params = member(self.params[mapping], 0) if mapping in self.params else {}
        with torch.no_grad():
            weights = self.method.effective_weights(params, member(self.memory, 0), member(self.hp, 0), at)
            return self.method.logits(weights, inputs, at)

    def memory_now(self, least: int = 0) -> Tensors:
        """Memory as it would be if the stream ended now, shape [1, ...].

        Args:
            least: where fewer mappings have begun, the next ones fill up to this many as they would begin.
        """
        memory = self.memory
        for task, params in self.params.items():
            memory = self._ended(task, params, memory)
        for task in range(self.mappings, least):
            memory = self._ended(task, self._fresh(At(task, "train", task + 1), memory), memory)
        return memory

    def answers(self, inputs: Tensor, memory: Tensors | None = None) -> tuple[Tensor, Tensor]:
        """The mapping of each example, inferred, and its class; both shape [batch].

        Args:
            inputs: shape [batch, channels, height, width].
            memory: from :meth:`memory_now`, where it is at hand.
        """
        memory = self.memory_now() if memory is None else memory
        ats = [At(task, "eval", self.mappings) for task in range(self.mappings)]
        with torch.no_grad():
            return self.method.answers(member(memory, 0), member(self.hp, 0), inputs, ats)

    def measure(self, splits: Sequence[Split]) -> tuple[list[float], Tensor]:
        """Accuracy on each task, and what its examples were taken for, shape [tasks, mappings]."""
        memory = self.memory_now()
        rights, truth, inferred = [], [], []
        for task, split in enumerate(splits):
            right = 0
            for batch in Pool({task: split}, self.dtype).batches(EVAL_BATCH):
                mappings, classes = self.answers(batch.inputs, memory)
                right += int((classes == batch.labels).sum())
                truth.append(torch.full_like(mappings, task))
                inferred.append(mappings)
            rights.append(right / len(split))
        return rights, confusion(torch.cat(truth), torch.cat(inferred), len(splits), self.mappings)

    # -- mappings ------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        at = At(self.mappings, "train", self.mappings + 1)
        memory = self.memory_now()
        if not self.watch.returns:
            self.memory, self.params, self.states = memory, {}, {}
        self.seen.starts.append(self.seen.step)
        self.params[at.task] = self._fresh(at, memory)
        self.states[at.task] = self.trainer.start(self.params[at.task])
        self._train_on(at.task)
        self.watch.begun(self)

    def _train_on(self, task: int) -> None:
        """Makes an open mapping the one in training."""
        self.at = At(task, "train", self.mappings, epoch=0, epochs=1)  # so that every end of an epoch prunes
        self.working = {**self.memory, **self._prepared(self.at, self.memory)}

    def _prepared(self, at: At, memory: Tensors) -> Tensors:
        prepared: Tensors = packed(lambda m, h: self.method.prepare(m, h, at))(memory, self.hp)
        return prepared

    def _fresh(self, at: At, memory: Tensors) -> Tensors:
        """First parameters of a mapping."""
        with torch_stream(self.seed, "begin", at.task, "train"):
            begun = packed(lambda m, h: self.method.begin_task(m, h, at))
            params: Tensors = begun({**memory, **self._prepared(at, memory)}, self.hp)
        return params

    def _ended(self, task: int, params: Tensors, memory: Tensors) -> Tensors:
        """Memory with a mapping in it."""
        at = At(task, "eval", self.mappings)
        with torch.no_grad():
            ended: Tensors = packed(lambda p, m, h: self.method.end_task(p, m, h, at, ()))(params, memory, self.hp)
        return ended

    def _step(self, batch: Batch) -> float:
        task = self.at.task
        with torch_stream(self.seed, "noise", self.seen.step):
            params, self.states[task], loss = self.trainer.packed_step(
                self.params[task], self.states[task], self.working, self.hp, self.lr, batch, self.at
            )
        end = packed(lambda p, m, h, mean: self.method.end_epoch(p, m, h, self.at, mean))
        with torch.no_grad():
            self.params[task] = end(params, self.working, {**self.hp, "lr": self.lr}, loss)
        return float(loss)

    # -- stopping and going on -----------------------------------------------------------------------------------------

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Everything; :meth:`restore` goes on from it bit for bit."""
        watched, facts = self.watch.state()
        parts = {"memory": self.memory, "watch": watched}
        parts |= {f"params/{task}": params for task, params in self.params.items()}
        parts |= {f"states/{task}": state for task, state in self.states.items()}
        parts |= {f"held/{place}": {"inputs": held.inputs, "labels": held.labels} for place, held in enumerate(self.held)}
        tensors = {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
        used = torch.tensor(self.seen.used, dtype=torch.float64)
        counted = {"step": self.seen.step, "starts": self.seen.starts, "task": self.at.task, "open": list(self.params)}
        return {**tensors, "used": used}, {**counted, "held": len(self.held), "watch": facts}

    def restore(self, tensors: Tensors, facts: dict[str, Any]) -> None:
        """Goes on from :meth:`state`."""
        device = self.lr.device

        def part(prefix: str) -> Tensors:
            return {n.removeprefix(prefix): t.to(device) for n, t in tensors.items() if n.startswith(prefix)}

        self.seen = Seen(facts["step"], list(facts["starts"]), tensors["used"].tolist())
        self.memory = part("memory/")
        self.params = {task: part(f"params/{task}/") for task in facts["open"]}
        self.states = {task: part(f"states/{task}/") for task in facts["open"]}
        self.held = [Batch(**part(f"held/{place}/")) for place in range(facts["held"])]
        self._train_on(facts["task"])
        self.watch.restore(part("watch/"), facts["watch"])
