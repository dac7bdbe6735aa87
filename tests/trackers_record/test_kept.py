"""Weights that may still be taken away go to MLflow at the end of a sweep, and readers are told why a file is not there."""

import json

import pytest
from fake_sweep import item
from mlflow.tracking import MlflowClient

from clcore.errors import UserError
from trackers.artifacts import CONFIG, MASKS, WEIGHTS
from trackers.kept import (
    MOST_BYTES,
    boundaries,
    boundary,
    files_of,
    is_light,
    read_config,
    size_of,
    tell_dropped,
    there,
    waits,
    why_missing,
    write_config,
)
from trackers.mlflow_tracker import Publisher
from trackers.recorded import fetch


def files(folder):
    """A trial's folder as a driver leaves it."""
    (folder / boundary(2)).mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(b"weights")
    (folder / "accuracy.parquet").write_bytes(b"matrix")
    (folder / boundary(2) / "state.json").write_bytes(b"state")
    write_config(folder, {"trial": folder.name}, {})
    return folder


@pytest.fixture
def trial(tmp_path):
    return files(tmp_path / "trial")


def test_what_is_kept_is_told(trial):
    (trial / "after-x").mkdir()
    (trial / "after-7").mkdir()
    assert boundaries(trial) == {2: trial / "after-02"}
    assert [size_of(trial, part) for part in ("weights", "masks", "boundaries")] == [7, 0, 5]
    assert json.loads((trial / CONFIG).read_text()) == {
        "trial": "trial", "kept": {"weights": True, "masks": False, "boundaries": [2], "dropped": {}},
    }  # fmt: skip
    tell_dropped(trial, {"weights": "w", "boundaries": "b"})
    told = {"weights": False, "masks": False, "boundaries": [], "dropped": {"weights": "w", "boundaries": "b"}}
    assert json.loads((trial / CONFIG).read_text())["kept"] == told
    assert files_of(trial, "weights")  # said first, taken away after
    (trial / ".config.json.x1").touch()  # on its way to be config.json
    heavy = {path.name for path in trial.rglob("*") if path.is_file() and not is_light(path)}
    assert heavy == {WEIGHTS, "state.json", ".config.json.x1"}


def test_a_config_that_is_lost_stays_lost(trial):
    (trial / CONFIG).write_text("{")
    tell_dropped(trial, {"weights": "w"})
    assert (trial / CONFIG).read_text() == "{"
    (trial / CONFIG).unlink()
    tell_dropped(trial, {"weights": "w"})
    assert not (trial / CONFIG).exists()


def test_why_a_file_is_not_there(trial):
    assert there(trial / WEIGHTS) == trial / WEIGHTS
    (trial / WEIGHTS).unlink()
    assert there(trial / WEIGHTS) == trial / WEIGHTS  # nobody said why: its reader finds that it is gone
    tell_dropped(trial, {"weights": "--keep best"})
    with pytest.raises(UserError, match=r"checkpoint.safetensors: the weights of this trial were not kept \(--keep best\)"):
        there(trial / WEIGHTS)
    with pytest.raises(UserError, match="has no masks"):
        there(trial / MASKS)
    for odd in ({}, {"kept": 7}, {"kept": {"dropped": 7}}, {"kept": {"dropped": {"weights": 7}}}):
        assert why_missing(WEIGHTS, odd) is None
    assert why_missing("samples.png", {"kept": {"dropped": {"weights": "w"}}}) is None


@pytest.mark.parametrize("text", ["", "[]", "7", "null", "[" * 100_000, '{"a": "\\ud800"}', '{"a": "%s"}' % ("x" * MOST_BYTES)])
def test_a_config_that_is_none_says_nothing_and_stays(trial, text):
    (trial / WEIGHTS).unlink()
    (trial / CONFIG).write_text(text)
    with pytest.raises(ValueError):
        read_config(trial / CONFIG)
    assert there(trial / WEIGHTS) == trial / WEIGHTS
    tell_dropped(trial, {"weights": "w"})
    assert (trial / CONFIG).read_text() == text


def test_which_sweeps_wait():
    said = [
        {},
        {"keep": "final"},
        {"keep": "every-task", "keep_bytes": None},
        {"keep": "best"},
        {"keep": "final", "keep_bytes": 10},
    ]
    assert [waits(settings) for settings in said] == [False, False, False, True, True]


def test_what_may_be_taken_away_waits_for_the_end(sweep, uri, tmp_path):
    settings = {"keep": "every-task", "keep_bytes": 10}
    sweep.sweep(settings=settings)
    publisher = Publisher(sweep.folder, uri, tmp_path / "home" / "artifacts")
    one, other = (item(number)["trial"] for number in range(2))
    for name in (one, other):
        files(sweep.folder / "trials" / name)
    sweep.whole_pack("p", [item(0), item(1)])
    sweep.journal.append("stop", reason="interrupted", detail=None)
    publisher.publish()
    client = MlflowClient(uri)
    runs = {run.data.tags.get("cl.trial"): run.info.run_id for run in client.search_runs([publisher.experiment_id])}

    def sent(name):
        return {found.path for found in client.list_artifacts(runs[name])}

    assert sent(one) == sent(other) == {"accuracy.parquet", CONFIG}
    with pytest.raises(UserError, match="goes to MLflow when the sweep has ended"):
        fetch(client, runs[one], WEIGHTS, tmp_path)
    sweep.sweep(settings=settings)
    sweep.journal.append("dropped", trial=one, parts=["weights"], bytes=7, why="--keep best")
    tell_dropped(sweep.folder / "trials" / one, {"weights": "--keep best"})
    (sweep.folder / "trials" / one / WEIGHTS).unlink()
    sweep.end(asked=2, done=2)
    publisher.publish()
    assert sent(one) == {"accuracy.parquet", CONFIG, "after-02"}
    assert sent(other) == {"accuracy.parquet", CONFIG, "after-02", WEIGHTS}
    with pytest.raises(UserError, match="were not kept"):
        fetch(client, runs[one], WEIGHTS, tmp_path)
    assert publisher.record.trials[one].dropped == {"weights": "--keep best"}


def test_without_such_a_sweep_files_are_sent_when_a_trial_is_done(sweep, uri, tmp_path):
    publisher = Publisher(sweep.folder, uri, tmp_path / "home" / "artifacts")
    name = item(0)["trial"]
    files(sweep.folder / "trials" / name)
    sweep.whole_pack("p", [item(0)])
    publisher.publish()
    client = MlflowClient(uri)
    (run,) = [r for r in client.search_runs([publisher.experiment_id]) if r.data.tags.get("cl.trial") == name]
    assert {found.path for found in client.list_artifacts(run.info.run_id)} == {"accuracy.parquet", CONFIG, "after-02", WEIGHTS}
