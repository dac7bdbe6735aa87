"""A training step as one compiled program.

The recorded step - loss, gradient, protection, optimiser - is compiled to machine code by torch's inductor. On a CPU a program of
one member is the fastest there is: what packing saves, bookkeeping, is gone anyway, and small batched products cost more than
plain ones. Hyperparameters are inputs, so all members, packs and tasks of equal shapes share a program, and members that end early
cost nothing. On a GPU a program holds the whole pack.
"""

import hashlib
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clcore.recorded import Program, Recorder
from clcore.tape import Function, Recording, record


class Compiler(Recorder):
    """Compiles steps of all stages and tasks, each distinct one once, before the first is run."""

    complaint, level = "steps are not compiled: %s", logging.WARNING
    sizes = 1

    def __init__(self) -> None:
        super().__init__(patience=0)
        self._programs: dict[str, Function] = {}

    def width(self, device: torch.device, members: int) -> int:
        """Members of a program: one on a CPU; all on a GPU, rounded up to a power of two, so that few sizes are compiled."""
        return 1 if device.type == "cpu" else 1 << (members - 1).bit_length()

    def _made(self, function: Function, inputs: Sequence[Tensor]) -> Program:
        recording = record(function, inputs)
        own = [inputs[place] for place in recording.read]
        key = _digest(recording, own)
        if key not in self._programs:
            self._programs[key] = _compiled(recording, own)
        return Program(self._programs[key], recording.read, recording.draws)


def _compiled(recording: Recording, inputs: Sequence[Tensor]) -> Function:
    """Machine code; random numbers as without it (``fallback_random``), and no other processes to compile in.

    With a table of shapes, though it stays empty, inductor finds on the disk what was compiled before (its ``codecache``).
    """
    from torch._guards import TracingContext, tracing
    from torch._inductor import compile as inductor
    from torch._inductor import config
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    module = torch.fx.GraphModule(recording.constants, recording.graph)
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    shapes: list[Any] = [mode.from_tensor(tensor, static_shapes=True) for tensor in inputs]  # as they are: no size is a variable
    with torch.no_grad(), config.patch(fallback_random=True, compile_threads=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of what torch calls in its own code, about its next version
        with tracing(TracingContext(mode)):
            program: Function = inductor(module, shapes)
        with torch.random.fork_rng():
            program(*inputs)  # code is generated at the first call
    return program


def _digest(recording: Recording, inputs: Sequence[Tensor]) -> str:
    """What makes two programs one: operations, shapes and the constants in them."""
    shapes = [(str(t.dtype), tuple(t.shape), tuple(t.stride()), str(t.device)) for t in inputs]
    found = hashlib.sha256(f"{recording.graph}{shapes}{torch.get_num_threads()}".encode())
    for name, value in recording.constants.items():
        found.update(f"{name}{value.dtype}{tuple(value.shape)}".encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
