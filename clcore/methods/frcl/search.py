"""The search for inducing points: those that leave the least of the function values at a task's examples undetermined."""

import torch
from torch import Tensor

#: A swap must lower the trace by more than this share of it, so that rounding decides nothing.
TOLERANCE = 1e-6


def searched(features: Tensor, count: int, gram: Tensor, ridge: Tensor) -> Tensor:
    """*Packed.* Positions of the points that are left after one attempt with each candidate, shape [count].

    The criterion is the sum over a task's examples of k_xx - k_xZ K_ZZ^-1 k_Zx (FRCL, eq. 6). With a linear kernel that is
    jitter tr((Phi_Z^T Phi_Z + ridge I)^-1 gram), and putting one point in the place of another changes the matrix by two of rank
    one. Candidates take their turn, and so do the points they replace if that lowers the criterion (FRCL's code).

    Args:
        features: of the points at first, then of the candidates, in order; shape [count + candidates, features], float64.
        count: of points.
        gram: sum of phi phi^T over all examples, shape [features, features], float64.
        ridge: jitter / variance of the weights' prior, float64.
    """
    rows, places = features.unbind(), torch.arange(len(features), device=features.device).unbind()
    held, chosen = list(rows[:count]), list(places[:count])
    for first in range(count, len(rows), count):
        inverse = inverted(torch.stack(held), ridge)  # afresh once a round: updates add up rounding
        trace = (inverse * gram).sum()
        for slot, (new, place) in enumerate(zip(rows[first : first + count], places[first : first + count], strict=True)):
            swap = _swap(inverse, held[slot], new)
            gone, come = ((swap @ gram) * swap).sum(-1)
            better = gone - come < -TOLERANCE * trace
            inverse = torch.where(better, inverse + swap[0, :, None] * swap[0] - swap[1, :, None] * swap[1], inverse)
            trace = torch.where(better, trace + gone - come, trace)
            held[slot], chosen[slot] = torch.where(better, new, held[slot]), torch.where(better, place, chosen[slot])
    return torch.stack(chosen)


def _swap(inverse: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """Vectors g and c, shape [2, features]: inverse + g g^T - c c^T is the inverse with a point gone and another come."""
    gone = inverse @ old
    rest = (1 - old @ gone).clamp(min=torch.finfo(old.dtype).eps)
    come = inverse @ new + gone * (gone @ new) / rest
    return torch.stack([gone / rest.sqrt(), come / (1 + new @ come).sqrt()])


def inverted(features: Tensor, ridge: Tensor) -> Tensor:
    """*Packed.* (Phi^T Phi + ridge I)^-1, shape [features, features], of features, shape [points, features]."""
    eye = torch.eye(features.shape[-1], dtype=features.dtype, device=features.device)
    found: Tensor = torch.cholesky_inverse(torch.linalg.cholesky_ex(features.mT @ features + ridge * eye)[0])
    return found


def turns(examples: int, count: int, candidates: int, device: torch.device) -> Tensor:
    """*Packed.* Random examples: the points at first, and the candidates: examples in random order, as often as it takes.

    Returns:
        Shape [count + candidates].
    """
    rounds = [torch.randperm(examples, device=device) for _ in range(max(1, -(-candidates // examples)))]
    return torch.cat([rounds[0][examples - count :], torch.cat(rounds)[:candidates]])
