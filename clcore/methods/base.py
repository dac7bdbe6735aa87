"""The contract of a method: how shared parameters become the weights of one task's network, and what is protected.

Everything works on flat dictionaries of tensors. ``params`` is what the optimiser trains during a task; ``memory`` stays
fixed while a task is learned. Functions marked *packed* run for one member under ``torch.func.vmap``: no branching on tensor
values and no ``.item()`` in them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from clcore.masks import Mask
from clcore.methods import keeping
from clcore.methods.losses import cross_entropy
from clcore.methods.terms import DERIVED, STATE, At, Batch, Layout, Scenario, Stage, Tensors
from clcore.methods.uncertainty import entropy
from clcore.networks.base import HEAD, Network

if TYPE_CHECKING:
    from clcore.streams.learner import Watch

__all__ = [
    "DERIVED", "SEED_BYTES", "STATE", "At", "Batch", "Layout", "Method", "Scenario", "Stage", "Tensors", "symmetric",
]  # fmt: skip


class Method:
    """A continual-learning method; this base class is plain fine-tuning, and every method overrides what it changes.

    Args:
        hyper: its hyperparameters; fields that are packed reach the functions through ``hp`` instead.
        network: the network it turns its parameters into.
        layout: scenario and classes of the benchmark.
    """

    Hyper: ClassVar[type]
    packable: ClassVar[bool] = True
    #: Training and network settings of the method's paper, in place of the house's; ``--set`` goes before them.
    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    #: Whether a task's weights differ from another's, so that at test the task must be given or inferred. Such a method also
    #: has statistics of batch normalisation for each task.
    task_specific: ClassVar[bool] = False
    #: Whether a task-specific method has scales and shifts of batch normalisation for each task too, as HAT's authors advise.
    private_affine: ClassVar[bool] = True
    #: Whether it can learn values as well as classes.
    regresses: ClassVar[bool] = False
    #: Largest norm of all gradients together (HAT's code: 10000 for HAT, SGD and joint).
    clip: ClassVar[float] = 10_000.0
    #: Prefixes of memory that only learning needs, not a deployment.
    training_only: ClassVar[tuple[str, ...]] = ()
    #: Prefixes of memory that :meth:`loss` and :meth:`condition` read; None: all of it. What they do not read need not go
    #: through every step (a tenth of a small network's step for each ten tensors).
    reads: ClassVar[tuple[str, ...] | None] = None

    def __init__(self, hyper: Any, network: Network, layout: Layout) -> None:
        self.hyper, self.network, self.layout = hyper, network, layout

    # -- heads ---------------------------------------------------------------------------------------------------------

    @cached_property
    def private_heads(self) -> bool:
        """Whether each task has a head of its own: always in task-il, and for task-specific methods everywhere."""
        return self.layout.scenario == "task-il" or self.task_specific

    @property
    def head_parts(self) -> tuple[str, ...]:
        """What a head is made of: ``weight``, and ``bias`` where the network's layers have one."""
        return self.network.head_parts

    def draw_head(self, outputs: int, like: Tensor, features: int | None = None, fan_in: int | None = None) -> Tensors:
        """A new head, drawn as the network's layers are; biases by torch's default, within 1/sqrt(inputs).

        Args:
            outputs: how many.
            like: of the type and device it is to have.
            features: inputs; None: the network's features.
            fan_in: how many of them count; None: all.
        """
        features = features or self.network.features
        inputs = like.new_tensor(fan_in or features)
        drawn = {"weight": symmetric((outputs, features), like) * self.network.bound(inputs, torch.full_like(inputs, outputs))}
        if "bias" in self.head_parts:
            drawn["bias"] = symmetric((outputs,), like) * inputs.rsqrt()
        return {f"{HEAD}.{part}": values for part, values in drawn.items()}

    def head_of(self, params: Tensors, memory: Tensors, at: At) -> Tensors:
        """The head in force at a task: the one in training, or the stored one (class-il: rows of the classes seen)."""
        prefix = HEAD if f"{HEAD}.weight" in params or not self.private_heads else f"heads.{at.task}"
        source = params if f"{prefix}.weight" in params else memory
        head = {f"{HEAD}.{part}": source[f"{prefix}.{part}"] for part in self.head_parts}
        if not self.private_heads and self.layout.scenario == "class-il":
            return {name: tensor[: self.layout.offset(at.seen)] for name, tensor in head.items()}
        return head

    def stored_head(self, params: Tensors, at: At) -> Tensors:
        """The head in training under the name it is stored by."""
        prefix = f"heads.{at.task}" if self.private_heads else HEAD
        return {f"{prefix}.{part}": params[f"{HEAD}.{part}"] for part in self.head_parts}

    # -- batch normalisation -------------------------------------------------------------------------------------------

    @cached_property
    def own_affine(self) -> tuple[str, ...]:
        """Scales and shifts that each task has for itself."""
        return self.network.affine if self.task_specific and self.private_affine else ()

    def fresh_statistics(self, like: Tensor) -> Tensors:
        """Statistics of normalisations that have seen nothing, with the type and device of ``like``."""
        return {name: tensor.to(like) for name, tensor in self.network.named_buffers() if name in self.network.statistics}

    def begin_norms(self, memory: Tensors) -> Tensors:
        """What a task trains or tracks of its normalisations: fresh where it has its own, the shared ones otherwise."""
        like = memory[self.body[0]]
        tracked = self.fresh_statistics(like) if self.task_specific else {name: memory[name] for name in self.network.statistics}
        drawn = {name: tensor.detach().to(like) for name, tensor in self.network.named_parameters() if name in self.own_affine}
        return {**{STATE + name: tensor for name, tensor in tracked.items()}, **drawn}

    def norms_of(self, params: Tensors, memory: Tensors, at: At) -> Tensors:
        """Statistics, and scales and shifts that a task has for itself: those in training, or the stored ones."""
        tracked = {n: params[STATE + n] if STATE + n in params else memory[self._kept(n, at)] for n in self.network.statistics}
        return {**tracked, **{n: params[n] if n in params else memory[self._kept(n, at)] for n in self.own_affine}}

    def stored_norms(self, params: Tensors, at: At) -> Tensors:
        """The normalisations of a task under the names they are stored by."""
        tracked = {self._kept(n, at): params[STATE + n] for n in self.network.statistics if STATE + n in params}
        return {**tracked, **{self._kept(n, at): params[n] for n in self.own_affine if n in params}}

    def _kept(self, name: str, at: At) -> str:
        return f"norms.{at.task}.{name}" if self.task_specific else name

    # -- the contract --------------------------------------------------------------------------------------------------

    def start(self, weights: Tensors) -> Tensors:
        """*Packed.* The memory before the first task, from the initial weights of the network's body."""
        shared = {name: weights[name] for name in self.body}
        like = shared[self.body[0]]
        if not self.task_specific:
            shared |= self.fresh_statistics(like)
        if self.private_heads:
            return shared
        outputs = self.layout.offset(len(self.layout.outputs)) if self.layout.scenario == "class-il" else None
        return {**shared, **self.draw_head(outputs or max(self.layout.outputs), like)}

    def begin_task(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* What is trained during a task: here the body, and a new head or the shared one."""
        body = {name: memory[name] for name in self.body}
        like = next(iter(body.values()))
        head = self.draw_head(self.layout.outputs[at.task], like) if self.private_heads else self._shared_head(memory)
        return {**body, **head, **self.begin_norms(memory)}

    def prepare(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* What can be worked out once before a task; memory holds it from before ``begin_task`` on (see ``DERIVED``)."""
        return {}

    def effective_weights(self, params: Tensors, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* The network's own tensors for a task; with empty ``params``, of a task learned before."""
        body = {name: params[name] if name in params else memory[name] for name in self.body}
        return {**body, **self.head_of(params, memory, at), **self.norms_of(params, memory, at)}

    def loss(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batch: Batch) -> Tensor:
        """*Packed.* The scalar to minimise; on validation data (phase eval) the criterion of the learning-rate schedule."""
        weights = self.effective_weights(params, memory, hp, at)
        return self.criterion(self.logits(weights, batch.inputs, at), batch.labels + self.label_offset(at.task))

    def condition(
        self,
        grads: Tensors,
        params: Tensors,
        memory: Tensors,
        hp: Tensors,
        at: At,
        preview: Callable[[Tensors], Tensors],
    ) -> Tensors:
        """*Packed.* Gradients after protection.

        ``preview(grads)``: the step the optimiser would take; ``hp["loss"]``: the loss; ``hp["lr"]``: the learning rate.
        """
        return grads

    def rates(self, hp: Tensors) -> Tensors:
        """*Packed.* Prefix of parameter names -> factor on their learning rate; 1 for the others."""
        return {}

    def constrain(self, params: Tensors) -> Tensors:
        """*Packed.* Parameters after a step, moved back into their allowed range."""
        return params

    def after_step(self, params: Tensors, before: Tensors, grads: Tensors, hp: Tensors) -> Tensors:
        """*Packed.* Parameters after a step, for methods that sum up the way they go in ``state.*`` of them.

        Args:
            params: after the step: clipped, optimised, constrained.
            before: the same before it.
            grads: of the loss alone, without weight decay and protection, of what is trained.
            hp: of one member, with ``loss`` and ``lr``.
        """
        return params

    def end_epoch(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, loss: Tensor) -> Tensors:
        """*Packed.* Parameters after an epoch, before it is validated.

        ``loss`` is the mean training loss of the epoch, and ``hp["lr"]`` its learning rate.
        """
        return params

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* The memory after a task: all that is kept of ``params``. ``batches`` goes over its training data."""
        return {
            **memory,
            **{name: params[name] for name in self.body if name in params},
            **self.stored_head(params, at),
            **self.stored_norms(params, at),
        }

    def stages(self, at: At) -> Sequence[Stage]:
        """The training runs of a task: one on its own data."""
        return [Stage("train", (at.task,))]

    def begin_stage(self, params: Tensors, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* The parameters that a stage starts from, given those that the one before it ended with; not for the first."""
        return params

    def sizes(self, memory: Tensors, hp: Tensors, at: At) -> dict[str, int] | None:
        """On the host, for the whole pack. Units name -> largest width in use at a task, for methods that grow."""
        return None

    def candidates(self, at: At) -> tuple[str, tuple[float, ...]] | None:
        """A hyperparameter and the values to try for it at this task, or None; they are trained as one pack."""
        return None

    @property
    def retrains(self) -> bool:
        """Whether a task is learned once more with the candidate that was chosen."""
        return False

    def choose(self, accuracy: Sequence[float], at: At) -> int:
        """Index of the candidate to keep, from the validation accuracy of each."""
        raise NotImplementedError

    def criterion(self, logits: Tensor, labels: Tensor) -> Tensor:
        """*Packed.* How wrong outputs, shape [batch, outputs], are: mean cross-entropy of classes, mean squared error of values."""
        if self.layout.targets == "values":
            return F.mse_loss(logits[:, 0], labels.to(logits))
        return cross_entropy(logits, labels).mean()

    def decide(self, logits: Tensor) -> Tensor:
        """*Packed.* Predicted classes or values, shape [batch], from logits, shape [batch, classes]."""
        return logits[:, 0] if self.layout.targets == "values" else logits.argmax(-1)

    def predict(self, weights: Tensors, memory: Tensors, hp: Tensors, inputs: Tensor, at: At) -> Tensor:
        """*Packed.* Predicted classes or values of inputs whose task is given, shape [batch].

        Args:
            weights: the network's own tensors for the task.
            memory: of one member.
            hp: of one member.
            inputs: shape [batch, channels, height, width].
            at: the task, in phase eval.
        """
        return self.decide(self.logits(weights, inputs, at))

    def infer_task(
        self, memory: Tensors, hp: Tensors, inputs: Tensor, ats: Sequence[At], outputs: Sequence[Tensor]
    ) -> Tensor:  # fmt: skip
        """*Packed.* The task of each example, shape [batch]: the one whose output has the lowest entropy.

        Args:
            memory: of one member.
            hp: of one member.
            inputs: shape [batch, channels, height, width].
            ats: one a task learned so far, in phase eval.
            outputs: logits of each of these tasks' networks for the inputs, shape [batch, classes].
        """
        return torch.stack([entropy(logits) for logits in outputs]).argmin(0)

    def answers(self, memory: Tensors, hp: Tensors, inputs: Tensor, ats: Sequence[At]) -> tuple[Tensor, Tensor]:
        """*Packed.* The task of each example, inferred, and its class within that task; both shape [batch].

        Args:
            memory: of one member.
            hp: of one member.
            inputs: shape [batch, channels, height, width].
            ats: one a task learned so far, in phase eval.
        """
        outputs = [self.logits(self.effective_weights({}, memory, hp, at), inputs, at) for at in ats]
        tasks = self.infer_task(memory, hp, inputs, ats, outputs)
        return tasks, torch.stack([self.decide(logits) for logits in outputs]).gather(0, tasks[None])[0]

    def watch(self) -> "Watch | None":
        """Eyes on a stream that does not say which task it is, for methods that find that out (scenario task-free)."""
        return None

    def masks(self, memory: Tensors, task: int) -> dict[str, Mask]:
        """Layer -> mask a task learned, of one member, for the record."""
        return {}

    def samples(self, memory: Tensors, tasks_seen: int, count: int) -> Tensor | None:
        """*Packed.* For the record: new images of the tasks a method can make them of, shape [tasks, count, *shape], in [0, 1]."""
        return None

    def compressed(self, memory: Tensors) -> dict[str, float]:
        """For the record: what is stored in place of the network's weights, as a share of them; empty where these are stored."""
        return {}

    def kept(self, memory: Tensors, hp: Tensors) -> Tensors:
        """Of one member, what a deployment must keep for all tasks in memory, as a file holds it: float32, bytes, packed bits."""
        return keeping.as_written({n: t for n, t in memory.items() if not n.startswith((*self.training_only, *self.from_seed))})

    def restored(self, kept: Tensors, hp: Tensors, first: Tensors) -> Tensors:
        """A memory of one member that answers as the one did of which this was kept.

        Args:
            kept: by :meth:`kept`.
            hp: of the member.
            first: the memory before the first task, drawn again from the trial's seed.
        """
        return {**{name: tensor for name, tensor in first.items() if name.startswith(self.from_seed)}, **kept}

    @property
    def from_seed(self) -> tuple[str, ...]:
        """Prefixes of memory that stay what :meth:`start` drew, so that a deployment keeps the seed in their place."""
        return ()

    @property
    def seeded(self) -> bool:
        """Whether a deployment needs the seed."""
        return bool(self.from_seed)

    def stored_bytes(self, memory: Tensors, hp: Tensors) -> int:
        """Bytes a deployment of one member must keep for all tasks in memory: those of :meth:`kept`, and the seed it may need."""
        return self.deployed_bytes(memory, hp)[0]

    def overhead_bytes(self, memory: Tensors, hp: Tensors) -> int:
        """Those of :meth:`stored_bytes` that are no weights of the network and no heads: masks, statistics, embeddings, a seed."""
        return self.deployed_bytes(memory, hp)[1]

    def deployed_bytes(self, memory: Tensors, hp: Tensors) -> tuple[int, int]:
        """:meth:`stored_bytes` and :meth:`overhead_bytes`, from what is kept, packed once."""
        kept, seed = self.kept(memory, hp), SEED_BYTES * self.seeded
        besides = {name: t for name, t in kept.items() if name not in self.body and not name.startswith(HEAD)}
        return keeping.size_of(kept) + seed, keeping.size_of(besides) + seed

    def learning_bytes(self, memory: Tensors) -> int:
        """Bytes of one member's memory between two tasks: what learning further ones takes; floats are counted at float32."""
        return keeping.size_of(keeping.as_written(memory))

    # -- shared by the methods -----------------------------------------------------------------------------------------

    @cached_property
    def body(self) -> tuple[str, ...]:
        """Names of the parameters all tasks share, without the head."""
        return tuple(n for n, _ in self.network.named_parameters() if not n.startswith(f"{HEAD}.") and n not in self.own_affine)

    def logits(self, weights: Tensors, inputs: Tensor, at: At) -> Tensor:
        """The network's output, shape [batch, classes], under given weights; dropout only in phase train."""
        training = at.phase == "train"
        if self.network.training is not training:
            self.network.train(training)
        result: Tensor = functional_call(self.network, weights, (inputs,))
        return result

    def label_offset(self, task: int) -> int:
        """What is added to a task-local label to index the head's outputs."""
        return self.layout.offset(task) if self.layout.scenario == "class-il" and not self.private_heads else 0

    def _shared_head(self, memory: Tensors) -> Tensors:
        return {f"{HEAD}.{part}": memory[f"{HEAD}.{part}"] for part in self.head_parts}


#: What is kept of numbers that are drawn and never trained: the seed.
SEED_BYTES = 8


def symmetric(shape: Sequence[int], like: Tensor) -> Tensor:
    """Uniform draws in [-1, 1), with the type and device of ``like``."""
    return torch.rand(*shape, dtype=like.dtype, device=like.device) * 2 - 1
