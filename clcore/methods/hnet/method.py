"""HNET as a method: all weights of a task's network, its head included, are generated from the task's embedding."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from clcore.errors import BadValue
from clcore.hyper import knob
from clcore.methods.base import DERIVED, STATE, At, Batch, Layout, Method, Stage, Tensors
from clcore.methods.hnet.generator import THETA, Target
from clcore.methods.hnet.hypernetwork import EMBEDDING, Hypernetwork
from clcore.methods.hnet.knobs import ReplayKnobs
from clcore.methods.hnet.regulariser import Held, own_outputs
from clcore.methods.hnet.replay_model import DECODER, REPLAY, replay_rates
from clcore.methods.hnet.replay_models import replay_model
from clcore.methods.hnet.task_inference import TASKS, TaskClassifier
from clcore.methods.uncertainty import log_entropy
from clcore.networks.base import HEAD, Network


@dataclass(frozen=True)
class HNETHyper(ReplayKnobs):
    """Hyperparameters of HNET; defaults are those of permuted MNIST, with a chunk that fits the network."""

    beta_output: float = knob(
        0.01, "weight of the regulariser: stability", low=0, packed=True, source="HNET, eq. 2; appendix C",
        grid=(0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0), search=(1e-4, 1.0), log=True,
    )  # fmt: skip
    chunk: int | None = knob(
        None, "weights generated at a time; 0: all at once; none: as many as `compression` allows", low=0,
        source="HNET, section 2.2; appendix C", levels=(None, 500, 1000, 4000, 8000, 16000),
    )  # fmt: skip
    reg_heads: str = knob(
        "all", "outputs held for an old task: all, or its own", choices=("all", "own"), source="HNET's code: own on CIFAR"
    )
    inference: str = knob(
        "entropy", "who says the task where it is not given: the most certain network, or a classifier kept by replay",
        choices=("entropy", "classifier"), source="HNET, section 2.3: HNET+ENT, HNET+TIR",
    )  # fmt: skip
    temperature: float = knob(
        1.0,
        "logits are divided by it before their entropy is taken",
        low=1e-3,
        packed=True,
        source="HNET, section 2.3; its code",
        levels=(0.5, 1.0, 2.0, 4.0),
    )


class HNET(Method):
    """Task-conditioned hypernetworks: what is held is not weights but the outputs of the network that generates them.

    In domain-il all tasks share the outputs of one head; elsewhere a head for all classes is generated from the start, and a task
    uses its own rows. Without task ids the task is the one whose network is most certain (HNET+ENT), or what a task classifier
    says that replayed images protect (HNET+TIR, section 2.3).
    """

    Hyper = HNETHyper
    regresses = True
    task_specific = True
    private_affine = False  # generated too
    clip = inf  # HNET's code does not clip
    reads = (DERIVED, DECODER)
    training_only = REPLAY
    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"protocol": "fixed", "optimizer": "adam", "lr": 1e-3, "batch_size": 128, "normalise": False}
    )

    def __init__(self, hyper: Any, network: Network, layout: Layout) -> None:
        super().__init__(hyper, network, layout)
        self.generator = hyper.generator(self.target.size, hyper.chunk, len(layout.outputs))
        self.hypernetwork = Hypernetwork(
            self.generator, self._held, "", hyper.regulariser, hyper.lookahead, hyper.reg_batch, hyper.continue_embeddings
        )
        self.classifier: TaskClassifier | None = None
        if hyper.inference == "classifier" and layout.scenario != "task-il":
            if network.norms:
                raise BadValue("inference", "classifier", "entropy here: the classifier has no statistics of its own")
            self.classifier = TaskClassifier(self.logits, replay_model(hyper, layout))

    @cached_property
    def target(self) -> Target:
        """What is generated: the body in the order of the network's parameters, and the head."""
        outputs = max(self.layout.outputs) if self.layout.scenario == "domain-il" else sum(self.layout.outputs)
        shapes = {n: tuple(p.shape) for n, p in self.network.named_parameters() if n in self.body}
        head = {"weight": (outputs, self.network.features), "bias": (outputs,)}
        return Target(shapes | {f"{HEAD}.{part}": head[part] for part in self.head_parts})

    @property
    def _held(self) -> Held:
        """All generated weights of old tasks, or all but the heads of others."""
        if self.hyper.reg_heads == "all" or self.layout.scenario == "domain-il":
            return Held(self.target.size, self.target.size)
        starts = [self.target.start(f"{HEAD}.{part}") for part in self.head_parts]
        sizes = [self.network.features, 1][: len(starts)]
        rows = own_outputs(starts, sizes, [self._rows(task) for task in range(len(self.layout.outputs))])
        return Held(self.target.size, starts[0], rows)

    def _rows(self, task: int) -> tuple[int, int]:
        """First and last (exclusive) output of a task in the generated head."""
        first = 0 if self.layout.scenario == "domain-il" else self.layout.offset(task)
        return first, first + self.layout.outputs[task]

    def stages(self, at: At) -> Sequence[Stage]:
        """The task itself; with HNET+TIR also the task classifier, and the replay model unless the task is the last."""
        if self.classifier is None:
            return super().stages(at)
        own = (at.task,)
        main = Stage("train", own, (THETA, EMBEDDING))
        tasks = [Stage("tasks", own, (TASKS,))] if at.task else []
        replay = [Stage("replay", own, self.classifier.replay.trains)] if at.task < self.classifier.replay.tasks else []
        return [main, *tasks, *replay]

    def start(self, weights: Tensors) -> Tensors:
        """*Packed.* A new hypernetwork; the network's own initial weights are those of the task classifier alone."""
        like = next(iter(weights.values()))
        memory = self.hypernetwork.start(like)
        if self.classifier is None:
            return memory
        head = self.draw_head(len(self.layout.outputs), like)
        return {**memory, **self.classifier.start(weights, head), **self.classifier.replay.start(like)}

    def prepare(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* What the regulariser compares with."""
        own = self.hypernetwork.prepare(memory)
        return own if self.classifier is None else {**own, **self.classifier.replay.hypernetwork.prepare(memory)}

    def begin_task(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* Theta, a new embedding, and fresh statistics of normalisations."""
        params = self.hypernetwork.begin(memory)
        like = params[EMBEDDING]
        params |= {STATE + name: tensor for name, tensor in self.fresh_statistics(like).items()}
        if self.classifier is None:
            return params
        return {**params, **self.classifier.own(memory), **self.classifier.replay.begin(memory, at.task)}

    def effective_weights(self, params: Tensors, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* All tensors generated from the task's embedding; of the head, the task's own rows."""
        tensors = self.target.split(self.hypernetwork.weights(params, memory, at.task))
        first, last = self._rows(at.task)
        own = {name: tensors[name][first:last] for name in tensors if name.startswith(f"{HEAD}.")}
        return {**tensors, **own, **self.norms_of(params, memory, at)}

    def loss(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batch: Batch) -> Tensor:
        """*Packed.* Cross-entropy of the task; in the other stages the task classifier's loss, and the replay model's."""
        if self.classifier is not None and at.stage == "tasks":
            return self.classifier.loss(params, memory, hp, at, batch)
        if self.classifier is not None and at.stage == "replay":
            return self.classifier.replay.loss(params, memory, at, batch.inputs)
        return super().loss(params, memory, hp, at, batch)

    def condition(
        self, grads: Tensors, params: Tensors, memory: Tensors, hp: Tensors, at: At,
        preview: Callable[[Tensors], Tensors],
    ) -> Tensors:  # fmt: skip
        """*Packed.* The task's gradients and those of the regulariser; old tasks' embeddings have none unless they move on."""
        grads = self.hypernetwork.hold(grads, params, memory, hp["beta_output"], preview)
        if self.classifier is None:
            return grads
        return self.classifier.replay.hypernetwork.hold(grads, params, memory, hp["replay_beta"], preview)

    def rates(self, hp: Tensors) -> Tensors:
        """*Packed.* Embeddings learn at a rate of their own, and so does what the replay model generates."""
        return {EMBEDDING: hp["embedding_rate"], **replay_rates(hp)}

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* Keeps theta, the task's embedding and its statistics (HNET, appendix C)."""
        kept = {**memory, **self.hypernetwork.end(params, at.task), **self.stored_norms(params, at)}
        if self.classifier is None:
            return kept
        return {**kept, **self.classifier.own(params), **self.classifier.replay.end(params, at.task)}

    def compressed(self, memory: Tensors) -> dict[str, float]:
        """The compression ratio: theta and embeddings / generated weights (HNET, section 3)."""
        stored = sum(t.numel() for name, t in memory.items() if name.startswith((THETA, EMBEDDING)))
        return {"stored": stored / self.target.size}

    def samples(self, memory: Tensors, tasks_seen: int, count: int) -> Tensor | None:
        """*Packed.* New images of the tasks learned so far (:meth:`ReplayModel.samples`); None where nothing is replayed."""
        return None if self.classifier is None else self.classifier.replay.samples(memory, tasks_seen, count)

    def infer_task(
        self, memory: Tensors, hp: Tensors, inputs: Tensor, ats: Sequence[At], outputs: Sequence[Tensor]
    ) -> Tensor:  # fmt: skip
        """*Packed.* The task whose network is most certain (HNET+ENT), or that the task classifier says (HNET+TIR)."""
        if self.classifier is not None:
            return self.classifier.infer(memory, inputs, ats[-1])
        return torch.stack([log_entropy(logits, hp["temperature"]) for logits in outputs]).argmin(0)
