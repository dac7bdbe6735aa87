"""What must be kept by the papers' own counting, to be seen beside what was measured (TFM, Fig. 1)."""

from collections.abc import Callable
from dataclasses import dataclass

from clcore.benchmarks import Benchmark
from clcore.methods import Method
from clcore.networks.base import INPUT_UNITS

_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Size:
    """What the formulas are about: a method's network on a benchmark.

    Attributes:
        weights: of the body, biases and normalisation aside: W.
        first: those of them that read the input.
        features: hidden units, those that can be gated: F.
        sides: inputs and outputs of the body's layers, summed over the layers: S.
        body: numbers in the body, biases and normalisation included.
        heads: numbers in all heads after 1..T tasks.
        theta: numbers in a hypernetwork that generates body and heads, chunk embeddings included; 0: there is none.
        embedding: numbers in a task's embedding there.
    """

    weights: int
    first: int
    features: int
    sides: int
    body: int
    heads: tuple[int, ...]
    theta: int = 0
    embedding: int = 0

    def plain(self, tasks: int) -> float:
        """Bytes of a network with its heads and nothing else, after so many tasks."""
        return _FLOAT * (self.body + self.heads[tasks - 1])

    def separate(self, tasks: int) -> float:
        """Bytes of a network of its own for each task, after so many tasks."""
        return _FLOAT * (tasks * self.body + self.heads[tasks - 1])


def _nothing(size: Size, tasks: int) -> float:
    return 0.0


@dataclass(frozen=True)
class Formula:
    """A paper's count after t tasks.

    Attributes:
        words: what it counts.
        overhead: bytes beside the weights and heads of a network.
        network: bytes of these.
        learning: whether the overhead is there while learning goes on, and not in a deployment.
    """

    words: str
    overhead: Callable[[Size, int], float] = _nothing
    network: Callable[[Size, int], float] = Size.plain
    learning: bool = False

    def bytes(self, size: Size, tasks: int) -> float:
        """In all, after so many tasks."""
        return self.network(size, tasks) + self.overhead(size, tasks)


def _columns(size: Size, t: int) -> float:
    """PNN, eq. 1: column k reads the input and all columns up to its own; head k reads all of these columns.

    A column is 1 / T of each layer, as HAT's comparison has it (its code divides one network evenly). So a column has 1 / T of
    the first layer's weights and of the biases, and its inner weights are k / T^2 of the network's.
    """
    whole = len(size.heads)
    read = sum(range(1, t + 1))
    body = (size.first + size.body - size.weights) * t / whole + (size.weights - size.first) * read / whole**2
    own = [after - before for before, after in zip((0, *size.heads), size.heads[:t], strict=False)]
    return _FLOAT * (body + sum(head * k / whole for k, head in enumerate(own, start=1)))


_ALONE = Formula("network with its heads")
_WEIGHT_MASKS = Formula("network + T W / 8: a bit a weight and task", lambda s, t: t * s.weights / 8)
#: TFM, section 1: "a float per weight parameter, i.e. double the number of parameters"; an anchor, as large, is not counted there.
_IMPORTANCE = Formula("network + W floats: an importance a weight", lambda s, t: _FLOAT * s.weights, learning=True)
#: TFM, section 1: distillation and model-based approaches "usually duplicate the network size at least", while learning.
_TEACHER = Formula("network + another one", lambda s, t: _FLOAT * s.body, learning=True)
#: Method -> its bytes. Methods whose papers state no count are not here.
FORMULAS: dict[str, Formula] = {
    **dict.fromkeys(("finetune", "freeze", "joint", "separate-heads"), _ALONE),
    # HAT, section 2.1: an embedding a unit and task; TFM, Fig. 1.
    "hat": Formula("network + T F floats: an embedding a unit and task", lambda s, t: t * s.features * _FLOAT),
    # TFM, section 1: a 2-bit mask value for each activation and task, and two floats more for feature normalisation.
    "tfm": Formula(
        "network + T F / 4 + (T - 1) F 2 floats: two bits a feature and task, a scale and a shift from the second task on",
        lambda s, t: t * s.features / 4 + (t - 1) * s.features * 2 * _FLOAT,
    ),
    "packnet": _WEIGHT_MASKS,  # TFM, section 1: one bit per task per weight parameter; TFM, Fig. 1
    "rmn": _WEIGHT_MASKS,  # RMN, supplement 2.4: binary tensors, O(t k)
    # SupSup, section 3: one bit a weight and task over weights that are a seed.
    "supsup": Formula("T W / 8: a bit a weight and task, heads included; the weights come from a seed",
                      lambda s, t: t * s.weights / 8 + s.heads[t - 1] / 8, network=_nothing),
    # HNET, appendix A and Fig. 3b: what is kept is theta, chunk embeddings among it, and an embedding a task.
    "hnet": Formula("theta + T E floats: the hypernetwork and an embedding a task, in place of the network",
                    lambda s, t: _FLOAT * (s.theta + t * s.embedding), network=_nothing),
    # BatchEnsemble, section 3: vectors r and s of each layer and task (SupSup, eq. 10).
    "batche": Formula("network + T S floats: a factor an input and output of each layer and task",
                      lambda s, t: t * s.sides * _FLOAT),
    "pnn": Formula("first layer t / T + inner layers t (t + 1) / (2 T^2) of the network: columns that read those before",
                   network=_columns),
    **dict.fromkeys(("ewc", "online-ewc", "laplace", "si", "mas", "rwalk"), _IMPORTANCE),
    **dict.fromkeys(("lwf", "lfl"), _TEACHER),
}  # fmt: skip


def size_of(method: Method, benchmark: Benchmark) -> Size:
    """The size of a method's network on a benchmark: a head a task where tasks have labels of their own, else one."""
    network = method.network
    tensors = dict(network.named_parameters())
    body = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    wires = {wire.weight: wire for wire in network.wires if wire.outputs is not None}
    each = network.features + (len(network.head_parts) - 1)
    heads, total = [], 0
    for task in benchmark.tasks:
        new = method.private_heads or benchmark.scenario != "domain-il" or not total
        total += each * len(task.classes) if new else 0
        heads.append(total)
    generator = getattr(method, "generator", None)
    return Size(
        weights=sum(tensors[name].numel() for name in wires),
        first=sum(tensors[name].numel() for name, wire in wires.items() if wire.inputs == INPUT_UNITS),
        features=sum(network.hidden_units.values()),
        sides=sum(sum(tensors[name].shape[:2]) for name in wires),
        body=sum(tensor.numel() for tensor in body.values()),
        heads=tuple(heads),
        theta=generator.size if generator else 0,
        embedding=generator.embedding if generator else 0,
    )
