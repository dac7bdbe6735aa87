import contextlib
import http.server
import json
import logging
import math
import shutil
import socket
import sqlite3
import threading
import time

import pytest
import torch
from fake_sweep import TASKS, FakeSweep, item
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from clcore.errors import UserError
from clcore.masks import Mask
from trackers import artifacts, check_tracking, deep_link, read
from trackers.mlflow_store import open_store
from trackers.mlflow_thread import PublisherThread
from trackers.mlflow_tracker import Publisher
from trackers.summary import leaderboard
from trackers.view import table_link


@pytest.fixture
def client(uri):
    return MlflowClient(uri)


@pytest.fixture
def make(uri, tmp_path, sweep):
    return lambda: Publisher(sweep.folder, uri, tmp_path / "home" / "artifacts")


def rows(uri, *tables):
    """The whole content of tables, for comparing."""
    tables = tables or ("experiments", "runs", "metrics", "latest_metrics", "params", "tags")
    with contextlib.closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
        return {t: sorted(map(repr, database.execute(f"SELECT * FROM {t}"))) for t in tables}


def runs(client):
    experiment = client.get_experiment_by_name("cl/split-digits")
    found = client.search_runs([experiment.experiment_id])
    parents = [run for run in found if run.data.tags["cl.role"] == "sweep"]
    assert len(parents) == 1
    return parents[0], {run.data.tags["cl.trial"]: run for run in found if run.data.tags["cl.role"] != "sweep"}


def write_files(sweep, name):
    folder = sweep.folder / "trials" / name
    matrix = torch.rand(TASKS + 1, TASKS, dtype=torch.float64)
    masks = {(1, "units1"): Mask("unit", torch.rand(100) < 0.5), (2, "units1"): Mask("ternary", torch.ones(9, dtype=torch.uint8))}
    artifacts.write_matrix(folder / artifacts.MATRIX, {"test": matrix})
    artifacts.write_masks(folder / artifacts.MASKS, masks)
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "state.safetensors").write_bytes(b"1")
    return matrix, masks


def whole_sweep(sweep):
    for pack, seed in (("p0", 0), ("p1", 1)):
        items = [item(number, seed) for number in range(2)]
        for one in items:
            write_files(sweep, one["trial"])
        sweep.whole_pack(pack, items)
    sweep.journal.append("rho", trial=items[0]["trial"], values=[-0.1, math.nan, -0.2, -0.2, -0.3], joint="j", random="r")
    sweep.journal.append("linked", trial="x1", config="c9", seed=0, sweep="older", method="tfm", hyperparameters={"growth": 0.1})
    record = replayed(sweep)
    artifacts.write_leaderboard(sweep.folder / "report", leaderboard(record))
    (sweep.folder / "report" / "leaderboard.md").write_text("| best |")
    sweep.end(asked=5, done=4, skipped=1)


def replayed(sweep):
    from trackers.record import load

    return load(sweep.folder)


def test_a_whole_sweep(sweep, make, client):
    whole_sweep(sweep)
    make().publish()
    parent, children = runs(client)
    assert (parent.info.run_name, parent.info.status) == (sweep.name, "FINISHED")
    assert parent.data.metrics["count/done"] == 4
    assert parent.data.metrics["best/acc_avg_validation"] > 0.5
    assert parent.data.params["benchmark"] == "split-digits"
    note = parent.data.tags["mlflow.note.content"]
    assert all(text in note for text in ("5 asked · 4 done · 1 skipped", "`x1` in sweep `older`", "--resume", "| 1 |"))
    assert {f.path for f in client.list_artifacts(parent.info.run_id)} == {
        "leaderboard.csv",
        "leaderboard.md",
        "leaderboard.parquet",
    }
    assert len(children) == 4
    one = item(0, seed=1)
    child = children[one["trial"]]
    assert child.info.run_name == f"tfm growth=0.02 norm=on s1 · {one['trial'][:4]}"
    assert child.info.status == "FINISHED"
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.params == {"growth": "0.02", "norm": "True", "p1": "0.4", "epochs": "3", "lr": "0.05"}
    wanted = {"cl.method": "tfm", "cl.seed": "1", "cl.pack": "p1", "cl.scenario": "task-il", "cl.config": "c000"}
    assert wanted.items() <= child.data.tags.items()
    assert {f.path for f in client.list_artifacts(child.info.run_id, "checkpoint")} == {"checkpoint/state.safetensors"}


def test_curves_of_a_trial(sweep, make, client):
    whole_sweep(sweep)
    make().publish()
    one = item(0, seed=1)["trial"]
    _, children = runs(client)
    child, trial = children[one], replayed(sweep).trials[one]
    history = client.get_metric_history(child.info.run_id, "acc/avg")
    assert [point.step for point in history] == [1, 2, 3, 4, 5]
    assert [point.value for point in history] == pytest.approx([float(trial.test[t, :t].mean()) for t in range(1, 6)])
    assert [point.timestamp for point in history] == [int(trial.rows[t].time * 1000) for t in range(1, 6)]
    assert [p.step for p in client.get_metric_history(child.info.run_id, "acc/t03")] == [3, 4, 5]
    assert [p.step for p in client.get_metric_history(child.info.run_id, "transfer/forward_vs_init")] == [5]
    assert [p.step for p in client.get_metric_history(child.info.run_id, "rho/avg")] == [1, 3, 4, 5]
    keys = set(child.data.metrics)
    assert {"acc/avg_validation", "forgetting/diagonal", "forgetting/max_previous", "transfer/backward"} <= keys
    assert {"capacity/total", "capacity/units1", "cost/seconds", "cost/bytes", "train/loss", "train/epochs"} <= keys
    assert child.data.metrics["cost/seconds"] == pytest.approx(9.0)
    assert child.data.metrics["capacity/total"] == pytest.approx(0.375)
    assert len(keys) <= 40


def test_publishing_twice_changes_nothing(sweep, make, uri):
    whole_sweep(sweep)
    first = make()
    first.publish()
    before = rows(uri)
    first.publish()
    make().publish()
    make().close("KILLED")
    assert rows(uri) == before


def test_publishing_while_it_runs_ends_where_publishing_at_the_end_does(sweep, make, uri, migrated, tmp_path):
    steps = iter(range(10**6))
    append = sweep.journal.append
    live = [make()]

    def append_and_publish(kind, **fields):
        event = append(kind, **fields)
        if next(steps) % 9 == 0:
            live[0] = make()  # as after a SIGKILL
        live[0].publish()
        return event

    sweep.journal.append = append_and_publish
    whole_sweep(sweep)
    other = tmp_path / "other.db"
    shutil.copy(migrated, other)
    Publisher(sweep.folder, f"sqlite:///{other}", tmp_path / "artifacts").publish()

    def content(uri):
        with contextlib.closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as db:
            run = "SELECT run_uuid, name FROM runs"
            names = dict(db.execute(run).fetchall())
            metrics = db.execute("SELECT run_uuid, key, value, timestamp, step FROM metrics").fetchall()
            params = db.execute("SELECT run_uuid, key, value FROM params").fetchall()
            tags = db.execute("SELECT run_uuid, key, value FROM tags WHERE key != 'mlflow.parentRunId'").fetchall()
            status = db.execute("SELECT run_uuid, status, start_time, end_time FROM runs").fetchall()
        tags = [(run, key, value.replace(run, "its id")) for run, key, value in tags]
        return [sorted((names[row[0]], *row[1:]) for row in table) for table in (metrics, params, tags, status)]

    assert content(uri) == content(f"sqlite:///{other}")


def test_failed_and_reopened_trial(sweep, make, client, uri):
    one = item(0)
    sweep.pack("p0", [one])
    publisher = make()
    publisher.publish()
    assert runs(client)[1] == {}  # nothing of it has happened yet
    sweep.start("p0")
    sweep.run_tasks("p0", [one["trial"]], [0, 1])
    sweep.failed(one["trial"], "p0")
    publisher.publish()
    child = runs(client)[1][one["trial"]]
    assert (child.info.status, child.data.tags["cl.reason"]) == ("FAILED", "loss is NaN")
    assert runs(client)[0].data.metrics["count/failed"] == 1
    sweep.pack("p1", [one])
    sweep.start("p1")
    sweep.run_tasks("p1", [one["trial"]], [0, 1])
    publisher.publish()
    assert runs(client)[1][one["trial"]].info.status == "RUNNING"
    sweep.run_tasks("p1", [one["trial"]], [2, 3, 4, 5])
    sweep.done(one["trial"], "p1")
    publisher.publish()
    parent, children = runs(client)
    assert len(children) == 1
    child = children[one["trial"]]
    assert (child.info.status, child.data.tags["cl.reason"], child.data.tags["cl.pack"]) == ("FINISHED", "", "p1")
    assert [p.step for p in client.get_metric_history(child.info.run_id, "acc/avg")] == [1, 2, 3, 4, 5]
    assert (parent.data.metrics["count/failed"], parent.data.metrics["count/done"]) == (0, 1)


def test_stop_and_resume(sweep, make, client):
    one = item(0)
    sweep.pack("p0", [one])
    sweep.start("p0")
    sweep.run_tasks("p0", [one["trial"]], [0, 1])
    sweep.journal.append("stop", reason="interrupted", detail="SIGINT")
    make().publish()
    parent, children = runs(client)
    assert (parent.info.status, children[one["trial"]].info.status) == ("KILLED", "KILLED")
    assert "stopped (interrupted" in parent.data.tags["mlflow.note.content"]
    sweep.sweep(settings={"space": "other"})  # params of MLflow's cannot change, and need not
    sweep.start("p0", attempt=2)
    publisher = make()
    publisher.publish()
    parent, children = runs(client)
    assert (parent.info.status, children[one["trial"]].info.status) == ("RUNNING", "RUNNING")
    publisher.close("FAILED")
    assert runs(client)[0].info.status == "FAILED"


def test_same_name_in_another_home_is_another_sweep(sweep, make, uri, tmp_path, client):
    make().publish()
    other = FakeSweep(tmp_path / "home2" / sweep.name)
    other.sweep()
    Publisher(other.folder, uri, tmp_path / "artifacts").publish()
    experiment = client.get_experiment_by_name("cl/split-digits")
    assert len(client.search_runs([experiment.experiment_id])) == 2


def test_many_tasks_have_no_curve_each(tmp_path, uri, client):
    fake = FakeSweep(tmp_path / "s", tasks=120)
    fake.sweep()
    fake.whole_pack("p0", [item(0)])
    Publisher(fake.folder, uri, tmp_path / "artifacts").publish()
    child = next(iter(runs(client)[1].values()))
    assert not [key for key in child.data.metrics if key.startswith("acc/t")]
    assert len(client.get_metric_history(child.info.run_id, "acc/avg")) == 120
    assert child.data.tags["cl.artifacts"] == "done, files missing"


def test_not_finite_and_odd_names(sweep, make, client):
    one = item(0, **{"growth[0]": 0.5, "../x": 1})
    sweep.pack("p0", [one])
    sweep.start("p0")
    odd = {"units[1]": 0.5, "units2": math.nan, "total": 0.25}
    half = [0.5, math.nan, 0.5, 0.5, 0.5]
    sweep.task("p0", 2, [sweep.member(one["trial"], 2, capacity=odd, train_loss=math.inf, test=half, validation=None)])
    make().publish()
    child = runs(client)[1][one["trial"]]
    assert child.data.params["growth_0_"] == "0.5"
    assert set(child.data.metrics) == {
        "acc/t01",
        "capacity/total",
        "capacity/units_1_",
        "cost/bytes",
        "cost/learning_bytes",
        "cost/overhead_bytes",
        "cost/seconds",
        "train/epochs",
    }
    assert child.data.metrics["capacity/total"] == 0.25
    assert child.data.metrics["cost/learning_bytes"] == 8192 + 2
    assert child.data.metrics["cost/overhead_bytes"] == 1024 + 2


def test_reading_back(sweep, make, client, uri):
    one = item(0)
    matrix, masks = write_files(sweep, one["trial"])
    sweep.whole_pack("p0", [one])
    artifacts.write_leaderboard(sweep.folder / "report", leaderboard(replayed(sweep)))
    sweep.end(asked=1, done=1)
    make().publish()
    parent, children = runs(client)
    run_id = children[one["trial"]].info.run_id
    assert torch.equal(read.matrix(run_id, uri), matrix)
    back = read.masks(run_id, uri)
    assert back.keys() == masks.keys()
    assert all(torch.equal(back[key].values, masks[key].values) for key in masks)
    for sweep_or_run in (sweep.name, parent.info.run_id):
        assert read.leaderboard(sweep_or_run, uri).column("rank").to_pylist() == [1]
    with pytest.raises(UserError, match="validation"):
        read.matrix(run_id, uri, split="validation")
    with pytest.raises(UserError, match=r"has no masks\.parquet; it has: leaderboard"):
        read.masks(parent.info.run_id, uri)
    with pytest.raises(UserError, match="cannot read"):
        read.masks("0" * 32, uri)
    with pytest.raises(UserError, match="no sweep 'nothing'"):
        read.leaderboard("nothing", uri)


def test_reading_from_nowhere_makes_nothing(tmp_path):
    with pytest.raises(UserError, match="no tracking database"):
        read.masks("0" * 32, f"sqlite:///{tmp_path}/x.db")
    assert list(tmp_path.iterdir()) == []


def test_experiment_in_the_trash(sweep, make, client):
    client.delete_experiment(client.create_experiment("cl/split-digits"))
    with pytest.raises(UserError, match="restore -x"):
        make().publish()


def test_a_store_that_comes_back(sweep, make, client, caplog, monkeypatch):
    whole_sweep(sweep)
    publisher = make()
    real, away, tried = MlflowClient.log_batch, threading.Event(), threading.Event()

    def log_batch(self, *args, **kwargs):
        if not away.is_set():
            tried.set()
            raise MlflowException("the server is away\nand a traceback")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    thread = PublisherThread(publisher, interval=0.02, longest_pause=0.05)
    with caplog.at_level(logging.WARNING):
        thread.start()
        assert tried.wait(timeout=60)
        time.sleep(0.2)  # more attempts follow, and only the first is told
        away.set()
        assert thread.finish(timeout=20)
    assert not thread.is_alive()
    assert [r.getMessage() for r in caplog.records if "away" in r.getMessage()] == [
        "MLflow cannot be written (the server is away); the journal keeps everything, trying again"
    ]
    parent, children = runs(client)
    assert parent.info.status == "FINISHED"
    assert len(children) == 4


def test_a_store_that_stays_away(sweep, make, monkeypatch):
    def log_batch(self, *args, **kwargs):
        raise MlflowException("the server is away")

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    thread = PublisherThread(make(), interval=0.02, longest_pause=0.05)
    thread.start()
    begun = time.monotonic()
    assert not thread.finish(timeout=0.5)
    assert time.monotonic() - begun < 2


class SlowPublisher:
    """Brings one run after the other up to date, and takes its time."""

    written = 0

    def publish(self):
        while self.written < 6:
            time.sleep(0.3)
            self.written += 1


def test_finishing_waits_as_long_as_runs_come_through():
    """A thousand trials take minutes to publish, which is no reason to leave them out of MLflow."""
    thread = PublisherThread(SlowPublisher(), interval=0.02)
    thread.start()
    assert thread.finish(timeout=1.0)


def test_one_bad_trial_does_not_hold_up_the_others(sweep, make, client, monkeypatch):
    whole_sweep(sweep)
    publisher, real = make(), MlflowClient.log_artifacts

    def log_artifacts(self, run_id, folder):
        if item(0)["trial"] in folder:
            raise MlflowException("too large")
        return real(self, run_id, folder)

    monkeypatch.setattr(MlflowClient, "log_artifacts", log_artifacts)
    for _ in range(3):
        with pytest.raises(MlflowException):
            publisher.publish()
    statuses = {name: run.info.status for name, run in runs(client)[1].items()}
    assert sorted(statuses.values()) == ["FINISHED"] * 3 + ["RUNNING"]


def test_two_processes_prepare_one_new_store(tmp_path):
    uri = f"sqlite:///{tmp_path}/new.db"
    errors = []

    def prepare():
        try:
            open_store(uri, tmp_path)
        except UserError as error:
            errors.append(error)

    threads = [threading.Thread(target=prepare) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_prepare_says_what_is_wrong(sweep, tmp_path):
    with pytest.raises(UserError, match="cannot open the tracking store"):
        Publisher(sweep.folder, "postgresql+nodriver://localhost/x", tmp_path / "a").prepare()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def server(answers):
    """A server that answers each path with a status."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = b"{}"
            self.send_response(answers.get(self.path, 404))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *args):
            pass

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{made.server_address[1]}"
    finally:
        made.shutdown()
        made.server_close()


SEARCH = "/api/2.0/mlflow/experiments/search"


def test_check_of_servers():
    with server({"/health": 200, SEARCH: 200}) as uri:
        check_tracking(uri)
    with server({"/health": 200, SEARCH: 403}) as uri, pytest.raises(UserError, match=r"--allowed-hosts 127\.0\.0\.1"):
        check_tracking(uri)
    with server({}) as uri, pytest.raises(UserError, match="no MLflow server"):
        check_tracking(uri)


def test_check_of_a_server_that_is_not_there():
    for uri in (f"http://127.0.0.1:{free_port()}", f"postgresql://u@127.0.0.1:{free_port()}/x"):
        begun = time.monotonic()
        with pytest.raises(UserError, match="answer") as error:
            check_tracking(uri)
        assert time.monotonic() - begun < 4
        assert "\n" not in str(error.value)


def test_check_of_a_server_that_says_nothing():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        begun = time.monotonic()
        with pytest.raises(UserError, match="no MLflow server answers"):
            check_tracking(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - begun < 7


def test_check_of_good_databases_leaves_nothing(tmp_path, uri):
    (tmp_path / "empty").mkdir()
    check_tracking(f"sqlite:///{tmp_path}/empty/mlflow.db")
    check_tracking(f"sqlite:///{tmp_path}/runs/mlflow.db", home=tmp_path / "runs")
    check_tracking(uri)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")) == ["empty", "home", "home/mlflow.db"]


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("sqlite:///{}/missing/mlflow.db", "there is no folder"),
        ("sqlite:///{}/file/mlflow.db", "there is no folder"),
        ("sqlite:///{}/text.db", "cannot be written"),
        ("sqlite:///{}", "is a folder"),
        ("sqlite://", "names no database file"),
        ("sqlite:///:memory:", "names no database file"),
        ("file://{}/mlruns", "no longer maintains"),
        ("{}/mlruns", "no longer maintains"),
        ("ftp://host/x", "unknown scheme 'ftp'"),
    ],
)
def test_check_of_bad_uris(tmp_path, form, message):
    (tmp_path / "file").write_text("x")
    (tmp_path / "text.db").write_text("this is no database, only a text of some length" * 50)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=message) as error:
        check_tracking(form.format(tmp_path))
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


def test_check_of_a_locked_database(uri):
    with contextlib.closing(sqlite3.connect(uri.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UserError, match="database is locked"):
            check_tracking(uri)


def test_deep_link():
    assert deep_link("http://h:5000/", "7") == (
        "http://h:5000/#/experiments/7/runs?workflowType=machine_learning&compareRunsMode=CHART"
        "&orderByKey=metrics.%60acc%2Favg%60&orderByAsc=false"
    )


def test_each_trial_tells_its_story(sweep, make, client):
    good, bad = item(0), item(1)
    sweep.pack("p0", [good, bad])
    sweep.start("p0")
    sweep.run_tasks("p0", [good["trial"], bad["trial"]], range(3))
    sweep.failed(bad["trial"], "p0", "loss is NaN\nfar below")
    sweep.run_tasks("p0", [good["trial"]], range(3, TASKS + 1))
    sweep.done(good["trial"], "p0")
    make().publish()
    _, children = runs(client)
    told = {name: run.data.tags["mlflow.note.content"] for name, run in children.items()}
    own, run_id = replayed(sweep).trials[good["trial"]], children[good["trial"]].info.run_id
    assert f"`{good['trial']}` of sweep `tfm-grid-1234`" in told[good["trial"]]
    assert f"After 5 of 5 tasks:** {100 * float(own.validation[-1].mean()):.1f} % on validation data" in told[good["trial"]]
    assert f"`python sweeps/run.py --replay {run_id} --home runs`" in told[good["trial"]]
    assert "After 2 of 5 tasks" in told[bad["trial"]]
    assert "**Failed:** loss is NaN" in told[bad["trial"]]
    assert "--replay" not in told[bad["trial"]]
    assert "far below" not in told[bad["trial"]]


def test_the_table_of_runs_opens_with_figures(sweep, make, client, uri):
    whole_sweep(sweep)
    make().publish()
    experiment = client.get_experiment_by_name("cl/split-digits")
    (key,) = (tag for tag in experiment.tags if tag.startswith("mlflow.sharedViewState."))
    columns = json.loads(experiment.tags[key])["selectedColumns"]
    assert {"metrics.`acc/avg_validation`", "metrics.`acc/avg`"} <= {*columns}
    assert {name.split("`")[1] for name in columns} <= {m for run in runs(client)[1].values() for m in run.data.metrics}
    link = table_link("http://h:5000/", experiment.experiment_id)
    assert link.startswith(f"http://h:5000/#/experiments/{experiment.experiment_id}/runs?")
    assert link.endswith(f"viewStateShareKey={key.rpartition('.')[2]}")
    client.set_experiment_tag(experiment.experiment_id, key, "{}")  # of another version
    make().publish()
    assert json.loads(client.get_experiment(experiment.experiment_id).tags[key])["selectedColumns"] == columns
