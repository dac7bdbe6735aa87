"""Sums over examples of powers of each example's own gradient, without a loop over examples.

The gradient of a linear layer's weight is, for one example, the outer product of the gradient of its output (delta) and its
input (x). So the sum over a batch of its squares is (delta^2)^T (x^2): one backward pass for the whole batch. What belongs to
other layers is done by vmap over the examples.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp, vmap

from clcore.networks.base import Network

Tensors = dict[str, Tensor]
#: Most numbers of single examples' gradients that are held at a time (64 MB of float32).
CHUNK = 2**24


class PerSample:
    """Gradients of single examples of a network at given weights, in its final form (no dropout, running statistics).

    Args:
        network: the network.
        weights: its tensors.
        names: of the tensors the gradients are of.
    """

    def __init__(self, network: Network, weights: Tensors, names: Sequence[str]) -> None:
        self.network, self.weights = network, weights
        layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Linear)}
        self.layers = {n: m for n, m in layers.items() if f"{n}.weight" in names or f"{n}.bias" in names}
        self.names = tuple(names)

    def logits(self, inputs: Tensor, weights: Tensors | None = None) -> Tensor:
        """The network's outputs, shape [batch, outputs], of ``inputs``, shape [batch, ...]; ``weights`` go before its own."""
        self.network.eval()
        result: Tensor = functional_call(self.network, {**self.weights, **(weights or {})}, (inputs,))
        return result

    def sums(self, inputs: Tensor, pulls: Sequence[Tensor], power: int) -> Tensors:
        """Name -> sum over examples and pulls of |gradient of <pull, outputs>| to a power.

        Args:
            inputs: shape [batch, ...].
            pulls: each of shape [batch, outputs]: for every example the vector that its outputs' gradient is taken along.
            power: 1 or 2.
        """
        found = self._by_layers(inputs, pulls, power)
        rest = [name for name in self.names if name not in found]
        for size in (max(1, CHUNK // sum(self.weights[n].numel() for n in rest)),) if rest else ():
            for pull in pulls:
                for x, v in zip(torch.split(inputs, size), torch.split(pull, size), strict=True):
                    for name, part in self._by_examples(rest, x, v, power).items():
                        found[name] = found[name] + part if name in found else part
        return found

    def backwards(self, inputs: Tensor) -> tuple[Callable[[Tensor], Tensors], Tensors]:
        """Of the linear layers that see one vector an example, once.

        Args:
            inputs: shape [batch, ...].

        Returns:
            A function of a pull, shape [batch, outputs], that gives layer -> gradient of its outputs, shape [batch, units]; and
            layer -> its inputs, shape [batch, inputs].
        """

        def forward(probes: Tensors) -> tuple[Tensor, Tensors]:
            with probed(self.layers, probes) as seen:
                logits = self.logits(inputs)
            return logits, {name: xs[0] for name, xs in seen.items() if len(xs) == 1 and xs[0].dim() == 2}

        widths = {name: self.weights[f"{name}.weight"] for name in self.layers}
        probes = {name: weight.new_zeros(len(inputs), len(weight)) for name, weight in widths.items()}
        pulled_back: Any = vjp(forward, probes, has_aux=True)
        _, backward, seen = pulled_back
        return lambda pull: {name: delta for name, delta in backward(pull)[0].items() if name in seen}, seen

    def _by_layers(self, inputs: Tensor, pulls: Sequence[Tensor], power: int) -> Tensors:
        """Those of linear layers."""
        backward, seen = self.backwards(inputs)
        found: Tensors = {}
        for pull in pulls:
            deltas = backward(pull)
            for name, x in seen.items():
                delta = deltas[name].abs().pow(power)
                parts = {f"{name}.weight": delta.mT @ x.abs().pow(power), f"{name}.bias": delta.sum(0)}
                found |= {n: found[n] + part if n in found else part for n, part in parts.items() if n in self.names}
        return found

    def _by_examples(self, names: Sequence[str], inputs: Tensor, pull: Tensor, power: int) -> Tensors:
        """For anything, one gradient an example."""
        return {name: g.abs().pow(power).sum(0) for name, g in self.gradients(names, inputs, pull).items()}

    def gradients(self, names: Sequence[str], inputs: Tensor, pull: Tensor) -> Tensors:
        """Name -> each example's gradient of <pull, outputs>, shape [batch, ...].

        Args:
            names: of tensors.
            inputs: shape [batch, ...].
            pull: shape [batch, outputs].
        """

        def along(weights: Tensors, x: Tensor, v: Tensor) -> Tensor:
            return (self.logits(x[None], weights)[0] * v).sum()

        found: Tensors = vmap(grad(along), in_dims=(None, 0, 0))({n: self.weights[n] for n in names}, inputs, pull)
        return found


@contextmanager
def probed(layers: dict[str, nn.Linear], probes: Tensors) -> Iterator[dict[str, list[Tensor]]]:
    """While it lasts, a probe is added to the output of each layer whose input is a vector an example.

    Args:
        layers: name -> layer.
        probes: of each layer, shape [batch, outputs]: their gradient is that of the outputs.

    Yields:
        Name -> the inputs the layer was given, one a call.
    """
    seen: dict[str, list[Tensor]] = {}

    def hook(name: str) -> Any:
        def add(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
            seen.setdefault(name, []).append(given[0])
            return output + probes[name] if given[0].dim() == 2 else output

        return add

    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
