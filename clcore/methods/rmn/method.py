"""RMN as a method: each task has a mapping that says which weights are relevant to it; those are frozen afterwards.

Every tensor of the network has a mapping of its shape: weights, scales of M-BN layers, and biases where there are any (the paper
has none). With one head for all tasks the head is masked and frozen like any other layer.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from math import log, prod
from types import MappingProxyType

import torch
from torch import Tensor
from torch.func import functional_call

from clcore import bits
from clcore.masks import Mask
from clcore.methods import keeping
from clcore.methods.base import DERIVED, STATE, At, Batch, Method, Tensors
from clcore.methods.losses import cross_entropy
from clcore.methods.rmn import inference, maps
from clcore.methods.rmn.hyper import RMNHyper
from clcore.methods.rmn.switch import TaskSwitch
from clcore.networks.base import HEAD
from clcore.networks.norm import recording

MAPS, LOG_BETA = "maps.", "log_beta"
PRUNED, LOSSES = STATE + "pruned.", STATE + "losses"
MASKS, UNION = "masks.", "union"
FROZEN = DERIVED + "frozen."


class RMN(Method):
    """Relevance Mapping Networks (Kaushik et al., 2021), algorithm 1."""

    Hyper = RMNHyper
    defaults = MappingProxyType(
        {
            "protocol": "fixed", "optimizer": "adam", "lr": 0.002, "batch_size": 128, "epochs": 250,
            "bias": False, "norm": "batch-plain",
        }
    )  # fmt: skip
    task_specific = True
    private_affine = False
    training_only = (UNION,)
    reads = (DERIVED,)
    hyper: RMNHyper

    # -- shape ---------------------------------------------------------------------------------------------------------

    @cached_property
    def private_heads(self) -> bool:
        """By default all tasks share the first outputs of one head."""
        return self.hyper.multi_head

    def label_offset(self, task: int) -> int:
        """Labels are the task's own: which task it is, is told by the mapping."""
        return 0

    @cached_property
    def mapped(self) -> dict[str, tuple[int, ...]]:
        """Tensor name -> shape of all that has a mapping."""
        shapes = {name: tuple(p.shape) for name, p in self.network.named_parameters()}
        head = {f"{HEAD}.{part}": shapes[f"{HEAD}.{part}"] for part in self.head_parts}
        shared = {} if self.private_heads else {n: (max(self.layout.outputs), *shape[1:]) for n, shape in head.items()}
        return {**{name: shapes[name] for name in self.body}, **shared}

    @cached_property
    def noisy(self) -> bool:
        """Whether noise is learned to be answered with nothing."""
        return self.hyper.noise == "on" or (self.hyper.noise == "auto" and self.layout.scenario != "task-il")

    # -- the contract --------------------------------------------------------------------------------------------------

    def start(self, weights: Tensors) -> Tensors:
        """*Packed.* The weights, the head among them unless each task has its own, and no weight in use."""
        shared = {name: weights[name] for name in self.body}
        like = shared[self.body[0]]
        head = {} if self.private_heads else self.draw_head(max(self.layout.outputs), like)
        nothing = torch.zeros(sum(map(prod, self.mapped.values())), dtype=torch.bool, device=like.device)
        return {**shared, **head, UNION: bits.pack(nothing)}

    def prepare(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* Which weights earlier tasks use, bool."""
        return {FROZEN + n: used for n, used in self._unpacked(memory[UNION]).items()} if at.task else {}

    def begin_task(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* The weights as they are, and a fresh mapping."""
        params = {name: memory[name] for name in self.mapped}
        like = memory[self.body[0]]
        if self.private_heads:
            params |= self.draw_head(self.layout.outputs[at.task], like)
        for name in self.mapped:
            params[MAPS + name] = maps.skewed_normal(memory[name], hp["map_loc"], hp["map_scale"], hp["map_skew"])
            params[PRUNED + name] = torch.zeros_like(memory[name], dtype=torch.bool)
        if self.hyper.learn_beta:
            params[LOG_BETA] = hp["beta"].log().expand(len(self.mapped)).clone()
        losses = torch.full((maps.PATIENCE + 1,), torch.inf, dtype=like.dtype, device=like.device)
        return self.constrain({**params, **self.begin_norms(memory), LOSSES: losses})

    def effective_weights(self, params: Tensors, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* W (*) M of the task; its mapping is rounded in phase eval (RMN, section 4)."""
        return self._weights(self._masks(params, memory, hp, at), params, memory, at)

    def loss(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batch: Batch) -> Tensor:
        """*Packed.* Cross-entropy + sparsity and overlap of the mask + the squared answer to noise, where it is learned."""
        masks = self._masks(params, memory, hp, at)
        weights = self._weights(masks, params, memory, at)
        loss = cross_entropy(self.logits(weights, batch.inputs, at), batch.labels).mean()
        if at.phase == "eval":
            return loss
        if self.noisy:
            answer = self.logits(weights, torch.randn_like(batch.inputs), at)
            loss = loss + hp["noise_weight"] * inference.loudness(answer)
        return loss + self._penalty(masks, memory, hp)

    def condition(
        self, grads: Tensors, params: Tensors, memory: Tensors, hp: Tensors, at: At,
        preview: Callable[[Tensors], Tensors],
    ) -> Tensors:  # fmt: skip
        """*Packed.* Weights that an earlier task uses have no gradient (RMN, suppl. 3.2), so Adam's moments stay 0 there too."""
        return {n: g.masked_fill(memory[FROZEN + n], 0) if FROZEN + n in memory else g for n, g in grads.items()}

    def rates(self, hp: Tensors) -> Tensors:
        """*Packed.* Mappings and beta learn at a rate of their own."""
        return {MAPS: hp["map_rate"], LOG_BETA: hp["map_rate"]}

    def constrain(self, params: Tensors) -> Tensors:
        """*Packed.* Mappings within [0, 1], beta within [1, 200]."""
        within = {n: t.clamp(0, 1) for n, t in params.items() if n.startswith(MAPS)}
        if LOG_BETA in params:
            within[LOG_BETA] = params[LOG_BETA].clamp(log(maps.BETA_LOW), log(maps.BETA_HIGH))
        return {**params, **within}

    def end_epoch(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, loss: Tensor) -> Tensors:
        """*Packed.* Once the loss has converged, mask entries of at most mu are 0 for the rest of the task."""
        losses = maps.remember(params[LOSSES], loss)
        now = maps.converged(losses, at.epoch, at.epochs)
        soft = self._soft(params, hp)
        pruned = {PRUNED + n: params[PRUNED + n] | (now & maps.below(soft[n], hp["mu"])) for n in self.mapped}
        return {**params, **pruned, LOSSES: losses}

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* Keeps the weights and the rounded mapping; its weights are frozen from now on."""
        masks = self._hard(params, at)
        used = bits.pack(torch.cat([mask.flatten() for mask in masks.values()]))
        params = {**params, **self._statistics(self._weights(masks, params, memory, at), batches)}
        kept = {**{name: params[name] for name in self.mapped}, **self.stored_norms(params, at)}
        if self.private_heads:
            kept |= self.stored_head(params, at)
        return {**memory, **kept, f"{MASKS}{at.task}": used, UNION: memory[UNION] | used}

    def infer_task(
        self, memory: Tensors, hp: Tensors, inputs: Tensor, ats: Sequence[At], outputs: Sequence[Tensor]
    ) -> Tensor:  # fmt: skip
        """*Packed.* The task whose mapping gives the highest score (RMN, algorithm 2, line 22)."""
        return torch.stack([inference.score(self.hyper.inference, logits) for logits in outputs]).argmax(0)

    def watch(self) -> TaskSwitch:
        """Finds new tasks in a stream by a loss of confidence (RMN, algorithm 2)."""
        h = self.hyper
        return TaskSwitch(h.switch_p, h.switch_drop, h.switch_in_a_row, h.switch_lag, h.switch_probability, h.switch_grace)

    def masks(self, memory: Tensors, task: int) -> dict[str, Mask]:
        """Tensor name -> which of its entries a task uses."""
        return {name: Mask("weight", used.cpu()) for name, used in self._unpacked(memory[f"{MASKS}{task}"]).items()}

    def kept(self, memory: Tensors, hp: Tensors) -> Tensors:
        """Weights that a task uses, and per task one bit a weight, its statistics, and its head if it has one (RMN, suppl. 2.4)."""
        own = {n: t for n, t in memory.items() if n not in self.mapped and n != UNION}
        return keeping.as_written({**own, **keeping.picked(memory, self._unpacked(memory[UNION]))})

    def restored(self, kept: Tensors, hp: Tensors, first: Tensors) -> Tensors:
        """Weights that no task uses are 0."""
        used = functools.reduce(torch.bitwise_or, (t for name, t in kept.items() if name.startswith(MASKS)))
        return {**kept, **keeping.placed(kept, self._unpacked(used))}

    # -- masks ---------------------------------------------------------------------------------------------------------

    def _masks(self, params: Tensors, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """The mask in force, of every mapped tensor: float while training, bool otherwise."""
        if MAPS + self.body[0] not in params:
            return self._unpacked(memory[f"{MASKS}{at.task}"])
        if at.phase == "eval":
            return self._hard(params, at)
        soft = {n: mask.masked_fill(params[PRUNED + n], 0) for n, mask in self._soft(params, hp).items()}
        if not self.hyper.straight_through or at.epoch < at.epochs * (1 - self.hyper.straight_through):
            return soft
        hard = self._hard(params, at)
        return {name: maps.straight_through(mask, hard[name]) for name, mask in soft.items()}

    def _soft(self, params: Tensors, hp: Tensors) -> Tensors:
        count = len(self.mapped)
        betas = params[LOG_BETA].exp().unbind() if self.hyper.learn_beta else [hp["beta"]] * count
        return {n: maps.pseudo_round(params[MAPS + n], beta) for n, beta in zip(self.mapped, betas, strict=True)}

    def _hard(self, params: Tensors, at: At) -> Tensors:
        """What is left at test; of a shared head, only what the task's own outputs have."""
        hard = {n: maps.hard_round(params[MAPS + n]) & ~params[PRUNED + n] for n in self.mapped}
        outputs = self.layout.outputs[at.task]
        for name in self.mapped:
            if name.startswith(f"{HEAD}."):
                own = torch.arange(len(hard[name]), device=hard[name].device) < outputs
                hard[name] = hard[name] & own.reshape(-1, *(1,) * (hard[name].dim() - 1))
        return hard

    def _weights(self, masks: Tensors, params: Tensors, memory: Tensors, at: At) -> Tensors:
        weights = {n: (params[n] if n in params else memory[n]) * mask for n, mask in masks.items()}
        if self.private_heads:
            weights |= self.head_of(params, memory, at)
        outputs = self.layout.outputs[at.task]
        heads = {name: tensor[:outputs] for name, tensor in weights.items() if name.startswith(f"{HEAD}.")}
        return {**weights, **heads, **self.norms_of(params, memory, at)}

    def _statistics(self, weights: Tensors, batches: Iterable[Batch]) -> Tensors:
        """What normalisations see of the task under rounded masks: running statistics are those of masks in training.

        Means over batches of the batches' own, each batch normalised by itself and without dropout.
        """
        norms = self.network.norm_modules
        found: list[Tensors] = []
        for batch in batches if norms else ():
            self.network.eval()
            for norm in norms.values():
                norm.train()
            with recording(norms) as seen:
                functional_call(self.network, weights, (batch.inputs,))
            found.append({f"{STATE}{norm}.{part}": value for norm, parts in seen.items() for part, value in parts.items()})
        self.network.eval()  # the norms too
        return {name: torch.stack([each[name] for each in found]).mean(0) for name in (found[0] if found else ())}

    def _penalty(self, masks: Tensors, memory: Tensors, hp: Tensors) -> Tensor:
        """lambda_l1 ||M||_1 / |W| + lambda_overlap ||M (*) M_old||_1 / |W| (RMN, section 5.1; the division is ours)."""
        count = sum(map(prod, self.mapped.values()))
        total = torch.stack([mask.sum() for mask in masks.values()]).sum()
        shared = [(mask * memory[FROZEN + n]).sum() for n, mask in masks.items() if FROZEN + n in memory]
        overlap = torch.stack(shared).sum() if shared else 0.0
        return (hp["lambda_l1"] * total + hp["lambda_overlap"] * overlap) / count

    def _unpacked(self, packed: Tensor) -> Tensors:
        sizes = [prod(shape) for shape in self.mapped.values()]
        parts = torch.split(bits.unpack(packed, sum(sizes)), sizes)
        return {name: part.reshape(shape) for (name, shape), part in zip(self.mapped.items(), parts, strict=True)}


METHOD = RMN
