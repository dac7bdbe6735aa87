"""``--replay``: a trial from its record alone, in the pack it was in, compared bit for bit; and every bad record."""

import json
import math
import random
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
from again_kit import runs_of, sweep_once, uri_of
from sweep_kit import CELLS, HAT, events, listing, record_of

from clcore.errors import UserError
from sweeps import replay
from sweeps.replay import Parting, pack_of, partings
from trackers.artifacts import read_matrix, write_matrix
from trackers.recorded import RecordedTrial

NAN = math.nan


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, migrated):
    """A pack of four HAT trials and its record."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "cells.toml").write_text(CELLS)
    return sweep_once(folder, migrated, [*HAT, "--space", folder / "cells.toml", "--pack", "4", "--seeds", "5,"])


@pytest.fixture
def copy(mine):
    """The record in another MLflow, whose artifacts a test may damage; gives its URI."""
    return uri_of(mine.parent)


def first_run(uri, number=0):
    client, runs = runs_of(uri)
    return client, [run for trial, run in sorted(runs.items()) if trial][number]


def artifact(run, name):
    return Path(unquote(urlsplit(run.info.artifact_uri).path)) / name


# -- what is recorded is what comes out ------------------------------------------------------------------------------------


def test_every_member_of_a_pack_is_replayed_identically(recorded, cli):
    home = recorded.parent
    before = listing(home)
    for number in range(2):
        _, run = first_run(uri_of(home), number)
        said = cli("--replay", run.info.run_id, "--home", home)
        assert said.code == 0, said.out + said.err
        assert "in its pack of 4" in said.out
        # 2 tasks: the untrained network measures 2 tasks on test data, after task 1 both, after task 2 both; validation 1 + 2
        assert said.out.splitlines()[-1] == "identical: all 9 accuracies are the recorded ones, bit for bit"
    after = listing(home)
    assert {name: data for name, data in after.items() if "mlflow.db" not in name} == {
        name: data for name, data in before.items() if "mlflow.db" not in name
    }
    assert after["mlflow.db"] == before["mlflow.db"]


def test_the_pack_is_the_one_it_ran_in(recorded, cli, monkeypatch):
    (event,) = events(recorded, "pack")
    ran = []
    monkeypatch.setattr(replay, "run_pack", lambda pack, resume, beat: ran.append((pack, resume)) or [])
    _, run = first_run(uri_of(recorded.parent), 2)
    assert cli("--replay", run.info.run_id, "--home", recorded.parent).code == 1  # it reports nothing
    ((pack, resume),) = ran
    assert [trial.identity for trial in pack.trials] == [entry["trial"] for entry in event["trials"]]
    assert [trial.configuration.hyper["c"] for trial in pack.trials] == [e["hyperparameters"]["c"] for e in event["trials"]]
    assert {trial.seed for trial in pack.trials} == {5}
    assert (pack.identity, pack.threads, pack.compiled, pack.device, resume) == (event["pack"], 1, False, "cpu", None)


def test_a_record_in_another_mlflow_is_enough(mine, copy, cli):
    shutil.rmtree(mine)
    _, run = first_run(copy)
    said = cli("--replay", run.info.run_id, "--tracking-uri", copy)
    assert said.code == 0, said.out + said.err
    assert "identical" in said.out


def test_where_it_parts_is_said(copy, cli):
    _, run = first_run(copy)
    path = artifact(run, "accuracy.parquet")
    matrices = read_matrix(path)
    was = float(matrices["test"][2, 0])
    matrices["test"][2, 0] += 0.25
    matrices["validation"][2, 1] -= 0.125
    write_matrix(path, matrices)
    said = cli("--replay", run.info.run_id, "--tracking-uri", copy)
    assert said.code == 1
    first, largest = said.out.splitlines()[1:3]
    assert first == f"parts first after 2 task(s), on task 1 (test): {was + 0.25:.6f} then, {was:.6f} now"
    assert largest == "2 of 9 accuracies differ, by at most 0.25 (after 2 task(s), on task 1, test)"


def test_other_versions_are_named_where_it_parts(copy, cli, monkeypatch):
    monkeypatch.setattr(replay, "run_pack", lambda *_: [])
    client, run = first_run(copy)
    client.set_tag(run.info.run_id, "cl.version.torch", "1.0")
    said = cli("--replay", run.info.run_id, "--tracking-uri", copy)
    assert said.code == 1
    assert f"torch 1.0 then, {torch.__version__.split('+')[0]}" in said.out


def test_a_trial_that_fails_now_parts(copy, cli, monkeypatch):
    _, run = first_run(copy)
    where = {"task": 1, "epoch": 0, "step": 7}
    failed = {"seen": 2, "members": [], "failed": [{"trial": run.data.tags["cl.trial"], "where": where}]}
    monkeypatch.setattr(replay, "run_pack", lambda *_: [(failed, None)])
    said = cli("--replay", run.info.run_id, "--tracking-uri", copy)
    assert said.code == 1
    assert "parts: the loss is not a number (task 1, epoch 0, step 7; all from 0)" in said.out


def test_partings_by_hand():
    then = {"test": [[0.5, NAN], [0.9, NAN], [0.8, 0.7]], "validation": [[NAN, NAN], [0.9, NAN], [0.8, 0.6]]}
    then = {split: torch.tensor(rows) for split, rows in then.items()}
    same = {split: matrix.clone() for split, matrix in then.items()}
    assert partings(then, same) == []
    same["test"][2, 1] = 0.75
    same["validation"][1, 1] = 0.1
    found = partings(then, same)
    assert [(p.seen, p.task, p.split) for p in found] == [(1, 2, "validation"), (2, 2, "test")]
    assert [p.size for p in found] == [1.0, pytest.approx(0.05)]
    assert math.isnan(found[0].then)
    assert partings({"test": then["test"]}, same) == found[1:]


def test_an_unknown_accuracy_is_as_far_as_can_be():
    assert Parting(1, 1, "test", NAN, 0.4).size == Parting(1, 1, "test", 0.4, NAN).size == 1.0


# -- bad records -------------------------------------------------------------------------------------------------------------


def edited(run, change):
    path = artifact(run, "config.json")
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def swap(*keys, value):
    """Sets what is at a path in ``config.json``."""

    def change(config):
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = value

    return change


DAMAGE = {
    "no pack": (lambda config: config.pop("pack"), "which pack it ran in"),
    "no members": (swap("pack", "members", value=[]), "is damaged"),
    "members of the wrong type": (swap("pack", "members", value=3), "is damaged"),
    "threads of the wrong type": (swap("pack", "threads", value="many"), "does not lead to trial"),
    "no configuration": (lambda config: config.pop("configuration"), "is damaged"),
    "another value": (swap("configuration", "hyper", "c", value=0.3), "does not lead to trial"),
    "another seed": (swap("seed", value=6), "does not lead to trial"),
    "an unknown setting": (swap("configuration", "extra", value=6), "is damaged"),
    "another device": (swap("pack", "device", value="abacus"), "abacus"),
    "other data": (swap("data", "digest", value="0" * 16), "the data are not those"),
    "no data": (lambda config: config.pop("data"), "which data it was"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_config_is_one_line(case, recorded, cli):
    """In the record itself, which is mended afterwards."""
    change, message = DAMAGE[case]
    uri = uri_of(recorded.parent)
    _, run = first_run(uri)
    path = artifact(run, "config.json")
    sound = path.read_text()
    try:
        edited(run, change)
        refused(cli("--replay", run.info.run_id, "--tracking-uri", uri), message)
    finally:
        path.write_text(sound)


def refused(said, message):
    assert said.code == 2, said.out
    assert message in said.err
    assert said.err.startswith("clsweep: ")
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_runs_that_are_no_finished_trials(copy, cli):
    client, run = first_run(copy)
    word = ["--tracking-uri", copy]
    refused(cli("--replay", "0" * 32, *word), "there is no run")
    refused(cli("--replay", "nonsense", *word), "nonsense")
    refused(cli("--replay", run.data.tags["mlflow.parentRunId"], *word), "is a whole sweep")
    other = client.create_run(run.info.experiment_id)
    refused(cli("--replay", other.info.run_id, *word), "of another program")
    client.set_tag(run.info.run_id, "cl.format", "99")
    refused(cli("--replay", run.info.run_id, *word), "reads up to format 1")
    client.set_tag(run.info.run_id, "cl.format", "one")
    refused(cli("--replay", run.info.run_id, *word), "'one'")
    client.set_tag(run.info.run_id, "cl.format", "1")
    artifact(run, "accuracy.parquet").write_bytes(b"PAR1")
    refused(cli("--replay", run.info.run_id, *word), "cannot be read as Parquet")
    artifact(run, "config.json").write_text("{")
    artifact(run, "accuracy.parquet").unlink()
    refused(cli("--replay", run.info.run_id, *word), "has no accuracy.parquet")
    client.set_terminated(run.info.run_id, "KILLED")
    refused(cli("--replay", run.info.run_id, *word), "is not finished")


def test_calls_that_make_no_sense(recorded, cli, tmp_path):
    run_id = "0" * 32
    refused(cli("--replay", run_id, "--method", "hat"), "--method does not go with --replay")
    refused(cli("--replay", run_id, "--set", "c=1"), "--set does not go with --replay")
    refused(cli("--replay", run_id, "--dry-run"), "--dry-run does not go")
    refused(cli("--replay", run_id, "--fork", run_id), "--fork does not go")
    refused(cli("--replay", run_id, "--home", tmp_path / "none"), "no tracking database")
    assert listing(tmp_path) == {}


def test_another_file_of_the_users_is_named(cli, home, tmp_path):
    method = tmp_path / "own.py"
    method.write_text("from clcore.methods.finetune import METHOD\n")
    words = [*HAT[2:], "--space", "default", "--home", home]
    assert cli("--method", "own.py", *words).code == 0
    (trial,) = record_of(home).trials
    _, runs = runs_of(uri_of(home))
    assert cli("--replay", runs[trial].info.run_id, "--home", home).code == 0
    method.write_text("raise RuntimeError('other code is not run')\n")
    refused(cli("--replay", runs[trial].info.run_id, "--home", home), "own.py is not what it was")


def test_random_edits_of_a_config_lead_to_the_trial_or_to_one_line(recorded):
    """Whatever is in ``config.json``: a pack of the very same trials, or one line."""
    (event,) = events(recorded, "pack")
    names = [entry["trial"] for entry in event["trials"]]
    text = (recorded / "trials" / names[1] / "config.json").read_text()
    draw, outcomes = random.Random(0), {"pack": 0, "refused": 0}
    for _ in range(1500):
        try:
            config = json.loads(damaged(text, draw))
        except ValueError:
            continue
        if not isinstance(config, dict):
            continue
        try:
            pack, trial = pack_of(RecordedTrial("r", names[1], config, {}, {}), None)
        except UserError:
            outcomes["refused"] += 1
            continue
        outcomes["pack"] += 1
        assert [t.identity for t in pack.trials] == names
        assert trial.identity == names[1]
    assert min(outcomes.values()) > 50


def damaged(text, draw):
    at = draw.randrange(len(text))
    kind = draw.choice(["replace", "delete", "insert", "value"])
    if kind == "value":  # still JSON, another value somewhere
        parts = text.split(": ")
        where = draw.randrange(1, len(parts))
        _, comma, rest = parts[where].partition(",")
        parts[where] = draw.choice(["null", "[]", "{}", "-1", '"x"', "1e9", "true"]) + comma + rest
        return ": ".join(parts)
    letter = draw.choice('0123456789"{}[],:.eE-xn \\')
    return text[:at] + ("" if kind == "delete" else letter) + text[at + (kind != "insert") :]
