"""The members of a pack on their way through a stage: stepped together or in groups, as programs where there are some."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from clcore.methods.base import At, Batch, Tensors
from clcore.pack import select
from clcore.recorded import Recorded, Recorder

#: parameters, optimiser state, memory, hyperparameters, rates, batch, position -> parameters, state, loss of each member.
Step = Callable[[Tensors, Tensors, Tensors, Tensors, Tensor, Batch, At], tuple[Tensors, Tensors, Tensor]]


@dataclass
class _Group:
    """Members that are stepped together.

    Attributes:
        places: theirs in the pack; the last may be repeated. None: all, as they are.
        trees: their parameters, optimiser state, memory and hyperparameters.
        lr: their rates.
    """

    places: list[int] | None
    trees: list[Tensors]
    lr: Tensor

    def of(self, tree: Tensors) -> Tensors:
        """Their part of tensors of all members, in one piece each, as a program expects them."""
        chosen = tree if self.places is None else select(tree, self.places)
        return {name: tensor.contiguous() for name, tensor in chosen.items()}


class Walk:
    """Steps the members of a pack, for as long as they are the same.

    All groups draw the same random numbers, as the members of a pack do.

    Args:
        step: of the trainer.
        name: what else than shapes decides what the step does.
        recorder: gives programs.
        lr: learning rates, shape [members].
        memory: fixed, shape [members, ...].
        hp: hyperparameters, shape [members].
    """

    def __init__(self, step: Step, name: str, recorder: Recorder, lr: Tensor, memory: Tensors, hp: Tensors) -> None:
        self._members = len(lr)
        width = recorder.width(lr.device, self._members)
        self._recorded = Recorded(recorder, f"step {name}", partial(_function, step), width)
        self._groups = []
        for first in range(0, self._members, width):
            places = [min(place, self._members - 1) for place in range(first, first + width)]  # padded by repeating the last
            group = _Group(None if places == list(range(self._members)) else places, [], lr)
            group.trees = [{}, {}, group.of(memory), group.of(hp)]
            self._groups.append(group)

    def begin(self, params: Tensors, state: Tensors, lr: Tensor) -> None:
        """Before an epoch.

        Args:
            params: shape [members, ...], as all tensors here.
            state: of the optimiser.
            lr: learning rates, shape [members].
        """
        for group in self._groups:
            group.trees[:2] = group.of(params), group.of(state)
            group.lr = lr if group.places is None else lr[group.places]

    def step(self, batch: Batch, at: At) -> Tensor:
        """One step; each member's loss before it, shape [members]."""
        first = self._groups[0]
        where = [torch.as_tensor(value, dtype=first.lr.dtype, device=first.lr.device) for value in (at.progress, at.consumed)]
        data = [batch.inputs, batch.labels, *([] if batch.tasks is None else [batch.tasks]), *where]
        program = self._recorded.program(first.trees, [first.lr, *data], at, len(batch.labels))
        before = torch.get_rng_state() if program.draws and len(self._groups) > 1 else None
        losses = []
        for index, group in enumerate(self._groups):
            if before is not None and index:
                torch.set_rng_state(before)
            params, state, memory, hp = group.trees
            with torch.no_grad():
                *moved, loss = program(*params.values(), *state.values(), *memory.values(), *hp.values(), group.lr, *data)
            group.trees[0] = dict(zip(params, moved, strict=False))
            group.trees[1] = dict(zip(state, moved[len(params) :], strict=True))
            losses.append(loss)
        return self._joined(losses)

    def result(self) -> tuple[Tensors, Tensors]:
        """Parameters and optimiser state."""
        return self._all(0), self._all(1)

    def _all(self, kind: int) -> Tensors:
        trees = [group.trees[kind] for group in self._groups]
        return {name: self._joined([tree[name] for tree in trees]) for name in trees[0]}

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        return (torch.cat(list(parts)) if len(parts) > 1 else parts[0])[: self._members]


# No method: a walk that is held by what it holds would keep a pack's memory until Python looks for cycles, which is seldom.
def _function(step: Step, trees: list[Tensors], tensors: list[Tensor], at: At) -> Sequence[Tensor]:
    """The step: new parameters and state in the order they came in, and the losses."""
    lr, inputs, labels, *tasks, progress, consumed = tensors
    batch = Batch(inputs, labels, tasks[0] if tasks else None)
    now = replace(at, progress=progress, consumed=consumed)
    params, state, memory, hp = trees
    with torch.enable_grad():
        found, moved, losses = step(params, state, memory, hp, lr, batch, now)
    return [*(found[name] for name in params), *(moved[name] for name in state), losses]
