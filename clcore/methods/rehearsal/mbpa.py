"""Memory-based parameter adaptation (Sprechmann et al., 2018) on EWC: at test, each example has weights of its own for a moment."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn import functional as F

from clcore.hyper import knob
from clcore.methods.base import At, Batch, Tensors
from clcore.methods.losses import cross_entropy
from clcore.methods.penalties.ewc import EWC, EWCHyper
from clcore.methods.penalties.per_sample import probed
from clcore.methods.rehearsal.stored import IMAGES, LABELS, STORED, as_inputs, as_stored, pick
from clcore.networks.base import HEAD, INPUT_UNITS

KEYS = STORED + "keys."
#: Most numbers of adapted weights and neighbours that are held at a time, for one member (16 MB of float32).
CHUNK = 2**22


@dataclass(frozen=True)
class MbPAHyper(EWCHyper):
    """Hyperparameters of MbPA on EWC. Its constants for permuted MNIST could not be settled; what is marked "here" is ours."""

    stored: int = knob(
        1000,
        "examples stored of each task, at random; 0: all",
        low=0,
        source="HAT, table 7: 1000; here: a task",
        levels=(100, 300, 1000, 3000),
    )
    embedding: str = knob(
        "inputs", "what is compared, and what adapts: inputs, and all weights; or what feeds the head, and the head",
        choices=("inputs", "features"), source="MbPA, section 2: a fixed embedding and an output network; here: where they part",
    )  # fmt: skip
    neighbours: int = knob(
        10, "K, stored examples that the weights adapt to", low=1, source="K of MbPA, section 2; here: 10", levels=(3, 10, 30, 100)
    )
    steps: int = knob(
        1,
        "gradient steps of an adaptation",
        low=1,
        source="MbPA, section 2: a few; here: 1, for time at test",
        levels=(1, 3, 10, 30),
    )
    rate: float = knob(
        0.01, "alpha_M, learning rate of an adaptation", low=0, packed=True,
        source="alpha_M of MbPA, section 2; here: .01, by validation on permuted MNIST", grid=(1e-3, 0.01, 0.1),
        search=(1e-4, 1), log=True,
    )  # fmt: skip
    pull: float = knob(
        0.1, "beta, pull back to the learned weights from the second step on", low=0, high=1, packed=True,
        source="beta of MbPA, section 2; here: .1", levels=(0.0, 0.01, 0.1, 0.5),
    )  # fmt: skip
    epsilon: float = knob(
        1e-3,
        "damping of the closeness of neighbours",
        low=1e-12,
        packed=True,
        source="epsilon of MbPA, section 2; here: 1e-3",
        levels=(1e-4, 1e-3, 1e-2),
    )


class MbPA(EWC):
    """EWC; at test theta_x <- theta_x - alpha grad sum_k w_k L(v_k, h_k; theta_x) - beta (theta_x - theta) (MbPA, section 2).

    The sum is over the stored examples (h_k, v_k) that are nearest to the test example, with w_k proportional to
    1 / (epsilon + |h_k - h|^2). The adapted weights answer for that example alone. Where the task is given, its own examples are
    looked at; elsewhere all.
    """

    Hyper = MbPAHyper
    regresses = False
    hyper: MbPAHyper

    @cached_property
    def of_inputs(self) -> bool:
        """Whether inputs are compared, and not what feeds the head."""
        return self.hyper.embedding == "inputs"

    @cached_property
    def adapts(self) -> tuple[str, ...]:
        """Names of the network's tensors that adapt."""
        head = tuple(f"{HEAD}.{part}" for part in self.head_parts)
        return (*self.body, *head) if self.of_inputs else head

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* As EWC, and stores examples of the task: inputs, or what feeds the head."""
        found: list[tuple[Tensor, Tensor]] = []

        def passing() -> Iterator[Batch]:
            for batch in batches:
                found.append((as_stored(batch.inputs, self.layout), batch.labels))
                yield batch

        kept = super().end_task(params, memory, hp, at, passing())
        examples = pick(self.layout, found, at.task, self.hyper.stored)
        if not self.of_inputs:
            final = At(at.task, "eval", at.seen)
            inputs = as_inputs(examples.pop(f"{IMAGES}{at.task}"), self.layout, params[self.body[0]])
            examples[f"{KEYS}{at.task}"] = self.feeding(HEAD, self.effective_weights(params, memory, hp, final), inputs, final)
        return kept | examples

    def predict(self, weights: Tensors, memory: Tensors, hp: Tensors, inputs: Tensor, at: At) -> Tensor:
        """*Packed.* What weights adapted to each input's neighbours say of it."""
        return self.decide(self.adapted(weights, memory, hp, inputs, at))

    def adapted(self, weights: Tensors, memory: Tensors, hp: Tensors, inputs: Tensor, at: At) -> Tensor:
        """*Packed.* Logits of each input under its own weights, shape [batch, classes]; where nothing is stored, as learned."""
        tasks = [at.task] if self.private_heads else range(at.seen)
        tasks = [task for task in tasks if f"{LABELS}{task}" in memory]
        if not tasks:
            return self.logits(weights, inputs, at)
        keys = torch.cat([memory[f"{IMAGES if self.of_inputs else KEYS}{task}"] for task in tasks])
        keys = as_inputs(keys, self.layout, inputs) if self.of_inputs else keys
        labels = torch.cat([memory[f"{LABELS}{task}"].long() + self.label_offset(task) for task in tasks])
        queries = inputs if self.of_inputs else self.feeding(HEAD, weights, inputs, at)
        nearest, shares = neighbours(queries.flatten(1), keys.flatten(1), self.hyper.neighbours, hp["epsilon"])
        entrance = self.entrance
        fed = [self.feeding(entrance, weights, x, at) if entrance else x.flatten(1) for x in (keys, queries)]
        units = len(weights[f"{entrance}.weight"]) if entrance else 0
        learned = {name: weights[name] for name in self.adapts if name != f"{entrance}.weight"}

        def one(query: Tensor, feeds: Tensor, places: Tensor, share: Tensor) -> Tensor:
            near, feeding = keys[places], fed[0][places]

            def loss(own: Tensors, added: Tensor) -> Tensor:
                return (share * cross_entropy(self.said({**weights, **own}, near, at, added), labels[places])).sum()

            own, gram, spanned = learned, feeding @ feeding.mT, feeding.new_zeros(len(places), units)
            for _ in range(self.hyper.steps):
                slope, delta = grad(loss, (0, 1))(own, gram @ spanned)
                own = {n: torch.lerp(t, learned[n], hp["pull"]) - hp["rate"] * slope[n] for n, t in own.items()}
                spanned = (1 - hp["pull"]) * spanned - hp["rate"] * delta
            return self.said({**weights, **own}, query[None], at, (feeding @ feeds)[None] @ spanned)[0]

        held = sum(tensor.numel() for tensor in learned.values()) + 2 * nearest.shape[-1] * fed[0].shape[-1]
        found: Tensor = vmap(one, chunk_size=max(1, CHUNK // held))(queries, fed[1], nearest, shares)
        return found

    def said(self, weights: Tensors, keys: Tensor, at: At, added: Tensor) -> Tensor:
        """*Packed.* Logits of what is compared, shape [batch, classes].

        Args:
            weights: the network's.
            keys: inputs, or what feeds the head, shape [batch, ...].
            at: the task.
            added: to the outputs of the entrance, shape [batch, units].
        """
        if not self.of_inputs:
            return F.linear(keys, *(weights[name] for name in self.adapts))
        layers: dict[str, Any] = {name: self.network.get_submodule(name) for name in (self.entrance,) if name}
        with probed(layers, dict.fromkeys(layers, added)):
            return self.logits(weights, keys, at)

    @cached_property
    def entrance(self) -> str:
        """The first layer, if it is linear and alone reads the input, and adapts; else nothing.

        What feeds it does not depend on weights, so its adapted weight is the learned one plus sum_k a_k x_k^T, x_k what its
        neighbours feed it: it is enough to hold the a_k, one number a unit and neighbour, and no weight an example.
        """
        names = [wire.weight.removesuffix(".weight") for wire in self.network.wires if wire.inputs == INPUT_UNITS]
        linear = len(names) == 1 and isinstance(dict(self.network.named_modules()).get(names[0]), nn.Linear)
        return names[0] if linear and self.of_inputs else ""

    def feeding(self, layer: str, weights: Tensors, inputs: Tensor, at: At) -> Tensor:
        """*Packed.* What feeds a linear layer, shape [batch, features]."""
        seen: list[Tensor] = []

        def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            seen.append(given[0])

        handle = self.network.get_submodule(layer).register_forward_pre_hook(keep)
        try:
            self.logits(weights, inputs, at)
        finally:
            handle.remove()
        return seen[0]


def neighbours(queries: Tensor, keys: Tensor, count: int, epsilon: Tensor) -> tuple[Tensor, Tensor]:
    """*Packed.* The nearest keys of each query, and weights proportional to 1 / (epsilon + squared distance).

    Args:
        queries: shape [batch, size].
        keys: shape [stored, size].
        count: how many; at most all are.
        epsilon: scalar > 0.

    Returns:
        Positions, and weights that sum to 1, both shape [batch, neighbours].
    """
    squares = queries.square().sum(-1, keepdim=True) + keys.square().sum(-1) - 2 * queries @ keys.mT
    nearest = squares.clamp(min=0).topk(min(count, len(keys)), largest=False)
    closeness = 1 / (epsilon + nearest.values)
    return nearest.indices, closeness / closeness.sum(-1, keepdim=True)


METHOD = MbPA
