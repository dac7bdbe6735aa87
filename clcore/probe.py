"""How long a step takes: a few steps of the real loop, with nothing kept."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from clcore.learner import Learner
from clcore.methods.base import At
from clcore.pool import stage_pool
from clcore.recorded import Recorder
from clcore.trainer import Run, Trainer


@dataclass(frozen=True)
class Probe:
    """What was measured for a whole pack.

    Attributes:
        step: seconds of one training step.
        validation: seconds of one pass over a task's validation data.
        steps: steps of one epoch.
        bytes: bytes of the state of one member.
    """

    step: float
    validation: float
    steps: int
    bytes: int


def probe(learner: Learner, warm_up: int, seconds: float) -> Probe:
    """Measures the first task's steps.

    Args:
        learner: a fresh learner; its state is not changed.
        warm_up: steps before the clock starts.
        seconds: how long to measure, at least one step.
    """
    torch.set_flush_denormal(True)  # as in Learner.run
    at, memory, params = learner.begin(At(0, "train", 1), learner.memory, learner.hp, "train")
    size = sum(t.numel() * t.element_size() for t in {**memory, **params}.values()) // len(learner.members)
    stages = learner.method.stages(at)
    if not stages:
        return Probe(0.0, 0.0, 0, size)
    stage = stages[-1]  # a fit that goes before, like VCL's, is the cheaper part
    train = stage_pool(stage, {0: learner.benchmark.tasks[0].train}, learner.dtype)
    check = stage_pool(stage, {0: learner.benchmark.tasks[0].validation}, learner.dtype)
    assert train is not None
    recorder = learner.compiler or Recorder(patience=0)
    trainer = Trainer(learner.method, learner.training, learner.seed, ("probe",), stage.trains, recorder)
    run = Run(trainer, params, memory, learner.hp, [member.lr for member in learner.members])
    batch_size = learner.training.batch_size
    batch = train.batch(torch.arange(min(batch_size, len(train)), device=train.device))
    now = replace(at, progress=0.5, consumed=0.5, stage=stage.name, epochs=learner.training.epochs)
    step = _time_steps(lambda: run.step(batch, now), warm_up, seconds)
    begun = time.perf_counter()
    if check is not None:
        run.validate(at, check).tolist()
    return Probe(step, time.perf_counter() - begun, -(-len(train) // batch_size), size)


def _time_steps(step: Callable[[], None], warm_up: int, seconds: float) -> float:
    for _ in range(warm_up):
        step()
    begun, count = time.perf_counter(), 0
    while not count or time.perf_counter() - begun < seconds:
        step()
        count += 1
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - begun) / count
