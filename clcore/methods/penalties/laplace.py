"""Laplace propagation (Smola et al., 2003; Eskin et al., 2004): each task's posterior, as a Gaussian, is the next one's prior."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from clcore.hyper import knob
from clcore.methods.base import At, Batch, Tensors
from clcore.methods.penalties.fisher import fisher_knob
from clcore.methods.penalties.penalty import IMPORTANCE, Penalty, added


@dataclass(frozen=True)
class LaplaceHyper:
    """Hyperparameters of Laplace propagation."""

    strength: float = knob(
        1.0, "weight of the prior; 1 is Bayes' rule for tasks of equal size", low=0, packed=True,
        source="Ritter et al., 2018, section 3: lambda", grid=(1.0, 10.0, 100.0, 1000.0), search=(0.1, 1e5), log=True,
    )  # fmt: skip
    prior: float = knob(
        0.0,
        "precision of the prior before the first task, an example",
        low=0,
        packed=True,
        source="Ritter et al., 2018, section 2",
        levels=(0.0, 0.01, 0.1, 1.0),
    )
    fisher: str = fisher_knob()


class Laplace(Penalty):
    """Precisions add up, and the mean moves to the newest mode: (1/2) sum_i Lambda_i (theta_i - mu_i)^2.

    A task's precision is the diagonal of the generalised Gauss-Newton matrix at its mode, which for classes is the exact Fisher
    information. The loss is a mean over examples, so precisions are too: an example's, not the task's.
    """

    Hyper = LaplaceHyper
    clip = 100.0  # as EWC in HAT's code

    def stiffness(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* Lambda, times the strength: the prior's precision and all tasks'."""
        return {name: hp["strength"] * (hp["prior"] + memory[IMPORTANCE + name]) for name in self.protected}

    def centre(self, memory: Tensors, at: At) -> Tensors:
        """*Packed.* The newest mode; before the first task 0."""
        return {name: memory[name] if at.task else torch.zeros_like(memory[name]) for name in self.protected}

    def prepare(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* The Gaussian to start from, for the first task too."""
        return self.gaussian(memory, hp, at)

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* Adds the task's precision."""
        kept = super().end_task(params, memory, hp, at, batches)
        return kept | added(memory, self.task_fisher(params, memory, hp, at, batches))


METHOD = Laplace
