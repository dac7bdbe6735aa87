"""The words of the contract: what a method may know, where training is, a batch, a stage."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

if TYPE_CHECKING:
    from clcore.benchmarks.base import Targets

Tensors = dict[str, Tensor]
Scenario = Literal["task-il", "domain-il", "class-il"]

#: Keys of memory that live for one task: :meth:`Method.prepare` makes them and nothing stores them.
DERIVED = "derived."
#: Keys of params that are carried along, and restored with the best, but neither differentiated nor optimised: running
#: statistics (``state.<norm>.mean``, ``.var``), which the trainer moves, and whatever :meth:`Method.after_step` and
#: :meth:`Method.end_epoch` set.
STATE = "state."


@dataclass(frozen=True)
class Layout:
    """What a method may know of a benchmark: never its data.

    Attributes:
        scenario: task-il, domain-il or class-il (van de Ven & Tolias).
        outputs: number of classes of each task.
        low: smallest value an input can have.
        high: largest value an input can have.
        shape: of one input, e.g. (1, 28, 28), where it is known.
        targets: whether a network says classes, or values (one output a task).
        levels: where inputs are whole numbers 0 .. levels before they are scaled, that number, at most 255; 0 where they are not.
    """

    scenario: Scenario
    outputs: tuple[int, ...]
    low: float = 0.0
    high: float = 1.0
    shape: tuple[int, ...] = ()
    targets: "Targets" = "classes"
    levels: int = 0

    def offset(self, task: int) -> int:
        """First output of a task in a head that spans all classes (class-il)."""
        return sum(self.outputs[:task])


@dataclass(frozen=True)
class At:
    """Where we are.

    Attributes:
        task: the task, from 0.
        phase: ``"train"``: soft maps, annealed gates, dropout; ``"eval"``: their final form.
        seen: tasks begun so far, the current one included.
        progress: (b - 1) / (B - 1) of the batch within its epoch, in [0, 1].
        consumed: samples of this epoch before the batch / samples of the epoch, in [0, 1).
        sizes: units name -> width in use, from :meth:`Method.sizes`; empty where the method has no such notion.
        stage: name of the stage in progress.
        epoch: the epoch within the stage, from 0.
        epochs: most epochs of the stage.
        examples: the task's training examples; 0 where nothing is learned.
    """

    task: int
    phase: Literal["train", "eval"]
    seen: int
    progress: Tensor | float = 1.0
    consumed: Tensor | float = 1.0
    sizes: Mapping[str, int] | None = None
    stage: str = "train"
    epoch: int = 0
    epochs: int = 0
    examples: int = 0


@dataclass(frozen=True)
class Batch:
    """One batch.

    Attributes:
        inputs: shape [batch, channels, height, width].
        labels: task-local classes, or values, shape [batch].
        tasks: the task of each example, shape [batch], where a stage mixes tasks; else None.
    """

    inputs: Tensor
    labels: Tensor
    tasks: Tensor | None = None


@dataclass(frozen=True)
class Stage:
    """One training run within a task.

    Attributes:
        name: names its random streams; the method finds it in ``at.stage``.
        tasks: the tasks whose data are learned from.
        trains: prefixes of the parameters it trains; None: all. The others stay as they are.
    """

    name: str
    tasks: tuple[int, ...]
    trains: tuple[str, ...] | None = None
