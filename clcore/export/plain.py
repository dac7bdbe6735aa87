"""One exported task, read back: an ordinary module of torch with the weights that were left."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from clcore.benchmarks import Split
from clcore.checkpoint import DamagedCheckpoint
from clcore.errors import BadValue
from clcore.evaluate import explained
from clcore.export import encoding, files
from clcore.methods.base import Tensors
from clcore.networks.base import Network
from clcore.quick import network_of
from clcore.registry import check_files
from clcore.trainer import EVAL_BATCH


@dataclass(frozen=True, eq=False)
class TaskModel:
    """One task's network.

    Attributes:
        network: the module; takes inputs as the benchmark gives them.
        shape: of one input, (channels, height, width).
        outputs: the benchmark's class of each output; -1 for those that stand for none.
        values: whether the only output is a value and no class.
        offset: the output of the task's first class.
    """

    network: nn.Module
    shape: tuple[int, int, int]
    outputs: tuple[int, ...]
    values: bool
    offset: int = 0

    def logits(self, inputs: Tensor) -> Tensor:
        """What the network says, shape [n, outputs], of inputs, shape [n, channels, height, width].

        Raises:
            BadValue: inputs of another shape.
        """
        if tuple(inputs.shape[1:]) != self.shape:
            raise BadValue("inputs", tuple(inputs.shape), f"shape [n, {', '.join(map(str, self.shape))}]")
        with torch.no_grad():
            said: Tensor = self.network(inputs)
        return said

    def predict(self, inputs: Tensor) -> Tensor:
        """The output that each input is taken for, or its value; shape [n]."""
        said = self.logits(inputs)
        return said[:, 0] if self.values else said.argmax(-1)

    def classes(self, decided: Tensor) -> Tensor:
        """The benchmark's classes of what :meth:`predict` says, int64, shape [n]."""
        return torch.tensor(self.outputs)[decided]


def read_task(path: Path, run_files: bool = False) -> TaskModel:
    """What :func:`clcore.export.write_task` wrote.

    Args:
        path: of the file.
        run_files: whether a Python file that it names (a network of the user's) is run.

    Raises:
        DamagedCheckpoint: the file is missing, damaged or of something else.
        UserError: it names a Python file, which may not be run.
    """
    written, said = files.read(path, files.TASK)
    try:
        check_files(path.name, [said["network"]["spec"]], run_files)
        shape = (int(said["shape"][0]), int(said["shape"][1]), int(said["shape"][2]))
        network = network_of(said["network"], shape, 0)
        _take(network, encoding.decoded(written, said["forms"]))
        for norm in network.norm_modules.values():
            norm.by_batch = bool(said["by_batch"])
        return TaskModel(network.eval(), shape, tuple(said["classes"]), said["targets"] == "values", said["offset"])
    except (KeyError, IndexError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        raise DamagedCheckpoint(f"{path.name} does not hold one task's network: {error!r}") from None


def task_accuracy(model: TaskModel, split: Split) -> float:
    """Share of a task's examples that its network gets right, in [0, 1]; of values, the share of variance it explains.

    Args:
        model: of the task.
        split: the task's.
    """
    places = torch.split(torch.arange(len(split)), EVAL_BATCH)
    parts = [split.batch(place) for place in places]
    decided = torch.cat([model.predict(inputs) for inputs, _ in parts])
    labels = torch.cat([own for _, own in parts])
    if model.values:
        return float(explained(decided[None], labels)[0])
    return float((decided == labels + model.offset).double().mean())


def _take(network: Network, tensors: Tensors) -> None:
    """Puts tensors of any size in place of the network's own.

    Raises:
        AttributeError, KeyError: the network has no such tensor.
    """
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        module = network.get_submodule(owner)
        if leaf in module._parameters:
            module.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
        else:
            module.register_buffer(leaf, tensor)
    missing = {name for name, _ in network.named_parameters()} - tensors.keys()
    if missing:
        raise KeyError(", ".join(sorted(missing)))
