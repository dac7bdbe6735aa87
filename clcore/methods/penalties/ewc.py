"""Elastic weight consolidation (Kirkpatrick et al., 2017): a penalty for every earlier task, by its Fisher information."""

from collections.abc import Iterable
from dataclasses import dataclass

from clcore.hyper import knob
from clcore.methods.base import At, Batch, Tensors
from clcore.methods.penalties.fisher import fisher_knob
from clcore.methods.penalties.penalty import IMPORTANCE, Penalty, added, combine

CENTRE = "centre."


@dataclass(frozen=True)
class EWCHyper:
    """Hyperparameters of EWC."""

    strength: float = knob(
        100.0, "lambda, weight of the penalty", low=0, packed=True, source="EWC, eq. 3; HAT's code: 5000; van de Ven's code: 100",
        grid=(1.0, 10.0, 100.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0, 50000.0), search=(1, 1e5), log=True,
    )  # fmt: skip
    fisher: str = fisher_knob()
    terms: str = knob(
        "separate", "a penalty for each task around its own weights, or one for their mean Fisher around the latest (HAT's code)",
        choices=("separate", "mean"), source="EWC, eq. 3; HAT's code",
    )  # fmt: skip


class EWC(Penalty):
    """(lambda / 2) sum_t sum_i F_ti (theta_i - theta*_ti)^2 over the earlier tasks t (EWC, eq. 3).

    The sum is kept as one function: the sum of the F_t, and the mean of the theta*_t weighed by them; what is left out is a
    constant. With ``terms=mean`` F is the mean of the F_t and theta* the latest, as in the code of HAT's baseline.
    """

    Hyper = EWCHyper
    training_only = from_zero = (IMPORTANCE, CENTRE)
    clip = 100.0  # HAT's code
    hyper: EWCHyper

    def stiffness(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* lambda F."""
        return self.important(memory, hp["strength"])

    def centre(self, memory: Tensors, at: At) -> Tensors:
        """*Packed.* The weighed mean of the tasks' weights, or the latest."""
        return {name: memory[CENTRE + name] for name in self.protected}

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* Adds the task's Fisher, and its weights, to those of the tasks before."""
        kept = super().end_task(params, memory, hp, at, batches)
        found = self.task_fisher(params, memory, hp, at, batches)
        if self.hyper.terms == "mean":
            share = 1 / (at.task + 1)
            latest = {CENTRE + name: params[name] for name in self.protected}
            return kept | latest | added(memory, {n: share * t for n, t in found.items()}, keep=1 - share)
        weigh = {n: (memory[CENTRE + n], memory[IMPORTANCE + n], params[n], found[n]) for n in self.protected}
        return kept | {CENTRE + name: combine(*parts) for name, parts in weigh.items()} | added(memory, found)


METHOD = EWC
