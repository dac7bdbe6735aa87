"""Identities, journal entries, and which trials run together."""

import dataclasses
import json
from pathlib import Path

import pytest

from clcore.methods import METHODS
from sweeps import trials as module
from sweeps.settings import validated
from sweeps.trials import Pack, Trial, base_configuration, make_packs, with_values

LIKE = Pack((), 1, "cpu", None)


def configuration(method="hat", **values):
    return base_configuration(validated({"method": method, "network": "mlp:8", "tasks": 2, **values}))


def identity(seed=0, **values):
    return configuration(**values).trial_identity(seed)


@pytest.mark.parametrize(
    "values",
    [
        {"method": "tfm"}, {"benchmark": "permuted-digits"}, {"network": "mlp:9"}, {"scenario": "domain-il"}, {"tasks": 3},
        {"classes_per_task": 3}, {"larger_first_task": 4}, {"seed": 1},
        *({"assign": {key: value}} for key, value in {
            "smax": "399", "c": "0.7", "schedule": "paper", "lr": "0.04", "epochs": "199", "batch_size": "32", "optimizer": "adam",
            "dropout": "0.1", "input_dropout": "0.1", "validation": "train-copy", "validation_fraction": "0.2",
            "shuffle_classes": "true", "normalise": "false", "patience": "4", "clip": "1",
        }.items()),
    ],
    ids=str,
)  # fmt: skip
def test_identity_depends_on_what_decides_results(values):
    assert identity(**values) != identity()


@pytest.mark.parametrize(
    "values",
    [
        {"data_dir": "data"}, {"cpus": 2}, {"pack": "3"}, {"home": "elsewhere"}, {"executor": "inline"}, {"device": "cpu"},
        {"workers": 3}, {"trials": 7}, {"name": "mine"}, {"seeds": (0, 1, 2)}, {"space": "tpe"}, {"tracking_uri": "http://x"},
        {"assign": {"smax": "400"}}, {"assign": {"lr": "5e-2"}},
    ],
    ids=str,
)  # fmt: skip
def test_identity_depends_on_nothing_else(values):
    assert identity(**values) == identity()


def test_identity_changes_with_the_results_version(monkeypatch):
    before = identity()
    monkeypatch.setattr(module, "RESULTS_VERSION", 99)
    assert identity() != before


def test_identity_is_no_matter_of_where_the_trial_came_from():
    found = configuration()
    plain, asked = Trial(found, 3), Trial(found, 3, study=7, role="reference")
    assert plain.identity == asked.identity
    assert len(plain.identity) == 12
    assert with_values(configuration(), {"c": 0.5, "lr": 0.1}).identity == configuration(assign={"c": "0.5", "lr": "0.1"}).identity


def test_every_field_of_a_configuration_is_in_its_identity():
    found = configuration()
    changed = {
        "method": "tfm",
        "hyper": {},
        "training": {},
        "benchmark": {**found.benchmark, "x": 1},
        "network": {**found.network, "x": 1},
        "fork": {"run": "r", "trial": "t", "at": 2, "before": [{"until": 1, "values": {"c": 0.1}}]},
    }
    assert changed.keys() == {f.name for f in dataclasses.fields(found)}
    assert len({found.identity, *(dataclasses.replace(found, **{k: v}).identity for k, v in changed.items())}) == 7


METHOD_FILE = "from clcore.methods.finetune import METHOD\n"


def test_a_users_file_is_part_of_the_identity(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for option, name in (("method", "m.py"), ("benchmark", "b.py"), ("network", "n.py"), ("network", "n.py:16")):
        file = tmp_path / name.partition(":")[0]
        file.write_text(METHOD_FILE)
        first = configuration(**{"method": "finetune", option: name})
        before = first.identity
        assert str(tmp_path) in json.dumps(dataclasses.asdict(first)), "workers start elsewhere, so the path is absolute"
        file.write_text(METHOD_FILE + "# changed\n")
        assert configuration(**{"method": "finetune", option: name}).identity != before


@pytest.mark.parametrize(("option", "name"), [("method", "m.py"), ("benchmark", "b.py"), ("network", "n.py:16")])
def test_where_a_users_file_lies_is_not(option, name, tmp_path, monkeypatch):
    """A job's driver finds it where Ray has unpacked the working tree."""
    found = set()
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        Path(name.partition(":")[0]).write_text(METHOD_FILE)
        found.add(Trial(configuration(**{"method": "finetune", option: name}), 0).identity)
    assert len(found) == 1
    Path(name.partition(":")[0]).rename("another.py")
    assert configuration(**{"method": "finetune", option: name.replace(name[0], "another", 1)}).trial_identity(0) not in found


def test_entry_and_json_round_trips():
    trial = Trial(with_values(configuration(), {"c": 0.3}), 4, study=2)
    entry = json.loads(json.dumps(trial.entry()))
    back = Trial.from_entry(entry)
    assert back == trial
    assert back.identity == trial.identity == entry["trial"]
    assert entry["config"] == trial.configuration.identity
    pack = Pack((trial, dataclasses.replace(trial, study=3)), 2, "cpu", "some/where")
    assert Pack.from_json(pack.to_json()) == pack
    assert Pack.from_json(pack.to_json()).identity == pack.identity


def test_structure_is_what_is_not_packed():
    found = configuration()
    for values in ({"c": 0.1}, {"smax": 3.0}, {"lr": 0.9}):
        assert with_values(found, values).structure == found.structure
    for values in ({"schedule": "paper"}, {"epochs": 3}, {"batch_size": 3}):
        assert with_values(found, values).structure != found.structure


def test_packs_are_even_and_of_one_structure_and_seed():
    base = configuration()
    configs = [with_values(base, {"c": 0.1 * i, "epochs": epochs}) for epochs in (2, 3) for i in range(1, 8)]
    asked = [Trial(c, seed) for c in configs for seed in (0, 1)]
    packs = make_packs(asked, 3, 1, LIKE)
    assert sorted(len(p.trials) for p in packs) == [2] * 8 + [3] * 4  # 7 = 2 + 3 + 2, four times
    assert sorted(t.identity for p in packs for t in p.trials) == sorted(t.identity for t in asked)
    for pack in packs:
        assert len({(t.configuration.structure, t.seed) for t in pack.trials}) == 1
        assert (pack.threads, pack.device, pack.data_dir) == (1, "cpu", None)
    assert len({p.identity for p in packs}) == len(packs)


def test_packs_are_shared_among_workers():
    base = configuration()
    asked = [Trial(with_values(base, {"c": 0.1 * i}), 0) for i in range(1, 9)]
    assert [len(p.trials) for p in make_packs(asked, 64, 1, LIKE)] == [8]
    assert [len(p.trials) for p in make_packs(asked, 64, 3, LIKE)] == [3, 2, 3]
    assert [len(p.trials) for p in make_packs(asked[:2], 64, 5, LIKE)] == [1, 1]
    assert make_packs([], 64, 5, LIKE) == []


def test_methods_that_cannot_be_packed_run_alone(monkeypatch):
    monkeypatch.setattr(METHODS.get("hat"), "packable", False)
    asked = [Trial(with_values(configuration(), {"c": 0.1 * i}), 0) for i in range(1, 4)]
    assert [len(p.trials) for p in make_packs(asked, 64, 1, LIKE)] == [1, 1, 1]


def test_a_packs_learner_has_the_members_values():
    base = configuration(assign={"epochs": "3", "dropout": "0.25"})
    pack = Pack(tuple(Trial(with_values(base, {"c": c, "lr": lr}), 5) for c, lr in ((0.1, 0.2), (0.3, 0.4))), 1, "cpu", None)
    learner = pack.learner()
    assert [(m.hyper.c, m.lr) for m in learner.members] == [(0.1, 0.2), (0.3, 0.4)]
    assert (learner.seed, learner.training.epochs, learner.method.network.dropout) == (5, 3, 0.25)
    assert len(learner.benchmark.tasks) == 2
