"""Losses that the methods share."""

from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each example, shape [batch].

    ``torch.nn.functional.cross_entropy`` gives the same, but under vmap as a program in Python, which imports sympy (a second) and
    looks for classes to ignore at every step.

    Args:
        logits: shape [batch, classes].
        labels: shape [batch].
    """
    return -logits.log_softmax(-1).gather(-1, labels[:, None])[:, 0]
