"""The Gaussian process of a last layer with Gaussian weights: f = phi(x)^T w, w ~ N(0, variance I), one f an output (FRCL, eq. 1).

What is inverted is worked out in float64, as in FRCL's code: kernels of more examples than features have nothing but the jitter in
most directions.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Posterior(NamedTuple):
    """q(u), u the noisy values of every output at a task's inducing points.

    Only the sum of the outputs' covariances is held: all outputs have the same prior, so that no more of them is asked for.

    Attributes:
        means: shape [outputs, points].
        root: lower triangular, root root^T the sum of the outputs' covariances; shape [points, points].
        log_determinant: of the outputs' covariances, summed; scalar.
    """

    means: Tensor
    root: Tensor
    log_determinant: Tensor


def weight_divergence(mean: Tensor, root: Tensor, variance: Tensor) -> Tensor:
    """*Packed.* KL(q(w) || p(w)), summed over outputs: the middle of FRCL, eq. 4.

    Args:
        mean: shape [outputs, features].
        root: lower triangular, of the covariance; shape [outputs, features, features].
        variance: of the prior N(0, variance I).
    """
    spread = (mean.square().sum() + root.square().sum()) / variance
    logs = root.diagonal(dim1=-2, dim2=-1).abs().log().sum()
    return (spread + mean.numel() * (variance.log() - 1)) / 2 - logs


def kernel(features: Tensor, variance: Tensor, jitter: Tensor) -> Tensor:
    """*Packed.* Covariance of u under the prior, shape [points, points], float64, of features, shape [points, features]."""
    wide = features.double()
    return variance.double() * wide @ wide.mT + jitter.double() * _eye(wide)


def at_points(features: Tensor, mean: Tensor, root: Tensor, jitter: Tensor) -> Posterior:
    """*Packed.* q(u) = N(Phi mu, Phi Sigma Phi^T + jitter I), float64, of q(w) = N(mu, Sigma) (FRCL, section 2.3; its code).

    Args:
        features: Phi, shape [points, features].
        mean: mu of each output, shape [outputs, features].
        root: lower triangular, of Sigma; shape [outputs, features, features].
        jitter: variance of the noise of u.
    """
    wide = features.double()
    reach = wide @ root.double()
    covariance = reach @ reach.mT + jitter.double() * _eye(wide)
    logs = _root(covariance).diagonal(dim1=-2, dim2=-1).log().sum()
    return Posterior(mean.double() @ wide.mT, _root(covariance.sum(0)), 2 * logs)


def point_divergence(posterior: Posterior, prior: Tensor) -> Tensor:
    """*Packed.* KL(q(u) || N(0, prior)), summed over outputs, float64: a summand of the right of FRCL, eq. 4.

    Args:
        posterior: of a task.
        prior: :func:`kernel` of its points, as the network sees them now.
    """
    means, total, log_determinant = (tensor.double() for tensor in posterior)
    root = _root(prior)
    whitened = torch.linalg.solve_triangular(root, torch.cat([total, means.mT], -1), upper=False)
    outputs = len(means)
    logs = 2 * outputs * root.diagonal().log().sum() - log_determinant
    found: Tensor = (whitened.square().sum() + logs - means.numel()) / 2
    return found


def posterior_head(features: Tensor, means: Tensor, variance: Tensor, jitter: Tensor) -> Tensor:
    """*Packed.* Weights with which phi(x) gives the posterior mean k_xZ K_ZZ^-1 E[u] (FRCL, section 2.5), float64.

    Args:
        features: of the points, as the network sees them now, shape [points, features].
        means: E[u] of each output, shape [outputs, points].
        variance: of the weights' prior.
        jitter: variance of the noise of u.

    Returns:
        Shape [outputs, features].
    """
    solved = torch.cholesky_solve(means.double().mT, _root(kernel(features, variance, jitter)))
    return variance.double() * solved.mT @ features.double()


def _root(matrix: Tensor) -> Tensor:
    root: Tensor = torch.linalg.cholesky_ex(matrix)[0]
    return root


def _eye(features: Tensor) -> Tensor:
    return torch.eye(len(features), dtype=features.dtype, device=features.device)
