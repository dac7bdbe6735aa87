"""Runs that are there twice, gone, or not to be had: what the publisher makes of them."""

import errno
import time

import pytest
from fake_sweep import item
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from mlflow.tracking import MlflowClient

from clcore.disk import wanting
from clcore.errors import UserError
from trackers import check_tracking
from trackers.mlflow_thread import PublisherThread
from trackers.mlflow_tracker import Publisher


@pytest.fixture
def make(uri, tmp_path, sweep):
    return lambda: Publisher(sweep.folder, uri, tmp_path / "home" / "artifacts")


@pytest.fixture
def client(uri):
    return MlflowClient(uri)


def by_role(client):
    found = client.search_runs([client.get_experiment_by_name("cl/split-digits").experiment_id])
    return {role: [run for run in found if run.data.tags["cl.role"] == role] for role in ("sweep", "trial", "orphan")}


def curve(client, run, key="acc/avg"):
    return [point.step for point in client.get_metric_history(run.info.run_id, key)]


def test_what_is_there_twice_is_marked(sweep, make, client):
    sweep.whole_pack("p0", [item(0), item(1)])
    make().publish()
    before = by_role(client)
    for run in (*before["sweep"], before["trial"][0]):  # as a server does that is asked twice, its first answer being lost
        client.create_run(run.info.experiment_id, run.info.start_time, tags=run.data.tags | {"cl.seen": "-1", "cl.closings": "-1"})
    sweep.end(asked=2, done=2)
    for _ in range(2):
        make().publish()
        after = by_role(client)
        for role in ("sweep", "trial"):
            assert [r.info.run_id for r in after[role]] == [r.info.run_id for r in before[role]]
            assert {run.info.status for run in after[role]} == {"FINISHED"}
        assert [run.info.status for run in after["orphan"]] == ["KILLED"] * 2
        assert all(run.data.tags["cl.orphan"] == "true" for run in after["orphan"])


def test_the_sweeps_own_run_is_deleted_while_it_runs(sweep, make, client):
    publisher = make()
    sweep.whole_pack("p0", [item(0), item(1)])
    publisher.publish()
    first = by_role(client)
    client.delete_run(first["sweep"][0].info.run_id)
    client.delete_run(first["trial"][0].info.run_id)
    sweep.pack("p1", [item(2)])
    sweep.start("p1")
    with pytest.raises(MlflowException):
        publisher.publish()
    sweep.run_tasks("p1", [item(2)["trial"]])
    sweep.done(item(2)["trial"], "p1")
    sweep.end(asked=3, done=3)
    publisher.publish()
    after = by_role(client)
    (parent,) = after["sweep"]
    assert parent.info.run_id != first["sweep"][0].info.run_id
    assert curve(client, parent, "count/done") == [1, 2, 3]
    assert len(after["trial"]) == 3
    for run in after["trial"]:
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert curve(client, run) == [1, 2, 3, 4, 5]


def test_a_sweep_that_nobody_runs_does_not_seem_to_run(sweep, make, client):
    sweep.pack("p0", [item(0)])
    sweep.start("p0")
    sweep.run_tasks("p0", [item(0)["trial"]], [0, 1])
    make().publish()
    assert {run.info.status for runs in by_role(client).values() for run in runs} == {"RUNNING"}
    for _ in range(2):
        make().close("KILLED")
        assert {run.info.status for runs in by_role(client).values() for run in runs} == {"KILLED"}


def test_what_is_not_published_is_counted(sweep, make, monkeypatch):
    publisher = make()
    sweep.whole_pack("p0", [item(0), item(1)])
    sweep.pack("p1", [item(2)])  # nothing of it has happened, so it has no run
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "search_runs", _refuse)
        with pytest.raises(MlflowException):
            publisher.publish()
        assert publisher.unpublished == 3
    publisher.publish()
    assert publisher.unpublished == 0


def test_a_refusal_is_not_waited_for(sweep, make, monkeypatch):
    monkeypatch.setattr(MlflowClient, "search_runs", _refuse)
    thread = PublisherThread(make())
    thread.start()
    begun = time.monotonic()
    assert not thread.finish(timeout=120)
    assert time.monotonic() - begun < 60
    assert "--allowed-hosts" in thread.error


def _refuse(*_, **__):
    raise MlflowException("not for you", error_code=PERMISSION_DENIED)


@pytest.mark.parametrize(
    ("uri", "instead"),
    [
        ("postgresql://me:secret@127.0.0.1/x", "PGPASSWORD"),
        ("postgresql://127.0.0.1/x?user=me&password=secret", "PGPASSWORD"),
        ("https://me:secret@127.0.0.1", "MLFLOW_TRACKING_PASSWORD"),
    ],
)
def test_no_password_is_taken_into_the_record(uri, instead):
    with pytest.raises(UserError, match=instead) as error:
        check_tracking(uri)
    assert "secret" not in str(error.value)


def test_a_full_disk_says_what_was_wanted(tmp_path):
    for number, said in ((errno.ENOSPC, "77 bytes were wanted: '.*/file'"), (errno.EACCES, "no")):
        with pytest.raises(OSError, match=said) as error, wanting(77, tmp_path / "file"):
            raise OSError(number, "no")
        assert error.value.errno == number
