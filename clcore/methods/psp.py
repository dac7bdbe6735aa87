"""Parameter superposition (Cheung et al., 2019): all tasks train the same weights, each on inputs rotated in a way of its own."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from clcore.methods.base import DERIVED, At, Tensors
from clcore.methods.one_head import OneHead, multi_head_knob
from clcore.randomness import numpy_stream

CONTEXT = DERIVED + "context."
#: Contexts that are kept at hand (5 MB for 784 inputs); others are drawn again.
AT_HAND = 32


@dataclass(frozen=True)
class PSPHyper:
    """Hyperparameters of PSP."""

    multi_head: bool = multi_head_knob()


class PSP(OneHead):
    """Rotational superposition: y = W C_t x in every layer, with an orthogonal C_t a task.

    In a convolution C_t turns the channels at each position. Biases, which the paper's networks have none of here, are shared.
    """

    Hyper = PSPHyper
    regresses = True
    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"protocol": "fixed", "optimizer": "rmsprop", "lr": 1e-4, "batch_size": 128, "bias": False, "init": "xavier"}
    )
    reads = (DERIVED,)
    hyper: PSPHyper

    @cached_property
    def seed(self) -> int:
        """What contexts are drawn from: it follows from the trial's seed, as the network's first weights do."""
        drawn = self.network.body_weights()
        return zlib.crc32(b"".join(drawn[name].cpu().numpy().tobytes() for name in self.body))

    def prepare(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* The task's contexts."""
        return {CONTEXT + name: self.context(name, at.task, memory[name]) for name in self.seen_by_task}

    def effective_weights(self, params: Tensors, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* W C_t: turning the weights' columns is turning the layer's inputs."""
        weights = super().effective_weights(params, memory, hp, at)
        for name in self.seen_by_task:
            known = memory.get(CONTEXT + name)
            turn = self.context(name, at.task, weights[name]) if known is None else known
            weights[name] = torch.tensordot(weights[name], turn, dims=([1], [0])).movedim(-1, 1)
        return weights

    def context(self, name: str, task: int, like: Tensor) -> Tensor:
        """C of a weight at a task, shape [in, in], with the type and device of ``like``; the same for all members."""
        return torch.from_numpy(rotation(self.seed, task, name, self.seen_by_task[name][1])).to(like)

    @property
    def seeded(self) -> bool:
        """All contexts are drawn from the seed."""
        return True


@lru_cache(maxsize=AT_HAND)
def rotation(seed: int, task: int, name: str, size: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """An orthogonal matrix, shape [size, size], uniform among all (Mezzadri, 2007: QR of a normal one, signs undone)."""
    q, r = np.linalg.qr(numpy_stream(seed, "context", task, name).standard_normal((size, size)))
    turned: np.ndarray[Any, np.dtype[np.float64]] = q * np.sign(np.diagonal(r))
    return turned


METHOD = PSP
