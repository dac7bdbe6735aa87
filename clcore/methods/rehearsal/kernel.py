"""The kernel of the Gaussian process that a network makes of a Gaussian over its weights (Khan et al., 2019, "DNN2GP")."""

from collections.abc import Sequence

import torch
from torch import Tensor

from clcore.methods.base import Tensors
from clcore.methods.penalties.per_sample import PerSample

#: Most numbers of a layer's part that are held at a time (16 MB of float64).
CHUNK = 2**21


def kernels(net: PerSample, covariance: Tensors, inputs: Tensor, pulls: Sequence[Tensor]) -> Tensor:
    """*Packed.* J S J^T for each pull: J holds each example's gradient of <pull, outputs>, S is diagonal.

    In float64: where examples are alike, its least eigenvalues are far below the rounding of float32. The gradient of a linear
    layer's weight is the outer product of delta and x, so its part is sum_a delta_a delta'_a sum_b S_ab x_b x'_b, of which the
    inner sum is the same for every pull.

    Args:
        net: the network, and the tensors that the gradients are of.
        covariance: name -> diagonal of S, with the shape of the tensor.
        inputs: shape [examples, ...].
        pulls: each of shape [examples, outputs].

    Returns:
        Shape [pulls, examples, examples], float64.
    """
    backward, seen = net.backwards(inputs)
    each = [backward(pull) for pull in pulls]
    parts, done = [], set()
    for layer, x in seen.items():
        deltas = torch.stack([found[layer] for found in each]).double()
        weight, bias = f"{layer}.weight", f"{layer}.bias"
        parts.append(_of_weight(x.double(), deltas, covariance[weight].double()))
        if bias in covariance:
            parts.append((deltas * covariance[bias].double()) @ deltas.mT)
        done |= {weight, bias}
    for name in (name for name in net.names if name not in done):
        parts.append(torch.stack([_of_any(net, name, covariance[name], inputs, pull) for pull in pulls]))
    return torch.stack(parts).sum(0)


def _of_weight(x: Tensor, deltas: Tensor, covariance: Tensor) -> Tensor:
    """The part of a linear layer's weight, a few units at a time.

    Args:
        x: shape [examples, inputs].
        deltas: shape [pulls, examples, units].
        covariance: shape [units, inputs].
    """
    size = max(1, CHUNK // (len(x) * max(x.shape[1], len(deltas) * len(x))))
    parts = []
    for delta, s in zip(torch.split(deltas, size, -1), torch.split(covariance, size), strict=True):
        parts.append(torch.einsum("cia,cja,aij->cij", delta, delta, (x * s[:, None]) @ x.mT))
    return torch.stack(parts).sum(0)


def _of_any(net: PerSample, name: str, covariance: Tensor, inputs: Tensor, pull: Tensor) -> Tensor:
    jacobian = net.gradients([name], inputs, pull)[name].flatten(1).double()
    return (jacobian * covariance.flatten().double()) @ jacobian.mT


def whitening(kernel: Tensor, jitter: Tensor) -> Tensor:
    """*Packed.* A matrix W with W^T W = (K + jitter I)^-1, shape [..., n, n], so that d^T K^-1 d = |W d|^2 >= 0 in any precision.

    Args:
        kernel: K, symmetric, without negative eigenvalues, shape [..., n, n].
        jitter: scalar > 0.
    """
    eye = torch.eye(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device)
    root, _ = torch.linalg.cholesky_ex(kernel + jitter * eye)
    found: Tensor = torch.linalg.solve_triangular(root, eye.expand_as(root), upper=False)
    return found
