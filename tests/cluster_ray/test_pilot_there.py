"""The pilot of a cluster: on a node of each kind, and what one size comes to; real nodes of two kinds, which are one machine."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace

import pytest
import torch
from sweep_kit import ROOT

from clcore.errors import UserError
from sweeps import kind_pilots, pilot
from sweeps.asked import Asked
from sweeps.kind_pilots import pilot_there, together
from sweeps.kinds import Group, Kind, grouped
from sweeps.pilot import GAIN, Pilot
from sweeps.resources import GIB
from sweeps.settings import validated
from sweeps.spaces import find_space
from sweeps.trials import Pack, base_configuration

LIKE = Pack((), 1, "cuda", None)


def asking(**values):
    return validated({"method": "hat", "space": "default", "network": "mlp:4", "tasks": 2, **values})


@pytest.fixture
def trial(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    settings = asking()
    return Asked(settings, find_space(settings), base_configuration(settings), None, "cuda").kinds[0]


def test_a_dry_run_takes_the_cpu(trial, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(pilot, "measure", lambda trial, most, like, **more: asked.append((most, like)))
    pilot.pilot(tmp_path, trial, 4, LIKE)
    assert asked == [(4, replace(LIKE, device="cpu"))]
    assert list(tmp_path.iterdir()) == []


# -- which kinds there are ---------------------------------------------------------------------------------------------

SMALL, LARGE = {"CPU": 2.0, "GPU": 1.0, "accelerator_type:T4": 1.0}, {"CPU": 8.0, "GPU": 4.0, "accelerator_type:A100": 1.0}


def test_nodes_that_differ_are_of_several_kinds():
    nodes = {"a": SMALL, "b": LARGE, "c": SMALL, "d": SMALL, "e": SMALL}
    told = {name: (f"host-{name}", "Xeon", 16 * GIB) for name in nodes}
    told |= {"c": ("host-c", "Xeon", 16 * GIB - 1000), "d": ("host-d", "EPYC", 16 * GIB), "e": ("host-e", "Xeon", 8 * GIB)}
    found = grouped(nodes, told, asking(gpus_per_trial=0.5), "cuda")
    assert found == {
        Kind("EPYC", "T4", 2, 1, 16, 2): Group(("d",), 2),
        Kind("Xeon", "A100", 8, 4, 16, 2): Group(("b",), 8),
        Kind("Xeon", "T4", 2, 1, 8, 2): Group(("e",), 2),
        Kind("Xeon", "T4", 2, 1, 16, 2): Group(("c", "a"), 4),  # the one with less memory first
    }


def test_nodes_of_one_machine_share_its_memory():
    """Three nodes of ``launch.py local`` believe each that the memory is theirs."""
    node = {"CPU": 1.0}
    found = grouped(dict.fromkeys("abc", node), dict.fromkeys("abc", ("here", "Xeon", 8 * GIB)), asking(), "cpu")
    assert found == {Kind("Xeon", "", 1, 0, 8, 3): Group(("a", "b", "c"), 3)}


def test_a_node_that_was_lost_meanwhile_is_of_no_kind():
    found = grouped({"a": {"CPU": 1.0}, "b": {"CPU": 1.0}}, {"b": ("there", "Xeon", GIB)}, asking(), "cpu")
    assert [*found.values()] == [Group(("b",), 1)]


# -- one size for all of them ------------------------------------------------------------------------------------------


def measured(steps, **more):
    return Pilot(**{"size": 1, "step": {str(s): t for s, t in steps.items()}, "validation": 0.1, "steps": 5, "bytes": 10, **more})


def test_one_kind_is_as_it_was_measured():
    found = measured({1: 1.0, 16: 4.0}, size=16)
    assert together([(found, 3)], compiled=False) is found


def test_a_pack_fits_on_every_kind():
    """The second kind had no room for 64 members."""
    large, small = measured({1: 1.0, 16: 4.0, 64: 8.0}, size=64), measured({1: 2.0, 16: 6.0}, size=16, bytes=12, validation=0.3)
    found = together([(large, 9), (small, 1)], compiled=False)
    assert (found.size, found.step, found.bytes, found.validation) == (16, {"1": 2.0, "16": 6.0}, 12, 0.3)
    assert found.reason == "375.00 ms a step and member, 2000.00 alone, the slowest of 2 kinds of nodes"


def test_the_size_is_that_with_which_all_together_are_fastest():
    """A GPU gains by packs of 64 and a processor loses by them; who has more packs at a time decides.

    Members a second with 1 GPU and 1 processor: packs of one 10 + 10, of 64: 640 + 2.
    With 1 and 99: packs of one 10 + 990, of 64: 640 + 198.
    """
    gpu, processor = measured({1: 0.1, 64: 0.1}), measured({1: 0.1, 64: 32.0})
    assert together([(gpu, 1), (processor, 1)], compiled=False).size == 64
    assert together([(gpu, 1), (processor, 99)], compiled=False).size == 1


def test_packing_that_gains_too_little_is_not_done_there_either():
    just, too_little = measured({1: 1.0, 12: 12 / GAIN * 0.99}), measured({1: 1.0, 12: 12 / GAIN * 1.01})
    assert together([(just, 1), (just, 2)], compiled=False).size == 12
    assert together([(too_little, 1), (too_little, 2)], compiled=False).size == 1


def test_methods_that_do_not_train_have_a_size():
    assert together([(measured({1: 0.0, 4: 0.0}), 1), (measured({1: 0.0, 4: 0.0}), 1)], compiled=False).size == 4


def test_compiled_steps_are_those_of_the_slowest_and_of_no_kind_that_cannot_compile():
    fast, slow = measured({64: 1.0}, size=64, compiled=True), measured({16: 1.0}, size=16, compiled=True)
    found = together([(fast, 1), (slow, 1)], compiled=True)
    assert (found.size, found.step, found.compiled) == (16, {"16": 1.0}, True)
    assert not together([(fast, 1), (replace(slow, compiled=False), 1)], compiled=True).compiled


# -- who is asked ------------------------------------------------------------------------------------------------------

KINDS = {Kind("EPYC", "", 1, 0, 8, 1): Group(("e",), 1), Kind("Xeon", "T4", 2, 1, 16, 2): Group(("x1", "x2"), 4)}


@pytest.fixture
def nodes(monkeypatch):
    """Ray is played: each node's answer (None: it is lost), and what the nodes were asked."""
    import ray

    answers, asked = {}, []

    def ask_each(task, whom, patience):
        asked.extend((task, node, arguments) for node, arguments in whom.values())
        return {kind: answers[node] for kind, (node, _) in whom.items()}

    monkeypatch.setattr(ray, "remote", lambda **given: lambda function: (function, given))
    monkeypatch.setattr(kind_pilots, "ask_each", ask_each)
    return answers, asked


def test_a_node_of_each_kind_is_asked_once(trial, nodes, tmp_path):
    answers, asked = nodes
    answers |= {"e": measured({1: 1.0, 4: 2.0}, size=4), "x1": measured({1: 1.0, 4: 1.0}, size=4)}
    like = replace(LIKE, threads=3)
    found = pilot_there(tmp_path, trial, 4, like, KINDS)
    assert (found.size, found.step) == (4, {"1": 1.0, "4": 2.0})
    assert [(node, arguments) for _, node, arguments in asked] == [("e", (trial, 4, like, 1)), ("x1", (trial, 4, like, 2))]
    function, given = asked[0][0]
    assert function is pilot.measured
    assert given["num_cpus"] == 0
    assert 0 < given["num_gpus"] <= 0.1
    assert pilot_there(tmp_path, trial, 4, like, KINDS) == found
    assert len(asked) == 2, "what is known is not measured again, and a sweep that goes on is cut as before"
    fewer = {kind: group for kind, group in KINDS.items() if kind.gpu}
    assert pilot_there(tmp_path, trial, 4, like, fewer) == answers["x1"]
    answers["e"] = measured({1: 1.0})
    pilot_there(tmp_path, trial, 5, like, fewer | {replace(k, memory=4): g for k, g in KINDS.items() if not k.gpu})
    assert len(asked) == 4, "another size, and another kind"


def test_another_node_of_the_kind_is_asked_where_one_is_lost(trial, nodes, tmp_path):
    answers, asked = nodes
    answers |= {"e": None, "x1": None, "x2": measured({1: 1.0})}
    assert pilot_there(tmp_path, trial, 1, LIKE, KINDS) == answers["x2"]
    assert [node for _, node, _ in asked] == ["e", "x1", "x2"]
    answers["x2"] = None
    with pytest.raises(UserError, match="the cluster is not ready"):
        pilot_there(tmp_path / "other", trial, 1, LIKE, KINDS)


def test_what_shares_the_memory_is_what_there_is_room_for(monkeypatch, tmp_path):
    settings = asking(network="mlp:20")
    trial = Asked(settings, find_space(settings), base_configuration(settings), None, "cpu").kinds[0]
    like, state = replace(LIKE, device="cpu"), 100 * 1024**2
    monkeypatch.setattr(pilot, "_probed", lambda learner, earlier: pilot.Probe(1.0, 0.1, 5, state))
    monkeypatch.setattr(pilot, "machine_bytes", lambda: 16 * 3 * 5 * state)  # a fifth of it is for states
    assert [pilot.measured(trial, 64, like, packs).size for packs in (1, 3, 4)] == [16, 16, 1]


#: A head that runs no trials and nodes of two kinds, as Ray is told of them.
CLUSTER = """
import json, sys
from pathlib import Path
from ray.cluster_utils import Cluster
import ray
from sweeps.asked import ask
from sweeps.kinds import kinds_of
from sweeps.planned import make_plan
from sweeps.settings import validated
cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=0, include_dashboard=False, object_store_memory=80 * 2**20))
for cpus in (1, 1, 2):
    cluster.add_node(num_cpus=cpus, object_store_memory=80 * 2**20)
ray.init(address=cluster.address, log_to_driver=False)
home = Path(sys.argv[1])
settings = validated({"method": "hat", "space": "grid", "network": "mlp:4", "tasks": 2, "home": home})
asked = ask(settings)
kinds = kinds_of(settings, "cpu")
plan, found = make_plan(asked, 4, kinds)
print(json.dumps([[kind.cores, kind.sharing, len(group.nodes), group.workers] for kind, group in kinds.items()]))
print(len(json.loads((home / "pilots.json").read_text())), plan.size == found.size, found.beside)
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.long
@pytest.mark.timeout(600)
def test_nodes_of_two_kinds(tmp_path):
    temporary = tempfile.mkdtemp(prefix="cn-", dir="/tmp")  # short: Ray's sockets are in it
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": temporary, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip
    try:
        words = [sys.executable, "-c", CLUSTER, str(tmp_path)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=500)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    assert done.returncode == 0, done.stderr
    kinds, figures = done.stdout.splitlines()
    assert json.loads(kinds) == [[1, 4, 2, 2], [2, 4, 1, 2]]
    assert figures == "2 True the slowest of 2 kinds of nodes"
