"""``python trackers/publish.py``: from the journal alone to any MLflow, as often as one likes."""

import contextlib
import shutil
import socket
import sqlite3
import time

import pytest
import torch
from command_kit import NAME, call, finished, value_edits
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.tracking._tracking_service import utils

from trackers import publish, read
from trackers.artifacts import read_matrix
from trackers.journal import read as read_journal
from trackers.lock import only_one
from trackers.record import JOURNAL

TABLES = ("experiments", "runs", "metrics", "latest_metrics", "params", "tags")


@pytest.fixture
def publishes(capsys):
    return lambda *words: call(publish.main, words, capsys)


def rows(database):
    with contextlib.closing(sqlite3.connect(database)) as db:
        return {table: sorted(map(repr, db.execute(f"SELECT * FROM {table}"))) for table in TABLES}


def trials(uri):
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("cl/split-digits")
    found = client.search_runs([experiment.experiment_id])
    return {run.data.tags["cl.trial"]: run for run in found if run.data.tags["cl.role"] == "trial"}


def whole(folder, uri) -> bool:
    """Whether MLflow has every trial, finished, with the matrix that the sweep's own files have."""
    found = trials(uri)
    return len(found) == 2 and all(
        run.info.status == "FINISHED"
        and torch.equal(read.matrix(run.info.run_id, uri), read_matrix(folder / "trials" / name / "accuracy.parquet")["test"])
        for name, run in found.items()
    )


def test_to_the_homes_own_mlflow_and_again(home, publishes):
    first = publishes(NAME, "--home", home)
    assert first.code == 0, first.err
    assert f"{NAME} is in MLflow at sqlite:///{home}/mlflow.db" in first.out
    assert "compareRunsMode=CHART" in first.out
    assert whole(home / NAME, f"sqlite:///{home}/mlflow.db")
    before = rows(home / "mlflow.db")
    for _ in range(2):
        assert publishes(home / NAME).out == first.out  # by its path, too
    assert rows(home / "mlflow.db") == before


def test_to_a_new_mlflow(home, publishes, tmp_path):
    uri = f"sqlite:///{tmp_path}/new.db"
    for _ in range(2):
        assert publishes(NAME, "--home", home, "--tracking-uri", uri).code == 0
    assert whole(home / NAME, uri)
    assert not (tmp_path / "mlflow-artifacts").exists()  # the files are in the sweep's home, though the database is not


def test_a_run_that_was_deleted_comes_back(home, publishes):
    uri = f"sqlite:///{home}/mlflow.db"
    publishes(NAME, "--home", home)
    gone = next(iter(trials(uri).values())).info.run_id
    MlflowClient(uri).delete_run(gone)
    assert publishes(NAME, "--home", home).code == 0
    assert whole(home / NAME, uri)
    assert gone not in {run.info.run_id for run in trials(uri).values()}


def test_files_that_were_lost_are_sent_again(home, publishes):
    uri = f"sqlite:///{home}/mlflow.db"
    publishes(NAME, "--home", home)
    shutil.rmtree(home / "mlflow-artifacts")
    assert publishes(NAME, "--home", home).code == 0
    assert whole(home / NAME, uri)


def test_files_that_came_later_are_sent(home, publishes):
    (home / NAME / "trials").rename(home / "aside")
    assert publishes(NAME, "--home", home).code == 0
    (home / "aside").rename(home / NAME / "trials")
    assert publishes(NAME, "--home", home).code == 0
    assert whole(home / NAME, f"sqlite:///{home}/mlflow.db")


@pytest.mark.parametrize("with_files", [True, False])
def test_a_home_that_was_moved_with_its_record(home, publishes, tmp_path, with_files):
    publishes(NAME, "--home", home)
    runs = {run.info.run_id for run in trials(f"sqlite:///{home}/mlflow.db").values()}
    if not with_files:
        shutil.rmtree(home / "mlflow-artifacts")
    new = home.rename(tmp_path / "moved")
    utils._artifact_repos_cache.clear()  # a process remembers where the files of a run are
    assert publishes(NAME, "--home", new).code == 0
    uri = f"sqlite:///{new}/mlflow.db"
    assert whole(new / NAME, uri)
    assert {run.info.run_id for run in trials(uri).values()} == runs
    assert not home.exists()  # nothing was written where it was
    assert (
        MlflowClient(uri).get_experiment_by_name("cl/split-digits").artifact_location == f"{new}/mlflow-artifacts/cl-split-digits"
    )


def test_another_homes_record_keeps_its_files(home, publishes, tmp_path):
    publishes(NAME, "--home", home)
    other = finished(tmp_path / "second", "other-sweep")
    uri = f"sqlite:///{home}/mlflow.db"
    assert publishes(other, "--tracking-uri", uri).code == 0
    assert MlflowClient(uri).get_experiment_by_name("cl/split-digits").artifact_location.startswith(str(home))
    assert len(trials(uri)) == 2  # the same trial ids, in another sweep
    assert len(list((home / "mlflow-artifacts" / "cl-split-digits").iterdir())) == 6


def test_what_cannot_be_published(home, publishes, tmp_path):
    for words, message in [
        (["nothing", "--home", home], f"unknown sweep 'nothing'. Known: {NAME}"),
        (["tfm-grid-1243", "--home", home], f"Did you mean '{NAME}'"),
        ([NAME, "--home", tmp_path / "no"], "No such file"),
        (["x" * 5000, "--home", home], "unknown sweep"),
        ([NAME, "--home", home, "--tracking-uri", "ftp://x"], "unknown scheme"),
        ([NAME, "--home", home, "--tracking-uri", f"sqlite:///{tmp_path}/no/x.db"], "there is no folder"),
        ([], "Missing argument"),
        ([NAME, "--colour"], "No such option"),
    ]:
        result = publishes(*words)
        assert result.is_refusal, result
        assert message in result.err
    (home / NAME / JOURNAL).write_bytes(b"")
    assert "is empty" in publishes(NAME, "--home", home).err
    (home / NAME / JOURNAL).unlink()
    result = publishes(NAME, "--home", home)
    assert result.is_refusal
    assert "there is no journal" in result.err


def test_a_server_that_is_not_there_is_said_soon(home, publishes):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    begun = time.monotonic()
    result = publishes(NAME, "--home", home, "--tracking-uri", f"http://127.0.0.1:{port}")
    assert result.is_refusal
    assert "no MLflow server answers" in result.err
    assert time.monotonic() - begun < 5


def test_a_store_that_breaks_off(home, publishes, monkeypatch):
    real, calls = MlflowClient.log_batch, []

    def log_batch(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise MlflowException("INTERNAL_ERROR: away\nand a traceback")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    result = publishes(NAME, "--home", home)
    assert result.is_refusal
    assert "could not be brought up to date (INTERNAL_ERROR: away)" in result.err
    assert publishes(NAME, "--home", home).code == 0
    assert whole(home / NAME, f"sqlite:///{home}/mlflow.db")


def test_a_sweep_that_runs_is_left_alone(home, publishes):
    with only_one(home / NAME):
        result = publishes(NAME, "--home", home)
    assert result.is_refusal
    assert "another process" in result.err


def test_a_database_that_is_none(home, publishes, tmp_path):
    (tmp_path / "text.db").write_text("not a database, and long enough to be looked at" * 40)
    assert publishes(NAME, "--home", home, "--tracking-uri", f"sqlite:///{tmp_path}/text.db").is_refusal


def test_damaged_journals_are_published_as_they_are_or_refused(home, publishes):
    events, _ = read_journal(home / NAME / JOURNAL)
    for damaged in value_edits(events, 16, seed=3):
        (home / NAME / JOURNAL).write_bytes(damaged)
        result = publishes(NAME, "--home", home)
        assert result.code == 0 or result.is_refusal, (result, damaged)
