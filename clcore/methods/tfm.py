"""TFM - Ternary Feature Masks (Masana et al., CLVISION 2021, arXiv:2001.08714).

Each task adds features to every layer. A feature is *normal* for the task that created it, *forward-only* for later tasks and
*masked* for earlier ones, so nothing an old task computes can change. No public code exists; the paper's text is the reference,
and what it leaves open is resolved where the comments say so.

Layers with batch normalisation have its statistics, scale and shift a task in place of feature normalisation. In a residual
network without it, all layers that write to one stream share their feature normalisation.

Tensors are allocated at the full width and sliced, for each task, to the largest width in use in the pack; a narrower member's
spare features are off, so it computes what it would compute alone.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from clcore.hyper import knob
from clcore.masks import Mask, pack_ternary, unpack_ternary
from clcore.methods import keeping
from clcore.methods.base import DERIVED, STATE, At, Batch, Method, Tensors, symmetric
from clcore.networks.base import HEAD, INPUT_UNITS, Wire

FRACTION = "fraction"
#: Ternary codes of all hidden features at a task, where a deployment keeps them.
MASKS = "masks."
NEW = DERIVED + "new."
AVAILABLE = DERIVED + "available."
OLD = DERIVED + "old."
#: Growth values tried where growth is searched, and first-task widths (resolved here: the paper gives no list).
GROWTHS = (0.0, 0.01, 0.02, 0.05, 0.10, 0.15, 0.20)
FIRST_WIDTHS = (0.25, 0.40, 0.55, 0.70)
#: 0.55 * 100 is 55.000004 in float32; widths are rounded up only beyond this.
ROUNDING = 1e-3


@dataclass(frozen=True)
class TFMHyper:
    """Hyperparameters of TFM."""

    p1: float = knob(
        0.55, "width of the first task, as a fraction of the full network", low=0.01, high=1, packed=True,
        source="TFM, section 4.1 (ImageNet): 55 %", grid=(0.25, 0.40, 0.55, 0.70), search=(0.2, 1.0),
    )  # fmt: skip
    growth: float = knob(
        0.05, "what each later task adds, as a fraction of the full network", low=0, high=1, packed=True,
        source="TFM, section 4.1 (ImageNet): 5 %", grid=(0.02, 0.05, 0.07), search=(0.0, 0.25),
    )  # fmt: skip
    fn: bool = knob(
        True, "feature normalisation, of layers without batch normalisation: a scale and a shift a task but the first", packed=True,
        source="TFM, eq. 7; Table 3", grid=(True, False),
    )  # fmt: skip
    fn_position: str = knob(
        "pre", "feature normalisation before or after the activation", choices=("pre", "post"), source="resolved: pre"
    )
    growth_unit: str = knob(
        "features", "what p1 and growth are fractions of: features of a layer, or weights", choices=("features", "weights"),
        source="TFM speaks of both; weights scale with the square of the width",
    )  # fmt: skip
    search_growth: bool = knob(False, "choose width and growth per task on validation", source="TFM, section 4.1")
    margin: float = knob(
        0.015, "accuracy a smaller candidate may lose (fraction, absolute)", low=0, high=1,
        source="TFM, section 4.1: .015 Tiny ImageNet, .001 fine-grained", levels=(0.0, 0.001, 0.005, 0.015, 0.05),
    )  # fmt: skip
    retrain: bool = knob(False, "learn the task once more with the chosen growth", source="TFM, section 4.1")
    cap: float = knob(
        1.0,
        "largest total width, as a fraction of the full network",
        low=0.01,
        high=1,
        packed=True,
        source="TFM, 4.1",
        levels=(0.5, 0.75, 1.0),
    )
    new_columns: str = knob(
        "default",
        "initial weights from new features into old ones",
        choices=("default", "zero"),
        source="resolved: default",
    )


class TFM(Method):
    """Ternary feature masks: growing layers whose old part is never touched again."""

    Hyper = TFMHyper
    regresses = True
    task_specific = True
    reads = (NEW, AVAILABLE)

    # -- widths --------------------------------------------------------------------------------------------------------

    def sizes(self, memory: Tensors, hp: Tensors, at: At) -> dict[str, int]:
        """On the host. The largest width of each layer among the members of the pack."""
        fraction = self._fraction(memory, hp, at.task)
        widths = {u: int(self._width(fraction, full).max()) for u, full in self.network.hidden_units.items()}
        return {INPUT_UNITS: self.network.units[INPUT_UNITS], **widths}

    def candidates(self, at: At) -> tuple[str, tuple[float, ...]] | None:
        """Widths for the first task and growths for the others, where they are searched."""
        if not self.hyper.search_growth:
            return None
        return ("p1", FIRST_WIDTHS) if at.task == 0 else ("growth", GROWTHS)

    @property
    def retrains(self) -> bool:
        """As asked for."""
        return bool(self.hyper.retrain)

    def choose(self, accuracy: Sequence[float], at: At) -> int:
        """The smallest candidate whose validation accuracy is within the margin of the best (TFM, section 4.1)."""
        values = (FIRST_WIDTHS if at.task == 0 else GROWTHS)[: len(accuracy)]
        enough = [i for i, a in enumerate(accuracy) if a >= max(accuracy) - self.hyper.margin]
        return min(enough, key=lambda i: values[i])

    def _fraction(self, memory: Tensors, hp: Tensors, task: int) -> Tensor:
        if f"{FRACTION}.{task}" in memory:
            return memory[f"{FRACTION}.{task}"]
        learned = sum(name.startswith(f"{FRACTION}.") for name in memory)
        start = hp["p1"] if learned == 0 else memory[f"{FRACTION}.{learned - 1}"]
        steps = task - max(learned - 1, 0)  # beyond the next task only when an untrained future task is evaluated
        return torch.minimum(start + hp["growth"] * steps, hp["cap"])

    def _width(self, fraction: Tensor, full: int) -> Tensor:
        share = fraction.sqrt() if self.hyper.growth_unit == "weights" else fraction
        return torch.ceil(share * full - ROUNDING).clamp(1, full)

    def _available(self, memory: Tensors, hp: Tensors, task: int, units: str, size: int) -> Tensor:
        """Which of the first ``size`` features exist at a task (n of eq. 3), shape [size], bool."""
        if units == INPUT_UNITS or task < 0:
            full = torch.arange(size, device=memory[self.body[0]].device) >= 0
            return full if task >= 0 else ~full
        width = self._width(self._fraction(memory, hp, task), self.network.units[units])
        return torch.arange(size, device=width.device) < width

    # -- the contract --------------------------------------------------------------------------------------------------

    def start(self, weights: Tensors) -> Tensors:
        """*Packed.* An empty network of the full width: every task draws its own features."""
        return {name: torch.zeros_like(weights[name]) for name in self.body}

    def prepare(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* The task's width, its features, and the weights it may train (TFM, eq. 5)."""
        assert at.sizes is not None
        derived = {f"{FRACTION}.{at.task}": self._fraction(memory, hp, at.task)}
        for units, size in at.sizes.items():
            derived[AVAILABLE + units] = self._available(memory, hp, at.task, units, size)
            derived[OLD + units] = self._available(memory, hp, at.task - 1, units, size)
        for wire in self.network.body_wires():
            rows, columns = self._ends(derived, AVAILABLE, wire)
            old_rows, old_columns = self._ends(derived, OLD, wire)
            allowed = (rows[:, None] & columns) & ~(old_rows[:, None] & old_columns)
            derived[NEW + wire.weight] = allowed.reshape(*allowed.shape, *(1,) * (memory[wire.weight].dim() - 2))
            if wire.bias is not None:
                derived[NEW + wire.bias] = rows & ~old_rows
        return derived

    def begin_task(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* Old weights with the task's new rows and columns drawn in, a head, and feature normalisation."""
        assert at.sizes is not None
        params: Tensors = {}
        for wire in self.network.body_wires():
            params |= self._grown(memory, wire)
        like = memory[self.body[0]]
        # What belongs to features a narrower member does not have is 0, so that not even weight decay and clipping see it.
        features = memory[AVAILABLE + self.network.wires[-1].inputs].to(like.dtype)
        fan_in, outputs = features.sum(), self.layout.outputs[at.task]
        bound = self.network.bound(fan_in, torch.full_like(fan_in, outputs))
        params[f"{HEAD}.weight"] = symmetric((outputs, self.network.features), like)[:, : len(features)] * bound * features
        if "bias" in self.head_parts:
            params[f"{HEAD}.bias"] = symmetric((outputs,), like) * fan_in.rsqrt()
        if at.task > 0:  # task 1 has none: TFM Table 3 and the overhead it quotes (resolved here)
            for units in self.feature_normalised:
                params[f"fn.{units}.gamma"] = memory[AVAILABLE + units].to(like.dtype)
                params[f"fn.{units}.beta"] = torch.zeros_like(params[f"fn.{units}.gamma"])
        return params | self.begin_norms(memory)

    def begin_norms(self, memory: Tensors) -> Tensors:
        """*Packed.* A task's own batch normalisations at the widths in use, scales of missing features at 0."""
        started = {}
        for name, tensor in super().begin_norms(memory).items():
            on = memory[AVAILABLE + self._normed_units(name)]
            started[name] = tensor[: len(on)] if name.startswith(STATE) else tensor[: len(on)] * on
        return started

    def head_of(self, params: Tensors, memory: Tensors, at: At) -> Tensors:
        """The head's columns for the features in use at the task."""
        assert at.sizes is not None
        head = super().head_of(params, memory, at)
        features = at.sizes[self.network.wires[-1].inputs]
        return {**head, f"{HEAD}.weight": head[f"{HEAD}.weight"][:, :features]}

    def effective_weights(self, params: Tensors, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* The task's slice, its missing features off, its feature normalisation folded in."""
        assert at.sizes is not None
        norms = self.norms_of(params, memory, at)
        weights = {name: tensor[: at.sizes[self._normed_units(name)]] for name, tensor in norms.items()}
        weights |= self.head_of(params, memory, at)
        for wire in self.network.body_wires():
            weights |= self._normalised(params, memory, hp, at, wire)
        return weights

    def condition(
        self, grads: Tensors, params: Tensors, memory: Tensors, hp: Tensors, at: At,
        preview: Callable[[Tensors], Tensors],
    ) -> Tensors:  # fmt: skip
        """*Packed.* New rows and new columns learn; what joins old features stays (TFM, eq. 6)."""
        return {n: torch.where(memory[NEW + n], g, 0) if NEW + n in memory else g for n, g in grads.items()}

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* Writes the task's features into the full-width tensors and keeps its normalisation and head."""
        kept = {**memory, **self.stored_head(params, at), **self.stored_norms(params, at)}
        for name in self.body:
            kept[name] = torch.where(*self._written(params[name], memory[NEW + name], memory[name]))
        fn = {n.replace("fn.", f"fn.{at.task}.", 1): t for n, t in params.items() if n.startswith("fn.")}
        return {**kept, **fn}

    def masks(self, memory: Tensors, task: int) -> dict[str, Mask]:
        """Units -> ternary codes at the full width: 2 normal (created now), 1 forward-only, 0 masked."""
        result = {}
        for units, full in self.network.hidden_units.items():
            now = self._available(memory, {}, task, units, full)
            before = self._available(memory, {}, task - 1, units, full)
            result[units] = Mask("ternary", (now.to(torch.uint8) + (now & ~before).to(torch.uint8)).cpu())
        return result

    def kept(self, memory: Tensors, hp: Tensors) -> Tensors:
        """Weights up to the last width, and per task 2 bits a feature (TFM, section 3.2), normalisations, and a head."""
        tasks = sum(name.startswith(f"{FRACTION}.") for name in memory)
        kept: Tensors = {}
        for task in range(tasks):
            codes = torch.cat([mask.values for mask in self.masks(memory, task).values()])
            kept[f"{MASKS}{task}"] = torch.frombuffer(bytearray(pack_ternary(codes)), dtype=torch.uint8)
            own = keeping.of_task(memory, task)
            if not hp["fn"] > 0:
                own = {name: tensor for name, tensor in own.items() if not name.startswith(f"{keeping.FEATURE_NORMS}.")}
            kept |= keeping.cut(self.network, own, self._features(memory, task))
        if tasks:
            body = {name: memory[name] for name in self.body}
            kept |= keeping.cut(self.network, body, self._features(memory, tasks - 1))
        return keeping.as_written(kept)

    def restored(self, kept: Tensors, hp: Tensors, first: Tensors) -> Tensors:
        """Widths are read off the masks, and the fraction of the network that gives them is found again."""
        widths, memory = self.network.units, {}
        used: dict[str, Tensor] = {}
        for task in range(keeping.tasks_with_heads(kept)):
            codes = unpack_ternary(kept[f"{MASKS}{task}"].numpy().tobytes(), [sum(self.network.hidden_units.values())])
            parts = torch.split(codes, list(self.network.hidden_units.values()))
            used = {units: part > 0 for units, part in zip(self.network.hidden_units, parts, strict=True)}
            memory[f"{FRACTION}.{task}"] = torch.tensor(self._found({units: int(on.sum()) for units, on in used.items()}))
            memory |= keeping.spread(self.network, keeping.of_task(kept, task), used, widths)
            if task and not any(name.startswith(f"{keeping.FEATURE_NORMS}.{task}.") for name in kept):  # they are switched off
                for units in self.feature_normalised:
                    memory |= {f"fn.{task}.{units}.{part}": torch.zeros(widths[units]) for part in ("gamma", "beta")}
        return {**memory, **keeping.spread(self.network, {name: kept[name] for name in self.body}, used, widths)}

    def _features(self, memory: Tensors, task: int) -> Tensors:
        """Units -> which features exist at a task, bool, at the full width."""
        return {units: self._available(memory, {}, task, units, full) for units, full in self.network.hidden_units.items()}

    def _found(self, widths: dict[str, int]) -> float:
        """A fraction of the network at which layers are so wide: the middle of all that are."""
        full = self.network.hidden_units
        above = max((w - 1 + ROUNDING) / full[u] if w > 1 else 0.0 for u, w in widths.items())
        below = min((w + ROUNDING) / full[u] if w < full[u] else 1.0 for u, w in widths.items())
        share = (above + below) / 2
        return share**2 if self.hyper.growth_unit == "weights" else share

    # -- parts ---------------------------------------------------------------------------------------------------------

    @cached_property
    def feature_normalised(self) -> tuple[str, ...]:
        """Hidden units whose layers have no batch normalisation (resolved here: where there is one, it takes FN's place)."""
        return tuple(units for units in self.network.hidden_units if units not in self.network.norms.values())

    @cached_property
    def fed_without_weights(self) -> frozenset[str]:
        """Units that a shortcut enters: that all weights into a missing feature are 0 does not turn it off there."""
        return frozenset(units for _, units in self.network.shortcuts)

    def _normed_units(self, name: str) -> str:
        """Units of a batch normalisation's tensor."""
        return self.network.norms[name.removeprefix(STATE).rpartition(".")[0]]

    def _ends(self, derived: Tensors, kind: str, wire: Wire) -> tuple[Tensor, Tensor]:
        assert wire.outputs is not None
        return derived[kind + wire.outputs], derived[kind + wire.inputs].repeat_interleave(wire.repeat)

    def _grown(self, memory: Tensors, wire: Wire) -> Tensors:
        """One layer's weights and bias at the task's size, with what is new drawn for the present fan-in."""
        old, new = memory[wire.weight], memory[NEW + wire.weight]
        rows, columns = self._ends(memory, AVAILABLE, wire)
        fan_in, fan_out = ((end.sum() * prod(old.shape[2:])).to(old.dtype) for end in (columns, rows))
        bound = self.network.bound(fan_in, fan_out)
        drawn = symmetric(old.shape, old)[: new.shape[0], : new.shape[1]] * bound
        if self.hyper.new_columns == "zero":
            drawn = torch.where(self._ends(memory, OLD, wire)[0].reshape(-1, *(1,) * (old.dim() - 1)), 0, drawn)
        result = {wire.weight: torch.where(new, drawn, old[: new.shape[0], : new.shape[1]])}
        if wire.bias is not None:
            bias = symmetric(memory[wire.bias].shape, old)[: len(rows)] * fan_in.rsqrt()
            result[wire.bias] = torch.where(memory[NEW + wire.bias], bias, memory[wire.bias][: len(rows)])
        return result

    def _normalised(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, wire: Wire) -> Tensors:
        """One layer as the task sees it: missing rows off, and FN either folded in or as gain and shift of its units."""
        assert wire.outputs is not None
        assert at.sizes is not None
        size = at.sizes[wire.outputs]
        on = memory.get(AVAILABLE + wire.outputs)
        if on is None:
            on = self._available(memory, hp, at.task, wire.outputs, size)
        weight = self._slice(params, memory, wire.weight, size, at.sizes[wire.inputs] * wire.repeat)
        gain, shift = self._fn(params, memory, hp, at, wire.outputs, on.to(weight.dtype))
        units = {f"{wire.outputs}.gain": on.to(weight.dtype)} if wire.outputs in self.fed_without_weights else {}
        if self.hyper.fn_position == "post":
            gain, shift, units = self._after(gain, shift, on, wire)
        result = {wire.weight: weight * gain.reshape(-1, *(1,) * (weight.dim() - 1)), **units}
        if wire.bias is not None:
            result[wire.bias] = self._slice(params, memory, wire.bias, size) * gain + shift
        elif at.task > 0 and wire.outputs in self.feature_normalised:
            result[wire.weight.removesuffix("weight") + "bias"] = shift  # a layer without a bias still has FN's shift
        return result

    def _after(self, gain: Tensor, shift: Tensor, on: Tensor, wire: Wire) -> tuple[Tensor, Tensor, Tensors]:
        plain = on.to(gain.dtype)
        return plain, torch.zeros_like(plain), {f"{wire.outputs}.gain": gain, f"{wire.outputs}.shift": shift}

    def _fn(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, units: str, on: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift of each feature, 0 where it does not exist (TFM, eq. 7)."""
        if at.task == 0 or units not in self.feature_normalised:
            return on, torch.zeros_like(on)
        training = f"fn.{units}.gamma" in params
        source, prefix = (params, f"fn.{units}") if training else (memory, f"fn.{at.task}.{units}")
        chosen = hp["fn"]
        gamma = torch.where(chosen > 0, source[f"{prefix}.gamma"][: len(on)], 1.0)
        beta = torch.where(chosen > 0, source[f"{prefix}.beta"][: len(on)], 0.0)
        return gamma * on, beta * on

    def _slice(self, params: Tensors, memory: Tensors, name: str, rows: int, columns: int | None = None) -> Tensor:
        if name in params:
            return params[name]
        return memory[name][:rows] if columns is None else memory[name][:rows, :columns]

    def _written(self, values: Tensor, new: Tensor, full: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``values`` and where to write them, both padded to the full tensor."""
        padding = [
            edge for whole, part in zip(reversed(full.shape), reversed(values.shape), strict=True) for edge in (0, whole - part)
        ]
        where = torch.nn.functional.pad(new.expand(values.shape), padding)
        return where, torch.nn.functional.pad(values, padding), full


METHOD = TFM
