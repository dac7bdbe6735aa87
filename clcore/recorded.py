"""Functions of a pack's tensors as programs: recorded once, and run from then on without the Python that led to them.

What a recorded function gives is what the function gives, bit for bit: the operations are the same, in the same order. The
bookkeeping around them - vmap, autograd, the method's own Python - is done once; with small networks it is most of a step.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import cast

import torch
from torch import Tensor

from clcore.methods.base import At, Tensors
from clcore.tape import Function, record

log = logging.getLogger(__name__)

#: Calls before a function is recorded, which takes as long as about twenty.
PATIENCE = 16


@dataclass(frozen=True)
class Program:
    """A function of tensors in another form.

    Attributes:
        run: called with the inputs that are read.
        read: places of these among all inputs.
        draws: whether it may draw random numbers.
    """

    run: Function
    read: Sequence[int]
    draws: bool

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        """What the function gives."""
        return self.run(*(inputs[place] for place in self.read))


class Recorder:
    """Records functions, each distinct one once.

    Args:
        patience: calls before a program is asked for; None: as many as pay.

    Attributes:
        failed: why functions are run as they are instead; empty while recording works.
        sizes: how many sizes of batches get a program: the usual one, and the last of an epoch.
    """

    #: What is said where it does not work, and how loudly.
    complaint, level = "steps are not recorded: %s", logging.INFO
    sizes = 2

    def __init__(self, patience: int | None = None) -> None:
        self._patience = PATIENCE if patience is None else patience
        self.failed = ""
        self._known: dict[str, Program] = {}
        self._widths: set[int] = set()

    def width(self, device: torch.device, members: int) -> int:
        """Members of a program: all of a pack, or as many as a program has that is there already, if at most twice as many."""
        return min((width for width in self._widths if members <= width <= 2 * members), default=members)

    def patience(self, width: int) -> int:
        """Calls with so many members before a program is asked for."""
        return 0 if width in self._widths else self._patience

    def program(self, name: str, function: Function, inputs: Sequence[Tensor]) -> Program | None:
        """A function of tensors as a program; None where that cannot be had.

        Args:
            name: what else than the shapes of ``inputs`` decides what the function does.
            function: of tensors with the shapes of ``inputs``; what else it reads is built in.
            inputs: examples; of the first the first dimension are the members.
        """
        asked = f"{name} {[tuple(t.shape) for t in inputs]}"
        try:
            if not self.failed and asked not in self._known:
                self._known[asked] = self._made(function, inputs)
                self._widths.add(len(inputs[0]))
        except Exception as error:  # noqa: BLE001 - a function that reads values, or no compiler: it is then run as it is
            self.failed = f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"
            log.log(self.level, self.complaint, self.failed)
        return self._known.get(asked)

    def _made(self, function: Function, inputs: Sequence[Tensor]) -> Program:
        recording = record(function, inputs)
        return Program(recording.function(), recording.read, recording.draws)


class Recorded:
    """A function of dictionaries of tensors and of a batch, as a program once it was called often enough.

    Args:
        recorder: gives programs.
        name: what else than shapes decides what the function does.
        function: of dictionaries, of other tensors, and of where training is; without the epoch, which a program does not know.
        width: members.
    """

    def __init__(
        self, recorder: Recorder, name: str, function: Callable[[list[Tensors], list[Tensor], At], Sequence[Tensor]], width: int
    ) -> None:
        self._recorder, self._name, self._function = recorder, name, function
        self._patience = recorder.patience(width)
        self._programs: dict[int, Program] = {}
        self._calls: Counter[int] = Counter()

    def program(self, trees: Sequence[Tensors], tensors: Sequence[Tensor], at: At, size: int) -> Program:
        """What is called with the values of ``trees`` and with ``tensors``.

        Args:
            trees: the dictionaries.
            tensors: the others.
            at: where training is.
            size: of the batch among them.
        """
        if size in self._programs:
            return self._programs[size]
        self._calls[size] += 1
        flat = [*(tensor for tree in trees for tensor in tree.values()), *tensors]
        if len(self._programs) < self._recorder.sizes and self._calls[size] > self._patience and not self._recorder.failed:
            # A program serves all epochs: a function that asks for the epoch fails on None, and is run as it is.
            fixed = replace(at, progress=0.0, consumed=0.0, epoch=cast(int, None))
            found = self._recorder.program(f"{self._name} {fixed}", self._flat(trees, fixed), flat)
            if found is not None:
                self._programs[size] = found
                return found
        return Program(self._flat(trees, at), range(len(flat)), draws=True)

    def _flat(self, trees: Sequence[Tensors], at: At) -> Function:
        """The function of tensors alone, in the order of the dictionaries' names."""
        names = [list(tree) for tree in trees]
        edges = list(accumulate(map(len, names), initial=0))

        def run(*flat: Tensor) -> Sequence[Tensor]:
            parts = [flat[first:last] for first, last in pairwise(edges)]
            own = [dict(zip(keys, part, strict=True)) for keys, part in zip(names, parts, strict=True)]
            return [tensor.contiguous() for tensor in self._function(own, list(flat[edges[-1] :]), at)]

        return run
