"""Functions recorded and played back: the same operations, on other inputs, with other random numbers; and when that is done."""

import gc
import weakref

import pytest
import torch
from helpers import facts, finish, learner, same
from torch import nn
from torch.nn import functional as F

from clcore import recorded, trainer, walk
from clcore.methods import At
from clcore.methods.finetune import FineTune
from clcore.recorded import Recorded, Recorder
from clcore.tape import ReadsValues, record

#: 288 examples of a task in batches of 64: the last of an epoch is smaller.
SMALL = {"tasks": 2, "epochs": 6, "batch_size": 64, "protocol": "fixed"}


def played(function, inputs, others):
    """What a function recorded on some inputs gives on others."""
    recording = record(function, inputs)
    return recording.function()(*(others[place] for place in recording.read))


def test_an_inputs_value_is_not_built_in_even_if_two_inputs_were_one_tensor():
    one, others = torch.tensor([1.0, 2.0]), [torch.tensor([3.0, 4.0]), torch.tensor([10.0, 20.0])]
    (found,) = played(lambda a, b: [a * 2 + b], [one, one], others)
    assert found.tolist() == [16.0, 28.0]


def test_gradients_and_layers_of_a_network():
    torch.manual_seed(0)
    net, inputs = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)), [torch.randn(3, 5) for _ in range(2)]

    def function(x, weight):
        with torch.enable_grad():
            leaf = weight.detach().requires_grad_()
            loss = F.cross_entropy(torch.func.functional_call(net, {"0.weight": leaf}, (x,)), torch.tensor([0, 1, 1]))
            return [*torch.autograd.grad(loss, [leaf]), loss.detach()]

    weight = torch.randn(4, 5)
    found = played(function, [inputs[0], net[0].weight.detach()], [inputs[1], weight])
    for mine, wanted in zip(found, function(inputs[1], weight), strict=True):
        assert torch.equal(mine, wanted)


def test_what_is_changed_in_place_starts_anew_each_time():
    def function(x):
        total = torch.tensor([1.0])
        total += x
        view = total.view(1)
        return [total * view]

    recording = record(function, [torch.tensor([1.0])])
    run = recording.function()
    assert [run(torch.tensor([v]))[0].item() for v in (1.0, 2.0, 2.0)] == [4.0, 9.0, 9.0]


def test_several_results_lists_of_tensors_and_numbers_that_python_cannot_write():
    def function(x, y):
        values, places = torch.cat([x, y]).max(0)
        return [torch.stack([values, *x.unbind()]).clamp(max=float("inf")), places]

    x, y = torch.tensor([1.0, 5.0]), torch.tensor([2.0, 9.0])
    stacked, places = played(function, [x, y], [y, x])
    assert stacked.tolist() == [9.0, 2.0, 9.0]
    assert places.item() == 1


def test_random_numbers_are_drawn_each_time_and_none_are_used_up_by_recording():
    def function(x):
        return [x + torch.rand_like(x) - torch.rand_like(x)]

    x = torch.zeros(4)
    torch.manual_seed(3)
    wanted = [function(x)[0] for _ in range(2)]
    torch.manual_seed(3)
    recording = record(function, [x])
    assert recording.draws
    found = [recording.function()(x)[0] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert not record(lambda x: [x + 1], [x]).draws


def test_what_is_not_read_is_not_asked_for_and_what_was_done_is_not_done_again():
    recording = record(lambda a, b, c: [(a + c).view(2) * (a + c), a.expand(2) * 1], [torch.ones(2)] * 3)
    assert recording.read == [0, 2]
    assert [node.target for node in recording.graph.nodes if node.op == "call_function"] == [
        torch.ops.aten.add.Tensor, torch.ops.aten.mul.Tensor,
    ]  # fmt: skip


def test_a_function_that_reads_values_cannot_be_recorded():
    with pytest.raises(ReadsValues):
        record(lambda x: [x if x.sum() > 0 else -x], [torch.ones(2)])


def test_a_program_is_asked_for_after_some_calls_of_each_size():
    calls = []

    def function(trees, tensors, at):
        calls.append(len(tensors[0]))
        return [trees[0]["w"] * tensors[0].sum()]

    made = Recorded(Recorder(patience=2), "double", function, width=1)
    trees = [{"w": torch.tensor([2.0])}]
    for size in (3, 3, 3, 3, 5, 5, 5, 5, 7, 7, 7, 7):
        data = torch.ones(size)
        (found,) = made.program(trees, [data], At(0, "train", 1), size)(trees[0]["w"], data)
        assert found.item() == 2.0 * size
    assert calls == [3, 3, 3, 5, 5, 5, 7, 7, 7, 7]  # twice as it is, once recorded; a third size gets no program


def test_a_pack_that_shrinks_keeps_its_program_until_half_of_it_has_left():
    recorder, cpu = Recorder(patience=0), torch.device("cpu")
    assert (recorder.width(cpu, 8), recorder.patience(8)) == (8, 0)
    recorder = Recorder(patience=5)
    recorder.program("f", lambda x: [x + 1], [torch.ones(8)])
    assert [recorder.width(cpu, members) for members in (9, 8, 5, 4, 3)] == [9, 8, 8, 8, 3]
    assert [recorder.patience(width) for width in (8, 3)] == [0, 5]


def trained(patience, monkeypatch, hypers=({},), lrs=(0.05,), **options):
    made = []

    class Kept(Recorder):
        def __init__(self):
            super().__init__(patience)
            made.append(self)

    monkeypatch.setattr(trainer, "Recorder", Kept)
    pack = learner("finetune", list(hypers), lrs=list(lrs), **{**SMALL, **options})
    return pack, finish(pack), made


def test_training_with_recorded_steps_ends_bit_for_bit_as_without(monkeypatch):
    fast, said, made = trained(3, monkeypatch, [{}] * 2, [0.05, 0.1], drop=0.2)
    assert [recorder.failed for recorder in made] == [""] * len(made)
    assert sum(bool(recorder._known) for recorder in made) == SMALL["tasks"]
    slow, said_slow, _ = trained(10**9, monkeypatch, [{}] * 2, [0.05, 0.1], drop=0.2)
    assert same(fast.memory, slow.memory)
    assert facts(said) == facts(said_slow)


def test_members_that_leave_are_replaced_by_copies_and_the_others_learn_on(monkeypatch):
    options = {"protocol": "plateau", "lrs": [0.3, 0.0, 0.1], "hypers": [{}] * 3}
    fast, said, made = trained(1, monkeypatch, **options)
    assert said[-1].members[1].epochs < said[-1].members[0].epochs
    assert made[0]._widths == {3}  # of the first task's steps
    slow, _, _ = trained(10**9, monkeypatch, **options)
    for name, tensor in slow.memory.items():
        torch.testing.assert_close(fast.memory[name], tensor, atol=1e-4, rtol=1e-4)


def test_a_step_that_reads_values_or_asks_for_the_epoch_is_run_as_it_is(monkeypatch):
    whole = FineTune.loss

    for ask in (lambda at, loss: at.epoch + 1, lambda at, loss: 1 if loss.detach().item() < 1e9 else 2):

        def loss(self, params, memory, hp, at, batch, ask=ask):
            found = whole(self, params, memory, hp, at, batch)
            return found * ask(at, found)

        monkeypatch.setattr(FineTune, "loss", loss)
        fast, _, made = trained(0, monkeypatch)
        assert any(recorder.failed for recorder in made)
        slow, _, _ = trained(10**9, monkeypatch)
        assert same(fast.memory, slow.memory)


def test_how_long_it_waits_is_what_the_module_says(monkeypatch):
    monkeypatch.setattr(recorded, "PATIENCE", 7)
    assert Recorder().patience(1) == 7


@pytest.mark.parametrize("name", ["replay", "hat"])
def test_a_trained_pack_is_let_go_of_without_looking_for_cycles(name, monkeypatch):
    walks = []

    class Watched(walk.Walk):
        def __init__(self, *args):
            super().__init__(*args)
            walks.append(weakref.ref(self))

    monkeypatch.setattr(trainer, "Walk", Watched)
    gc.collect()
    gc.disable()
    try:
        finish(learner(name, [{}, {}], **SMALL))
        assert len(walks) == SMALL["tasks"]
        assert not any(found() for found in walks)
    finally:
        gc.enable()
