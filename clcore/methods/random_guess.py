"""Stratified random guessing: the zero of HAT's forgetting ratio (HAT, section 4.1)."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from clcore.methods import keeping
from clcore.methods.base import At, Batch, Method, Stage, Tensors
from clcore.methods.finetune import NoHyper
from clcore.networks.base import HEAD


class RandomGuess(Method):
    """Learns nothing but how often each class occurs, and guesses classes that often."""

    Hyper = NoHyper

    @property
    def head_parts(self) -> tuple[str, ...]:
        """A bias also where the network has none: all that is learned is there."""
        return ("weight", "bias")

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* Stores the logarithm of each class's share as the bias of a head without weights."""
        outputs = params[f"{HEAD}.bias"].shape[0]
        offset = self.label_offset(at.task)
        counts = torch.stack([F.one_hot(batch.labels + offset, outputs).sum(0) for batch in batches]).sum(0)
        seen = memory.get("counts", torch.zeros_like(counts)) if not self.private_heads else torch.zeros_like(counts)
        share = (counts + seen) / (counts + seen).sum()
        zeros = torch.zeros_like(params[f"{HEAD}.weight"])
        guess = {f"{HEAD}.weight": zeros, f"{HEAD}.bias": share.log().to(zeros.dtype)}
        kept = {} if self.private_heads else {"counts": counts + seen}
        return {**memory, **kept, **self.stored_head(guess, at)}

    def decide(self, logits: Tensor) -> Tensor:
        """*Packed.* A random order of labels in which class c fills its share of the batch, to rounding."""
        batch = logits.shape[0]
        share = logits.softmax(-1).cumsum(-1)
        place = (torch.randperm(batch, device=logits.device) + 0.5) / batch
        return (place[:, None] > share[:, :-1]).sum(-1)

    def stages(self, at: At) -> Sequence[Stage]:
        """Nothing is trained."""
        return []

    def kept(self, memory: Tensors, hp: Tensors) -> Tensors:
        """The class shares alone."""
        return keeping.as_written({n: t for n, t in memory.items() if n.endswith(".bias") and n.startswith(HEAD)})

    def learning_bytes(self, memory: Tensors) -> int:
        """The class shares, and what was counted for them: no further task needs the network."""
        counted = {n: t for n, t in memory.items() if n == "counts"}
        return keeping.size_of(self.kept(memory, {})) + keeping.size_of(keeping.as_written(counted))

    def restored(self, kept: Tensors, hp: Tensors, first: Tensors) -> Tensors:
        """Heads without weights, and any body."""
        heads = {name.replace("bias", "weight"): bias.new_zeros(len(bias), self.network.features) for name, bias in kept.items()}
        return {**first, **heads, **kept}


METHOD = RandomGuess
