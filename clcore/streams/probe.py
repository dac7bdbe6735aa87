"""How long a batch of a stream takes: a few of the real ones, watched and learned, with nothing kept."""

import time
from itertools import cycle

import torch

from clcore.methods.base import Batch
from clcore.methods.keeping import size_of
from clcore.probe import Probe
from clcore.streams.run import StreamRun


def probe_stream(run: StreamRun, warm_up: int, seconds: float) -> Probe:
    """Measures the first batches of the first task, and one pass over its validation data.

    Args:
        run: a fresh one; it is of no other use afterwards.
        warm_up: batches before the clock starts.
        seconds: how long to measure, at least one batch.
    """
    torch.set_flush_denormal(True)  # as in StreamRun.run
    learner, count, begun = run.learner, 0, 0.0
    size = size_of(learner.state()[0])
    for batch in cycle(run.stream.batches()):
        if count == warm_up:
            begun = time.perf_counter()
        learner.feed(Batch(batch.inputs, batch.labels))
        count += 1
        if count > warm_up and time.perf_counter() - begun >= seconds:
            break
    step, begun = (time.perf_counter() - begun) / (count - warm_up), time.perf_counter()
    task = run.benchmark.tasks[0]
    if task.validation is not None:
        learner.measure([task.validation])
    validation = (time.perf_counter() - begun) / run.training.epochs  # a task is validated once, not once a pass
    return Probe(step, validation, -(-len(task.train) // run.training.batch_size), size)
