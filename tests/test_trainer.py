"""What the loop offers methods: rates of their own, state that is carried, ends of epochs, stages that train a part, schedules."""

import math
from dataclasses import dataclass, fields

import pytest
import torch
from helpers import benchmark, finish, learner, network, same, up_to

from clcore import hyper
from clcore.hyper import knob
from clcore.learner import Learner
from clcore.methods import METHODS, At, Method, Stage
from clcore.methods.base import STATE
from clcore.networks import NetworkOptions
from clcore.pack import Member
from clcore.pool import stage_pool
from clcore.quick import layout_of
from clcore.trainer import Trainer
from clcore.training import Training
from sweeps.settings import Surroundings


@dataclass(frozen=True)
class Factor:
    factor: float = knob(1.0, "factor on the body's rate", low=0, packed=True, source="the tests")


class Slow(Method):
    """Fine-tuning with another rate for the body."""

    Hyper = Factor

    def rates(self, hp):
        return {"layers.": hp["factor"]}


class Counting(Method):
    """Fine-tuning that counts epochs and remembers losses in its state."""

    Hyper = Factor

    def begin_task(self, memory, hp, at):
        params = super().begin_task(memory, hp, at)
        zero = torch.zeros_like(params["head.bias"][0])
        return {**params, f"{STATE}epochs": zero, f"{STATE}loss": zero, f"{STATE}last": zero}

    def end_epoch(self, params, memory, hp, at, loss):
        now = {f"{STATE}epochs": params[f"{STATE}epochs"] + 1, f"{STATE}loss": loss + 0, f"{STATE}last": loss * 0 + at.epoch}
        return {**params, **now}

    def end_task(self, params, memory, hp, at, batches):
        kept = {f"{n}.{at.task}": t for n, t in params.items() if n.startswith(STATE)}
        return {**super().end_task(params, memory, hp, at, batches), **kept}


class Staged(Method):
    """The head first, then the body."""

    Hyper = Factor

    def stages(self, at):
        return [Stage("head", (at.task,), ("head.",)), Stage("body", (at.task,), ("layers.",))]

    def loss(self, params, memory, hp, at, batch):
        assert at.stage in ("head", "body")
        return super().loss(params, memory, hp, at, batch)


def made(method, members, **training):
    bench = benchmark(tasks=2)
    settings = hyper.build(Training, {"protocol": "fixed", "epochs": 3, "lr": 0.1, **training})
    own = [Member(hyper.build(Factor, values), settings.lr) for values in members]
    return Learner(method(own[0].hyper, network("mlp:12", bench.input_shape), layout_of(bench)), bench, own, settings, 0)


def at_start(learner):
    return {name: tensor.clone() for name, tensor in learner.memory.items()}


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_rate_of_its_own_is_that_of_the_whole_when_it_is_one_and_nothing_moves_when_it_is_zero(optimizer):
    plain = learner("finetune", protocol="fixed", epochs=3, lr=0.1, tasks=2, net="mlp:12", optimizer=optimizer)
    finish(plain)
    slow = made(Slow, [{"factor": 1.0}, {"factor": 0.0}], optimizer=optimizer)
    begun = at_start(slow)
    finish(slow)
    assert torch.allclose(slow.memory["layers.0.weight"][0], plain.memory["layers.0.weight"][0], atol=1e-5)
    assert torch.equal(slow.memory["layers.0.weight"][1], begun["layers.0.weight"][1])
    assert not torch.equal(slow.memory["heads.0.weight"][1], slow.memory["heads.0.weight"][0])


def test_the_preview_of_a_step_is_the_step():
    said = {}

    class Looking(Slow):
        def condition(self, grads, params, memory, hp, at, preview):
            said.update({name: params[name] + move for name, move in preview(grads).items()})
            return grads

    ended = made(Looking, [{"factor": 0.25}], optimizer="adam", iterations=4)
    up_to(ended, 1)
    assert torch.allclose(said["layers.0.weight"], ended.memory["layers.0.weight"][0], rtol=1e-6, atol=1e-8)


def test_state_is_carried_and_not_optimised_and_an_epoch_ends_once():
    counted = made(Counting, [{}, {}], weight_decay=0.1)
    report = finish(counted)[-1]
    assert counted.memory[f"{STATE}epochs.0"].tolist() == counted.memory[f"{STATE}epochs.1"].tolist() == [3.0, 3.0]
    assert counted.memory[f"{STATE}last.1"].tolist() == [2.0, 2.0]
    assert counted.memory[f"{STATE}loss.1"].tolist() == pytest.approx([m.train_loss for m in report.members], rel=1e-6)


def test_the_best_epochs_state_is_restored():
    counted = made(Counting, [{}], protocol="plateau", lr=2.0, epochs=30, patience=2, lr_min=1.0)
    finish(counted)
    assert counted.memory[f"{STATE}epochs.0"].item() < 30  # that of the best, not of the last


def test_a_stage_trains_its_part_alone():
    staged = made(Staged, [{}], weight_decay=0.5)
    begun = at_start(staged)
    params = staged.begin(At(0, "train", 1), staged.memory, staged.hp, "train")[2]
    head_first, body_first = (
        list(run_stage(staged, params, prefix))[-1].params for prefix in ("head.", "layers.")
    )  # fmt: skip
    assert torch.equal(head_first["layers.0.weight"], begun["layers.0.weight"])
    assert not torch.equal(head_first["head.weight"], params["head.weight"])
    assert torch.equal(body_first["head.weight"], params["head.weight"])
    finish(staged)
    assert not torch.equal(staged.memory["layers.0.weight"], begun["layers.0.weight"])


def run_stage(staged, params, prefix):
    pool = stage_pool(Stage("s", (0,)), {0: staged.benchmark.tasks[0].train}, torch.float32)
    at = At(0, "train", 1, stage="head")
    return Trainer(staged.method, staged.training, 0, ("s",), (prefix,)).run(
        params, staged.memory, staged.hp, [0.1], at, pool, None
    )


def test_a_failure_in_an_early_stage_is_said_once_and_epochs_of_stages_are_added():
    class Failing(Staged):
        def loss(self, params, memory, hp, at, batch):
            loss = super().loss(params, memory, hp, at, batch)
            return loss * torch.where(hp["factor"] > 1, torch.nan, 1.0) if at.stage == "head" else loss.nan_to_num()

    report = finish(made(Failing, [{}, {"factor": 2.0}]))[1]
    assert [(f.member, f.task, f.epoch, f.step) for f in report.failures] == [(1, 0, 0, 0)]
    assert [(m.member, m.epochs) for m in report.members] == [(0, 6)]


@pytest.mark.parametrize(("schedule", "expected"), [
    ("constant", [1.0] * 10),
    ("cosine", [(1 + math.cos(math.pi * e / 10)) / 2 for e in range(10)]),
    ("steps", [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01, 1e-3, 5e-4]),
])  # fmt: skip
def test_schedules_of_the_fixed_protocol(schedule, expected):
    training = Training(protocol="fixed", epochs=10, lr_schedule=schedule)
    assert [training.rate_factor(epoch) for epoch in range(10)] == pytest.approx(expected)


def test_torchs_cosine_is_ours():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=7)
    training = Training(protocol="fixed", epochs=7, lr_schedule="cosine")
    for epoch in range(7):
        assert 0.3 * training.rate_factor(epoch) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()


def test_a_schedule_reaches_the_steps():
    """SGD at a rate of zero in the second half leaves what the first half ended in."""
    half, whole = (made(Slow, [{}], epochs=e, lr_schedule=s) for e, s in ((2, "constant"), (5, "steps")))
    finish(half)
    finish(whole)  # epochs 0 and 1 at the full rate, then a tenth and less
    assert not torch.equal(half.memory["layers.0.weight"], whole.memory["layers.0.weight"])
    gap = (half.memory["layers.0.weight"] - whole.memory["layers.0.weight"]).norm()
    begun = at_start(made(Slow, [{}]))
    assert gap < 0.3 * (half.memory["layers.0.weight"] - begun["layers.0.weight"]).norm()


def test_between_evaluations_only_the_newest_task_is_measured():
    every = learner("finetune", tasks=5, epochs=1, evaluate_every=2)
    each = learner("finetune", tasks=5, epochs=1)
    sparse, full = finish(every), finish(each)
    assert same(every.memory, each.memory)
    for report, whole in zip(sparse[1:], full[1:], strict=True):
        wanted = set(range(report.seen)) if report.seen in (2, 4, 5) else {report.seen - 1}
        row, complete = report.members[0].test, whole.members[0].test
        assert {u for u in range(report.seen) if not math.isnan(row[u])} == wanted
        assert all(row[u] == complete[u] for u in wanted)


@pytest.mark.parametrize("name", METHODS.names())
def test_a_methods_own_defaults_are_settings_that_exist(name):
    own = METHODS.get(name).defaults
    training, surroundings = (set(hyper.knobs(declaration)) for declaration in (Training, Surroundings))
    assert set(own) <= training | surroundings
    for key, value in own.items():
        declaration = Training if key in training else Surroundings
        assert hyper.convert(declaration, key, value) == value
    assert {field.name for field in fields(NetworkOptions)} <= surroundings
