"""A learner whose values change between two tasks: what would have come of the same beginning with other values."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clcore.benchmarks import Benchmark
from clcore.compiled import Compiler
from clcore.learner import Learner, Progress
from clcore.methods.base import Method, Tensors
from clcore.pack import Member, select, stack_hyper
from clcore.report import Report
from clcore.training import Training


@dataclass(frozen=True)
class Leg:
    """Tasks that are learned with the same values.

    Attributes:
        until: the task that ends it, counted from 0 and not among them.
        members: the pack's members meanwhile.
        training: the training settings meanwhile.
    """

    until: int
    members: Sequence[Member]
    training: Training


class ForkedLearner(Learner):
    """Learns each task with the values of its leg; memory goes on from one leg to the next.

    Hyperparameters that a method reads of tasks learned before, too (HAT's ``smax`` gates old tasks when they are evaluated),
    change for these as well: there is one set of values at a time.

    Args:
        method: as for :class:`Learner`; what members share is the same in all legs.
        benchmark: the tasks, already on the device.
        legs: in order; the last one ends with the last task.
        seed: the trial's seed.
        dtype: as for :class:`Learner`.
        compiler: as for :class:`Learner`.

    Raises:
        BadValue: what :class:`Learner` does not accept, in any of the legs.
    """

    def __init__(
        self, method: Method, benchmark: Benchmark, legs: Sequence[Leg], seed: int, dtype: torch.dtype = torch.float32,
        compiler: Compiler | None = None,
    ) -> None:  # fmt: skip
        assert legs[-1].until == len(benchmark.tasks), "every task belongs to a leg"
        self.legs = list(legs)
        super().__init__(method, benchmark, legs[0].members, legs[0].training, seed, dtype, compiler)
        for task in range(len(benchmark.tasks)):
            self._turn_to(task)
            self._require_validation()
            self._require_structure()
        self._turn_to(0)

    def begin_from(self, earlier: Learner) -> None:
        """Goes on where another learner is at a task boundary, in place of learning the tasks before it.

        Args:
            earlier: of as many members on the same benchmark, with the values of the legs so far.
        """
        assert len(earlier.members) == len(self.members), "each member goes on from its own state"
        self.memory, self.learned = dict(earlier.memory), list(earlier.learned)
        self.alive, self.started = list(earlier.alive), earlier.started
        self._turn_to(max(self.seen - 1, 0))

    def load(self, folder: Path) -> None:
        """Continues from what :meth:`Learner.save` wrote.

        Raises:
            DamagedCheckpoint: it cannot be read, or is of another pack.
        """
        super().load(folder)
        self._turn_to(max(self.seen - 1, 0))  # with the values that the last task was learned with

    def _learn(self, task: int) -> Iterator[Report | Progress]:
        self._turn_to(task)
        yield from super()._learn(task)

    def _turn_to(self, task: int) -> None:
        leg = next(leg for leg in self.legs if task < leg.until)
        self.members, self.training = list(leg.members), leg.training
        self.hp = select(stack_hyper(self.members, self.dtype, self.device), self.alive)

    def _identity(self) -> list[str]:
        named = (type(self.method).__name__, self.benchmark.digest, self.seed, self.dtype, *self.legs)
        return [str(part) for part in named]


#: What a learner's identity says before it names its members: method, data, seed and type.
_COMMON = 4


def of_one(tensors: Tensors, facts: Mapping[str, Any], index: int, members: int) -> tuple[Tensors, dict[str, Any]]:
    """Of what :meth:`Learner.save` wrote for a pack, one member: what a pack of it alone loads.

    Args:
        tensors: of the checkpoint, shape [members that are left, ...].
        facts: of the checkpoint.
        index: the member's place in the pack as it began; it is still in it.
        members: how many the pack began with.
    """
    place, named = facts["alive"].index(index), list(facts["pack"])
    own = named if members == 1 else [*named[:_COMMON], named[_COMMON + index]]
    one = {name: tensor[place : place + 1].clone() for name, tensor in tensors.items()}
    return one, {"alive": [0], "sizes": facts["sizes"], "pack": own}
