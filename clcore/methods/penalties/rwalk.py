"""Riemannian walk (Chaudhry et al., 2018): EWC's Fisher, kept while training, and SI's path, measured by that Fisher."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from clcore.hyper import knob
from clcore.methods.base import STATE, At, Batch, Tensors
from clcore.methods.penalties.penalty import Penalty

FISHER, SCORE = "fisher.", "score."
SQUARES, CHANGE, ANCHOR, STEPS = "squares.", "change.", "anchor.", "steps"


@dataclass(frozen=True)
class RWalkHyper:
    """Hyperparameters of RWalk."""

    strength: float = knob(
        1.0, "lambda, weight of the penalty", low=0, packed=True, source="RWalk, eq. 8; A-GEM's code: 1",
        grid=(0.1, 1.0, 10.0, 100.0, 1000.0), search=(1e-2, 1e4), log=True,
    )  # fmt: skip
    alpha: float = knob(
        0.9,
        "share of the newest interval in the running Fisher",
        low=0,
        high=1,
        packed=True,
        source="RWalk, eq. 6; appendix: .9",
        levels=(0.5, 0.9, 0.99),
    )
    interval: int = knob(
        10, "steps from one score to the next", low=1, packed=True, source="RWalk, eq. 7; appendix: 10 for MNIST, 50 for CIFAR",
        search=(1, 100), log=True,
    )  # fmt: skip
    epsilon: float = knob(
        1e-3,
        "damping of the score",
        low=1e-12,
        packed=True,
        source="RWalk, eq. 7; its authors' code: 1e-3",
        levels=(1e-4, 1e-3, 1e-2, 0.1),
    )
    rescale: bool = knob(True, "largest Fisher and largest score are 1", source="RWalk, section 4.3: within [0, 1]")


class RWalk(Penalty):
    """lambda sum_i (F_i + s_i) (theta_i - theta*_i)^2 (RWalk, eq. 8).

    F is a running mean of squared gradients of batches (EWC++, eq. 6). s sums, over intervals, what a weight's steps took off the
    loss over the distance (1/2) F_i d_i^2 + epsilon that it moved, at least 0 (eq. 7; its authors' code leaves out the 1/2); the
    scores of one task and those of the tasks before are averaged.
    """

    Hyper = RWalkHyper
    training_only = from_zero = (FISHER, SCORE)
    hyper: RWalkHyper

    def begin_task(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* The Fisher goes on from the task before; score and interval start afresh."""
        params = super().begin_task(memory, hp, at)
        state = {STEPS: torch.zeros_like(params[self.body[0]].flatten()[0])}
        for name in self.protected:
            nothing = torch.zeros_like(params[name])
            state |= {FISHER + name: memory[FISHER + name], ANCHOR + name: params[name]}
            state |= {part + name: nothing for part in (SCORE, SQUARES, CHANGE)}
        return params | {STATE + name: tensor for name, tensor in state.items()}

    def after_step(self, params: Tensors, before: Tensors, grads: Tensors, hp: Tensors) -> Tensors:
        """*Packed.* Goes on with the interval, and closes it after so many steps."""
        steps = params[STATE + STEPS] + 1
        closes = steps >= hp["interval"]
        state = {STEPS: torch.where(closes, 0, steps)}
        for n in self.protected:
            fisher, score, anchor = (params[STATE + part + n] for part in (FISHER, SCORE, ANCHOR))
            squares = params[STATE + SQUARES + n] + grads[n].square()
            change = params[STATE + CHANGE + n] - grads[n] * (params[n] - before[n])
            distance = fisher * (params[n] - anchor).square() / 2 + hp["epsilon"]
            state |= {
                FISHER + n: torch.where(closes, torch.lerp(fisher, squares / hp["interval"], hp["alpha"]), fisher),
                SCORE + n: torch.where(closes, score + (change / distance).clamp(min=0), score),
                ANCHOR + n: torch.where(closes, params[n], anchor),
                SQUARES + n: torch.where(closes, 0, squares),
                CHANGE + n: torch.where(closes, 0, change),
            }
        return params | {STATE + name: tensor for name, tensor in state.items()}

    def stiffness(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* 2 lambda (F + s)."""
        fisher, score = ({n: memory[part + n] for n in self.protected} for part in (FISHER, SCORE))
        if self.hyper.rescale:
            fisher, score = scaled(fisher), scaled(score)
        return {n: 2 * hp["strength"] * (fisher[n] + score[n]) for n in self.protected}

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* Keeps the running Fisher, and the score averaged with that of the tasks before."""
        score = {SCORE + n: params[STATE + SCORE + n] for n in self.protected}
        if at.task:
            score = {name: (memory[name] + new) / 2 for name, new in score.items()}
        fisher = {FISHER + n: params[STATE + FISHER + n] for n in self.protected}
        return super().end_task(params, memory, hp, at, batches) | fisher | score


def scaled(values: Tensors) -> Tensors:
    """*Packed.* Values >= 0 over the largest of them all; zeros if that is 0."""
    largest: Tensor = torch.stack([tensor.max() for tensor in values.values()]).max()
    by = torch.where(largest > 0, largest, 1)
    return {name: tensor / by for name, tensor in values.items()}


METHOD = RWalk
