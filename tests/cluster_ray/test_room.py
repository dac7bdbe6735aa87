"""How many packs fit on the nodes of a cluster, and what is said where none does."""

import pytest

from clcore.errors import BadValue, UserError
from sweeps import preflight, resources
from sweeps.resources import GIB, pack_resources, packs_on, room_for
from sweeps.settings import validated

NODE = {"CPU": 8.0, "GPU": 2.0, "memory": 10.0 * GIB, "node:10.0.0.1": 1.0}


def asking(**values):
    return validated({"method": "hat", **values})


@pytest.mark.parametrize(
    ("values", "packs"),
    [
        ({}, 8), ({"cpus": 3}, 2), ({"cpus": 9}, 0), ({"gpus_per_trial": 1}, 2), ({"gpus_per_trial": 2}, 1),
        ({"gpus_per_trial": 3}, 0), ({"gpus_per_trial": 0.5}, 4), ({"gpus_per_trial": 0.25, "cpus": 2}, 4),
        ({"gpus_per_trial": 0.6}, 2),  # 2 GPUs hold 3.3 shares of 0.6, but none lies on both
        ({"gpus_per_trial": 1 / 3}, 6), ({"memory": 3}, 3), ({"memory": 10}, 1), ({"memory": 10.5}, 0),
        ({"memory": 0.5, "cpus": 4}, 2),
    ],
)  # fmt: skip
def test_packs_on_a_node(values, packs):
    assert packs_on(NODE, asking(**values)) == packs


def test_a_head_without_cores_holds_none():
    assert packs_on({"memory": 99.0 * GIB, "node:__internal_head__": 1.0}, asking()) == 0


def test_nodes_are_counted_one_by_one():
    """Two nodes of 3 cores hold two packs of 2, not three."""
    assert room_for([{"CPU": 3.0}, {"CPU": 3.0}, {}], asking(cpus=2)) == 2


def test_what_no_node_has_is_refused_with_what_there_is():
    with pytest.raises(UserError) as error:
        room_for([NODE, NODE, {"CPU": 64.0, "memory": 2.0 * GIB}], asking(cpus=9, gpus_per_trial=1, memory=4))
    said = str(error.value)
    assert "--cpus 9 --gpus-per-trial 1 --memory 4" in said
    assert "2 with 8 CPUs, 2 GPUs, 10 GiB" in said
    assert "1 with 64 CPUs, 0 GPUs, 2 GiB" in said


def test_what_ray_sets_aside():
    assert pack_resources(asking(cpus=2, gpus_per_trial=0.5)) == {"cpu": 2, "gpu": 0.5}
    assert pack_resources(asking(memory=1.5)) == {"cpu": 1, "gpu": 0, "memory": 1.5 * 2**30}


@pytest.mark.parametrize("values", [{"gpus_per_trial": 1.5}, {"memory": 0}, {"memory": -1}])
def test_what_cannot_be_asked_for(values):
    with pytest.raises(UserError):
        asking(**values)


def test_room_and_place_are_no_part_of_the_question():
    assert asking(memory=3, ship=True, gpus_per_trial=0.5).sweep_name() == asking().sweep_name()


def test_gpus_of_a_cluster_need_not_be_here(monkeypatch):
    monkeypatch.setattr(preflight, "is_device", lambda name: name == "cpu")
    assert preflight.resolve_device(asking(device="cuda", address="h:1")) == "cuda"
    for values in ({"device": "cuda"}, {"device": "mps", "address": "h:1"}):
        with pytest.raises(BadValue):
            preflight.resolve_device(asking(**values))


def test_the_processor_has_a_name(monkeypatch, tmp_path):
    assert resources.processor()
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Xeon: 8 cores\nmodel name\t: other\n")
    monkeypatch.setattr(resources, "PROCESSOR", tmp_path / "cpuinfo")
    assert resources.processor() == "Xeon: 8 cores"
    monkeypatch.setattr(resources, "PROCESSOR", tmp_path / "none")
    monkeypatch.setattr(resources.platform, "processor", lambda: "arm")
    assert resources.processor() == "arm"
