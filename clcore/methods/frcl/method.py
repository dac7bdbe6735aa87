"""FRCL: what is kept of a task are function values at a few inducing points, with their posterior."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from clcore.hyper import knob
from clcore.methods.base import DERIVED, At, Batch, Method, Tensors
from clcore.methods.distillation.lfl import head_inputs
from clcore.methods.frcl.gaussian import Posterior, at_points, kernel, point_divergence, posterior_head, weight_divergence
from clcore.methods.frcl.likelihood import hermite, robustmax_loss, softmax_loss
from clcore.methods.frcl.search import searched, turns
from clcore.methods.keeping import HEADS, NORMS
from clcore.methods.rehearsal.stored import as_inputs, as_stored
from clcore.networks.base import HEAD

#: Of a task, in memory: inducing inputs, and what :class:`Posterior` holds.
POINTS, POSTERIOR = "points.", "posterior."
MEANS, SPREAD, LOGS = f"{POSTERIOR}means.", f"{POSTERIOR}root.", f"{POSTERIOR}log-determinant."
INPUTS, NODES = f"{DERIVED}points.", f"{DERIVED}nodes"
#: In params: lower triangles of the roots of the head's covariances, shape [outputs, features, features].
ROOT = "root"


@dataclass(frozen=True)
class FRCLHyper:
    """Hyperparameters of FRCL; defaults are those of its code for permuted MNIST."""

    prior_variance: float = knob(
        1.0, "variance of the last layer's weights before a task, whose mean is 0", low=1e-6, packed=True,
        source="FRCL's code: 1; here: grid and range", grid=(0.1, 1.0, 10.0), search=(1e-2, 100), log=True,
    )  # fmt: skip
    inducing: int = knob(
        200, "inducing points of each task", low=1, source="FRCL's code: 200 for permuted MNIST", levels=(20, 50, 100, 200, 400)
    )
    select: str = knob(
        "trace", "inducing points: those that determine the function best, or random ones", choices=("trace", "random"),
        source="FRCL, eq. 6; code",
    )  # fmt: skip
    swaps: int = knob(
        1000, "examples tried in the place of an inducing point", low=0, source="FRCL's code: 1000", levels=(0, 100, 1000, 10000)
    )
    likelihood: str = knob(
        "softmax", "of labels: softmax, by drawn function values, or the largest output but for a slip, by quadrature",
        choices=("softmax", "robustmax"), source="FRCL's code: robustmax; here: softmax, whose outputs say how sure they are",
    )  # fmt: skip
    samples: int = knob(
        20, "function values drawn for each example of a step (softmax)", low=1, source="here: 20", levels=(1, 5, 20, 50)
    )
    jitter: float = knob(
        1e-3,
        "variance of the noise of function values at inducing points",
        low=1e-9,
        packed=True,
        source="FRCL's code: 1e-3",
        levels=(1e-5, 1e-4, 1e-3, 1e-2),
    )


class FRCL(Method):
    """Maximises E_q(w)[log p(y|f)] - KL(q(w) || p(w)) - sum_i KL(q(u_i) || p(u_i)) over a task's examples (FRCL, eq. 4).

    f = w^T phi(x), phi what feeds the head and a 1 for the bias, q(w) Gaussian with full covariance. u_i are the values of an
    earlier task's functions at its inducing points: their posterior is fixed, their prior is what the network makes of the points
    now, which holds the features. After each task heads of all tasks are worked out anew from the points (section 2.5).

    Tasks are functions of their own, so each has a head in every scenario. Answers, and validation with softmax, are those of the
    mean function (FRCL's code for answers: the class that is most probably the largest). The search for inducing points keeps
    what it finds, which the code forgets to.
    """

    Hyper = FRCLHyper
    task_specific = True
    private_affine = False
    training_only = (POINTS, POSTERIOR)
    reads = (DERIVED, POSTERIOR, f"{NORMS}.")
    #: The code for permuted MNIST: 2000 steps, which are 4.3 epochs.
    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"protocol": "fixed", "optimizer": "adam", "lr": 1e-3, "batch_size": 128, "epochs": 4}
    )
    hyper: FRCLHyper

    # -- the contract --------------------------------------------------------------------------------------------------

    def draw_head(self, outputs: int, like: Tensor, features: int | None = None, fan_in: int | None = None) -> Tensors:
        """Means of a new head: normal, with variance 1 / features (FRCL's code)."""
        size = (features or self.network.features) + len(self.head_parts) - 1
        drawn = torch.randn(outputs, size, dtype=like.dtype, device=like.device) * (fan_in or size) ** -0.5
        return {f"{HEAD}.{part}": tensor for part, tensor in self.as_parts(drawn).items()}

    def begin_task(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* Body, means of a head, and the roots of its covariances: at first 1 (FRCL's code)."""
        params = super().begin_task(memory, hp, at)
        weight = self.as_weight(params)
        eye = torch.eye(weight.shape[-1], dtype=weight.dtype, device=weight.device)
        return params | {ROOT: eye.expand(len(weight), *eye.shape).clone()}

    def prepare(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* All inducing points as inputs, and nodes of a quadrature."""
        if at.phase == "eval":  # nothing is learned then
            return {}
        like, derived = memory[self.body[0]], {}
        if self.hyper.likelihood == "robustmax":
            derived[NODES] = hermite(like)
        for task in range(at.task):
            derived[f"{INPUTS}{task}"] = as_inputs(memory[f"{POINTS}{task}"], self.layout, like)
        return derived

    def loss(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batch: Batch) -> Tensor:
        """*Packed.* The objective over the task's examples; on validation data too."""
        weights = self.effective_weights(params, memory, hp, at)
        features = self.features(weights, batch.inputs, at)
        mean, root = self.as_weight(weights), params[ROOT].tril()
        variance = (features @ root).square().sum(-1).mT
        expected = self.expected(F.linear(features, mean), variance, batch.labels, memory, at)
        held = weight_divergence(mean, root, hp["prior_variance"]) + self.divergence(weights, memory, hp, at)
        return expected + held / at.examples

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* Stores inducing points and their posterior, and works out the heads of all tasks."""
        final = At(at.task, "eval", at.seen)
        weights = self.effective_weights(params, memory, hp, final)
        points = self.selected(weights, hp, final, batches)
        inputs = as_inputs(points, self.layout, weights[self.body[0]])
        mean, root = self.as_weight(weights), params[ROOT].tril()
        posterior = at_points(self.features(weights, inputs, final), mean, root, hp["jitter"])
        found = {MEANS: posterior.means, SPREAD: posterior.root, LOGS: posterior.log_determinant}
        kept = super().end_task(params, memory, hp, at, batches) | {f"{POINTS}{at.task}": points}
        kept |= {f"{prefix}{at.task}": tensor.to(mean) for prefix, tensor in found.items()}
        return kept | self.heads(kept, hp, at)

    # -- its parts -----------------------------------------------------------------------------------------------------

    def expected(self, mean: Tensor, variance: Tensor, labels: Tensor, memory: Tensors, at: At) -> Tensor:
        """*Packed.* The expected loss of function values with mean and variance, both of shape [batch, outputs]."""
        if self.hyper.likelihood == "robustmax":
            return robustmax_loss(mean, variance, labels, memory[NODES])
        if at.phase == "eval":
            return self.criterion(mean, labels)
        return softmax_loss(mean, variance, labels, self.hyper.samples)

    def divergence(self, weights: Tensors, memory: Tensors, hp: Tensors, at: At) -> Tensor:
        """*Packed.* The sum over earlier tasks of KL(q(u) || p(u)), with p of the network in training, without dropout."""
        inputs = [memory[f"{INPUTS}{task}"] for task in range(at.task)]
        total = weights[self.body[0]].new_zeros(())
        for task, features in enumerate(self.features_of_tasks(weights, memory, inputs, at)):
            posterior = Posterior(*(memory[f"{part}{task}"] for part in (MEANS, SPREAD, LOGS)))
            total = total + point_divergence(posterior, kernel(features, hp["prior_variance"], hp["jitter"])).to(total)
        return total

    def heads(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* Heads of all tasks so far, as their points say, under the names they are stored by."""
        final = At(at.task, "eval", at.seen)
        weights = self.effective_weights({}, memory, hp, final)
        inputs = [as_inputs(memory[f"{POINTS}{task}"], self.layout, weights[self.body[0]]) for task in range(at.seen)]
        found: Tensors = {}
        for task, features in enumerate(self.features_of_tasks(weights, memory, inputs, final)):
            head = posterior_head(features, memory[f"{MEANS}{task}"], hp["prior_variance"], hp["jitter"])
            found |= {f"{HEADS}.{task}.{part}": tensor for part, tensor in self.as_parts(head.to(features)).items()}
        return found

    def selected(self, weights: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensor:
        """*Packed.* Inducing points of a task, as they are stored."""
        images, gram = [], None
        for batch in batches:
            images.append(as_stored(batch.inputs, self.layout))
            if self.hyper.select == "trace":
                features = self.features(weights, batch.inputs, at).double()
                gram = features.mT @ features if gram is None else gram + features.mT @ features
        pool = torch.cat(images)
        count = min(self.hyper.inducing, len(pool))
        searching = gram is not None and count < len(pool)
        examples = pool[turns(len(pool), count, self.hyper.swaps if searching else 0, pool.device)]
        if gram is None or not searching:
            return examples
        features = self.features(weights, as_inputs(examples, self.layout, weights[self.body[0]]), at)
        ridge = hp["jitter"].double() / hp["prior_variance"].double()
        chosen: Tensor = examples[searched(features.double(), count, gram, ridge)]
        return chosen

    def features_of_tasks(self, weights: Tensors, memory: Tensors, inputs: list[Tensor], at: At) -> list[Tensor]:
        """*Packed.* Features of some inputs of each of the first tasks, which have statistics of normalisation of their own.

        Args:
            weights: of a task's network.
            memory: of one member.
            inputs: of each task, shape [points, channels, height, width].
            at: the task in training.
        """
        final = At(at.task, "eval", at.seen)
        if not self.network.statistics and inputs:
            return list(torch.split(self.features(weights, torch.cat(inputs), final), [len(own) for own in inputs]))
        norms = [self.norms_of({}, memory, At(task, "eval", at.seen)) for task in range(len(inputs))]
        return [self.features({**weights, **own}, x, final) for own, x in zip(norms, inputs, strict=True)]

    def features(self, weights: Tensors, inputs: Tensor, at: At) -> Tensor:
        """*Packed.* phi: what feeds the head, and a 1 where it has a bias, shape [batch, features]."""
        with head_inputs(self.network) as seen:
            self.logits(weights, inputs, at)
        return F.pad(seen[0], (0, len(self.head_parts) - 1), value=1.0)

    def as_weight(self, weights: Tensors) -> Tensor:
        """A head as one matrix, shape [outputs, features]: the bias is the weight of the 1."""
        parts = [weights[f"{HEAD}.{part}"] for part in self.head_parts]
        return torch.cat([parts[0], *(bias[:, None] for bias in parts[1:])], -1)

    def as_parts(self, weight: Tensor) -> Tensors:
        """Part of a head -> tensor, of such a matrix."""
        columns = (weight[:, : weight.shape[-1] - len(self.head_parts) + 1], weight[:, -1])
        return dict(zip(self.head_parts, columns, strict=False))


METHOD = FRCL
