"""A trial without task ids: a method on the stream of a benchmark, with the outside of :class:`clcore.learner.Learner`.

The stream says nothing of tasks to the method. What is reported, and when, goes by the true tasks.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from clcore import checkpoint
from clcore.benchmarks import Benchmark, Split
from clcore.errors import BadValue
from clcore.learner import Progress
from clcore.methods.base import Batch, Method, Tensors
from clcore.pack import Member, member
from clcore.randomness import torch_stream
from clcore.report import MemberFailure, MemberReport, Report, monitoring, sizes
from clcore.streams.learner import StreamLearner
from clcore.streams.sampler import Stream
from clcore.training import Training


class StreamRun:
    """Learns a benchmark's tasks as one stream.

    Args:
        method: one with a watch, made for a domain-il layout of as many tasks as there may be mappings.
        benchmark: in scenario task-free, on the device.
        members: one; members of a pack would see new tasks at different times.
        training: ``epochs`` is how often each task's data are gone through, ``iterations`` the most batches a task.
        seed: the trial's seed.
        dtype: float32; tests use float64.

    Raises:
        BadValue: several members, a method without a watch, settings that need epochs, or a stream that cannot be.
    """

    def __init__(
        self, method: Method, benchmark: Benchmark, members: Sequence[Member], training: Training, seed: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        if len(members) != 1:
            raise BadValue("members", len(members), "1 in scenario task-free")
        _require_no_epochs(training)
        watch = method.watch()
        if watch is None:
            raise BadValue("method", type(method).__name__, "one with a watch in scenario task-free")
        self.method, self.benchmark, self.members = method, benchmark, list(members)
        self.training, self.seed, self.dtype = replace(training, lr=members[0].lr), seed, dtype
        passes, limit = training.epochs, training.iterations
        self.stream = Stream(benchmark, training.batch_size, passes, training.transition, seed, dtype, limit)
        device = benchmark.tasks[0].train.labels.device
        self.learner = StreamLearner(method, self.training, watch, seed, device, dtype)
        self.alive, self.started = [0], False
        self.losses: list[float] = []

    @property
    def seen(self) -> int:
        """Tasks whose part of the stream has passed."""
        return sum(end <= self.learner.seen.step for end in self.stream.ends)

    @property
    def mappings(self) -> int:
        """Mappings begun so far."""
        return self.learner.mappings

    def run(self) -> Iterator[Report | Progress]:
        """Learns what is left of the stream.

        Yields:
            Progress after each pass over a task's data, and a report for the untrained network and when each task has passed.
        """
        torch.set_flush_denormal(True)  # as in Learner.run
        if self.seen == len(self.benchmark.tasks):
            yield self._report()  # resumed at the end of the stream: what was learned is said again
        begun = time.perf_counter()
        if not self.started:
            self.started = True
            report = self._report()
            yield replace(report, seconds=time.perf_counter() - begun)
            begun = time.perf_counter()
        for batch in self.stream.batches(self.learner.seen.step):
            task, before = self.seen, self.learner.seen.step
            losses = self.learner.feed(Batch(batch.inputs, batch.labels))
            self.losses += losses
            if not all(map(isfinite, losses)):
                yield self._failed(task, before, begun)
                return
            if self.seen == task:
                yield from self._progress(task)
                continue
            report = self._report()
            yield replace(report, seconds=time.perf_counter() - begun)
            begun, self.losses = time.perf_counter(), []

    def save(self, folder: Path) -> None:
        """Writes the whole state where a report was given; :meth:`load` goes on from it bit for bit."""
        tensors, facts = self.learner.state()
        checkpoint.write(folder, tensors, {"learner": facts, "alive": self.alive, "pack": self._identity()})

    def load(self, folder: Path) -> None:
        """Continues from what :meth:`save` wrote.

        Raises:
            DamagedCheckpoint: it cannot be read, or is of another trial.
        """
        tensors, facts = checkpoint.read_own(folder, self._identity())
        self.learner.restore(tensors, facts["learner"])
        self.alive, self.started = facts["alive"], True

    def memory_of(self, index: int) -> Tensors:
        """The member's memory as if the stream ended now; before it began, without a mapping. ``index`` is 0."""
        return member(self.learner.memory_now() if self.seen else self.learner.memory, index)

    def _identity(self) -> list[str]:
        """What a checkpoint must have been made by to be continued here."""
        named = (type(self.method).__name__, self.benchmark.digest, self.seed, self.dtype, self.training, *self.members)
        return [str(part) for part in named]

    # -- what is said --------------------------------------------------------------------------------------------------

    def _progress(self, task: int) -> Iterator[Progress]:
        a_pass = -(-len(self.benchmark.tasks[task].train) // self.training.batch_size)
        since = self.learner.seen.step - self._start(task)
        if since % a_pass == 0:
            yield Progress(task, since // a_pass - 1)

    def _failed(self, task: int, step: int, begun: float) -> Report:
        self.alive = []
        step -= self._start(task)
        epoch = step * self.training.batch_size // len(self.benchmark.tasks[task].train)
        return Report(task + 1, [], [MemberFailure(0, task, epoch, step)], time.perf_counter() - begun)

    def _start(self, task: int) -> int:
        """The first batch of a task."""
        return self.stream.ends[task] - self.stream.lengths[task]

    def _report(self) -> Report:
        own = self.memory_of(0)
        facts: dict[str, Any] = sizes(self.method, own, member(self.learner.hp, 0))
        if self.losses:
            used = self.stream.lengths[self.seen - 1] * self.training.batch_size
            facts |= {"epochs": -(-used // len(self.benchmark.tasks[self.seen - 1].train))}
            facts |= {"train_loss": sum(self.losses) / len(self.losses)}
        if self.seen:
            facts |= monitoring(self.method, own, self.mappings)
        validation, test, inferred = self._rows()
        return Report(self.seen, [MemberReport(0, validation, test, inferred=inferred, **facts)], [], 0.0)

    def _rows(self) -> tuple[list[float], list[float], list[list[float]]]:
        """Validation and test accuracy of each task without ids: tasks so far, and - test only - the next one.

        And, of each task so far, the share of its test examples taken for each mapping.
        """
        tasks, seen = self.benchmark.tasks, self.seen
        every = self.training.measures_all(seen, len(tasks))
        old = [task.index for task in tasks if task.index < seen and (every or task.index == seen - 1)]
        ahead = [task.index for task in tasks if task.index == seen or (seen == 0 and self.training.evaluate_every == 1)]
        checks = {t: split for t in old if (split := tasks[t].validation) is not None}
        validation, _ = self._measured(checks)
        test, shares = self._measured({t: self.benchmark.test(t) for t in [*old, *ahead]})
        return validation, test, shares[:seen] if every else []

    def _measured(self, splits: dict[int, Split]) -> tuple[list[float], list[list[float]]]:
        """Accuracy on every task, NaN on those not asked for, and the shares of those asked for."""
        accuracy = [float("nan")] * len(self.benchmark.tasks)
        if not splits:
            return accuracy, []
        with torch_stream(self.seed, "decide", self.seen):
            rights, table = self.learner.measure(list(splits.values()))
        for task, right in zip(splits, rights, strict=True):
            accuracy[task] = right
        return accuracy, table.tolist()


def _require_no_epochs(training: Training) -> None:
    for name, wanted in (("protocol", "fixed"), ("lr_schedule", "constant")):
        if getattr(training, name) != wanted:
            raise BadValue(name, getattr(training, name), f"{wanted} in scenario task-free, where nobody knows when a task ends")
