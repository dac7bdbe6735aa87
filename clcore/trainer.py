"""One stage of one task: a pack trained to its end. The loop every method shares."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from clcore.methods.base import STATE, At, Batch, Method, Tensors
from clcore.networks.norm import recording
from clcore.optim import OPTIMIZERS, add_decay, clip_by_norm
from clcore.pack import packed, select
from clcore.pool import Pool
from clcore.randomness import numpy_stream, torch_stream
from clcore.recorded import Recorded, Recorder
from clcore.training import Plateau, Training
from clcore.walk import Walk

#: Rows of a batch where nothing is learned; larger ones gain nothing on a CPU and cost memory in a pack.
EVAL_BATCH = 1024
#: Share of the newest batch in running statistics (torch's default; SupSup's and HNET's code).
MOMENTUM = 0.1


@dataclass(frozen=True)
class Failure:
    """A member whose loss stopped being a number.

    Attributes:
        member: its place in the pack.
        task: the task, from 0.
        epoch: the epoch, from 0.
        step: the step within the task, from 0.
    """

    member: int
    task: int
    epoch: int
    step: int


@dataclass
class Outcome:
    """What a stage, or all stages of a task so far, ended in.

    Attributes:
        params: of every member (failed ones hold their last), shape [members, ...].
        epochs: epochs each member trained.
        train_loss: mean loss of each member's last epoch; of several stages, of the first: it learns the task itself.
        failures: members that failed, once each.
    """

    params: Tensors
    epochs: list[int]
    train_loss: list[float]
    failures: list[Failure] = field(default_factory=list)

    def then(self, later: "Outcome") -> "Outcome":
        """This stage and the one after it."""
        failed = {failure.member for failure in self.failures}
        failures = [*self.failures, *(failure for failure in later.failures if failure.member not in failed)]
        epochs = [before + after for before, after in zip(self.epochs, later.epochs, strict=True)]
        return Outcome(later.params, epochs, self.train_loss, failures)


class Trainer:
    """Trains the members of a pack on one stage.

    Members whose schedule has ended, or whose loss is no number any more, leave the pack at the end of the epoch: the rule
    depends on nothing but the numbers, so a pack trains the same way every time.

    Args:
        method: the method.
        training: settings; each member has its own learning rate.
        seed: the trial's seed.
        name: prefix of the stage's random streams.
        trains: prefixes of the parameters it trains; None: all.
        recorder: makes programs of its steps; None: one of its own, which records them.
    """

    def __init__(
        self, method: Method, training: Training, seed: int, name: tuple[str | int, ...], trains: tuple[str, ...] | None = None,
        recorder: Recorder | None = None,
    ) -> None:  # fmt: skip
        self.method, self.training, self.seed, self.name, self.trains = method, training, seed, name, trains
        self.recorder = recorder or Recorder()
        self.optimizer = OPTIMIZERS[training.optimizer]
        self.limit = training.clip or method.clip

    def start(self, params: Tensors) -> Tensors:
        """A fresh optimiser state for the parameters that are trained."""
        return self.optimizer.init(self.trained(params), members=1)

    def trained(self, params: Tensors) -> Tensors:
        """Those of ``params`` that the stage trains."""
        return {n: p for n, p in params.items() if not n.startswith(STATE) and (self.trains is None or n.startswith(self.trains))}

    def run(
        self, params: Tensors, memory: Tensors, hp: Tensors, lrs: list[float], at: At, train: Pool, check: Pool | None
    ) -> Iterator[Outcome | int]:
        """Trains to the end of the schedule.

        Args:
            params: shape [members, ...], as all tensors here.
            memory: fixed meanwhile.
            hp: packed hyperparameters, shape [members].
            lrs: first learning rate of each member.
            at: the task.
            train: what is learned from.
            check: validation data; None where there are none.

        Yields:
            The number of each epoch as it ends, and last the outcome.
        """
        run = Run(self, params, memory, hp, lrs)
        for epoch in range(self.training.epochs):
            run.epoch(epoch, at, train)
            run.judge(epoch, at, check)
            yield epoch
            if not run.active or self._spent(run):
                break
        yield run.finish()

    def _spent(self, run: "Run") -> bool:
        return bool(self.training.iterations) and run.steps >= self.training.iterations

    def packed_step(
        self, params: Tensors, state: Tensors, memory: Tensors, hp: Tensors, lr: Tensor, batch: Batch, at: At
    ) -> tuple[Tensors, Tensors, Tensor]:
        """One step of the pack: gradient, protection, clipping, optimiser, constraint - in the order of HAT's code.

        Members do not touch each other, so the gradient of the sum of their losses holds the gradient of each; taking it
        outside of vmap costs a third less than inside.

        Returns:
            Parameters, optimiser state, and each member's loss before the step, shape [members].
        """
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in self.trained(params).items()}
        losses, seen = self.losses({**params, **leaves}, memory, hp, batch, at)
        found = torch.autograd.grad(losses.sum(), list(leaves.values()), materialize_grads=True)
        grads = dict(zip(leaves, found, strict=True))

        with torch.no_grad():
            rates, hp = self.rates(grads, hp, lr), {**hp, "loss": losses.detach(), "lr": lr}
            params, state = self._update(grads, params, state, memory, hp, rates, at)
            params = {**params, **{n: torch.lerp(params[n], s, MOMENTUM) for n, s in seen.items() if n in params}}
        return params, state, losses.detach()

    def losses(self, params: Tensors, memory: Tensors, hp: Tensors, batch: Batch, at: At) -> tuple[Tensor, Tensors]:
        """Each member's loss on one batch, shape [members], and what its normalisations saw, by name of their state."""
        norms = self.method.network.norm_modules

        def one(p: Tensors, m: Tensors, h: Tensors, *data: Any) -> tuple[Tensor, Tensors]:
            with recording(norms) as seen:
                loss = self.method.loss(p, m, h, at, Batch(*data))
            return loss, {f"{STATE}{norm}.{part}": value for norm, parts in seen.items() for part, value in parts.items()}

        result: tuple[Tensor, Tensors] = packed(one, shared=3)(params, memory, hp, batch.inputs, batch.labels, batch.tasks)
        return result

    def validation_losses(self, trees: list[Tensors], tensors: list[Tensor], at: At) -> list[Tensor]:
        """As :meth:`losses`, at the end of training: of parameters, memory and hyperparameters, and the parts of a batch."""
        final = replace(at, phase="eval", progress=1.0, consumed=1.0)
        return [self.losses(trees[0], trees[1], trees[2], Batch(*tensors), final)[0]]

    def rates(self, names: Iterable[str], hp: Tensors, lr: Tensor) -> Tensors:
        """The learning rate of each parameter, shape [members]."""
        factors = packed(self.method.rates)(hp) if overrides(self.method, "rates") else {}
        found = {name: next((f for prefix, f in factors.items() if name.startswith(prefix)), None) for name in names}
        return {name: lr if factor is None else lr * factor for name, factor in found.items()}

    def _update(
        self, grads: Tensors, params: Tensors, state: Tensors, memory: Tensors, hp: Tensors, rates: Tensors, at: At
    ) -> tuple[Tensors, Tensors]:
        """The pack's parameters and optimiser state after a step with ``grads``."""
        before, own = params, grads
        grads = add_decay(grads, params, self.training.weight_decay)
        if overrides(self.method, "condition"):
            grads = packed(partial(self._conditioned, at=at))(grads, params, state, memory, hp, rates)
        grads = clip_by_norm(grads, self.limit, members=1)
        params, state = self.optimizer.update(grads, state, params, rates, self.training.momentum)
        params = packed(self.method.constrain)(params) if overrides(self.method, "constrain") else params
        if overrides(self.method, "after_step"):
            params = packed(self.method.after_step)(params, before, own, hp)
        return params, state

    def _conditioned(
        self, grads: Tensors, params: Tensors, state: Tensors, memory: Tensors, hp: Tensors, rates: Tensors, at: At
    ) -> Tensors:
        def preview(raw: Tensors) -> Tensors:
            moves, _ = self.optimizer.direction(raw, state, self.training.momentum)
            return {name: -rates[name] * move for name, move in moves.items()}

        return self.method.condition(grads, params, memory, hp, at, preview)


def overrides(method: Method, function: str) -> bool:
    """Whether a method has its own version of a function of the contract, so that the default need not be run."""
    return getattr(type(method), function) is not getattr(Method, function)


class Run:
    """The moving parts of one stage."""

    bad: Tensor
    losses: Tensor

    def __init__(self, trainer: Trainer, params: Tensors, memory: Tensors, hp: Tensors, lrs: list[float]) -> None:
        self.trainer, self.params, self.hp = trainer, params, hp
        reads = trainer.method.reads
        self.memory = memory if reads is None else {n: t for n, t in memory.items() if n.startswith(reads)}
        self.state: Tensors = trainer.start(params)
        self.active = list(range(len(lrs)))
        self.plateau = Plateau(trainer.training, list(lrs))
        self._set_out()
        self.kept = {name: tensor.clone() for name, tensor in params.items()}
        self.outcome = Outcome(self.kept, [0] * len(lrs), [float("nan")] * len(lrs))
        self.steps = 0
        self._reset(0)

    def epoch(self, epoch: int, at: At, train: Pool) -> None:
        """One pass over the training data."""
        trainer, size = self.trainer, self.trainer.training.batch_size
        shuffle = numpy_stream(trainer.seed, "batches", *trainer.name, epoch).permutation(len(train))
        order = torch.from_numpy(shuffle).to(train.device)
        batches = -(-len(train) // size)
        at = replace(at, epoch=epoch, epochs=trainer.training.epochs)
        self._reset(epoch)
        with torch_stream(trainer.seed, "noise", *trainer.name, epoch):
            for index, batch in enumerate(train.batches(size, order)):
                now = replace(at, progress=index / max(batches - 1, 1), consumed=index * size / len(train))
                self.step(batch, now)
                if trainer._spent(self):
                    break
        self.params, self.state = self.walk.result()
        if overrides(trainer.method, "end_epoch"):
            mean = self.losses / (self.steps - self.begun)
            end = packed(lambda p, m, h, loss: trainer.method.end_epoch(p, m, h, at, loss))
            with torch.no_grad():
                self.params = end(self.params, self.memory, {**self.hp, "lr": self.lr}, mean)

    def step(self, batch: Batch, at: At) -> None:
        """One step, and whose loss was a number."""
        loss = self.walk.step(batch, at)
        self.bad = torch.where((self.bad < 0) & ~torch.isfinite(loss), self.steps, self.bad)
        self.losses += loss
        self.steps += 1

    def judge(self, epoch: int, at: At, check: Pool | None) -> None:
        """After an epoch: who failed, who improved, whose rate drops, who is finished."""
        plateau = self.trainer.training.protocol == "plateau"
        checked = self.validate(at, check) if plateau and check is not None else self.losses
        bad, losses, values = torch.stack([self.bad.to(checked), self.losses, checked]).tolist()
        for place, member in enumerate(self.active):
            self.outcome.epochs[member] += 1
            self.outcome.train_loss[member] = losses[place] / max(self.steps - self.begun, 1)
        failed = {m: int(b) for m, b, v in zip(self.active, bad, values, strict=True) if b >= 0 or not isfinite(v)}
        for member, step in failed.items():
            where = step if step >= 0 else self.steps - 1  # training went well, but what it led to gives no number
            self.outcome.failures.append(Failure(member, at.task, epoch, where))
        if plateau:
            self._schedule(values, failed)
        self._keep_only([m for m in self.active if m not in failed and not self.plateau.done[m]])

    def _schedule(self, values: list[float], failed: dict[int, int]) -> None:
        sound = [(m, v) for m, v in zip(self.active, values, strict=True) if m not in failed]
        improved, dropped = self.plateau.update([m for m, _ in sound], [v for _, v in sound])
        self._store(improved)
        if dropped:
            fresh = self.trainer.start(self.params)
            self.state = self._mixed(dropped, fresh, self.state)
            if self.trainer.training.restore_on_drop:
                self.params = self._mixed(dropped, select(self.kept, self.active), self.params)

    def finish(self) -> Outcome:
        """Keeps the last parameters of members that trained for a fixed time; the plateau keeps the best."""
        if self.trainer.training.protocol == "fixed":
            self._store(self.active)
        return self.outcome

    def validate(self, at: At, check: Pool) -> Tensor:
        """Each active member's mean loss on validation data, shape [active]."""
        total = torch.zeros_like(self.losses)
        trees = self.params, self.memory, self.hp
        flat = [tensor for tree in trees for tensor in tree.values()]
        with torch.no_grad():
            for batch in check.batches(EVAL_BATCH):
                data = [batch.inputs, batch.labels, *([] if batch.tasks is None else [batch.tasks])]
                (losses,) = self.validation.program(trees, data, at, len(batch.labels))(*flat, *data)
                total += losses * len(batch.labels)
        return total / len(check)

    def _reset(self, epoch: int) -> None:
        """Before an epoch: current learning rates, no step gone wrong, no loss summed."""
        self.lr = self._rates(epoch)
        self.walk.begin(self.params, self.state, self.lr)
        self.bad = torch.full((len(self.active),), -1, device=self.lr.device)
        self.losses = torch.zeros_like(self.lr)
        self.begun = self.steps

    def _rates(self, epoch: int) -> Tensor:
        like, factor = next(iter(self.trainer.trained(self.params).values())), self.trainer.training.rate_factor(epoch)
        return torch.tensor([self.plateau.lr[m] * factor for m in self.active], dtype=like.dtype, device=like.device)

    def _store(self, members: list[int]) -> None:
        if not members:
            return
        chosen = select(self.params, [self.active.index(m) for m in members])
        index = torch.tensor(members, device=next(iter(chosen.values())).device)
        for name, tensor in self.kept.items():
            tensor.index_copy_(0, index, chosen[name].detach())

    def _mixed(self, members: list[int], new: Tensors, old: Tensors) -> Tensors:
        like = next(iter(old.values()))
        chosen = torch.tensor([m in members for m in self.active], device=like.device)
        return {n: torch.where(chosen.reshape(-1, *(1,) * (t.dim() - 1)), new[n], t) for n, t in old.items()}

    def _keep_only(self, members: list[int]) -> None:
        if members == self.active:
            return
        places = [self.active.index(m) for m in members]
        self.active = members
        if members:
            self.params, self.state = select(self.params, places), select(self.state, places)
            self.memory, self.hp = select(self.memory, places), select(self.hp, places)
            self._set_out()

    def _set_out(self) -> None:
        """With the members that are active."""
        trainer = self.trainer
        self.walk = Walk(trainer.packed_step, str(trainer.name), trainer.recorder, self._rates(0), self.memory, self.hp)
        self.validation = Recorded(Recorder(), "validation", trainer.validation_losses, len(self.active))
