"""What all penalties share: each weight that tasks have in common is pulled to a centre, as hard as it is important.

The penalty is (1/2) sum_i k_i (theta_i - c_i)^2, of which a method says the stiffness k and the centre c. Many tasks need no
more than these two: a sum of quadratic functions is one quadratic function, and a constant.
"""

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from clcore.methods.base import DERIVED, At, Batch, Method, Tensors
from clcore.methods.penalties.fisher import fisher
from clcore.methods.penalties.per_sample import PerSample
from clcore.networks.base import HEAD

IMPORTANCE = "importance."
STIFFNESS, PULLED_TO = DERIVED + "stiffness.", DERIVED + "pulled-to."


class Penalty(Method):
    """A quadratic penalty on changes of the shared weights: of the body, and of the head where tasks share it.

    Its gradient is added to that of the loss. While training, the loss that is reported is the loss without the penalty; on
    validation data the penalty is in the criterion, as in HAT's code.
    """

    regresses = True
    training_only: ClassVar[tuple[str, ...]] = (IMPORTANCE,)
    #: Prefixes of what memory has of each protected parameter from the start, then 0.
    from_zero: ClassVar[tuple[str, ...]] = (IMPORTANCE,)
    reads = (DERIVED,)

    @cached_property
    def protected(self) -> tuple[str, ...]:
        """Names of the parameters that are held."""
        return self.body if self.private_heads else (*self.body, *(f"{HEAD}.{part}" for part in self.head_parts))

    # -- what a method says --------------------------------------------------------------------------------------------

    def stiffness(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* Name -> k >= 0, with the shape of the parameter or none; asked from the second task on."""
        raise NotImplementedError

    def important(self, memory: Tensors, factor: Tensor) -> Tensors:
        """*Packed.* The importance that memory has of each parameter, times a factor: what most stiffnesses are."""
        return {name: factor * memory[IMPORTANCE + name] for name in self.protected}

    def centre(self, memory: Tensors, at: At) -> Tensors:
        """*Packed.* Name -> c: by default the weights after the task before."""
        return {name: memory[name] for name in self.protected}

    # -- the contract --------------------------------------------------------------------------------------------------

    def start(self, weights: Tensors) -> Tensors:
        """*Packed.* Nothing is important yet."""
        memory = super().start(weights)
        return memory | {part + n: torch.zeros_like(memory[n]) for part in self.from_zero for n in self.protected}

    def prepare(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* Stiffness and centre; nothing holds the first task."""
        return self.gaussian(memory, hp, at) if at.task else {}

    def gaussian(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* Stiffness and centre under the names they have in memory during a task."""
        stiffness = {STIFFNESS + name: k for name, k in self.stiffness(memory, hp, at).items()}
        return {**stiffness, **{PULLED_TO + name: c for name, c in self.centre(memory, at).items()}}

    def loss(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batch: Batch) -> Tensor:
        """*Packed.* The task's loss; in phase eval with the penalty (its gradient is in :meth:`condition`)."""
        loss = super().loss(params, memory, hp, at, batch)
        if at.phase == "train":
            return loss
        held = [name for name in self.protected if STIFFNESS + name in memory]
        parts = [(memory[STIFFNESS + n] * (params[n] - memory[PULLED_TO + n]).square()).sum() for n in held]
        return loss + torch.stack(parts).sum() / 2 if parts else loss

    def condition(
        self, grads: Tensors, params: Tensors, memory: Tensors, hp: Tensors, at: At,
        preview: Callable[[Tensors], Tensors],
    ) -> Tensors:  # fmt: skip
        """*Packed.* The gradient of the loss and k (theta - c)."""
        held = [name for name in self.protected if STIFFNESS + name in memory]
        pulls = {n: memory[STIFFNESS + n] * (params[n] - memory[PULLED_TO + n]) for n in held}
        return {name: grad + pulls[name] if name in pulls else grad for name, grad in grads.items()}

    # -- for estimates of importance -----------------------------------------------------------------------------------

    def per_sample(self, params: Tensors, memory: Tensors, hp: Tensors, at: At) -> PerSample:
        """*Packed.* Gradients of single examples of the network that a task ended with."""
        final = At(at.task, "eval", at.seen)
        return PerSample(self.network, self.effective_weights(params, memory, hp, final), self.protected)

    def task_fisher(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* Name -> Fisher information of a task, for methods with a hyperparameter ``fisher``."""
        offset = None if self.layout.targets == "values" else self.label_offset(at.task)
        found = fisher(self.per_sample(params, memory, hp, at), batches, self.hyper.fisher, offset)
        return self.whole(found, params)

    def whole(self, found: Tensors, params: Tensors) -> Tensors:
        """*Packed.* Importance with the shape of the parameters: a head's outputs of classes to come have none."""
        return {n: F.pad(t, (0, 0) * (t.dim() - 1) + (0, len(params[n]) - len(t))) for n, t in found.items()}


def combine(first: Tensor, weight: Tensor, second: Tensor, other: Tensor) -> Tensor:
    """*Packed.* The mean of two values weighed by importances >= 0; the second where neither has any.

    Args:
        first: a value.
        weight: its importance.
        second: another value.
        other: its importance.
    """
    total = weight + other
    share = torch.where(total > 0, other / torch.where(total > 0, total, 1), 1)
    return torch.lerp(first, second, share)


def added(memory: Tensors, found: Tensors, keep: Tensor | float = 1.0) -> Tensors:
    """*Packed.* ``keep`` * the importance that memory has + what was found, under names for memory."""
    return {IMPORTANCE + n: keep * memory[IMPORTANCE + n] + importance for n, importance in found.items()}
