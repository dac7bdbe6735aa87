"""Joint training: at task t a new model is trained from the initial weights on tasks 1..t together (the upper bound).

It is also the denominator of HAT's forgetting ratio (HAT, section 4.1).
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from clcore.methods.base import DERIVED, STATE, At, Batch, Method, Stage, Tensors
from clcore.methods.finetune import NoHyper
from clcore.methods.losses import cross_entropy
from clcore.networks.base import HEAD

INITIAL = "initial."
OFFSETS, OWNERS = DERIVED + "offsets", DERIVED + "owners"


class Joint(Method):
    """Trains all heads at once; an example is classified among the classes of its own task, as at test."""

    Hyper = NoHyper
    regresses = True
    training_only = (INITIAL,)
    reads = (OFFSETS, OWNERS)

    def start(self, weights: Tensors) -> Tensors:
        """*Packed.* Remembers the initial weights: each task starts from them again."""
        memory = super().start(weights)
        return {**memory, **{INITIAL + name: tensor for name, tensor in memory.items()}}

    def prepare(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* The first output of each task, shape [tasks], and the task of each output, shape [outputs]."""
        tasks = range(at.task + 1)
        outputs = self.layout.outputs[: at.task + 1]
        device = next(iter(memory.values())).device
        owners = torch.repeat_interleave(torch.arange(len(tasks)), torch.tensor(outputs))
        return {OFFSETS: torch.tensor([self.layout.offset(t) for t in tasks], device=device), OWNERS: owners.to(device)}

    def begin_task(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* The initial body, and new heads for all tasks so far."""
        tracked = {STATE + name: memory[INITIAL + name] for name in self.network.statistics}
        params = {**{name: memory[INITIAL + name] for name in self.body}, **tracked}
        if not self.private_heads:
            return {**params, **{f"{HEAD}.{part}": memory[f"{INITIAL}{HEAD}.{part}"] for part in self.head_parts}}
        like = params[self.body[0]]
        for task in range(at.task + 1):
            head = self.draw_head(self.layout.outputs[task], like)
            params |= {f"heads.{task}.{part}": head[f"{HEAD}.{part}"] for part in self.head_parts}
        return params

    def loss(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batch: Batch) -> Tensor:
        """*Packed.* Mean cross-entropy (values: squared error) over the examples of all tasks: sum_t n_t CE_t / n (HAT's code)."""
        weights = self.effective_weights(params, memory, hp, at)
        tasks = torch.full_like(batch.labels, at.task, dtype=torch.long) if batch.tasks is None else batch.tasks
        if not self.private_heads:
            labels = batch.labels + memory[OFFSETS][tasks] if self.layout.scenario == "class-il" else batch.labels
            return cross_entropy(self.logits(weights, batch.inputs, at), labels).mean()
        weights |= self._all_heads(params, at)
        logits = self.logits(weights, batch.inputs, at)
        if self.layout.targets == "values":
            return self.criterion(logits.gather(1, memory[OFFSETS][tasks][:, None]), batch.labels)
        own = logits.masked_fill(memory[OWNERS][None, :] != tasks[:, None], float("-inf"))
        return cross_entropy(own, batch.labels + memory[OFFSETS][tasks]).mean()

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* Replaces the model of the tasks before."""
        return {**memory, **{name.removeprefix(STATE): tensor for name, tensor in params.items()}}

    def stages(self, at: At) -> Sequence[Stage]:
        """One run on the data of all tasks so far."""
        return [Stage("train", tuple(range(at.task + 1)))]

    def _all_heads(self, params: Tensors, at: At) -> Tensors:
        return {f"{HEAD}.{part}": torch.cat([params[f"heads.{t}.{part}"] for t in range(at.task + 1)]) for part in self.head_parts}


METHOD = Joint
