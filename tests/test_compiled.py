"""Compiled steps: the same training, whoever else is in the pack; and without them where they cannot be had."""

import logging
import re

import pytest
import torch
from helpers import facts, finish, learner

from clcore import compiled
from clcore.compiled import Compiler
from clcore.methods.finetune import FineTune

#: 288 examples of a task in batches of 64: the last of an epoch is smaller, and is stepped without the program.
SMALL = {"tasks": 3, "epochs": 3, "drop": 0.1, "batch_size": 64}


def trained(name, hypers, lrs, compiler, **options):
    made = learner(name, hypers, lrs=lrs, **{**SMALL, **options})
    made.compiler = compiler
    return made, finish(made)


@pytest.fixture
def uncompiled(monkeypatch):
    """Recorded steps run as they are: all but the compiler itself."""
    monkeypatch.setattr(compiled, "_compiled", lambda recording, inputs: recording.function())


@pytest.mark.parametrize("tasks", [1, pytest.param(2, marks=pytest.mark.long)])  # the second has a program of its own
def test_a_member_of_a_compiled_pack_is_the_trial_alone_bit_for_bit_and_near_the_plain_one(tasks):
    compiler, short = Compiler(), {"tasks": tasks, "epochs": 2}
    pack, said = trained("hat", [{"smax": 200.0}, {"smax": 50.0}], [0.05, 0.1], compiler, **short)
    assert compiler.failed == ""
    alone, said_alone = trained("hat", [{"smax": 50.0}], [0.1], compiler, **short)
    for name, tensor in alone.memory.items():
        assert torch.equal(tensor[0], pack.memory[name][1]), name
    assert facts(said, 1) == facts(said_alone, 0)
    plain, _ = trained("hat", [{"smax": 200.0}, {"smax": 50.0}], [0.05, 0.1], None, **short)
    for name, tensor in plain.memory.items():
        torch.testing.assert_close(pack.memory[name], tensor, atol=1e-3, rtol=1e-3)
    assert len(compiler._programs) == tasks


def test_what_was_compiled_before_is_found_on_the_disk_and_does_the_same(tmp_path, monkeypatch):
    from torch._dynamo.utils import counters

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    found = []
    for outcome in ("miss", "hit"):
        counters.clear()
        compiler = Compiler()
        made, _ = trained("finetune", [{}], [0.1], compiler, tasks=1, epochs=1)
        assert compiler.failed == ""
        assert counters["inductor"][f"fxgraph_cache_{outcome}"] == 1
        found.append(made.memory)
    for name, tensor in found[0].items():
        assert torch.equal(tensor, found[1][name]), name
    (generated,) = (path.read_text() for path in tmp_path.rglob("*.py"))
    assert "def call(" in generated
    assert not re.search(r"\bs\d+ = ", generated), "a size is a variable"


def test_tasks_that_differ_in_memory_alone_share_a_program(uncompiled):
    compiler = Compiler()
    trained("hat", [{}, {"smax": 50.0}], [0.05, 0.1], compiler)
    assert len(compiler._programs) == 2  # the first task, where nothing is protected, and all others


def test_memory_that_grows_is_no_new_program(uncompiled):
    compiler = Compiler()
    trained("finetune", [{}], [0.1], compiler)
    assert len(compiler._programs) == 1
    assert len(compiler._known) == SMALL["tasks"]


def test_groups_of_several_members_are_padded_and_come_back_in_order(uncompiled, monkeypatch):
    one = {"drop": 0.0, "tasks": 1}
    plain, _ = trained("finetune", [{}] * 3, [0.05, 0.1, 0.2], Compiler(), **one)
    monkeypatch.setattr(Compiler, "width", lambda self, device, members: 2)
    grouped, _ = trained("finetune", [{}] * 3, [0.05, 0.1, 0.2], Compiler(), **one)
    for name, tensor in plain.memory.items():
        assert tensor.shape == grouped.memory[name].shape
        torch.testing.assert_close(grouped.memory[name], tensor, atol=1e-4, rtol=1e-4)


def test_without_a_compiler_steps_are_run_as_they_are(monkeypatch, caplog):
    def none(graph, inputs):
        raise RuntimeError("no C++ compiler\nat all")

    monkeypatch.setattr(compiled, "_compiled", none)
    compiler = Compiler()
    with caplog.at_level(logging.WARNING):
        alone, _ = trained("finetune", [{}], [0.1], compiler)
    assert [record.getMessage() for record in caplog.records] == ["steps are not compiled: RuntimeError: no C++ compiler"]
    plain, _ = trained("finetune", [{}], [0.1], None)
    for name, tensor in plain.memory.items():
        assert torch.equal(alone.memory[name], tensor), name


def test_a_step_that_asks_for_the_epoch_is_not_compiled(monkeypatch, uncompiled):
    whole = FineTune.loss

    def loss(self, params, memory, hp, at, batch):
        return whole(self, params, memory, hp, at, batch) * (at.epoch + 1)

    monkeypatch.setattr(FineTune, "loss", loss)
    compiler = Compiler()
    asked, _ = trained("finetune", [{}], [0.1], compiler)
    assert "NoneType" in compiler.failed
    plain, _ = trained("finetune", [{}], [0.1], None)
    assert all(torch.equal(asked.memory[name], tensor) for name, tensor in plain.memory.items())


@pytest.mark.long
def test_a_network_that_divides_by_sizes_compiles():
    """A residual one does; a program in which sizes were variables could not be had of it."""
    compiler = Compiler()
    trained("finetune", [{}], [0.01], compiler, net="residual", network_settings={"norm": "batch"}, tasks=1, epochs=1)
    assert compiler.failed == ""
    assert len(compiler._programs) == 1
