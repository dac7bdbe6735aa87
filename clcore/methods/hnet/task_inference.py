"""HNET+TIR: a classifier of its own says which task an input belongs to, and replayed images protect it (HNET, appendix B)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from clcore.methods.base import At, Batch, Tensors
from clcore.methods.hnet.replay_model import ReplayModel, share_of
from clcore.methods.losses import cross_entropy
from clcore.networks.base import HEAD

TASKS = "tasks."


@dataclass(frozen=True)
class TaskClassifier:
    """A network like the target's, with an output a task; not generated, and trained on from task to task.

    Attributes:
        logits: the method's: weights, inputs, position -> outputs.
        replay: makes images of old tasks.
    """

    logits: Callable[[Tensors, Tensor, At], Tensor]
    replay: ReplayModel

    def start(self, weights: Tensors, head: Tensors) -> Tensors:
        """It begins with the network's own initial weights and a head for all tasks."""
        return {TASKS + name: tensor for name, tensor in {**weights, **head}.items()}

    def own(self, tensors: Tensors) -> Tensors:
        """Its tensors, from params or memory."""
        return {name: tensor for name, tensor in tensors.items() if name.startswith(TASKS)}

    def loss(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batch: Batch) -> Tensor:
        """Cross-entropy of the tasks so far, half of it on replayed images (HNET, eq. 6); on validation data without them."""
        real = self._cross_entropy(params, at, batch.inputs, torch.full_like(batch.labels, at.task))
        if at.phase == "eval":
            return real
        count = share_of(len(batch.labels), at.task)
        images = self.replay.replay(memory, range(at.task), count).flatten(0, 1)
        owners = torch.arange(at.task, device=images.device).repeat_interleave(count)
        replayed = self._cross_entropy(params, at, images, owners)
        return (1 - hp["replay_share"]) * real + hp["replay_share"] * replayed

    def infer(self, memory: Tensors, inputs: Tensor, at: At) -> Tensor:
        """The task of each input, shape [batch], among those seen."""
        return self._outputs(memory, at, inputs, at.seen).argmax(-1)

    def _cross_entropy(self, params: Tensors, at: At, inputs: Tensor, tasks: Tensor) -> Tensor:
        return cross_entropy(self._outputs(params, at, inputs, at.task + 1), tasks).mean()

    def _outputs(self, tensors: Tensors, at: At, inputs: Tensor, tasks: int) -> Tensor:
        """Its outputs grow as tasks arrive."""
        weights = {name.removeprefix(TASKS): tensor for name, tensor in self.own(tensors).items()}
        grown = {name: tensor[:tasks] if name.startswith(f"{HEAD}.") else tensor for name, tensor in weights.items()}
        return self.logits(grown, inputs, at)
