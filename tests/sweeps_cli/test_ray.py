"""A sweep on a local Ray through the real command: silent, complete, bit for bit what the same packs give without Ray."""

import os
import re
import shlex
import signal

import pytest
from sweep_kit import TFM as WORDS
from sweep_kit import (
    TFM_CELLS,
    events,
    folder_with,
    matrices,
    only_folder,
    outcome,
    record_of,
    reports,
    rows_are_unique,
    same_matrices,
    start,
    wait_for,
)

#: Four packs of two or three, the references included; each takes a second or two.
TFM = [*WORDS, *shlex.split("--tasks 3 --set epochs=12")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_with(tmp_path_factory, "cluster", tfm=TFM_CELLS)


@pytest.fixture(scope="module")
def finished(folder):
    """The sweep on Ray, home and space relative as a person types them."""
    return outcome(start(*TFM, "--workers", "2", "--home", "on", cwd=folder))


@pytest.fixture
def undisturbed(folder, cli, monkeypatch):
    """The same packs in one process; played once."""
    monkeypatch.chdir(folder)
    if not (folder / "inline").exists():
        assert cli(*TFM, "--executor", "inline", "--home", "inline").code == 0
    return only_folder(folder / "inline")


def test_a_sweep_on_ray(finished, folder):
    assert finished.code == 0, finished.err
    assert finished.ledger == {"trials": 6, "done": 6, "skipped": 0, "failed": 0, "reference": 2}
    sweep = only_folder(folder / "on")
    assert record_of(folder / "on").end["status"] == "done"
    assert rows_are_unique(sweep)
    assert sorted(len(e["trials"]) for e in events(sweep, "pack")) == [1, 1, 2, 2, 2]
    assert {p.name for p in sweep.iterdir()} == {"journal.jsonl", "lock", "log.txt", "report", "sweep.json", "trials"}


def test_nothing_chatters(finished):
    assert finished.err == ""
    known = r"tfm-tfm-[0-9a-f]{8}: |Best conf|[┏┃┡│└]|\d+/6 done|6 trials asked|cost  |files  |the story  |open the UI  |"
    known += "  then  |  as a table  |repeat best  "
    assert [line for line in finished.out.splitlines() if not re.match(known, line)] == []
    assert not re.search(r"\b(ray|tune|raylet)\b", finished.out, re.IGNORECASE)


def test_mlflow_is_complete(finished, folder):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'on' / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len(runs) == 1 + 6 + 2
    files = matrices(only_folder(folder / "on"))
    reached = sorted(run.data.metrics["acc/avg"] for run in runs if "acc/avg" in run.data.metrics)
    assert reached == pytest.approx(sorted(float(m["test"][-1].mean()) for m in files.values()))


def test_ray_and_inline_are_bit_for_bit_equal(finished, undisturbed, folder):
    sweep = only_folder(folder / "on")
    plans = [[e["trials"] for e in events(f, "pack")] for f in (sweep, undisturbed)]
    assert plans[0] == plans[1]
    assert len({str(m) for m in matrices(sweep).values()}) > 4, "trials that end equal would prove nothing"
    assert same_matrices(sweep, undisturbed)


@pytest.mark.faults
def test_ctrl_c_on_ray_and_going_on_without_it(undisturbed, folder, cli):
    process = start(*TFM, "--workers", "1", "--home", "stopped", cwd=folder)
    wait_for(lambda: reports(folder / "stopped") >= 1, process=process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to everything in the foreground
    said = outcome(process, timeout=60)
    assert said.code == 130, said.err
    assert said.err == ""
    assert said.out.splitlines()[-2] == "stopped: SIGINT. Go on with:"
    assert said.ledger["trials"] == sum(said.ledger.get(word, 0) for word in ("done", "skipped", "failed", "open"))
    assert said.ledger["open"] > 0
    words = shlex.split(said.out.splitlines()[-1])
    assert words[:3] == ["python", "sweeps/run.py", "--resume"]
    resumed = cli(*words[2:], "--executor", "inline")
    assert resumed.code == 0, resumed.err
    assert resumed.ledger["done"] + resumed.ledger["skipped"] == 6
    sweep = only_folder(folder / "stopped")
    assert any(e["attempt"] == 2 for e in events(sweep, "start")), "nothing was picked up in the middle"
    assert rows_are_unique(sweep)
    assert same_matrices(sweep, undisturbed)
