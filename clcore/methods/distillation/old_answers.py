"""What methods share that go on training the answers to earlier tasks: all heads in one layer, and the model before the task.

While a task is learned, memory is the model before it: a teacher that costs no copy.
"""

from collections.abc import Iterable
from math import inf

import torch
from torch import Tensor
from torch.nn import functional as F

from clcore.methods.base import DERIVED, At, Batch, Method, Tensors
from clcore.methods.losses import cross_entropy
from clcore.networks.base import HEAD

HEADS = "heads."
GROUPS = DERIVED + "groups"


class OldAnswers(Method):
    """Trains the heads of earlier tasks on, where tasks have their own, and can ask the model what it said before the task.

    *Old outputs* are those of earlier tasks, one task after the other; where all tasks share them, all of them.
    """

    def prepare(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* Which old outputs are of the same task, bool, shape [tasks, 1, old outputs]; nothing where heads are shared."""
        if not self.private_heads or not at.task:
            return {}
        owners = torch.repeat_interleave(torch.arange(at.task), torch.tensor(self.layout.outputs[: at.task]))
        return {GROUPS: (owners == torch.arange(at.task)[:, None])[:, None].to(memory[self.body[0]].device)}

    def begin_task(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* Body and head, and the heads of earlier tasks."""
        tasks = range(at.task) if self.private_heads else ()
        names = [f"{HEADS}{task}.{part}" for task in tasks for part in self.head_parts]  # in this order also after a resume
        return {**super().begin_task(memory, hp, at), **{name: memory[name] for name in names if name in memory}}

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* Keeps all heads."""
        heads = {name: tensor for name, tensor in params.items() if name.startswith(HEADS)}
        return {**super().end_task(params, memory, hp, at, batches), **heads}

    def every_head(self, params: Tensors, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* The network's tensors in training, whose head has the old outputs first and then the task's own."""
        weights = self.effective_weights(params, memory, hp, at)
        return {**weights, **{n: torch.cat([*old, weights[n]]) for n, old in self._heads(params, at).items()}}

    def before(self, memory: Tensors, hp: Tensors, at: At, inputs: Tensor) -> Tensor:
        """*Packed.* What the model said before the task: logits of the old outputs, shape [batch, old outputs]."""
        then = At(at.task - 1, "eval", at.task)
        heads = {name: torch.cat(old) for name, old in self._heads(memory, at).items()}
        with torch.no_grad():
            return self.logits({**self.effective_weights({}, memory, hp, then), **heads}, inputs, then)

    def old(self, logits: Tensor, at: At) -> Tensor:
        """*Packed.* Those of the logits of :meth:`every_head` that are old outputs."""
        return logits if self._same_outputs else logits[..., : self.layout.offset(at.task)]

    def own(self, logits: Tensor, at: At) -> Tensor:
        """*Packed.* Those of the logits of :meth:`every_head` among which an example of the task is classified."""
        return logits[..., self.layout.offset(at.task) :] if self.private_heads else logits

    def old_losses(
        self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batch: Batch, groups: Tensor | None
    ) -> Tensor:  # fmt: skip
        """*Packed.* Cross-entropy of each of some examples of earlier tasks, shape [tasks, n].

        Args:
            params: in training.
            memory: of one member.
            hp: of one member.
            at: the task in training.
            batch: inputs of shape [tasks, n, ...], and labels that index the old outputs, shape [tasks, n].
            groups: outputs among which each task's examples are classified, shape [tasks, 1, old outputs]; None: all so far.
        """
        logits = self.logits(self.every_head(params, memory, hp, at), batch.inputs.flatten(0, 1), at)
        logits = logits.view(*batch.labels.shape, -1)
        if groups is not None:
            logits = self.old(logits, at).masked_fill(~groups, -inf)
        return cross_entropy(logits.flatten(0, 1), batch.labels.flatten()).view_as(batch.labels)

    def among_old(self, labels: Tensor) -> Tensor:
        """*Packed.* Labels of earlier tasks, shape [tasks, n], as they index the old outputs."""
        if self._same_outputs:
            return labels
        return torch.stack([own + self.layout.offset(task) for task, own in enumerate(labels)])

    @property
    def _same_outputs(self) -> bool:
        """Whether all tasks share their outputs."""
        return self.layout.scenario == "domain-il" and not self.private_heads

    def _heads(self, source: Tensors, at: At) -> dict[str, list[Tensor]]:
        """Part of a head -> that of every earlier task; empty where heads are shared."""
        if not self.private_heads or not at.task:
            return {}
        return {f"{HEAD}.{part}": [source[f"{HEADS}{task}.{part}"] for task in range(at.task)] for part in self.head_parts}


def distilled(
    now: Tensor, before: Tensor, temperature: Tensor, groups: Tensor | None = None, epsilon: float = 0.0
) -> Tensor:  # fmt: skip
    """*Packed.* Cross-entropy of answers with what was answered before, both softened: p_i^(1/T) / sum_j p_j^(1/T).

    Args:
        now: logits, shape [tasks or 1, batch, outputs].
        before: logits, shape [tasks or 1, batch, old outputs]; outputs that were not there have probability 0.
        temperature: T > 0.
        groups: outputs that are one answer, bool, shape [tasks, 1, old outputs]; None: all outputs are one.
        epsilon: added to the probabilities of an answer together before the logarithm, which are then normalised again.

    Returns:
        Shape [tasks, batch], or [1, batch].
    """
    size: Tensor | int = now.shape[-1]
    if groups is not None:
        now, before, size = now.masked_fill(~groups, -inf), before.masked_fill(~groups, -inf), groups.sum(-1, keepdim=True).to(now)
    targets = F.pad((before / temperature).softmax(-1), (0, now.shape[-1] - before.shape[-1]))
    said = (now / temperature).log_softmax(-1)
    if epsilon:
        said = ((said.exp() + epsilon / size) / (1 + epsilon)).log()
    said = said if groups is None else said.masked_fill(~groups, 0)
    return -(targets * said).sum(-1)
