"""Variational continual learning (Nguyen et al., 2018): weights are Gaussian, and one task's posterior the next one's prior."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import torch
from torch import Tensor

from clcore.hyper import knob
from clcore.methods.base import DERIVED, At, Batch, Method, Stage, Tensors
from clcore.networks.base import HEAD

#: Of each weight, under the name of its mean.
LOG_VARIANCE = "log-variance."
PRIOR_MEAN, PRIOR_LOG_VARIANCE = DERIVED + "prior-mean.", DERIVED + "prior-log-variance."
FIT = "fit"


@dataclass(frozen=True)
class VCLHyper:
    """Hyperparameters of VCL."""

    prior_variance: float = knob(
        1.0, "variance of the first prior of each weight, whose mean is 0", low=1e-6, packed=True, source="VCL's code: 1",
        grid=(0.01, 0.1, 1.0), search=(1e-3, 10), log=True,
    )  # fmt: skip
    log_variance: float = knob(
        -6.0, "logarithm of the variance that each weight has at first", packed=True, low=-30, high=5,
        source="VCL's code: -6; a variance of 1e-6 would be -13.8", levels=(-13.8, -10.0, -6.0, -3.0),
    )  # fmt: skip
    samples: int = knob(10, "networks drawn at each step", low=1, source="VCL's code: 10", levels=(1, 3, 10, 30))


class VCL(Method):
    """Minimises E_q[-log p(y|x)] + KL(q_t || q_(t-1)) / N for a mean-field Gaussian q_t (VCL, eq. 4), with drawn networks.

    Means of the first task start from a fit without variances; each later task starts from the posterior of the one before.
    Heads of the tasks' own, and outputs of new classes, have the first prior. The paper's coresets are left out: before each test
    they need a second posterior, of each task's own.

    Answers, and validation, are those of the means (VCL's code: the mean answer of 100 drawn networks): one network, and the same
    answers each time. So what is validated is the objective with the loss of the means in place of the expected one. Variances of
    the tasks' own heads are not kept, as nothing reads them again.
    """

    Hyper = VCLHyper
    defaults = MappingProxyType({"optimizer": "adam", "lr": 0.001, "batch_size": 256, "protocol": "fixed", "epochs": 100})
    training_only = (LOG_VARIANCE,)
    reads = (DERIVED,)
    hyper: VCLHyper

    @cached_property
    def gaussian(self) -> tuple[str, ...]:
        """Names of the tensors with a distribution: all that is trained."""
        return (*self.body, *(f"{HEAD}.{part}" for part in self.head_parts))

    @cached_property
    def shared(self) -> tuple[str, ...]:
        """Those that tasks have in common."""
        return self.body if self.private_heads else self.gaussian

    # -- the contract --------------------------------------------------------------------------------------------------

    def prepare(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* The prior: what the task before left, or the first one (then scalars)."""
        variance = hp["prior_variance"].log()
        prior: Tensors = {}
        for name in self.gaussian:
            mean, log_variance = torch.zeros_like(variance), variance
            if LOG_VARIANCE + name in memory:
                known = self._known(memory[name], name, at)
                mean = torch.where(known, memory[name], mean)
                log_variance = torch.where(known, memory[LOG_VARIANCE + name], variance)
            prior |= {PRIOR_MEAN + name: mean, PRIOR_LOG_VARIANCE + name: log_variance}
        return prior

    def begin_task(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* Means and log variances."""
        params = super().begin_task(memory, hp, at)
        fresh = {n: torch.zeros_like(params[n]) + hp["log_variance"] for n in self.gaussian}
        return params | {LOG_VARIANCE + n: memory.get(LOG_VARIANCE + n, tensor) for n, tensor in fresh.items()}

    def stages(self, at: At) -> Sequence[Stage]:
        """At the first task a fit of the means alone, by maximum likelihood (VCL's code)."""
        learn = Stage("train", (at.task,))
        return [learn] if at.task else [Stage(FIT, (at.task,), self.gaussian), learn]

    def loss(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batch: Batch) -> Tensor:
        """*Packed.* The mean loss of drawn networks, and the divergence from the prior over the task's examples."""
        if at.stage == FIT:
            return super().loss(params, memory, hp, at, batch)
        means = self.effective_weights(params, memory, hp, at)
        labels = batch.labels + self.label_offset(at.task)
        drawn = [means] if at.phase == "eval" else [self.drawn(params, means) for _ in range(self.hyper.samples)]
        losses = [self.criterion(self.logits(weights, batch.inputs, at), labels) for weights in drawn]
        return torch.stack(losses).mean() + self.divergence(params, memory, means) / at.examples

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* The posterior of what tasks share, and the means of the task's head."""
        posterior = {LOG_VARIANCE + name: params[LOG_VARIANCE + name] for name in self.shared}
        return {**super().end_task(params, memory, hp, at, batches), **posterior}

    # -- parts ---------------------------------------------------------------------------------------------------------

    def drawn(self, params: Tensors, means: Tensors) -> Tensors:
        """*Packed.* The tensors of a network drawn from the posterior; ``means`` are those of a task's network."""
        found = dict(means)
        for name in self.gaussian:
            mean = means[name]
            noise = torch.randn(mean.shape, dtype=mean.dtype, device=mean.device)
            found[name] = mean + noise * (params[LOG_VARIANCE + name][: len(mean)] / 2).exp()
        return found

    def divergence(self, params: Tensors, memory: Tensors, means: Tensors) -> Tensor:
        """*Packed.* KL(q_t || q_(t-1)) of all weights in force, scalar; arguments as for :meth:`drawn`."""
        parts = []
        for name in self.gaussian:
            sources = params[LOG_VARIANCE + name], memory[PRIOR_MEAN + name], memory[PRIOR_LOG_VARIANCE + name]
            parts.append(divergence(means[name], *(t[: len(means[name])] if t.dim() else t for t in sources)))
        return torch.stack(parts).sum()

    def _known(self, like: Tensor, name: str, at: At) -> Tensor:
        """Which rows have been learned: in class-il the outputs of earlier tasks, otherwise all."""
        outputs = name.startswith(f"{HEAD}.") and self.layout.scenario == "class-il"
        rows = torch.arange(len(like), device=like.device) < (self.layout.offset(at.task) if outputs else len(like))
        return rows.reshape(-1, *(1,) * (like.dim() - 1))


def divergence(mean: Tensor, log_variance: Tensor, prior_mean: Tensor, prior_log_variance: Tensor) -> Tensor:
    """*Packed.* KL of independent Gaussians from others, summed: all of one shape, the prior's also scalars."""
    ratio = (log_variance - prior_log_variance).exp() + (mean - prior_mean).square() / prior_log_variance.exp()
    return (ratio - (log_variance - prior_log_variance) - 1).sum() / 2


METHOD = VCL
