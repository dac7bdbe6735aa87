"""A hypernetwork through a sequence of tasks: what is trained, what is kept, and how old tasks are held.

The classifier's hypernetwork and the one of the replay model's decoder are two of these, told apart by a prefix of their names.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor
from torch.func import grad

from clcore.methods.base import DERIVED, Tensors
from clcore.methods.hnet.generator import THETA, Factors, Generator
from clcore.methods.hnet.regulariser import Held, delta_gram, direct

EMBEDDING = "embedding"
#: Hidden numbers (old tasks x chunks x width) that the regulariser holds at a time, so that its memory does not grow with tasks.
AT_A_TIME = 2**22
ALL = slice(None)


@dataclass(frozen=True)
class Hypernetwork:
    """Theta and an embedding a task; memory holds theta as it was before the present task, which is the snapshot theta*.

    Attributes:
        generator: its shape.
        held: which weights of old tasks are held; its ``positions`` are those of all tasks.
        prefix: of the names of all its tensors.
        form: of the regulariser, ``delta-gram`` or ``direct``.
        lookahead: whether the regulariser looks at theta after the step that the task's loss alone would take.
        subset: so many old tasks, drawn anew for every step, stand for all; 0: all of them.
        continued: whether embeddings of old tasks move on with theta.
    """

    generator: Generator
    held: Held
    prefix: str = ""
    form: str = "delta-gram"
    lookahead: bool = True
    subset: int = 0
    continued: bool = False

    def start(self, like: Tensor) -> Tensors:
        """A new theta."""
        return {self.prefix + name: tensor for name, tensor in self.generator.draw(like).items()}

    def learned(self, memory: Tensors) -> int:
        """How many tasks have an embedding in memory: fewer than have begun where one is looked at before its turn."""
        return sum(name.startswith(f"{self.prefix}{EMBEDDING}.") for name in memory)

    def begin(self, memory: Tensors) -> Tensors:
        """What a task trains: theta, an embedding of its own, and those of old tasks where they move on."""
        theta = self._named(memory, THETA)
        new = {self.prefix + EMBEDDING: self.generator.draw_embedding(next(iter(theta.values())))}
        return theta | new | ({name: memory[name] for name in self._old(self.learned(memory))} if self.continued else {})

    def end(self, params: Tensors, task: int) -> Tensors:
        """What is kept of a task's parameters: theta, and the embeddings by number."""
        old = {name: params[name] for name in self._old(task) if name in params}
        return self._named(params, THETA) | old | {f"{self.prefix}{EMBEDDING}.{task}": params[self.prefix + EMBEDDING]}

    def weights(self, params: Tensors, memory: Tensors, task: int) -> Tensor:
        """All weights of a task's target network, shape [outputs]: of one in training, or from memory alone."""
        current = params.get(self.prefix + EMBEDDING)
        embedding = memory[f"{self.prefix}{EMBEDDING}.{task}"] if current is None else current
        return self.generator.generate(self._theta(memory if current is None else params), embedding)

    def prepare(self, memory: Tensors) -> Tensors:
        """What holding old tasks needs and stays the same throughout the next: above all their weights, as factors."""
        tasks = self.learned(memory)
        if tasks == 0:
            return {}
        embeddings, theta = self._embeddings(memory, tasks), self._theta(memory)
        layer = self.generator.last_layer(theta)
        result = {"layer": layer, "embeddings": embeddings}
        if tasks <= self._tasks_at_a_time:
            result["hidden"] = self.generator.feeding(theta, embeddings)
        if self.form == "delta-gram":
            result["gram"] = layer.T @ layer
        if self.held.positions is not None:
            result["positions"] = self.held.positions[:tasks].to(layer.device)
        return {self._derived(name): tensor for name, tensor in result.items()}

    def hold(
        self, grads: Tensors, params: Tensors, memory: Tensors, beta: Tensor, preview: Callable[[Tensors], Tensors]
    ) -> Tensors:  # fmt: skip
        """Adds the gradient of ``beta`` times the regulariser to the task's gradients (HNET, eq. 2).

        Args:
            grads: of the task's loss alone.
            params: in training.
            memory: with what :meth:`prepare` gave.
            beta: weight of the regulariser.
            preview: the step the optimiser would take for given gradients.
        """
        if self._derived("layer") not in memory or self.prefix + EMBEDDING not in grads:
            return grads
        moving = {name: grads[name] for name in grads if self._holds(name)}
        ahead = preview(moving) if self.lookahead else {}
        moved = {name: params[name] + ahead[name] if ahead else params[name] for name in moving}
        extra = self._gradient(moved, memory, beta.device)
        return {name: value + beta * extra[name] if name in extra else value for name, value in grads.items()}

    def _gradient(self, moved: Tensors, memory: Tensors, device: torch.device) -> Tensors:
        """Gradient of the regulariser over all old tasks or as many as are drawn, a part of them at a time."""
        tasks = len(memory[self._derived("embeddings")])
        drawn = torch.randperm(tasks, device=device)[: self.subset] if 0 < self.subset < tasks else None
        parts = _parts(tasks if drawn is None else self.subset, self._tasks_at_a_time)
        total: Tensors = {}
        for part, share in parts:
            found = grad(partial(self.penalty, memory=memory, chosen=part if drawn is None else drawn[part]))(moved)
            total = {name: value * share + total.get(name, 0) for name, value in found.items()}
        return total

    def penalty(self, moved: Tensors, memory: Tensors, chosen: Tensor | slice = ALL) -> Tensor:
        """The regulariser at given theta (and embeddings of old tasks where they move on); scalar.

        Args:
            moved: theta + dtheta.
            memory: with what :meth:`prepare` gave.
            chosen: the old tasks to look at, shape [chosen].
        """
        before, positions = memory[self._derived("embeddings")], memory.get(self._derived("positions"))
        embeddings = self._embeddings(moved, len(before)) if self.continued else before
        now = self.generator.factors(self._theta(moved), embeddings[chosen])
        held = replace(self.held, positions=None if positions is None else positions[chosen])
        then = self._before(memory, chosen)
        if self.form == "direct":
            return direct(now, then, held)
        return delta_gram(now, then, held, memory[self._derived("gram")])

    def _before(self, memory: Tensors, chosen: Tensor | slice) -> Factors:
        """The old tasks' weights as they were; of many tasks not all at once are kept, but worked out again from theta*."""
        kept = memory.get(self._derived("hidden"))
        if kept is None:
            hidden = self.generator.feeding(self._theta(memory), memory[self._derived("embeddings")][chosen])
        else:
            hidden = kept[chosen]
        return Factors(memory[self._derived("layer")], hidden)

    @property
    def _tasks_at_a_time(self) -> int:
        return max(1, AT_A_TIME // (self.generator.chunks * (self.generator.width + 1)))

    def _theta(self, tensors: Tensors) -> Tensors:
        return {name.removeprefix(self.prefix): tensor for name, tensor in self._named(tensors, THETA).items()}

    def _named(self, tensors: Tensors, kind: str) -> Tensors:
        return {name: tensor for name, tensor in tensors.items() if name.startswith(self.prefix + kind)}

    def _old(self, tasks: int) -> list[str]:
        return [f"{self.prefix}{EMBEDDING}.{task}" for task in range(tasks)]

    def _holds(self, name: str) -> bool:
        return name.startswith((self.prefix + THETA, f"{self.prefix}{EMBEDDING}."))

    def _embeddings(self, tensors: Tensors, tasks: int) -> Tensor:
        return torch.stack([tensors[name] for name in self._old(tasks)])

    def _derived(self, name: str) -> str:
        return f"{DERIVED}{self.prefix}{name}"


def _parts(count: int, most: int) -> list[tuple[slice, float]]:
    """Slices of so many, each with its share of the whole."""
    ends = [*range(0, count, most), count]
    return [(slice(first, last), (last - first) / count) for first, last in pairwise(ends)]
