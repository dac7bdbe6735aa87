"""Learning without forgetting (Li & Hoiem, 2016): what the model said of a task's images before it learned them is kept."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from clcore.hyper import knob
from clcore.methods.base import At, Batch, Stage, Tensors
from clcore.methods.distillation.old_answers import GROUPS, OldAnswers, distilled
from clcore.networks.base import HEAD


@dataclass(frozen=True)
class LwFHyper:
    """Hyperparameters of LwF."""

    strength: float = knob(
        1.0, "lambda_o, weight of the old answers", low=0, packed=True, source="LwF, section 3: 1; HAT's code: 2; FACIL: 10",
        grid=(0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0), search=(0.05, 20), log=True,
    )  # fmt: skip
    temperature: float = knob(
        2.0, "T, by which logits are divided before they are compared", low=1e-3, packed=True,
        source="LwF, eq. 3: 2; grid and 1: HAT's code", grid=(0.5, 1.0, 2.0, 4.0), search=(0.5, 5),
    )  # fmt: skip
    compared: str = knob(
        "each", "what is an answer: each old head's, or all old outputs together (FACIL); shared heads give one",
        choices=("each", "together"), source="LwF, section 3",
    )  # fmt: skip
    epsilon: float = knob(
        0.0,
        "added to an answer's probabilities before the logarithm",
        low=0,
        source="LwF: 0; HAT's code: 1e-5",
        levels=(0.0, 1e-5, 1e-3),
    )
    warm_up: bool = knob(
        False, "a new head is first trained alone, for as long as the task itself", source="LwF, figure 3: yes; HAT's code: no"
    )


class LwF(OldAnswers):
    """Cross-entropy + lambda_o sum over earlier tasks of the distillation loss of their answers (LwF, eqs. 1 to 4).

    All weights are trained, old heads too. The teacher is the model before the task, without dropout.
    """

    Hyper = LwFHyper
    clip = 100.0  # HAT's code
    hyper: LwFHyper

    def stages(self, at: At) -> Sequence[Stage]:
        """One run; with ``warm_up`` first one of the new head alone."""
        first = self.hyper.warm_up and self.private_heads and at.task > 0
        return [*([Stage("warm-up", (at.task,), (f"{HEAD}.",))] if first else []), *super().stages(at)]

    def loss(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batch: Batch) -> Tensor:
        """*Packed.* The task's loss and that of the old answers; on validation data too, as in HAT's code."""
        logits = self.logits(self.every_head(params, memory, hp, at), batch.inputs, at)
        loss = self.criterion(self.own(logits, at), batch.labels + self.label_offset(at.task))
        if not at.task:
            return loss
        before = self.before(memory, hp, at, batch.inputs)
        groups = memory[GROUPS] if self.private_heads and self.hyper.compared == "each" else None
        losses = distilled(self.old(logits, at)[None], before[None], hp["temperature"], groups, self.hyper.epsilon)
        return loss + hp["strength"] * losses.mean(-1).sum()


METHOD = LwF
