"""Synaptic intelligence (Zenke et al., 2017): a weight matters by how much the loss fell along its way."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from clcore.hyper import knob
from clcore.methods.base import STATE, At, Batch, Tensors
from clcore.methods.penalties.penalty import Penalty, added

PATH = STATE + "path."


@dataclass(frozen=True)
class SIHyper:
    """Hyperparameters of SI."""

    strength: float = knob(
        0.1, "c, weight of the penalty", low=0, packed=True, source="SI, eq. 4; HNET, permuted MNIST: .1",
        grid=(0.01, 0.1, 1.0, 10.0, 100.0, 1000.0), search=(1e-3, 1e5), log=True,
    )  # fmt: skip
    xi: float = knob(
        0.1, "damping of the importance", low=1e-12, packed=True, source="SI, eq. 5: .1 for permuted MNIST, 1e-3 for split MNIST",
        search=(1e-3, 1), log=True,
    )  # fmt: skip
    rectify: bool = knob(True, "importance is at least 0", source="SI's code; not in the paper")


class SI(Penalty):
    """c sum_i Omega_i (theta_i - theta*_i)^2, Omega_i += w_i / (D_i^2 + xi) after each task (SI, eq. 4 and 5).

    w_i is the sum over steps of -g_i d_i: g the gradient of the task's loss alone, d the step actually taken; D_i is the way from
    the task's start to its end.
    """

    Hyper = SIHyper
    hyper: SIHyper

    def begin_task(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* No way has been gone yet."""
        params = super().begin_task(memory, hp, at)
        return params | {PATH + name: torch.zeros_like(params[name]) for name in self.protected}

    def after_step(self, params: Tensors, before: Tensors, grads: Tensors, hp: Tensors) -> Tensors:
        """*Packed.* What each weight's step took off the loss."""
        paths = {PATH + n: params[PATH + n] - grads[n] * (params[n] - before[n]) for n in self.protected}
        return params | paths

    def stiffness(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* 2 c Omega."""
        return self.important(memory, 2 * hp["strength"])

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* Adds the task's importance."""
        found = {n: params[PATH + n] / ((params[n] - memory[n]).square() + hp["xi"]) for n in self.protected}
        total = added(memory, found)
        if self.hyper.rectify:
            total = {name: omega.clamp(min=0) for name, omega in total.items()}
        return super().end_task(params, memory, hp, at, batches) | total


METHOD = SI
