"""The one training loop: a pack of members over a benchmark, task by task."""

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clcore import checkpoint, hyper
from clcore.benchmarks import Benchmark
from clcore.compiled import Compiler
from clcore.errors import BadValue
from clcore.evaluate import Evaluator
from clcore.hyper import packed_names
from clcore.methods.base import DERIVED, At, Method, Tensors
from clcore.pack import Member, member, packed, select, stack, stack_hyper
from clcore.pool import Pool, stage_pool
from clcore.randomness import torch_stream
from clcore.report import MemberFailure, MemberReport, Report, monitoring, sizes
from clcore.trainer import EVAL_BATCH, Outcome, Trainer, overrides
from clcore.training import Training


@dataclass(frozen=True)
class Progress:
    """Said at the end of every epoch: the task being learned and the epoch, both from 0."""

    task: int
    epoch: int


class Learner:
    """Trains a pack of members on a benchmark.

    Args:
        method: the method, with its network; its own ``hyper`` holds what the members share.
        benchmark: the tasks, already on the device.
        members: what differs between the members.
        training: training settings; each member's ``lr`` replaces theirs.
        seed: the trial's seed, the same for all members.
        dtype: float32; tests use float64.
        compiler: compiles steps; None: they are run as they are.

    Raises:
        BadValue: the plateau schedule or a search on validation without validation data, or members that differ in
            what a pack must have in common.
    """

    def __init__(
        self, method: Method, benchmark: Benchmark, members: Sequence[Member], training: Training, seed: int,
        dtype: torch.dtype = torch.float32, compiler: Compiler | None = None,
    ) -> None:  # fmt: skip
        self.method, self.benchmark, self.members = method, benchmark, list(members)
        self.training, self.seed, self.dtype, self.compiler = training, seed, dtype, compiler
        self.device = benchmark.tasks[0].train.labels.device
        self.evaluator = Evaluator(method, seed, dtype)
        self._require_validation()
        self._require_structure()
        self.alive = list(range(len(self.members)))
        self.hp = stack_hyper(self.members, dtype, self.device)
        self.learned: list[At] = []
        self.started = False
        weights = {n: t.to(self.device, dtype) for n, t in method.network.body_weights().items()}
        with torch_stream(seed, "start"):
            self.memory: Tensors = packed(method.start)(stack(weights, len(self.members)))

    @property
    def seen(self) -> int:
        """Tasks learned so far."""
        return len(self.learned)

    @property
    def mappings(self) -> int:
        """Sets of weights learned so far: one a task."""
        return self.seen

    def run(self) -> Iterator[Report | Progress]:
        """Learns the tasks that are left.

        Yields:
            Progress at the end of each epoch, and a report for the untrained network and after each task.
        """
        torch.set_flush_denormal(True)  # gates far below 1e-38 otherwise cost HAT's backward pass a factor of three
        if self.seen == len(self.benchmark.tasks):
            yield self._report(None)  # resumed after the last task: what was learned is said again
        if not self.started:
            begun = time.perf_counter()
            self.started = True
            report = self._report(None)
            yield replace(report, seconds=time.perf_counter() - begun, share=1 / len(self.members))
        for task in range(self.seen, len(self.benchmark.tasks)):
            if not self.alive:
                return
            yield from self._learn(task)

    def save(self, folder: Path) -> None:
        """Writes the whole state at a task boundary; :meth:`load` goes on from it bit for bit."""
        facts = {
            "alive": self.alive,
            "sizes": [at.sizes for at in self.learned],
            "pack": self._identity(),
        }
        checkpoint.write(folder, self.memory, facts)

    def load(self, folder: Path) -> None:
        """Continues from what :meth:`save` wrote.

        Raises:
            DamagedCheckpoint: it cannot be read, or is of another pack.
        """
        memory, facts = checkpoint.read_own(folder, self._identity())
        self.memory = {name: tensor.to(self.device) for name, tensor in memory.items()}
        self.alive = facts["alive"]
        self.hp = select(stack_hyper(self.members, self.dtype, self.device), self.alive)
        self.learned = [At(t, "eval", t + 1, sizes=sizes) for t, sizes in enumerate(facts["sizes"])]
        self.started = True

    def memory_of(self, index: int) -> Tensors:
        """One member's memory; ``index`` is its place in the pack the learner was made with."""
        return member(self.memory, self.alive.index(index))

    def _identity(self) -> list[str]:
        """What a checkpoint must have been made by to be continued here."""
        return [type(self.method).__name__, self.benchmark.digest, str(self.seed), str(self.dtype), *map(repr, self.members)]

    # -- one task ------------------------------------------------------------------------------------------------------

    def _learn(self, task: int) -> Iterator[Report | Progress]:
        begun = time.perf_counter()
        at = At(task, "train", task + 1)
        searched = self.method.candidates(at)
        lrs = [self.members[m].lr for m in self.alive]
        if searched is None:
            trained = yield from self._train(at, self.memory, self.hp, lrs, "train")
        else:
            trained = yield from self._search(at, *searched, lrs)
        yield self._close(trained, begun)

    def _train(self, at: At, memory: Tensors, hp: Tensors, lrs: list[float], name: str) -> Generator[Progress, None, "_Trained"]:
        at, memory, params = self.begin(at, memory, hp, name)
        ended: Outcome | None = None
        for stage in self.method.stages(at):
            trainer = Trainer(self.method, self.training, self.seed, (at.task, name, stage.name), stage.trains, self.compiler)
            train = stage_pool(stage, {t.index: t.train for t in self.benchmark.tasks}, self.dtype)
            check = stage_pool(stage, {t.index: t.validation for t in self.benchmark.tasks}, self.dtype)
            assert train is not None
            now = replace(at, stage=stage.name)
            begun = params if ended is None else self._next_stage(ended.params, memory, hp, now)
            for said in trainer.run(begun, memory, hp, lrs, now, train, check):
                if isinstance(said, Outcome):
                    ended = said if ended is None else ended.then(said)
                else:
                    yield Progress(at.task, said)
        return _Trained(at, memory, hp, ended or Outcome(params, [0] * len(lrs), [float("nan")] * len(lrs)))

    def _next_stage(self, params: Tensors, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        if not overrides(self.method, "begin_stage"):
            return params
        with torch.no_grad():
            found: Tensors = packed(lambda p, m, h: self.method.begin_stage(p, m, h, at))(params, memory, hp)
        return found

    def _search(self, at: At, knob: str, values: Sequence[float], lrs: list[float]) -> Generator[Progress, None, "_Trained"]:
        """Trains every member with every candidate value as one pack, and keeps what the method chooses on validation."""
        places = [place for place in range(len(lrs)) for _ in values]
        hp = select(self.hp, places)
        hp[knob] = torch.tensor(list(values) * len(lrs), dtype=self.dtype, device=self.device)
        memory = select(self.memory, places)
        trained = yield from self._train(at, memory, hp, [lrs[p] for p in places], "train")
        check = self.benchmark.tasks[at.task].validation
        assert check is not None
        scores = self.evaluator.accuracy(check, trained.outcome.params, trained.memory, trained.hp, trained.at).tolist()
        for failure in trained.outcome.failures:
            scores[failure.member] = float("-inf")
        count = len(values)
        picks = [p * count + self.method.choose(scores[p * count : (p + 1) * count], at) for p in range(len(lrs))]
        if self.method.retrains:
            return (yield from self._train(at, self.memory, select(trained.hp, picks), lrs, "retrain"))
        return trained.only(picks)

    def begin(self, at: At, memory: Tensors, hp: Tensors, name: str) -> tuple[At, Tensors, Tensors]:
        """The task with its sizes, the memory with what is prepared for it, and new parameters; ``name`` names the draws."""
        at = replace(at, sizes=self.method.sizes(memory, hp, at), examples=len(self.benchmark.tasks[at.task].train))
        memory = {**memory, **packed(lambda m, h: self.method.prepare(m, h, at))(memory, hp)}
        with torch_stream(self.seed, "begin", at.task, name):
            return at, memory, packed(lambda m, h: self.method.begin_task(m, h, at))(memory, hp)

    def _close(self, trained: "_Trained", begun: float) -> Report:
        """Moves what is kept into memory, lets failed members go, and measures the rest."""
        task, outcome = trained.at.task, trained.outcome
        failures = [MemberFailure(self.alive[f.member], f.task, f.epoch, f.step) for f in outcome.failures]
        sound = [p for p in range(len(self.alive)) if p not in {f.member for f in outcome.failures}]
        trained = trained.only(sound)
        members, self.alive = len(self.alive), [self.alive[p] for p in sound]
        self.hp = select(self.hp, sound)
        if not sound:
            return Report(task + 1, [], failures, time.perf_counter() - begun, 1 / members)
        self._keep(trained)
        report = self._report(trained.outcome)
        return replace(report, failures=failures, seconds=time.perf_counter() - begun, share=1 / members)

    def skim(self, task: int) -> None:
        """Learns a task without choosing or measuring anything, for who asks what is kept of it and not how good that is."""
        running = self._train(At(task, "train", task + 1), self.memory, self.hp, [self.members[m].lr for m in self.alive], "train")
        while True:
            try:
                next(running)
            except StopIteration as ended:
                self._keep(ended.value)
                return

    def _keep(self, trained: "_Trained") -> None:
        """Moves what is kept of a task into memory."""
        task = trained.at.task
        pool = Pool({task: self.benchmark.tasks[task].train}, self.dtype)

        def end(params: Tensors, memory: Tensors, hp: Tensors) -> Tensors:
            return self.method.end_task(params, memory, hp, trained.at, pool.batches(EVAL_BATCH))

        with torch.no_grad(), torch_stream(self.seed, "end", task):
            memory = packed(end)(trained.outcome.params, trained.memory, trained.hp)
        self.memory = {name: t for name, t in memory.items() if not name.startswith(DERIVED)}
        at = At(task, "eval", task + 1)
        self.learned.append(replace(at, sizes=self.method.sizes(self.memory, self.hp, at)))

    # -- measuring -----------------------------------------------------------------------------------------------------

    def _report(self, outcome: Outcome | None) -> Report:
        validation, test, inferred = self._rows()
        fitted = self._fitted()
        members = []
        for place, index in enumerate(self.alive):
            own, hp = member(self.memory, place), member(self.hp, place)
            facts: dict[str, Any] = sizes(self.method, own, hp)
            if outcome is not None:
                facts |= {"epochs": outcome.epochs[place], "train_loss": outcome.train_loss[place]}
            facts |= monitoring(self.method, own, self.seen)
            if len(inferred) == self.seen:
                facts["inferred"] = [taken[place].tolist() for taken in inferred]
            facts["fitted"] = [[inputs, values, said[place]] for inputs, values, said in fitted]
            members.append(MemberReport(index, validation[place].tolist(), test[place].tolist(), **facts))
        return Report(self.seen, members, [], 0.0)

    def _rows(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Validation and test accuracy, each [members, tasks]: tasks learned, and - test only - the next one untrained.

        And, of each task evaluated without being given, the share of its test examples taken for each task.
        """
        tasks = self.benchmark.tasks
        validation = torch.full((len(self.alive), len(tasks)), float("nan"), dtype=torch.float64)
        test = validation.clone()
        learned = [replace(at, seen=self.seen) for at in self.learned]
        inferred: list[Tensor] = []
        every = self.training.measures_all(self.seen, len(tasks))
        for task in tasks:
            if task.index < self.seen and (every or task.index == self.seen - 1):
                now: tuple[Any, ...] = ({}, self.memory, self.hp, learned[task.index], learned)
                if task.validation is not None:
                    validation[:, task.index] = self.evaluator.accuracy(task.validation, *now)
                if self.evaluator.infers:
                    test[:, task.index], taken = self.evaluator.inferred(self.benchmark.test(task.index), *now[1:])
                    inferred.append(taken)
                else:
                    test[:, task.index] = self.evaluator.accuracy(self.benchmark.test(task.index), *now)
            elif task.index == self.seen or (self.seen == 0 and self.training.evaluate_every == 1):
                test[:, task.index] = self._untrained(task.index)
        return validation, test, inferred

    def _fitted(self) -> list[tuple[list[float], list[float], list[list[float]]]]:
        """Of each task so far test inputs, values, and what each member says, where these are curves."""
        if self.benchmark.targets != "values" or self.benchmark.input_shape != (1, 1, 1):
            return []
        curves = []
        for at in self.learned:
            test = self.benchmark.test(at.task)
            said = self.evaluator.decisions(test, {}, self.memory, self.hp, replace(at, seen=self.seen))
            inputs, values = test.batch(torch.arange(len(test), device=test.rows.device), self.dtype)
            curves.append((inputs.flatten().tolist(), values.tolist(), said.tolist()))
        return curves

    def _untrained(self, task: int) -> Tensor:
        """Test accuracy on a task that has only begun: for forward transfer."""
        at, memory, params = self.begin(At(task, "eval", task + 1), self.memory, self.hp, "train")
        return self.evaluator.accuracy(self.benchmark.test(task), params, memory, self.hp, at)

    def _require_structure(self) -> None:
        packed_fields = packed_names(type(self.method.hyper))
        for name in hyper.knobs(type(self.method.hyper)):
            values = {getattr(m.hyper, name) for m in self.members}
            if name not in packed_fields and values != {getattr(self.method.hyper, name)}:
                raise BadValue(name, sorted(map(str, values)), "the same for all members of a pack")

    def _require_validation(self) -> None:
        at = At(0, "train", 1)
        wanted = self.method.candidates(at) or (self.training.protocol == "plateau" and self.method.stages(at))
        if wanted and any(task.validation is None for task in self.benchmark.tasks):
            raise BadValue("validation", "none", "split or train-copy here: something is chosen on it (or --set protocol=fixed)")


@dataclass(frozen=True)
class _Trained:
    """A pack after training, before anything is moved into memory."""

    at: At
    memory: Tensors
    hp: Tensors
    outcome: Outcome

    def only(self, places: list[int]) -> "_Trained":
        """The chosen members."""
        old = self.outcome
        failures = [replace(f, member=places.index(f.member)) for f in old.failures if f.member in places]
        outcome = Outcome(
            select(old.params, places), [old.epochs[p] for p in places], [old.train_loss[p] for p in places], failures
        )
        return replace(self, memory=select(self.memory, places), hp=select(self.hp, places), outcome=outcome)
