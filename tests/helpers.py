"""Small learners for the tests of the functional core, and comparisons of what they end in."""

import math
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from clcore import hyper, networks
from clcore.benchmarks import BenchmarkOptions, build
from clcore.learner import Learner
from clcore.methods import METHODS
from clcore.networks.base import Network, NetworkOptions, Units, Wire, dropout
from clcore.networks.residual import Residual, Style
from clcore.pack import Member
from clcore.quick import layout_of, network_options, preferred
from clcore.report import Report
from clcore.training import Training

SCENARIOS = ("task-il", "domain-il", "class-il")
#: Short training whose schedule ends members at different times.
QUICK = {"epochs": 5, "patience": 1, "lr_min": 0.04}
#: Methods for which the rates that the tests ask of all are too high, and what they are multiplied by.
SLOWER = {"batche": 0.1, "frcl": 0.1, "hnet": 0.003, "hnet-r": 0.0005, "vcl": 0.1}
#: Replay models large enough for digits, for methods that have one, modules that divide the widths of small networks,
#: few samples and inducing points.
LIGHT = {"encoder": "20", "decoder": "10-20", "latent": 8, "condition_size": 8, "modules": 4, "active": 3, "samples": 3,
         "inducing": 20, "swaps": 30}  # fmt: skip

#: Networks for the methods that gate units: streams with and without projections, with every kind of normalisation.
GATED_NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "residual": ("residual", {}),
    "residual, no affine": ("residual", {"norm": "batch-plain", "bias": False}),
    "residual, not normalised": ("residual", {"norm": "none"}),
    "option A": ("option-a", {}),
    "option A, no biases": ("option-a", {"norm": "none", "bias": False}),
    "convolution": ("conv", {"norm": "batch"}),
    "perceptron, scale": ("mlp:16-16", {"norm": "batch-scale"}),
}


class TinyConv(Network):
    """One convolution, pooled and flattened into one linear layer: the wiring that ``repeat`` is for.

    8x8 -> 4 channels of 6x6 -> 4 of 3x3 -> 36, channel-major -> 12 -> head.
    """

    def __init__(self, options: NetworkOptions = NetworkOptions(), channels: int = 4, hidden: int = 12) -> None:  # noqa: B008
        super().__init__()
        self.drop, bias = options.dropout, options.bias
        self.conv, self.fc = nn.Conv2d(1, channels, 3, bias=bias), nn.Linear(channels * 9, hidden, bias=bias)
        self.conv_norm = options.make_norm(channels) or nn.Identity()
        self.norms = {} if isinstance(self.conv_norm, nn.Identity) else {"conv_norm": "units1"}
        self.units0, self.units1, self.units2 = Units(1), Units(channels), Units(hidden)
        self.head = nn.Linear(hidden, 1, bias=bias)
        self.units = {"units0": 1, "units1": channels, "units2": hidden}
        wires = [("conv", "units0", "units1", 1), ("fc", "units1", "units2", 9), ("head", "units2", None, 1)]
        self.wires = [Wire(f"{n}.weight", f"{n}.bias" if bias else None, i, o, repeat=r) for n, i, o, r in wires]

    def forward(self, inputs):
        hidden = torch.relu(self.conv_norm(self.conv(self.units0(inputs))))
        if self.training and self.drop:
            hidden = dropout(hidden, self.drop, self.units["units1"])
        hidden = self.units1(F.max_pool2d(hidden, 2)).flatten(1)
        return self.head(self.units2(torch.relu(self.fc(hidden))))


#: Small networks of the tests' own: a convolution that is flattened, and residual streams with and without projections.
TINY = {
    "conv": lambda shape, options: TinyConv(options),
    "residual": lambda shape, options: Residual("residual", shape, Style((4, 6), 1, projected=True, conv_bias=False), options),
    "option-a": lambda shape, options: Residual("option-a", shape, Style((4, 8), 1, projected=False, conv_bias=True), options),
}


def tiny(name, shape, options) -> Network:
    """One of ``TINY``, drawn from torch's generator."""
    return TINY[name](shape, options)


@lru_cache(maxsize=64)
def benchmark(name="split-digits", seed=0, tasks=3, scenario="task-il", **options):
    return build(name, BenchmarkOptions(tasks=tasks, scenario=scenario, **options), seed)


def network(spec, shape, seed=0, method="finetune", **options):
    """A network for a method, with the method's own defaults (biases, normalisation) where ``options`` say nothing."""
    chosen = network_options(method, **options)
    if spec in TINY:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return tiny(spec, shape, chosen)
    return networks.build(spec, shape, seed, chosen)


def learner(name, hypers=({},), *, lrs=None, seed=0, scenario="task-il", dtype=torch.float32, net="mlp:16-16", drop=0.0,
            input_drop=0.0, tasks=3, data="split-digits", options=(), network_settings=None, own=False,
            **training) -> Learner:  # fmt: skip
    """A learner of registered method ``name``; each of ``hypers`` is a member, ``lrs`` their learning rates.

    It has the method's own network settings, and its own training settings if ``own``; otherwise rates as by ``SLOWER``.
    """
    bench = benchmark(data, seed, tasks, scenario, **dict(options))
    method = METHODS.get(name)
    chosen = [h if not isinstance(h, dict) else hyper.build(method.Hyper, {**light(method.Hyper), **h}) for h in hypers]
    settings = hyper.build(Training, {**QUICK, **(preferred(name, Training) if own else {}), **training})
    options = {"dropout": drop, "input_dropout": input_drop, **(network_settings or {})}
    made = method(chosen[0], network(net, bench.input_shape, seed, name, **options), layout_of(bench))
    factor = 1.0 if own else SLOWER.get(name, 1.0)
    settings = replace(settings, lr_min=settings.lr_min * factor)
    members = [Member(h, lr * factor) for h, lr in zip(chosen, lrs or [settings.lr] * len(chosen), strict=True)]
    return Learner(made, bench, members, settings, seed, dtype)


def finish(learner) -> list[Report]:
    """Runs to the end; the reports alone."""
    return [said for said in learner.run() if isinstance(said, Report)]


def up_to(learner, seen) -> Learner:
    """The same learner after ``seen`` tasks."""
    for said in learner.run():
        if isinstance(said, Report) and said.seen == seen:
            return learner
    raise AssertionError(f"it never came to {seen} tasks")


def facts(reports, member=None):
    """Reports without clock times, as plain values that compare exactly, NaN with NaN."""
    kept = []
    for report in reports:
        members = [m for m in report.members if member is None or m.member == member]
        members = [replace(m, member=0) if member is not None else m for m in members]
        kept.append(repr((report.seen, [asdict(m) for m in members], [asdict(f) for f in report.failures])))
    return kept


def same(first, second) -> bool:
    """Whether two memories hold the same tensors, bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def distance(alone, packed) -> float:
    """Largest difference between a member's memory alone and in a pack, relative to 1 or the value.

    A pack of growing members allocates for its widest; what is beyond a member's own width is cut off.
    """
    assert alone.keys() == packed.keys()
    worst = 0.0
    for name, own in alone.items():
        other = packed[name][tuple(slice(n) for n in own.shape)]
        assert other.shape == own.shape, name
        gap = ((own.double() - other.double()).abs() / own.double().abs().clamp(min=1)).nan_to_num(math.inf)
        worst = max(worst, float(gap.max()) if gap.numel() else 0.0)
    return worst


def begin(learner, task=0):
    """Params, memory and position at the start of a task, as the learner makes them."""
    from clcore.methods.base import At

    at, memory, params = learner.begin(At(task, "train", task + 1), learner.memory, learner.hp, "train")
    return params, memory, at


def light(declaration):
    """Those of ``LIGHT`` that a method has."""
    return {name: value for name, value in LIGHT.items() if name in hyper.knobs(declaration)}


def spread(declaration, count, shared=None):
    """Hyperparameters of ``count`` members that differ in every packed field, as far as it has values to offer."""
    members = []
    for index in range(count):
        values = {**light(declaration), **(shared or {})}
        for name in set(hyper.packed_names(declaration)) - set(values):
            knob = hyper.knobs(declaration)[name]
            offered = knob.grid or knob.search or _around(hyper.defaults(declaration)[name], knob)
            values[name] = offered[index % len(offered)]
        members.append(hyper.build(declaration, values))
    return members


def _around(default, knob):
    if isinstance(default, bool):
        return default, not default
    low, high = (-math.inf if knob.low is None else knob.low), (math.inf if knob.high is None else knob.high)
    return (default, *(other for other in (default * 0.8 + 0.15, default * 0.8, default * 1.5) if low <= other <= high))
