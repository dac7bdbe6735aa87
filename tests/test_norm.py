"""Batch normalisation: torch's numbers, statistics that belong to tasks and members, and the laws with it."""

import pytest
import torch
from helpers import distance, finish, learner, same, up_to
from torch import nn

from clcore import networks
from clcore.networks import NetworkOptions
from clcore.networks.norm import Norm, recording

WITH = {"network_settings": {"norm": "batch"}}
METHODS = ("finetune", "freeze", "joint", "hat")


def test_it_is_torchs_and_says_what_torchs_running_statistics_take_in():
    torch.manual_seed(0)
    ours, theirs = Norm(3).double(), nn.BatchNorm1d(3, momentum=1.0).double()
    for part in ("weight", "bias"):
        getattr(ours, part).data = getattr(theirs, part).data = torch.randn(3).double()
    batch = torch.randn(7, 3).double()
    with recording({"n": ours}) as seen:
        found = ours(batch)
        ours(batch + 5)  # a second pass in the same step does not count
    assert torch.allclose(found, theirs(batch), atol=1e-12)
    assert torch.allclose(seen["n"]["mean"], theirs.running_mean, atol=1e-12)
    assert torch.allclose(seen["n"]["var"], theirs.running_var, atol=1e-12)
    ours.mean, ours.var = theirs.running_mean, theirs.running_var
    assert torch.allclose(ours.eval()(batch), theirs.eval()(batch), atol=1e-12)


def test_maps_are_normalised_over_positions_and_one_example_is_no_error():
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 4, 4)
    assert torch.allclose(Norm(3)(maps), nn.BatchNorm2d(3)(maps), atol=1e-6)
    assert torch.equal(Norm(3)(torch.ones(1, 3)), torch.zeros(1, 3))


@pytest.mark.parametrize(("norm", "parts"), [("batch", 2), ("batch-scale", 1), ("batch-plain", 0), ("none", 0)])
def test_what_each_kind_has(norm, parts):
    network = networks.build("mlp:6-5", (1, 8, 8), 0, NetworkOptions(norm=norm))
    assert len(network.affine) == 2 * parts
    assert len(network.statistics) == (0 if norm == "none" else 4)


@pytest.mark.parametrize("name", METHODS)
def test_a_member_of_a_pack_ends_where_it_ends_alone(name):
    options = {"epochs": 3, "tasks": 2, "dtype": torch.float64, **WITH}
    together = learner(name, ({}, {}), lrs=[0.3, 0.1], **options)
    alone = learner(name, lrs=[0.1], **options)
    ours, own = finish(together), finish(alone)
    assert repr(own[-1].members[0].test) == repr(ours[-1].members[1].test)
    assert distance(alone.memory_of(0), together.memory_of(1)) < 1e-9


@pytest.mark.parametrize("name", METHODS)
def test_resumed_is_uninterrupted(name, tmp_path):
    whole, part, resumed = (learner(name, epochs=2, tasks=2, **WITH) for _ in range(3))
    finish(whole)
    up_to(part, 1).save(tmp_path)
    resumed.load(tmp_path)
    finish(resumed)
    assert same(whole.memory, resumed.memory)


def test_running_statistics_follow_the_data_with_torchs_momentum():
    made = learner("finetune", epochs=40, tasks=1, lrs=[1e-12], protocol="fixed", batch_size=2000, **WITH)
    start = {name: tensor.clone() for name, tensor in made.memory.items()}
    inputs, _ = made.benchmark.tasks[0].train.batch(torch.arange(len(made.benchmark.tasks[0].train)))
    hidden = inputs.flatten(1) @ start["layers.0.weight"][0].T + start["layers.0.bias"][0]
    finish(made)
    left = 0.9**40
    assert torch.allclose(made.memory["batch_norms.0.mean"][0], (1 - left) * hidden.mean(0), atol=1e-5)
    assert torch.allclose(made.memory["batch_norms.0.var"][0], left + (1 - left) * hidden.var(0), atol=1e-4)


def test_a_task_specific_method_has_statistics_and_scales_of_each_task():
    made = learner("hat", epochs=2, tasks=2, **WITH)
    finish(made)
    for part in ("mean", "var", "weight", "bias"):
        first, second = (made.memory[f"norms.{task}.batch_norms.0.{part}"] for task in (0, 1))
        assert not torch.equal(first, second)
    assert "batch_norms.0.mean" not in made.memory


def test_freezing_leaves_normalisation_as_it_was():
    made = learner("freeze", epochs=2, tasks=2, **WITH)
    first = {name: tensor.clone() for name, tensor in up_to(made, 1).memory.items()}
    finish(made)
    assert all(torch.equal(tensor, made.memory[name]) for name, tensor in first.items())
