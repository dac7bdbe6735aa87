"""A training step as one compiled program, and members stepped with it one after the other.

The whole step - loss, gradient, protection, optimiser - is recorded as a list of tensor operations and compiled to machine code
by torch's inductor. On a CPU a program of one member is the fastest there is: what packing saves, bookkeeping, is gone anyway,
and small batched products cost more than plain ones. Hyperparameters are inputs, so all members, packs and tasks of equal shapes
share a program, and members that end early cost nothing. On a GPU a program holds the whole pack.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from clcore.methods.base import At, Batch, Tensors
from clcore.pack import select

log = logging.getLogger(__name__)

#: parameters, optimiser state, memory, hyperparameters, rates, batch, position -> parameters, state, loss of each member.
Step = Callable[[Tensors, Tensors, Tensors, Tensors, Tensor, Batch, At], tuple[Tensors, Tensors, Tensor]]
Program = Callable[..., Sequence[Tensor]]


class Compiler:
    """Compiles steps, each distinct one once.

    Attributes:
        failed: why steps are run as they are instead; empty while compiling works.
    """

    def __init__(self) -> None:
        self.failed = ""
        self._known: dict[str, tuple[Program, bool]] = {}
        self._programs: dict[str, Program] = {}

    def program(self, name: str, function: Program, inputs: Sequence[Tensor]) -> tuple[Program, bool] | None:
        """The compiled form of a function of tensors, and whether it draws random numbers; None where that cannot be had.

        Args:
            name: what else than the shapes of ``inputs`` decides what the function does.
            function: of tensors with the shapes of ``inputs``; what else it reads is built in.
            inputs: examples.
        """
        if self.failed:
            return None
        asked = f"{name} {[tuple(t.shape) for t in inputs]}"
        if asked not in self._known and (made := self._make(function, inputs)):
            self._known[asked] = made
        return self._known.get(asked)

    def _make(self, function: Program, inputs: Sequence[Tensor]) -> tuple[Program, bool] | None:
        from torch.fx.experimental.proxy_tensor import make_fx

        try:
            with torch.random.fork_rng():
                graph = make_fx(function)(*inputs)
            read = _keep_read(graph)
            own = [inputs[place] for place in read]
            key = _digest(graph, own)
            if key not in self._programs:
                self._programs[key] = _compiled(graph, own)
            code = self._programs[key]
            return lambda *flat: code(*(flat[place] for place in read)), _draws(graph)
        except Exception as error:  # noqa: BLE001 - no compiler, or a step it cannot take: the step is then run as it is
            self.failed = f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"
            log.warning("steps are not compiled: %s", self.failed)
            return None


def _keep_read(graph: torch.fx.GraphModule) -> list[int]:
    """Places of the inputs that are read; the rest is taken out, so that memory that grows from task to task is no new program."""
    graph.graph.eliminate_dead_code()
    places: list[int] = []
    for place, node in enumerate([node for node in graph.graph.nodes if node.op == "placeholder"]):
        if node.users:
            places.append(place)
        else:
            graph.graph.erase_node(node)
    for number, node in enumerate(graph.graph.nodes):  # names count what was taken out too
        node.name = f"n{number}"
        node.target = node.name if node.op == "placeholder" else node.target
    graph.recompile()
    return places


def _compiled(graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Program:
    """Machine code; random numbers as without it (``fallback_random``), and no other processes to compile in."""
    from torch._inductor import compile as inductor
    from torch._inductor import config

    with torch.no_grad(), config.patch(fallback_random=True, compile_threads=1):
        program: Program = inductor(graph, list(inputs))
        with torch.random.fork_rng():
            program(*inputs)  # code is generated at the first call
    return program


def _digest(graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> str:
    """What makes two programs one: operations, shapes and the constants in them."""
    shapes = [(str(t.dtype), tuple(t.shape), tuple(t.stride()), str(t.device)) for t in inputs]
    found = hashlib.sha256(f"{graph.code}{shapes}{torch.get_num_threads()}".encode())
    for name in sorted(vars(graph)):
        value = vars(graph)[name]
        if isinstance(value, Tensor):
            found.update(f"{name}{value.dtype}{tuple(value.shape)}".encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _draws(graph: torch.fx.GraphModule) -> bool:
    nodes = (node.target for node in graph.graph.nodes if isinstance(node.target, torch._ops.OpOverload))
    return any(torch.Tag.nondeterministic_seeded in target.tags for target in nodes)


@dataclass
class _Part:
    """Some members in training.

    Attributes:
        flat: their parameters and optimiser state, in the order of the names.
        fixed: their memory, hyperparameters and rates.
    """

    flat: list[Tensor]
    fixed: list[Tensor]


@dataclass(frozen=True)
class InTraining:
    """What the members of a pack are stepped from.

    Attributes:
        params: shape [members, ...], as all tensors here.
        state: of the optimiser.
        memory: fixed.
        hp: hyperparameters.
        lr: learning rates, shape [members].
    """

    params: Tensors
    state: Tensors
    memory: Tensors
    hp: Tensors
    lr: Tensor


class Together:
    """All members of a pack, stepped as they are with the trainer's step."""

    def __init__(self, step: Step, members: InTraining) -> None:
        self._step, self._params, self._state = step, members.params, members.state
        self._fixed = members.memory, members.hp, members.lr

    def step(self, batch: Batch, at: At) -> Tensor:
        """One step; each member's loss before it, shape [members]."""
        self._params, self._state, losses = self._step(self._params, self._state, *self._fixed, batch, at)
        return losses

    def result(self) -> tuple[Tensors, Tensors]:
        """Parameters and optimiser state."""
        return self._params, self._state


def width_on(device: torch.device, members: int) -> int:
    """Members of a program: one on a CPU; all on a GPU, rounded up to a power of two, so that few sizes are compiled."""
    return 1 if device.type == "cpu" else 1 << (members - 1).bit_length()


class InTurn:
    """Groups of members, stepped one after the other with a compiled program.

    Batches of another size than the first (the last one of an epoch) are stepped without it. All groups draw the same random
    numbers, as the members of a pack do.

    Args:
        step: of the trainer.
        members: where they start.
        compiler: compiles the step.
        name: of the step, for the compiler.
    """

    def __init__(self, step: Step, members: InTraining, compiler: Compiler, name: str) -> None:
        self._step, self._compiler, self._name = step, compiler, name
        trees, lr = (members.params, members.state, members.memory, members.hp), members.lr
        self._names = tuple(list(tree) for tree in trees)
        self._members = len(lr)
        width = width_on(lr.device, self._members)
        self._parts = []
        for first in range(0, self._members, width):
            places = [min(place, self._members - 1) for place in range(first, first + width)]  # padded by repeating the last
            chosen = [list(select(tree, places).values()) for tree in trees]
            self._parts.append(_Part([*chosen[0], *chosen[1]], [*chosen[2], *chosen[3], lr[places]]))
        self._program: tuple[Program, bool] | None = None
        self._size = 0

    def step(self, batch: Batch, at: At) -> Tensor:
        """One step; each member's loss before it, shape [members]."""
        part = self._parts[0]
        like = part.flat[0]
        data = [batch.inputs, batch.labels, *([] if batch.tasks is None else [batch.tasks])]
        where = [torch.as_tensor(value, dtype=like.dtype, device=like.device) for value in (at.progress, at.consumed)]
        if not self._size:
            self._size = len(batch.labels)
            # A program serves all epochs: a step that asks for the epoch (no method's does) fails on None and is not compiled.
            fixed = replace(at, progress=0.0, consumed=0.0, epoch=cast(int, None))
            inputs = [*part.flat, *part.fixed, *data, *where]
            self._program = self._compiler.program(f"{self._name} {fixed}", self._function(fixed), inputs)
        if self._program is None or len(batch.labels) != self._size:
            return self._in_turn(self._function(at), True, [*data, *where])
        return self._in_turn(*self._program, [*data, *where])

    def result(self) -> tuple[Tensors, Tensors]:
        """Parameters and optimiser state."""
        flat = [torch.cat(parts)[: self._members] for parts in zip(*(part.flat for part in self._parts), strict=True)]
        params, state, _, _ = self._names
        return dict(zip(params, flat, strict=False)), dict(zip(state, flat[len(params) :], strict=True))

    def _in_turn(self, program: Program, draws: bool, data: Sequence[Tensor]) -> Tensor:
        losses = []
        before = torch.get_rng_state() if draws and len(self._parts) > 1 else None
        for index, part in enumerate(self._parts):
            if before is not None and index:
                torch.set_rng_state(before)
            with torch.no_grad():
                *part.flat, loss = program(*part.flat, *part.fixed, *data)
            losses.append(loss)
        return torch.cat(losses)[: self._members]

    def _function(self, at: At) -> Program:
        """The step as a function of tensors alone, in the order of the names; then rates, batch, position in the epoch."""
        params, state, _, _ = self._names
        edges = [0]
        for names in self._names:
            edges.append(edges[-1] + len(names))

        def function(*flat: Tensor) -> Sequence[Tensor]:
            named = [dict(zip(names, flat[first:], strict=False)) for names, first in zip(self._names, edges, strict=False)]
            values, moments, memory, hp = named
            lr, *data, progress, consumed = flat[edges[-1] :]
            batch = Batch(data[0], data[1], data[2] if len(data) > 2 else None)
            now = replace(at, progress=progress, consumed=consumed)
            with torch.enable_grad():
                new, moved, losses = self._step(values, moments, memory, hp, lr, batch, now)
            return [*(new[name] for name in params), *(moved[name] for name in state), losses]

        return function
