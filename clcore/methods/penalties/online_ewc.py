"""Online EWC (Schwarz et al., 2018, "Progress & Compress"): one penalty, around the latest weights."""

from collections.abc import Iterable
from dataclasses import dataclass

from clcore.hyper import knob
from clcore.methods.base import At, Batch, Tensors
from clcore.methods.penalties.fisher import fisher_knob
from clcore.methods.penalties.penalty import Penalty, added


@dataclass(frozen=True)
class OnlineEWCHyper:
    """Hyperparameters of online EWC."""

    strength: float = knob(
        100.0, "lambda, weight of the penalty", low=0, packed=True, source="HNET, permuted MNIST with 100 tasks; grid: van de Ven",
        grid=(1.0, 10.0, 100.0, 1000.0, 10000.0, 100000.0), search=(1, 1e6), log=True,
    )  # fmt: skip
    gamma: float = knob(
        1.0, "what is left of the earlier tasks' Fisher with each new task", low=0, high=1, packed=True,
        source="Schwarz et al., eq. 9: below 1; HNET: 1", levels=(0.5, 0.9, 0.99, 1.0),
    )  # fmt: skip
    fisher: str = fisher_knob()


class OnlineEWC(Penalty):
    """(lambda / 2) sum_i gamma F_i (theta_i - theta*_i)^2, with F = gamma F + F_t after task t (Schwarz et al., eq. 8 and 9)."""

    Hyper = OnlineEWCHyper
    clip = 100.0  # as EWC in HAT's code

    def stiffness(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* lambda gamma F."""
        return self.important(memory, hp["strength"] * hp["gamma"])

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* Adds the task's Fisher to what is left of those before."""
        kept = super().end_task(params, memory, hp, at, batches)
        return kept | added(memory, self.task_fisher(params, memory, hp, at, batches), keep=hp["gamma"])


METHOD = OnlineEWC
