"""What must be kept by the papers' own counting, to be seen beside what was measured (TFM, Fig. 1)."""

from collections.abc import Callable
from dataclasses import dataclass

from clcore.benchmarks import Benchmark
from clcore.networks import Network

_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Size:
    """What the formulas are about.

    Attributes:
        weights: of the body, biases and normalisation aside: W.
        features: hidden units, those that can be gated: F.
        body: numbers in the body, biases and normalisation included.
        heads: numbers in all heads after 1..T tasks.
    """

    weights: int
    features: int
    body: int
    heads: tuple[int, ...]

    def plain(self, tasks: int) -> float:
        """Bytes of a network with its heads and nothing else, after so many tasks."""
        return _FLOAT * (self.body + self.heads[tasks - 1])


@dataclass(frozen=True)
class Formula:
    """A paper's count: in words, and in bytes after t tasks; ``learning``: while learning goes on, not in a deployment."""

    words: str
    bytes: Callable[[Size, int], float]
    learning: bool = False


def _over_plain(extra: Callable[[Size, int], float]) -> Callable[[Size, int], float]:
    return lambda size, t: size.plain(t) + extra(size, t)


_WEIGHT_MASKS = Formula("network + T W / 8: a bit a weight and task", _over_plain(lambda s, t: t * s.weights / 8))
_IMPORTANCE = Formula(
    "network + 2 W floats: importance and anchor", _over_plain(lambda s, t: 2 * _FLOAT * s.weights), learning=True
)
_TEACHER = Formula("network + another one while learning", _over_plain(lambda s, t: _FLOAT * s.body), learning=True)
#: Method -> its bytes by TFM's Fig. 1 (the formulas behind it), SupSup's by its section 3: masks over one seed.
FORMULAS: dict[str, Formula] = {
    "hat": Formula("network + T F floats: an embedding a unit and task", _over_plain(lambda s, t: t * s.features * _FLOAT)),
    "tfm": Formula(
        "network + T F / 4 + (T - 1) F 2 floats: two bits a feature and task, a scale and a shift from the second task on",
        _over_plain(lambda s, t: t * s.features / 4 + (t - 1) * s.features * 2 * _FLOAT),
    ),
    "packnet": _WEIGHT_MASKS,
    "rmn": _WEIGHT_MASKS,
    "supsup": Formula("T W / 8: a bit a weight and task, heads included; the weights come from a seed",
                      lambda s, t: t * s.weights / 8 + s.heads[t - 1] / 8),
    **dict.fromkeys(("ewc", "online-ewc", "si", "mas", "rwalk"), _IMPORTANCE),
    **dict.fromkeys(("lwf", "lfl"), _TEACHER),
}  # fmt: skip


def size_of(network: Network, benchmark: Benchmark) -> Size:
    """The size of a network on a benchmark: a head a task where tasks have labels of their own, else one."""
    tensors = dict(network.named_parameters())
    body = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    weights = sum(tensors[wire.weight].numel() for wire in network.wires if wire.outputs is not None)
    each = network.features + (len(network.head_parts) - 1)
    heads, total = [], 0
    for task in benchmark.tasks:
        total = total + each * len(task.classes) if benchmark.scenario != "domain-il" or not total else total
        heads.append(total)
    return Size(weights, sum(network.hidden_units.values()), sum(t.numel() for t in body.values()), tuple(heads))
