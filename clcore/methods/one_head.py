"""What methods share that see one set of weights differently at each task, where the tasks can share one head too."""

from functools import cached_property

from torch import Tensor

from clcore.hyper import knob
from clcore.methods.base import At, Method, Tensors
from clcore.networks.base import HEAD


def multi_head_knob() -> bool:
    """The hyperparameter ``multi_head`` of these methods."""
    made: bool = knob(
        True, "a head a task; false: one head for all, which the task sees like any other layer, and whose first outputs are its",
        source="SupSup, App. D.3: one head for hundreds of tasks",
    )  # fmt: skip
    return made


class OneHead(Method):
    """A method whose weights differ between tasks, with a hyperparameter ``multi_head``."""

    task_specific = True

    @cached_property
    def private_heads(self) -> bool:
        """As asked for."""
        return bool(self.hyper.multi_head)

    def label_offset(self, task: int) -> int:
        """Labels are the task's own: which task it is, is told by the weights."""
        return 0

    @cached_property
    def seen_by_task(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every weight that a task sees in its own way."""
        own = dict(self.network.named_parameters())
        body = {wire.weight: tuple(own[wire.weight].shape) for wire in self.network.body_wires()}
        head = (max(self.layout.outputs), self.network.features)
        return body if self.private_heads else {**body, f"{HEAD}.weight": head}

    @cached_property
    def shared(self) -> tuple[str, ...]:
        """Names of the parameters all tasks share."""
        return self.body if self.private_heads else (*self.body, *(f"{HEAD}.{part}" for part in self.head_parts))

    def start(self, weights: Tensors) -> Tensors:
        """*Packed.* The body, and the head where there is one for all."""
        body = {name: weights[name] for name in self.body}
        return body if self.private_heads else {**body, **self.draw_head(max(self.layout.outputs), body[self.body[0]])}

    def head_of(self, params: Tensors, memory: Tensors, at: At) -> Tensors:
        """The task's own head, or as many outputs of the shared one as the task has."""
        head = super().head_of(params, memory, At(at.task, at.phase, len(self.layout.outputs)))
        return {name: tensor[: self.layout.outputs[at.task]] for name, tensor in head.items()}

    def stored_head(self, params: Tensors, at: At) -> Tensors:
        """The head in training, where one was."""
        return super().stored_head(params, at) if f"{HEAD}.weight" in params else {}


def per_column(values: Tensor, weight: Tensor) -> Tensor:
    """One value for each input of a layer, shape [in], shaped to go with its weight, shape [out, in, ...]."""
    return values.reshape(1, -1, *(1,) * (weight.dim() - 2))


def per_row(values: Tensor, weight: Tensor) -> Tensor:
    """One value for each output of a layer, shape [out], shaped to go with its weight, shape [out, ...]."""
    return values.reshape(-1, *(1,) * (weight.dim() - 1))
