"""Deep generative replay (Shin et al., 2017) with distillation (van de Ven & Tolias, 2018): a VAE makes images of earlier tasks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from clcore.hyper import knob
from clcore.methods.base import At, Batch, Layout, Stage, Tensors
from clcore.methods.distillation.old_answers import HEADS
from clcore.methods.hnet.generator import widths
from clcore.methods.hnet.method import HNET
from clcore.methods.hnet.replay_model import DECODER, ENCODER, layers
from clcore.methods.rehearsal.rehearsal import Rehearsal, RehearsalKnobs
from clcore.methods.rehearsal.vae import PlainVAE
from clcore.networks.base import HEAD, Network


@dataclass(frozen=True)
class DGRHyper(RehearsalKnobs):
    """Hyperparameters of DGR."""

    weighting: str = knob(
        "tasks", "share of the old in both losses: replay_share, or that of old tasks among all so far", choices=("fixed", "tasks"),
        source="DGR, section 3; van de Ven's code: 1 - 1/t",
    )  # fmt: skip
    encoder: str = knob("400-400", "hidden widths of the VAE's encoder", source="van de Ven's code: 400 (split), 1000 (permuted)")
    decoder: str = knob("400-400", "hidden widths of its decoder", source="van de Ven's code: as the encoder")
    latent: int = knob(100, "numbers that an image is made from", low=1, source="van de Ven's code: 100", levels=(10, 30, 100, 300))


class DGR(Rehearsal):
    """Generative replay; the generator, too, goes on learning from images that it made itself before the task.

    Which task an image is of is not known, so where tasks have heads of their own, all old heads' answers to it are kept.
    """

    Hyper = DGRHyper
    clip = inf  # van de Ven's code does not clip
    training_only = (ENCODER, DECODER)
    defaults: ClassVar[Mapping[str, Any]] = HNET.defaults  # which are those of van de Ven's code: Adam .001, batches of 128
    hyper: DGRHyper

    def __init__(self, hyper: Any, network: Network, layout: Layout) -> None:
        super().__init__(hyper, network, layout)
        pixels, latent = prod(layout.shape), hyper.latent
        encoder = layers((pixels, *widths(hyper.encoder, "encoder"), 2 * latent))
        decoder = layers((latent, *widths(hyper.decoder, "decoder"), pixels))
        self.vae = PlainVAE(layout.shape, layout.low, layout.high, encoder, decoder, latent)

    def stages(self, at: At) -> Sequence[Stage]:
        """The classifier, and then the generator unless the task is the last."""
        main = Stage("train", (at.task,), (*self.body, f"{HEAD}.", HEADS))
        return [main, Stage("replay", (at.task,), (ENCODER, DECODER))] if at.task < len(self.layout.outputs) - 1 else [main]

    def start(self, weights: Tensors) -> Tensors:
        """*Packed.* The classifier and a new generator."""
        return {**super().start(weights), **self.vae.start(next(iter(weights.values())))}

    def begin_task(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* The classifier, all heads, and the generator."""
        return {**super().begin_task(memory, hp, at), **{name: memory[name] for name in self.vae.names}}

    def loss(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batch: Batch) -> Tensor:
        """*Packed.* The classifier's or the generator's; on validation data of the task's examples alone."""
        if at.stage != "replay":
            return super().loss(params, memory, hp, at, batch)
        own = self.vae.loss(params, batch.inputs, noisy=at.phase == "train")
        if at.task == 0 or at.phase == "eval":
            return own
        replayed = self.vae.images(memory, len(batch.inputs))
        return torch.lerp(own, self.vae.loss(params, replayed, noisy=True), self.share(hp, at))

    def old_images(self, memory: Tensors, at: At, like: Tensor) -> Tensor:
        """*Packed.* As many as there are new ones, of the generator before the task."""
        return self.vae.images(memory, len(like))[None]

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* Keeps the classifier, all heads, and the generator."""
        return {**super().end_task(params, memory, hp, at, batches), **{name: params[name] for name in self.vae.names}}


METHOD = DGR
