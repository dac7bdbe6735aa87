"""Training without a sweep: from names to a learner, and from a learner to its reports."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import torch

from clcore import benchmarks, hyper, networks
from clcore.benchmarks import Benchmark, BenchmarkOptions
from clcore.compiled import Compiler
from clcore.errors import BadValue
from clcore.forked import ForkedLearner, Leg
from clcore.learner import Learner
from clcore.methods import METHODS, Layout, Method
from clcore.networks import Network, NetworkOptions
from clcore.pack import Member
from clcore.report import Report
from clcore.streams import StreamRun
from clcore.training import Training

TASK_FREE: Final = "task-free"
#: Most mappings of a stream: far more than tasks, so that it does not tell how many these are, and yet an end to a runaway watch.
MOST_MAPPINGS, MAPPINGS_A_TASK = 100, 2


def make_learner(
    method: str, members: Sequence[Mapping[str, Any]], benchmark: Benchmark, network: Network,
    training: Mapping[str, Any], seed: int = 0, compiled: bool = False, before: Sequence[tuple[int, Mapping[str, Any]]] = (),
) -> Learner | StreamRun:  # fmt: skip
    """A learner for a pack; in scenario task-free a run of one member over a stream.

    Args:
        method: name or file.
        members: hyperparameters of each member, and ``lr`` where it differs from the training's.
        benchmark: on the device to train on.
        network: as drawn for the seed, on the same device.
        training: training settings that differ from their defaults.
        seed: of all randomness.
        compiled: whether steps are compiled (not those of a stream).
        before: how the first tasks are learned where they are learned otherwise: until which task (from 0, exclusive), and which
            hyperparameters and training settings are other than ``members`` and ``training`` say; in order (not for a stream).

    Raises:
        UserError: an unknown name, a bad value, members that differ in what a pack must have in common, or a method that
            cannot learn without being told tasks.
    """
    cls = METHODS.get(method)
    settings = _settings(method, benchmark.scenario, training)
    _require_stream(method, benchmark.scenario, settings)
    _require_targets(method, benchmark)
    pack = _pack(cls.Hyper, members, settings)
    made = cls(pack[0].hyper, network, layout_of(benchmark))
    if benchmark.scenario == TASK_FREE:
        if before:
            raise BadValue("scenario", TASK_FREE, "one with tasks here: a stream has no boundary to change values at")
        return StreamRun(made, benchmark, pack, settings, seed)
    compiler = Compiler() if compiled else None
    if not before:
        return Learner(made, benchmark, pack, settings, seed, compiler=compiler)
    legs = []
    for until, values in before:
        changed = {name: value for name, value in values.items() if name in hyper.knobs(Training)}
        own = {name: value for name, value in values.items() if name not in changed or name == "lr"}
        then = _settings(method, benchmark.scenario, {**training, **changed})
        legs.append(Leg(until, _pack(cls.Hyper, [{**member, **own} for member in members], then), then))
    return ForkedLearner(made, benchmark, [*legs, Leg(len(benchmark.tasks), pack, settings)], seed, compiler=compiler)


def _settings(method: str, scenario: str, training: Mapping[str, Any]) -> Training:
    settings: Training = hyper.build(Training, {**preferred(method, Training, scenario), **training})
    return settings


def _pack(declaration: type, members: Sequence[Mapping[str, Any]], settings: Training) -> list[Member]:
    pack = []
    for member in members:
        own = {name: value for name, value in member.items() if name != "lr"}
        lr = hyper.convert(Training, "lr", member.get("lr", settings.lr))
        pack.append(Member(hyper.build(declaration, own), lr))
    return pack


def benchmark_of(said: Mapping[str, Any], seed: int, data_dir: Path | None) -> Benchmark:
    """The benchmark that a configuration names: ``name``, and ``options`` of :class:`BenchmarkOptions`."""
    return benchmarks.build(said["name"], BenchmarkOptions(**said["options"]), seed, data_dir)


def network_of(said: Mapping[str, Any], input_shape: tuple[int, int, int], seed: int) -> Network:
    """The network that a configuration names: ``spec``, and options of :class:`NetworkOptions` beside it."""
    options = {name: value for name, value in said.items() if name != "spec"}
    return networks.build(said["spec"], input_shape, seed, NetworkOptions(**options))


def layout_of(benchmark: Benchmark) -> Layout:
    """What a method may know of a benchmark; of a stream neither the tasks nor their number, only that labels are shared."""
    split = benchmark.tasks[0].train
    low, high = ((value - split.mean) / split.std for value in (0.0, 1.0))  # raw values are at most the scale
    outputs = tuple(len(task.classes) for task in benchmark.tasks)
    shape = tuple(benchmark.input_shape)
    if benchmark.scenario == TASK_FREE:
        mappings = max(MOST_MAPPINGS, MAPPINGS_A_TASK * len(outputs))
        return Layout("domain-il", outputs[:1] * mappings, low, high, shape)
    levels = int(split.scale) if split.images.dtype == torch.uint8 else 0
    return Layout(benchmark.scenario, outputs, low, high, shape, benchmark.targets, levels)


def _require_stream(method: str, scenario: str, settings: Training) -> None:
    """Whether a method can learn a stream, where there is one, and whether only a stream is given a transition."""
    if scenario != TASK_FREE:
        if settings.transition:
            raise BadValue("transition", settings.transition, f"0 in scenario {scenario}: only {TASK_FREE} has one")
        return
    able = [name for name in METHODS.names() if METHODS.get(name).watch is not Method.watch]
    if METHODS.get(method).watch is Method.watch:
        raise BadValue("method", method, f"one that finds tasks by itself in scenario {TASK_FREE}: {', '.join(able)}")


def _require_targets(method: str, benchmark: Benchmark) -> None:
    """Whether a method can learn what a benchmark asks for."""
    if benchmark.targets == "values" and not METHODS.get(method).regresses:
        able = [name for name in METHODS.names() if METHODS.get(name).regresses]
        raise BadValue("method", method, f"one that can learn values for {benchmark.name}: {', '.join(able)}")


def preferred(method: str, declaration: type, scenario: str = "task-il") -> dict[str, Any]:
    """A method's own defaults (:attr:`Method.defaults`) for the fields of a settings dataclass.

    A stream (task-free) is gone through once, whatever number of epochs a method takes where it may repeat a task.

    Raises:
        UnknownName: no such method.
    """
    known = hyper.knobs(declaration)
    own = {**METHODS.get(method).defaults, **({"epochs": 1} if scenario == TASK_FREE else {})}
    return {name: value for name, value in own.items() if name in known}


def network_options(method: str, **settings: Any) -> NetworkOptions:
    """Options of a network for a method: its own defaults, and ``settings`` before them."""
    return NetworkOptions(**{**_own(method, NetworkOptions), **settings})


def _own(method: str, options: Any) -> dict[str, Any]:
    """A method's own defaults for the fields of an options dataclass."""
    known = {field.name for field in fields(options)}
    return {name: value for name, value in METHODS.get(method).defaults.items() if name in known}


def train(
    method: str,
    members: Sequence[Mapping[str, Any]] = ({},),
    benchmark: str = "split-digits",
    network: str = "mlp:100-100",
    seed: int = 0,
    data_dir: Path | None = None,
    **training: Any,
) -> list[Report]:
    """Trains a pack on a benchmark, task by task, on the CPU.

    Args:
        method: name or file, e.g. ``"hat"``.
        members: hyperparameters of each member of the pack; by default one member with the defaults.
        benchmark: name or file.
        network: for instance ``"mlp:100-100"``.
        seed: of all randomness.
        data_dir: where data files are.
        **training: training settings that differ from their defaults, e.g. ``epochs=20``.

    Returns:
        A report for the untrained network and one after each task.

    Raises:
        UserError: an unknown name or a bad value.
    """
    made = benchmarks.build(benchmark, BenchmarkOptions(**_own(method, BenchmarkOptions)), seed, data_dir)
    net = networks.build(network, made.input_shape, seed, network_options(method))
    learner = make_learner(method, members, made, net, training, seed)
    return [said for said in learner.run() if isinstance(said, Report)]
