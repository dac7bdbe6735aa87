"""L2-transfer (Lee et al., 2017): every shared weight is held alike, near its value after the task before."""

from dataclasses import dataclass
from typing import ClassVar

from clcore.hyper import knob
from clcore.methods.base import At, Tensors
from clcore.methods.penalties.penalty import Penalty


@dataclass(frozen=True)
class L2Hyper:
    """Hyperparameters of L2-transfer."""

    strength: float = knob(
        0.01, "lambda, weight of the penalty", low=0, packed=True, source="IMM, section 3.2; HAT's code, IMM-mode",
        grid=(1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0), search=(1e-5, 10), log=True,
    )  # fmt: skip


class L2Transfer(Penalty):
    """(lambda / 2) ||theta - theta*||^2, theta* the weights after the task before."""

    Hyper: ClassVar[type] = L2Hyper
    from_zero: ClassVar[tuple[str, ...]] = ()

    def stiffness(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* lambda."""
        return dict.fromkeys(self.protected, hp["strength"])


METHOD = L2Transfer
