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
from clcore.benchmarks import Benchmark
from clcore.errors import BadValue
from clcore.methods import METHODS, At, Layout, Method
from clcore.methods.base import Tensors
from clcore.pack import Member, packed, stack, stack_hyper
from clcore.quick import layout_of, network_of
from clcore.randomness import torch_stream


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
        declaration = METHODS.get(recipe.method).Hyper
        own = hyper.build(declaration, dict(recipe.hyper))
        network = network_of(recipe.network, recipe.shape, recipe.seed)
        network.eval()
        self.recipe, self.tasks = recipe, len(recipe.classes)
        self.method: Method = METHODS.get(recipe.method)(own, network, recipe.layout)
        like = next(iter(memory.values()))
        dtype = like.dtype if like.is_floating_point() else torch.float32
        self._memory, self._hp = stack(memory, 1), stack_hyper([Member(own, 0.0)], dtype, like.device)
        ats = [At(task, "eval", self.tasks) for task in range(self.tasks)]
        self._learned = [replace(at, sizes=self.method.sizes(self._memory, self._hp, at)) for at in ats]
        shared = not self.method.task_specific and recipe.layout.scenario != "task-il"
        self.infers = self.method.task_specific or shared

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
        memory = {name: tensor[0].contiguous() for name, tensor in self._memory.items()}
        checkpoint.write(folder, memory, self.recipe.facts())

    @classmethod
    def load(cls, folder: Path) -> "Predictor":
        """Reads both files.

        Raises:
            DamagedCheckpoint: they are missing, damaged or not a trial's model.
        """
        memory, facts = checkpoint.read(folder)
        return cls(Recipe.from_facts(facts), memory)
