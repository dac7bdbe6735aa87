"""Replay of stored images with the model's own soft targets: the "replay upper bound" (von Oswald et al., 2020, table 2)."""

from dataclasses import dataclass

from torch import Tensor

from clcore.hyper import knob
from clcore.methods.base import At, Tensors
from clcore.methods.distillation.old_answers import GROUPS
from clcore.methods.hnet.replay_model import share_of
from clcore.methods.rehearsal.rehearsal import Rehearsal, RehearsalKnobs
from clcore.methods.rehearsal.stored import StoredExamples, stored_knob


@dataclass(frozen=True)
class ReplayHyper(RehearsalKnobs):
    """Hyperparameters of replay."""

    stored: int = stored_knob(0, "HNET, table 2: all; with a number, experience replay", levels=(0, 50, 200, 1000))
    targets: str = knob(
        "soft", "of old images: what the model said of them before the task, or their labels", choices=("soft", "labels"),
        source="HNET, table 2: soft",
    )  # fmt: skip


class Replay(StoredExamples, Rehearsal):
    """As HNET+R, but with true images in place of made ones: as many a step as are new, the same number of each earlier task."""

    Hyper = ReplayHyper
    hyper: ReplayHyper

    def old_images(self, memory: Tensors, at: At, like: Tensor) -> Tensor:
        """*Packed.* Stored images."""
        return self.drawn(memory, at, share_of(len(like), at.task), like).inputs

    def rehearsed(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, like: Tensor) -> Tensor:
        """*Packed.* Mean loss of stored images."""
        if self.hyper.targets == "soft":
            return super().rehearsed(params, memory, hp, at, like)
        old = self.drawn(memory, at, share_of(len(like), at.task), like)
        return self.old_losses(params, memory, hp, at, old, memory.get(GROUPS)).mean()


METHOD = Replay
