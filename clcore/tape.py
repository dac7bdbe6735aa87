"""A function of tensors written down as the operations it comes to, below autograd and vmap.

torch's ``make_fx`` does so too, but keeps more of each operation (shapes without data, where it came from): it takes ten times as
long, which a step that is recorded for every task cannot afford.
"""

import operator
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

Function = Callable[..., Sequence[Tensor]]
aten = torch.ops.aten
#: Operations that change nothing where the shape stays, and products, where the factor is 1 and the type stays.
SAME = (aten.view.default, aten._unsafe_view.default, aten.expand.default, aten.detach.default, aten.alias.default)
TIMES = (aten.mul.Scalar, aten.mul.Tensor)


class ReadsValues(Exception):  # noqa: N818 - not a mistake
    """What a function does depends on values of tensors."""


@dataclass(frozen=True)
class Recording:
    """The operations of a function.

    Attributes:
        graph: they; its placeholders are the inputs that are read.
        read: places of these among all inputs.
        constants: tensors that were there before, by name.
    """

    graph: Graph
    read: list[int]
    constants: dict[str, Tensor]

    @property
    def draws(self) -> bool:
        """Whether random numbers are drawn."""
        return any(_draws(node) for node in _calls(self.graph))

    def function(self) -> Function:
        """The operations one after another, as a function of the inputs that are read; each tensor is freed after its last use."""
        scope: dict[str, Any] = dict(self.constants)
        names = [node.name for node in self.graph.nodes if node.op == "placeholder"]
        lines = [f"def run({', '.join(names)}):"]
        freed = _last_uses(self.graph)
        for node in self.graph.nodes:
            if node.op == "call_function":
                scope[f"f{node.name}"] = getattr(node.target, "_op", node.target)
                given = [_text(arg, scope) for arg in node.args] + [f"{k}={_text(arg, scope)}" for k, arg in node.kwargs.items()]
                lines.append(f"    {node.name} = f{node.name}({', '.join(given)})")
                lines += [f"    del {', '.join(freed[node])}"] if freed.get(node) else []
            elif node.op == "output":
                lines.append(f"    return {_text(node.args[0], scope)}")
        exec("\n".join(lines), scope)
        return cast(Function, scope["run"])


def record(function: Function, inputs: Sequence[Tensor]) -> Recording:
    """The operations of a function. Random numbers are not used up.

    Args:
        function: of tensors.
        inputs: examples; the operations are those for their shapes.

    Raises:
        ReadsValues: they depend on values too.
    """
    own = [tensor.detach() for tensor in inputs]  # told apart by identity, and a parameter may be the memory it starts from
    tape = _Tape(own)
    with torch.random.fork_rng(), tape:
        outputs = function(*own)
    graph = tape.graph
    graph.output([tape.node(tensor) for tensor in outputs])
    if not any(cast(OpOverload, node.target)._schema.is_mutable for node in _calls(graph)):
        _shorten(graph)
    graph.eliminate_dead_code()
    return Recording(graph, _keep_read(graph), tape.constants)


class _Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down operations as they are run."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = Graph()
        self.constants: dict[str, Tensor] = {}
        self._nodes: MutableMapping[Tensor, Node] = WeakTensorKeyDictionary()  # what is not needed any more may be freed
        for place, tensor in enumerate(inputs):
            self._know(tensor, self.graph.placeholder(f"input{place}"))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: telling torch's compiler to stay away from here would import it, which takes seconds."""
        return False

    def node(self, tensor: Tensor) -> Node:
        """Where a tensor comes from; one that comes from nowhere is a constant."""
        if tensor not in self._nodes:
            name = f"constant{len(self.constants)}"
            self.constants[name] = tensor
            self._know(tensor, self.graph.create_node("get_attr", name, name=name))
        return self._nodes[tensor]

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs an operation and writes it down.

        Raises:
            ReadsValues: what comes next may depend on values.
        """
        if func is aten._local_scalar_dense.default:
            raise ReadsValues("a value of a tensor is read")
        if func is aten.lift_fresh.default:  # a constant written in code: a copy each time, as it may be changed
            func = aten.lift_fresh_copy.default
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        node = self.graph.call_function(func, *tree_map_only(Tensor, self.node, (args, kwargs)))
        if isinstance(found, Tensor):
            self._know(found, node)
        elif isinstance(found, (tuple, list)):
            for place, part in enumerate(found):
                if isinstance(part, Tensor):
                    self._know(part, self.graph.call_function(operator.getitem, (node, place)))
        return found

    def _know(self, tensor: Tensor, node: Node) -> None:
        self._nodes[tensor] = node
        node.meta["kind"] = tensor.shape, tensor.dtype


def _shorten(graph: Graph) -> None:
    """Leaves out operations that change nothing, or that were done before. Nothing is changed in place in this graph."""
    known: dict[tuple[Any, str], Node] = {}
    for node in _calls(graph):
        idle = node.target in SAME or (node.target in TIMES and node.args[1] == 1)
        if idle and node.meta["kind"] == node.all_input_nodes[0].meta["kind"]:
            node.replace_all_uses_with(node.all_input_nodes[0])
        elif not _draws(node) and "kind" in node.meta:
            first = known.setdefault((node.target, repr((node.args, node.kwargs))), node)
            if first is not node:
                node.replace_all_uses_with(first)


def _keep_read(graph: Graph) -> list[int]:
    """Takes out inputs that are not read: memory that grows from task to task makes no new program."""
    places = []
    for place, node in enumerate([node for node in graph.nodes if node.op == "placeholder"]):
        if node.users:
            places.append(place)
        else:
            graph.erase_node(node)
    for number, node in enumerate(graph.nodes):  # names count what was taken out too
        if node.op != "get_attr":
            node.name = f"n{number}"
        node.target = node.name if node.op == "placeholder" else node.target
    return places


def _calls(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if isinstance(node.target, OpOverload)]


def _draws(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in cast(OpOverload, node.target).tags


def _last_uses(graph: Graph) -> dict[Node, list[str]]:
    """Node -> names of what is used there for the last time."""
    seen: set[Node] = set()
    found: dict[Node, list[str]] = {}
    for node in reversed(graph.nodes):
        last = [used for used in (*node.all_input_nodes, node) if used not in seen and used.op != "get_attr"]
        found[node] = [used.name for used in last] if node.op == "call_function" else []
        seen.update(last)
    return found


def _text(arg: Any, scope: dict[str, Any]) -> str:
    """An argument as code; what has no plain form goes into the scope."""
    if isinstance(arg, Node):
        return arg.name
    if isinstance(arg, (list, tuple)):
        return f"[{', '.join(_text(part, scope) for part in arg)}]"
    if arg is None or isinstance(arg, (bool, int)):
        return repr(arg)
    scope[name := f"value{len(scope)}"] = arg
    return name
