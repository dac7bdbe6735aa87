"""The two laws on networks with convolutions, residual streams and batch normalisation, and what its statistics are."""

import pytest
import torch
from helpers import begin, benchmark, distance, facts, finish, learner, same, spread
from torch import nn

from clcore.methods import METHODS
from clcore.pool import stage_pool
from clcore.trainer import Trainer

METHOD = pytest.mark.parametrize("name", ["finetune", "freeze", "joint", "hat", "tfm"])
LRS = [0.1, 0.0, 0.4]
TRAINING = {"batch_size": 48, "epochs": 3, "tasks": 2, "options": (("validation_fraction", 0.8),)}


def pack(name, places=(0, 1, 2), **options):
    hypers = spread(METHODS.get(name).Hyper, 3)
    return learner(name, [hypers[p] for p in places], lrs=[LRS[p] for p in places], **{**TRAINING, **options})


@METHOD
def test_a_pack_ends_where_its_members_end_alone(name):
    """With dropout, whose noise they share, and a member that leaves early; reports alike, memory to rounding."""
    check_pack_is_solo(name, net="residual", drop=0.2, weight_decay=0.01)


@pytest.mark.parametrize("name", ["hat", "tfm"])
def test_so_does_a_pack_of_networks_whose_shortcuts_have_no_weights(name):
    check_pack_is_solo(name, net="option-a", network_settings={"norm": "batch-scale", "bias": False})


def check_pack_is_solo(name, **options):
    options = {**options, "dtype": torch.float64}
    together = pack(name, **options)
    reports = finish(together)
    alone = pack(name, (0,), **options)
    for mine, ours in zip(finish(alone), reports, strict=True):
        (a,), b = mine.members, ours.members[0]
        assert repr((a.test, a.validation, a.epochs, a.bytes)) == repr((b.test, b.validation, b.epochs, b.bytes))
        assert (a.capacity, a.use, a.reuse, a.compressed) == (b.capacity, b.use, b.reuse, b.compressed)
    assert distance(alone.memory_of(0), together.memory_of(0)) < 1e-9


@METHOD
def test_resumed_ends_bit_for_bit_where_the_uninterrupted_ends(name, tmp_path):
    options = {"net": "residual", "drop": 0.2, "optimizer": "momentum", "epochs": 2}
    whole, reports = pack(name, (0, 2), **options), []
    for report in whole.run():
        if type(report).__name__ == "Report":
            reports.append(report)
            if report.seen == 1:
                whole.save(tmp_path)
    resumed = pack(name, (0, 2), **options)
    resumed.load(tmp_path)
    assert facts(finish(resumed)) == facts(reports)[2:]
    assert same(resumed.memory, whole.memory)


@pytest.mark.parametrize("name", ["finetune", "hat", "tfm"])
def test_running_statistics_are_torchs(name):
    """Three steps of a residual network: the first normalisation's mean and variance against nn.BatchNorm2d on what enters it."""
    made = learner(name, [{"p1": 1.0} if name == "tfm" else {}], net="residual", tasks=1, dtype=torch.float64)
    params, memory, at = begin(made)
    trainer = Trainer(made.method, made.training, 0, (0,))
    pool = stage_pool(made.method.stages(at)[0], {0: benchmark().tasks[0].train}, torch.float64)
    theirs, state = nn.BatchNorm2d(4).double(), trainer.start(params)
    for index, batch in enumerate(pool.batches(32)):
        with torch.no_grad():
            theirs(nn.functional.conv2d(batch.inputs, params["stem.weight"][0], padding=1))
        params, state, _ = trainer.packed_step(params, state, memory, made.hp, torch.tensor([0.1]).double(), batch, at)
        assert torch.allclose(params["state.stem_norm.mean"][0], theirs.running_mean, atol=1e-12)
        assert torch.allclose(params["state.stem_norm.var"][0], theirs.running_var, atol=1e-12)
        if index == 2:
            break
    assert float((theirs.running_mean).abs().max()) > 0
