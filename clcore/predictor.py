"""A finished trial as something that answers: its memory, and what it takes to read it, in a folder of two files.

The files are those of a checkpoint: tensors as safetensors, facts as JSON. Nothing of the benchmark's data is in them or needed.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clcore import checkpoint, hyper
from clcore.benchmarks import Benchmark, Split
from clcore.errors import BadValue
from clcore.evaluate import Evaluator
from clcore.methods import METHODS, At, Layout, Method
from clcore.methods.base import Tensors
from clcore.pack import Member, member, packed, stack, stack_hyper
from clcore.quick import layout_of, network_of
from clcore.randomness import torch_stream
from clcore.registry import check_files


@dataclass(frozen=True)
class Recipe:
    """What a memory is read with.

    Attributes:
        method: name of the method.
        hyper: its hyperparameters.
        network: ``spec`` and the network's options.
        shape: of one input, (channels, height, width).
        layout: what the method was told of the benchmark.
        classes: the benchmark's classes of each task, in the order of the task's labels.
        seed: of the trial.
    """

    method: str
    hyper: Mapping[str, Any]
    network: Mapping[str, Any]
    shape: tuple[int, int, int]
    layout: Layout
    classes: tuple[tuple[int, ...], ...]
    seed: int

    @classmethod
    def of(cls, method: str, hyper: Mapping[str, Any], network: Mapping[str, Any], benchmark: Benchmark, seed: int) -> "Recipe":
        """That of a trial on a benchmark."""
        classes = tuple(tuple(task.classes) for task in benchmark.tasks)
        return cls(method, dict(hyper), dict(network), benchmark.input_shape, layout_of(benchmark), classes, seed)

    @property
    def names(self) -> tuple[str, str]:
        """Of its method and network, each of which may be the path of a Python file."""
        return self.method, self.network["spec"]

    def build(self) -> Method:
        """The method, with its network as the seed draws it."""
        declared = METHODS.get(self.method)
        network = network_of(self.network, self.shape, self.seed)
        network.eval()
        made: Method = declared(hyper.build(declared.Hyper, dict(self.hyper)), network, self.layout)
        return made

    def hp(self, dtype: torch.dtype, device: torch.device) -> Tensors:
        """The hyperparameters that a pack may differ in, shape [1]."""
        return stack_hyper([Member(hyper.build(METHODS.get(self.method).Hyper, dict(self.hyper)), 0.0)], dtype, device)

    def facts(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> "Recipe":
        """The recipe behind :meth:`facts`.

        Raises:
            DamagedCheckpoint: that is not one.
        """
        try:
            own = {name: facts[name] for name in ("method", "hyper", "network", "seed")}
            told = facts["layout"].items()
            layout: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in told}
            classes = tuple(tuple(task) for task in facts["classes"])
            return cls(**own, shape=tuple(facts["shape"]), layout=Layout(**layout), classes=classes)
        except (KeyError, TypeError, AttributeError) as error:
            raise checkpoint.DamagedCheckpoint(f"this is not a trial's model: {error!r}") from error


class Predictor:
    """Answers for inputs as the benchmark gives them: normalised, and permuted or rotated as the task's are.

    Args:
        recipe: what the memory is read with.
        memory: of the finished trial, without a member dimension.

    Attributes:
        tasks: how many were learned.
        infers: whether inputs can be answered without their task.
    """

    def __init__(self, recipe: Recipe, memory: Tensors) -> None:
        self.recipe, self.tasks, self.method = recipe, len(recipe.classes), recipe.build()
        like = next(iter(memory.values()))
        self._dtype = like.dtype if like.is_floating_point() else torch.float32
        self._memory, self._hp = stack(memory, 1), recipe.hp(self._dtype, like.device)
        ats = [At(task, "eval", self.tasks) for task in range(self.tasks)]
        self._learned = [replace(at, sizes=self.method.sizes(self._memory, self._hp, at)) for at in ats]
        shared = not self.method.task_specific and recipe.layout.scenario != "task-il"
        self.infers = self.method.task_specific or shared

    @property
    def memory(self) -> Tensors:
        """Of the trial, without a member dimension."""
        return member(self._memory, 0)

    @property
    def hp(self) -> Tensors:
        """The hyperparameters that a pack may differ in, as scalars."""
        return member(self._hp, 0)

    @property
    def learned(self) -> list[At]:
        """One a task, in phase eval."""
        return list(self._learned)

    def accuracy(self, split: Split, task: int) -> float:
        """What the learner counts as right: share of a task's examples in [0, 1]; of values, how much of them is explained.

        Args:
            split: of the task, on the memory's device.
            task: from 0; it is given or inferred as in the benchmark's scenario.
        """
        evaluator, at = Evaluator(self.method, self.recipe.seed, self._dtype), self._learned[task]
        return float(evaluator.accuracy(split, {}, self._memory, self._hp, at, self._learned)[0])

    def stored_bytes(self) -> int:
        """Bytes that a deployment must keep for all tasks (:meth:`Method.stored_bytes`)."""
        return self.method.stored_bytes(self.memory, self.hp)

    def learning_bytes(self) -> int:
        """Bytes that learning further tasks would take (:meth:`Method.learning_bytes`)."""
        return self.method.learning_bytes(self.memory)

    def predict(self, inputs: Tensor, task: int | None = None) -> tuple[Tensor, Tensor]:
        """The task and the class of each input.

        Args:
            inputs: shape [n, channels, height, width].
            task: theirs, from 0; None: it is inferred where weights differ between tasks, and does not matter elsewhere.

        Returns:
            Tasks, int64, -1 where they are not known; and labels within the task, or values; both of shape [n].

        Raises:
            BadValue: inputs of another shape, no such task, or one that must be given and is not.
        """
        if tuple(inputs.shape[1:]) != self.recipe.shape:
            raise BadValue("inputs", tuple(inputs.shape), f"shape [n, {', '.join(map(str, self.recipe.shape))}]")
        if task is None and not self.infers:
            raise BadValue("task", None, f"0 to {self.tasks - 1}: {self.recipe.method} cannot tell tasks apart by itself")
        if task is not None and not 0 <= task < self.tasks:
            raise BadValue("task", task, f"0 to {self.tasks - 1}")
        with torch.no_grad(), torch_stream(self.recipe.seed, "decide", self.tasks, task or 0):
            if task is None and self.method.task_specific:
                answers = packed(lambda m, h, x: self.method.answers(m, h, x, self._learned), shared=1)
                tasks, labels = answers(self._memory, self._hp, inputs)
                return tasks[0], labels[0]
            return self._given(inputs, task)

    def classes(self, tasks: Tensor, labels: Tensor) -> Tensor:
        """The benchmark's classes of labels within tasks, int64, shape [n]; -1 where the task is not known."""
        known = self.recipe.classes
        pairs = zip(tasks.tolist(), labels.tolist(), strict=True)
        return torch.tensor([known[task][label] if task >= 0 else -1 for task, label in pairs], dtype=torch.long)

    def _given(self, inputs: Tensor, task: int | None) -> tuple[Tensor, Tensor]:
        """Of one task's network; where tasks share it, of all of them."""
        at = self._learned[self.tasks - 1 if task is None else task]
        weights = packed(lambda m, h: self.method.effective_weights({}, m, h, at))(self._memory, self._hp)
        predict = packed(lambda w, m, h, x: self.method.predict(w, m, h, x, at), shared=1)
        labels = predict(weights, self._memory, self._hp, inputs)[0]
        if self.method.label_offset(self.tasks - 1):  # one head for all classes says the task too
            offsets = torch.tensor([self.method.label_offset(t) for t in range(self.tasks)], device=labels.device)
            tasks = torch.searchsorted(offsets, labels, right=True) - 1
            return tasks, labels - offsets[tasks]
        return torch.full(labels.shape, -1 if task is None else task, device=labels.device), labels

    def save(self, folder: Path) -> None:
        """Writes both files."""
        checkpoint.write(folder, self.memory, self.recipe.facts())

    @classmethod
    def load(cls, folder: Path, run_files: bool = False) -> "Predictor":
        """Reads both files.

        Args:
            folder: of both.
            run_files: whether Python files that they name (a method or network of the user's) are run.

        Raises:
            DamagedCheckpoint: they are missing, damaged or not a trial's model.
            UserError: they name Python files, which may not be run.
        """
        memory, facts = checkpoint.read(folder)
        try:
            recipe = Recipe.from_facts(facts)
            check_files(str(folder), recipe.names, run_files)
            return cls(recipe, memory)
        except (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, StopIteration, TypeError, ValueError) as error:
            raise checkpoint.DamagedCheckpoint(f"{folder} is not a trial's model: {type(error).__name__} {error}") from error


def first_memory(method: Method, seed: int) -> Tensors:
    """The memory that the learner of a trial starts from, float32, drawn again from its seed."""
    with torch_stream(seed, "start"):
        return member(packed(method.start)(stack(method.network.body_weights(), 1)), 0)
