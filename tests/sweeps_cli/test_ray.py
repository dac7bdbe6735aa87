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

from sweeps.on_ray import RETRIES

#: Four packs of two or three, the references included; each takes a second or two.
TFM = [*WORDS, *shlex.split("--tasks 3 --set epochs=12")]
#: A method that breaks at the end of its second task - or whose worker does - and one whose loss is no number there.
FAULTY = """
import os
from dataclasses import dataclass

import torch

from clcore.hyper import knob
from clcore.methods.finetune import FineTune


@dataclass(frozen=True)
class Hyper:
    fault: float = knob(0.0, "0: none, 1: raises, 2: no number, 3: ends its process", packed=True, source="-")


class METHOD(FineTune):
    Hyper = Hyper

    def loss(self, params, memory, hp, at, batch):
        wrong = (hp["fault"] == 2) & (at.task == 1)
        return super().loss(params, memory, hp, at, batch) * torch.where(wrong, torch.nan, 1.0)

    def end_task(self, params, memory, hp, at, batches):
        if at.task == 1 and hp["fault"] == 1:
            raise RuntimeError("out of luck")
        if at.task == 1 and hp["fault"] == 3:
            os._exit(9)
        return super().end_task(params, memory, hp, at, batches)
"""


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


@pytest.mark.faults
def test_a_trial_that_fails_by_its_own_fault_is_not_tried_for_ever(tmp_path):
    """What it raises and a loss that is no number are reported, and not tried again; a process that ends may be a node's loss."""
    (tmp_path / "faulty.py").write_text(FAULTY)
    (tmp_path / "faults.toml").write_text("[values]\nfault = [3, 2, 1, 0]\n")
    words = "--method faulty.py --space faults.toml --network mlp:8 --tasks 3 --set epochs=2 --pack 1 --workers 1 --home home"
    said = outcome(start(*words.split(), cwd=tmp_path))
    assert said.code == 1, said.err
    assert said.ledger == {"trials": 4, "done": 1, "skipped": 0, "failed": 3}
    sweep = only_folder(tmp_path / "home")
    faults = {e["pack"]: e["trials"][0]["hyperparameters"]["fault"] for e in events(sweep, "pack")}
    starts = [faults[e["pack"]] for e in events(sweep, "start")]
    assert {fault: starts.count(fault) for fault in faults.values()} == {0: 1, 1: 1, 2: 1, 3: 1 + RETRIES}
    reasons = {faults[e["pack"]]: e["reason"] for e in events(sweep, "failed")}
    assert reasons[1] == "RuntimeError: out of luck"
    assert "not a number (task 1" in reasons[2]
    assert len(events(sweep, "failed")) == 3
    assert [faults[e["pack"]] for e in events(sweep, "done")] == [0]
