"""HAT as a method: gates as gains of units, gradients held back where earlier tasks attend."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from clcore import bits
from clcore.hyper import knob
from clcore.masks import Mask
from clcore.methods import keeping
from clcore.methods.base import DERIVED, At, Batch, Method, Tensors
from clcore.methods.hat import gates
from clcore.networks.base import INPUT_UNITS, Wire

EMBEDDING = "embedding"
CUMULATIVE = "cumulative"
#: Bits of the gated units that any task uses, where a deployment keeps no others.
UNITS = "units"
PROTECT = DERIVED + "protect."


@dataclass(frozen=True)
class HATHyper:
    """Hyperparameters of HAT; defaults are the paper's."""

    smax: float = knob(
        400.0, "largest slope of the gates: stability", low=1, packed=True, source="HAT, eq. 3; section 2.4",
        grid=(25.0, 50.0, 100.0, 200.0, 400.0, 800.0), search=(10, 1000), log=True,
    )  # fmt: skip
    c: float = knob(
        0.75, "weight of the regulariser: compactness", low=0, packed=True, source="HAT, eq. 4",
        grid=(0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 4.0), search=(0.01, 4), log=True,
    )  # fmt: skip
    schedule: str = knob("code", "annealing of s within an epoch", choices=gates.SCHEDULES, source="HAT, eq. 3; D.2")
    anneal_beta: float = knob(
        0.5, "factor of the tan-beta annealing", low=0, packed=True, source="HAT, D.2: beta < 1", levels=(0.1, 0.3, 0.5, 0.8)
    )
    compensation: str = knob(
        "reference",
        "gradient compensation of the embeddings",
        choices=("reference", "analytic", "none"),
        source="HAT, section 2.5",
    )
    embedding_lr: float = knob(
        1.0,
        "factor on the embeddings' learning rate (10-50 in place of compensation)",
        low=0,
        packed=True,
        source="HAT, D.1",
        levels=(0.1, 0.3, 1.0, 3.0, 10.0),
    )
    gate: str = knob("sigmoid", "gate function", choices=gates.GATES, source="HAT, eq. 1; D.3")
    gate_range: float = knob(
        6.0, "valid range r of the clamped-linear gate", low=1e-3, packed=True, source="HAT, D.3", levels=(3.0, 6.0, 12.0)
    )
    cumulative: str = knob("max", "how attention accumulates over tasks", choices=gates.CUMULATIVE, source="HAT, section 2.3; D.4")
    kappa: float = knob(
        0.99, "decay of the decayed rule", low=0, high=1, packed=True, source="HAT, D.4: .9 or .99", levels=(0.9, 0.99, 1.0)
    )
    regulariser: str = knob("weighted", "sparsity term", choices=gates.REGULARISERS, source="HAT, eq. 5; D.6")
    embedding_init: str = knob("normal", "N(shift, 1) or U(0, width)", choices=("normal", "uniform"), source="HAT, D.5")
    embedding_shift: float = knob(
        0.0, "mean of the normal initialisation", packed=True, source="HAT, D.5: .5 to 2", levels=(0.0, 0.5, 1.0, 2.0)
    )
    embedding_width: float = knob(
        2.0,
        "upper end of the uniform initialisation (compression: 2)",
        low=0,
        packed=True,
        source="HAT, section 4.4; D.5",
        levels=(1.0, 2.0, 4.0, 6.0),
    )
    binarize: bool = knob(False, "gates at test are 1 where e > 0: no forgetting at all", source="resolved here")
    s_eval_factor: float = knob(
        1.0,
        "slope at test / smax (compression in HAT's code: 1e4)",
        low=1,
        packed=True,
        source="HAT's code",
        levels=(1.0, 10.0, 100.0, 10000.0),
    )
    input_attention: bool = knob(False, "gates on the input too", source="HAT, D.7")


class HAT(Method):
    """Hard attention to the task: each task learns which units it uses, and what it uses is held for it."""

    Hyper = HATHyper
    regresses = True
    task_specific = True
    training_only = (CUMULATIVE,)
    reads = (CUMULATIVE, PROTECT)

    @cached_property
    def gated(self) -> dict[str, int]:
        """Units name -> width, in the order in which the flat embedding holds them."""
        return dict(self.network.units) if self.hyper.input_attention else self.network.hidden_units

    @property
    def _compensation(self) -> str:
        """The clamped-linear gate's compensation, smax / s, is exact as it is (D.3)."""
        chosen: str = self.hyper.compensation
        return "reference" if chosen == "analytic" and self.hyper.gate == "clamped-linear" else chosen

    def start(self, weights: Tensors) -> Tensors:
        """*Packed.* No unit is attended to yet."""
        like = next(iter(weights.values()))
        return {**super().start(weights), CUMULATIVE: torch.zeros(sum(self.gated.values())).to(like)}

    def begin_task(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* The shared body, a head, and one embedding a gated unit, all layers in one flat vector."""
        base = super().begin_task(memory, hp, at)  # drawn first: the head is then the one fine-tuning draws from this seed
        cumulative = memory[CUMULATIVE]
        if self.hyper.embedding_init == "normal":
            draw = torch.randn(cumulative.shape, dtype=cumulative.dtype, device=cumulative.device)
            embedding = draw + hp["embedding_shift"]
        else:
            draw = torch.rand(cumulative.shape, dtype=cumulative.dtype, device=cumulative.device)
            embedding = draw * hp["embedding_width"]
        return self.constrain({**base, EMBEDDING: embedding})

    def prepare(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* 1 - min of the cumulative attention at both ends of each weight (HAT, eq. 2)."""
        if at.task == 0:
            return {}
        attention = self._split(memory[CUMULATIVE])
        protect = {}
        for wire in self.network.body_wires():
            assert wire.outputs is not None
            outputs = attention[wire.outputs]
            protect[PROTECT + wire.weight] = 1 - self._joined(wire, outputs, attention.get(wire.inputs), memory[wire.weight].dim())
            if wire.bias is not None:
                protect[PROTECT + wire.bias] = 1 - outputs
        return protect

    def effective_weights(self, params: Tensors, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* The shared weights, with the task's gates as gains of the units."""
        attention = self.attention(params, memory, hp, at)
        return {**super().effective_weights(params, memory, hp, at), **self._gains(attention)}

    def attention(self, params: Tensors, memory: Tensors, hp: Tensors, at: At) -> Tensor:
        """*Packed.* The gates of all layers, shape [gated units]: annealed while training, at smax otherwise."""
        embedding = params[EMBEDDING] if EMBEDDING in params else memory[f"{EMBEDDING}.{at.task}"]
        if at.phase == "train":
            attention = gates.gate(self.hyper.gate, embedding, self._slope(hp, at), hp["gate_range"])
            if self._compensation == "analytic":
                return gates.with_analytic_gradient(attention, embedding, hp["smax"])
            return attention
        return self._final(embedding, hp)

    def _final(self, embedding: Tensor, hp: Tensors) -> Tensor:
        """*Packed.* The gates at test."""
        if self._steps:
            return (embedding > 0).to(embedding.dtype)
        return gates.gate(self.hyper.gate, embedding, hp["smax"] * hp["s_eval_factor"], hp["gate_range"])

    def loss(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batch: Batch) -> Tensor:
        """*Packed.* Cross-entropy + c R (HAT, eq. 4)."""
        attention = self.attention(params, memory, hp, at)
        weights = {**super().effective_weights(params, memory, hp, at), **self._gains(attention)}
        penalty = gates.regulariser(self.hyper.regulariser, attention, memory[CUMULATIVE])
        return self.criterion(self.logits(weights, batch.inputs, at), batch.labels) + hp["c"] * penalty

    def condition(
        self, grads: Tensors, params: Tensors, memory: Tensors, hp: Tensors, at: At,
        preview: Callable[[Tensors], Tensors],
    ) -> Tensors:  # fmt: skip
        """*Packed.* Weights that earlier tasks attend to are held; the embeddings' gradient is compensated (eq. 2, section 2.5)."""
        held = {n: g * memory[PROTECT + n] if PROTECT + n in memory else g for n, g in grads.items()}
        factor = hp["embedding_lr"]
        if self._compensation == "reference":
            factor = factor * gates.compensation(self.hyper.gate, params[EMBEDDING], self._slope(hp, at), hp["smax"])
        return {**held, EMBEDDING: grads[EMBEDDING] * factor}

    def constrain(self, params: Tensors) -> Tensors:
        """*Packed.* Embeddings within [-6, 6] (HAT, section 2.5)."""
        return {**params, EMBEDDING: params[EMBEDDING].clamp(-gates.EMBEDDING_LIMIT, gates.EMBEDDING_LIMIT)}

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* Keeps the task's embedding and adds its gates to the cumulative attention (HAT, section 2.3)."""
        final = At(at.task, "eval", at.seen)
        attention = self.attention(params, memory, hp, final)
        cumulative = gates.accumulate(self.hyper.cumulative, attention, memory[CUMULATIVE], hp["kappa"])
        kept = super().end_task(params, memory, hp, at, batches)
        return {**kept, f"{EMBEDDING}.{at.task}": params[EMBEDDING], CUMULATIVE: cumulative}

    def masks(self, memory: Tensors, task: int) -> dict[str, Mask]:
        """Units -> which a task uses: gate above one half at test, that is e > 0."""
        used = self._split(memory[f"{EMBEDDING}.{task}"] > 0)
        return {units: Mask("unit", values.cpu()) for units, values in used.items()}

    def kept(self, memory: Tensors, hp: Tensors) -> Tensors:
        """Weights, heads and normalisations of the units that are in use, a bit a gated unit that says which are, and their gates.

        A gate is one float a task, or one bit where gates are steps. Of a task's head and normalisations only what belongs to the
        units that the task itself uses is kept.
        """
        on = self._in_use(memory, hp)
        if not len(on):
            return {}
        used = on.any(0)
        kept = {UNITS: bits.pack(used), **self._cut({n: t for n, t in memory.items() if n in self.body}, used)}
        for task, own in enumerate(on):
            kept |= self._cut(keeping.of_task(memory, task), own)
            name = f"{EMBEDDING}.{task}"
            kept[name] = bits.pack(own[used]) if self._steps else memory[name][used]
        return keeping.as_written(kept)

    def restored(self, kept: Tensors, hp: Tensors, first: Tensors) -> Tensors:
        """All units that are in no use have embeddings as low as they can be."""
        widths, low = self.network.units, -gates.EMBEDDING_LIMIT
        used = bits.unpack(kept[UNITS], sum(self.gated.values()))
        memory = keeping.spread(self.network, {n: t for n, t in kept.items() if n in self.body}, self._split(used), widths)
        for task in range(keeping.tasks_with_heads(kept)):
            name = f"{EMBEDDING}.{task}"
            found = bits.unpack(kept[name], int(used.sum())) * 2.0 - 1 if self._steps else kept[name]
            memory[name] = torch.full(used.shape, low, device=used.device).masked_scatter(used, found)
            own = self._split(self._on(memory[name], hp))
            memory |= keeping.spread(self.network, keeping.of_task(kept, task), own, widths)
        return memory

    @property
    def _steps(self) -> bool:
        """Whether gates at test are 0 or 1: by choice, or because tan-annealing ends in a true step (D.2)."""
        return bool(self.hyper.binarize or self.hyper.schedule.startswith("tan"))

    def _on(self, embedding: Tensor, hp: Tensors) -> Tensor:
        """Which units have a gate at test that is more than rounding, bool; in float32, as a file has it."""
        return self._final(embedding.float(), {name: value.float() for name, value in hp.items()}) > keeping.NEGLIGIBLE

    def _in_use(self, memory: Tensors, hp: Tensors) -> Tensor:
        """The same of each task, shape [tasks, gated units]."""
        names = [f"{EMBEDDING}.{task}" for task in range(keeping.tasks_with_heads(memory))]
        return torch.stack([self._on(memory[name], hp) for name in names]) if names else memory[CUMULATIVE].new_zeros(0)

    def _cut(self, tensors: Tensors, on: Tensor) -> Tensors:
        return keeping.cut(self.network, tensors, self._split(on))

    def _slope(self, hp: Tensors, at: At) -> Tensor:
        return gates.anneal(self.hyper.schedule, hp["smax"], hp["anneal_beta"], at.progress, at.consumed)

    def _gains(self, attention: Tensor) -> Tensors:
        return {f"{units}.gain": gate for units, gate in self._split(attention).items()}

    def _split(self, flat: Tensor) -> Tensors:
        return dict(zip(self.gated, torch.split(flat, list(self.gated.values())), strict=True))

    def _joined(self, wire: Wire, outputs: Tensor, inputs: Tensor | None, dim: int) -> Tensor:
        rows = outputs.reshape(-1, *(1,) * (dim - 1))
        if inputs is None:
            assert wire.inputs == INPUT_UNITS
            return rows
        columns = inputs.repeat_interleave(wire.repeat).reshape(1, -1, *(1,) * (dim - 2))
        return torch.minimum(rows, columns)
