"""SupSup's eyes on a stream (NNs: no task given in training nor at test, shared labels; SupSup, section 3.4)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from clcore.methods.base import Batch, Tensors
from clcore.methods.supsup import inference
from clcore.pack import member
from clcore.streams.learner import StreamLearner, Verdict

#: The superposition has at least this many masks, untrained ones among them: of a single mask one would always be sure, and of
#: two almost (SupSup's code).
LEAST_MASKS = 5


class MaskChoice:
    """Every ``period`` batches: the mask that the batch is learned with, and those after it.

    With nu = softmax(-dH/dalpha) over k masks a new one begins if k max nu < 1 + eps; otherwise training goes on with mask
    argmax nu, which may be an old one: the scores of all masks of a stream are kept in floats while it lasts. Where argmax nu is
    an untrained mask that only fills up the superposition, no mask that there is knows the batch: a new one begins (resolved here).

    Args:
        belief_gradient: (memory, hp, inputs) of one member -> dH/dalpha of every mask in memory, shape [masks].
        eps: how far from undecided still counts as undecided.
        period: batches from one look to the next.
    """

    returns = True

    def __init__(self, belief_gradient: Callable[[Tensors, Tensors, Tensor], Tensor], eps: float, period: int) -> None:
        self.belief_gradient, self.eps, self.period = belief_gradient, eps, period

    def news(self, learner: StreamLearner, batch: Batch) -> Tensor:
        """All examples: whatever a mask knows is still trained on."""
        return torch.ones_like(batch.labels, dtype=torch.bool)

    def verdict(self, learner: StreamLearner, batch: Batch) -> Verdict:
        """The mask for the batch, a new one, or the one in training between two looks."""
        if not learner.seen.step or learner.seen.step % self.period:
            return "known"
        gradient = self.gradient(learner, batch.inputs)
        likeliest = int(inference.one_shot(gradient))
        new = likeliest >= learner.mappings or bool(inference.opens_new_mask(gradient, self.eps))
        if new and learner.mappings < learner.limit:
            return "new"
        return int(inference.one_shot(gradient[: learner.mappings]))

    def gradient(self, learner: StreamLearner, inputs: Tensor) -> Tensor:
        """dH/dalpha of the masks so far, and of those that fill up, shape [masks]."""
        memory = learner.memory_now(min(LEAST_MASKS, learner.limit))
        with torch.no_grad():
            return self.belief_gradient(member(memory, 0), member(learner.hp, 0), inputs)

    def begun(self, learner: StreamLearner) -> None:
        """Nothing is remembered of a mask but what the learner has."""

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Nothing: a look depends on the batch and the masks alone."""
        return {}, {}

    def restore(self, tensors: Tensors, facts: dict[str, Any]) -> None:
        """Nothing is to be restored."""
