"""A Hopfield network that absorbs the masks of all tasks in fixed space (SupSup, section 3.5 and App. B).

A mask m in {0, 1}^d is stored as z = 2 m - 1. The connections Psi take it in by Storkey's rule, and z becomes a minimum of the
energy -1/2 z^T Psi z. (SupSup, App. B prints the energy without the minus sign, under which z would be a maximum, and m = z/2 + 1
for (z + 1)/2; its code has both as they are here.)
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def store(psi: Tensor, z: Tensor) -> Tensor:
    """Connections after one more pattern (Storkey's rule; SupSup, eq. 6).

    Storing a pattern twice takes it out again: Psi z = 0 afterwards.

    Args:
        psi: shape [d, d], symmetric; zeros before the first.
        z: shape [d], of -1 and 1.
    """
    field = psi @ z
    update = torch.outer(z, z) - torch.outer(z, field) - torch.outer(field, z)
    return psi + (update - torch.eye(len(z), dtype=psi.dtype, device=psi.device)) / len(z)


def energy(psi: Tensor, z: Tensor) -> Tensor:
    """-1/2 z^T Psi z, scalar; lower at stored patterns than elsewhere.

    Args:
        psi: shape [d, d].
        z: shape [d].
    """
    return -0.5 * (z @ (psi @ z))


@dataclass(frozen=True)
class Recovery:
    """How a mask is found again: gradient descent on energy and entropy (SupSup, App. B.2).

    Attributes:
        gamma: weight of the energy at the end.
        lr: learning rate.
        momentum: of the descent.
        weight_decay: of the scores.
    """

    gamma: Tensor | float = 1.5e-3
    lr: Tensor | float = 500.0
    momentum: float = 0.9
    weight_decay: float = 1e-4

    def objective(self, energy: Tensor, entropy: Tensor, share: float) -> Tensor:
        """J = gamma t/T E + (1 - t/T) H (SupSup, eq. 7), where ``share`` is t/T, in (0, 1]."""
        return self.gamma * share * energy + (1 - share) * entropy

    def step(self, scores: Tensor, velocity: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and velocity after one step of SGD with momentum; all of one shape."""
        velocity = self.momentum * velocity + gradient + self.weight_decay * scores
        return scores - self.lr * velocity, velocity


def recover(
    scores: Tensor, steps: int, energy: Callable[[Tensor], Tensor], entropy: Callable[[Tensor, int], Tensor], recovery: Recovery
) -> Tensor:
    """*Packed.* Scores whose signs are the mask found, shape [d].

    Args:
        scores: where it starts, shape [d]: the running mean of all stored z.
        steps: T, one a batch of test inputs.
        energy: scores -> the Hopfield energy of their signs; scalar.
        entropy: scores and number of the step, from 0 -> entropy of the network's output on that batch; scalar.
        recovery: its constants.
    """
    velocity = torch.zeros_like(scores)
    for step in range(steps):
        share = (step + 1) / steps

        def objective(s: Tensor, step: int = step, share: float = share) -> Tensor:
            return recovery.objective(energy(s), entropy(s, step), share)

        scores, velocity = recovery.step(scores, velocity, torch.func.grad(objective)(scores))
    return scores
