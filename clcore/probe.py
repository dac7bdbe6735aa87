"""How long a step takes: a few steps of the real loop, of a task that has one before it.

What most methods do only then - hold weights, mask gradients, replay, distil - is a good part of their steps.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from clcore.benchmarks import Split
from clcore.learner import Learner
from clcore.methods.base import At, Tensors
from clcore.methods.keeping import size_of
from clcore.pack import select
from clcore.pool import stage_pool
from clcore.recorded import Recorder
from clcore.trainer import EVAL_BATCH, Run, Trainer

#: Examples of the first task, which is only there to be remembered.
SEEN = EVAL_BATCH
#: Times that a step is measured; the least counts: what else a machine does meanwhile only adds.
ROUNDS = 3
#: How a task is learned that is only there to be remembered: a step a stage, and nothing chosen.
BRIEF: Mapping[str, Any] = {"epochs": 1, "iterations": 1, "protocol": "fixed"}


@dataclass(frozen=True)
class Probe:
    """What was measured for a whole pack.

    Attributes:
        step: seconds of one training step.
        validation: seconds of one pass over a task's validation data.
        steps: steps of one epoch of all stages.
        bytes: bytes of the state of one member while it learns its last task, about.
    """

    step: float
    validation: float
    steps: int
    bytes: int


def remembering(learner: Learner) -> Learner:
    """A fresh learner after a task of which it has seen a few examples; where there is only one task, as it is."""
    benchmark, training = learner.benchmark, learner.training
    if len(benchmark.tasks) > 1:
        first = benchmark.tasks[0]
        brief = replace(first, train=_few(first.train), validation=None if first.validation is None else _few(first.validation))
        learner.benchmark = replace(benchmark, tasks=(brief, *benchmark.tasks[1:]))
        learner.training = replace(training, **BRIEF)
        learner.skim(0)
        learner.benchmark, learner.training = benchmark, training
    return learner


def probe(learner: Learner, earlier: Learner, warm_up: int, seconds: float) -> Probe:
    """Measures steps of the task that comes next.

    Args:
        learner: a fresh one; it is of no other use afterwards.
        earlier: one of a single member like those of ``learner``, as :func:`remembering` gives it; each begins where it is.
        warm_up: steps before the clock starts.
        seconds: how long to measure, at least one step in each of three rounds.
    """
    torch.set_flush_denormal(True)  # as in Learner.run
    splits, at = learner.benchmark.tasks, At(earlier.seen, "train", earlier.seen + 1)
    start = size_of(learner.memory) // len(learner.members)
    at, memory, params = learner.begin(at, select(earlier.memory, [0] * len(learner.members)), learner.hp, "train")
    size = start + size_of(params) // len(learner.members) + (len(splits) - 1) * _grown(earlier.memory, start, len(splits[0].train))
    stages = learner.method.stages(at)
    if not stages:
        return Probe(0.0, 0.0, 0, size)
    stage = stages[-1]  # a fit that goes before, like VCL's, is the cheaper part
    train = stage_pool(stage, {t.index: t.train for t in splits}, learner.dtype)
    check = stage_pool(stage, {t.index: t.validation for t in splits}, learner.dtype)
    assert train is not None
    recorder = learner.compiler or Recorder(patience=0)
    trainer = Trainer(learner.method, learner.training, learner.seed, ("probe",), stage.trains, recorder)
    run = Run(trainer, params, memory, learner.hp, [member.lr for member in learner.members])
    batch_size = learner.training.batch_size
    batch = train.batch(torch.arange(min(batch_size, len(train)), device=train.device))
    now = replace(at, progress=0.5, consumed=0.5, stage=stage.name, epochs=learner.training.epochs)
    step = min(time_steps(lambda: run.step(batch, now), warm_up, seconds / ROUNDS) for _ in range(ROUNDS))
    begun = time.perf_counter()
    if check is not None:
        run.validate(at, check).tolist()
    return Probe(step, time.perf_counter() - begun, len(stages) * -(-len(train) // batch_size), size)


def _few(split: Split) -> Split:
    """Some examples of all of a split, in its order."""
    chosen = torch.arange(0, len(split), max(1, len(split) // SEEN), device=split.rows.device)[:SEEN]
    return replace(split, rows=split.rows[chosen], labels=split.labels[chosen])


def _grown(memory: Tensors, start: int, examples: int) -> int:
    """Bytes that a task adds to a member's memory: what has a row an example would have one for all of them."""
    few = min(SEEN, examples)
    per_example = size_of({name: tensor for name, tensor in memory.items() if tensor.dim() > 1 and tensor.shape[1] == few})
    return max(size_of(memory) - start, 0) + per_example * (examples - few) // few


def time_steps(step: Callable[[], object], warm_up: int, seconds: float) -> float:
    """Seconds of one call; those before the clock starts are not counted, and what a GPU still has to do is waited for.

    Args:
        step: what is timed.
        warm_up: calls before the clock starts.
        seconds: how long to measure, at least one call.
    """
    for _ in range(warm_up):
        step()
    _wait()
    begun, count = time.perf_counter(), 0
    while not count or time.perf_counter() - begun < seconds:
        step()
        count += 1
    _wait()
    return (time.perf_counter() - begun) / count


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
