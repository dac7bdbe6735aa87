"""The command line end to end without Ray: sweeps, what they leave, and every bad input."""

import errno
import json
import math
import os
import re
import shlex
import shutil
import socket
from pathlib import Path
from statistics import fmean

import pytest
import torch
from filelock import FileLock
from sweep_kit import (
    CELLS,
    HAT,
    TINY,
    events,
    in_process,
    leaderboard_rows,
    listing,
    matrices,
    only_folder,
    outcome,
    record_of,
    rows_are_unique,
    same_matrices,
    start,
    stored,
)  # fmt: skip

from sweeps import driver
from trackers.journal import Journal
from trackers.record import load


def runs_in(home):
    """What MLflow itself says: the runs of the store, by their role."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    ids = [e.experiment_id for e in client.search_experiments()]
    return client, client.search_runs(ids, max_results=1000)


# -- one grid, through the shell -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grid(tmp_path_factory, migrated):
    """A grid sweep through ``python sweeps/run.py`` with a relative home, as a person types it."""
    folder = tmp_path_factory.mktemp("grid sweep")  # a space in every path
    (folder / "cells.toml").write_text(CELLS)
    said = outcome(start(*HAT, "--space", "cells.toml", "--references", "--home", "my runs", cwd=folder))
    return folder, said


def test_a_grid_from_end_to_end(grid):
    folder, said = grid
    assert said.code == 0, said.err
    assert said.err == ""
    assert said.ledger == {"trials": 4, "done": 4, "skipped": 0, "failed": 0, "reference": 2}
    home = folder / "my runs"
    sweep = only_folder(home)
    assert re.fullmatch(r"hat-cells-[0-9a-f]{8}", sweep.name)
    record = load(sweep)
    assert record.end["status"] == "done"
    assert record.end["ledger"] == {"asked": 4, "done": 4, "skipped": 0, "failed": 0}
    assert {(t.hyperparameters["c"], t.hyperparameters["smax"]) for t in record.trials.values() if t.role == "trial"} == {
        (0.1, 10), (0.1, 20), (1.0, 10), (1.0, 20),
    }  # fmt: skip
    assert all(t.rho is not None for t in record.trials.values() if t.role == "trial")
    assert rows_are_unique(sweep)


def test_what_a_sweep_leaves(grid):
    folder, _ = grid
    sweep = only_folder(folder / "my runs")
    left = {p.name for p in sweep.iterdir()}
    assert left == {"journal.jsonl", "lock", "log.txt", "report", "sweep.json", "trials"}  # packs and heartbeats are swept up
    for trial in load(sweep).trials.values():
        own = {p.name for p in (sweep / "trials" / trial.trial).iterdir()}
        assert own - {"pictures"} == {"accuracy.parquet", "checkpoint.safetensors", "config.json"} | (
            {"masks.parquet"} if trial.method == "hat" else set()
        )
    report = {p.name for p in (sweep / "report").iterdir()}
    pictures = {"accuracy", "leaderboard", "parallel", "importance", "over_trials", "cost"}
    pictures |= {f"best_{name}" for name in ("matrix", "progress", "capacity", "overlap")}
    tables = {"index.html", "leaderboard.csv", "leaderboard.md", "leaderboard.parquet"}
    assert report == {f"{name}.png" for name in pictures} | tables
    assert list((sweep / "trials").glob("*/pictures/overlap.png"))
    assert (sweep / "report" / "accuracy.png").stat().st_size > 10_000
    assert {p.name for p in (folder / "my runs").iterdir()} <= {
        sweep.name,
        "mlflow.db",
        "mlflow.db.lock",
        "mlflow-artifacts",
        "pilots.json",
    }
    assert {p.name for p in folder.iterdir()} == {"cells.toml", "my runs"}


def test_journal_files_and_leaderboard_agree(grid):
    folder, _ = grid
    sweep = only_folder(folder / "my runs")
    files = matrices(sweep)
    for trial in load(sweep).trials.values():
        assert torch.equal(files[trial.trial]["test"].nan_to_num(-1), trial.test.nan_to_num(-1))
    rows = leaderboard_rows(sweep)
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        last = {split: m[-1] for split, m in files[row["trials"]].items()}
        assert row["acc_avg"] == pytest.approx(fmean(last["test"].tolist()))
        assert row["acc_avg_validation"] == pytest.approx(fmean(last["validation"].tolist()))
    ranked = [row["acc_avg_validation"] for row in rows]
    assert ranked == sorted(ranked, reverse=True)
    assert ranked[0] > ranked[-1], "cells that end equal would prove nothing"


def test_the_mlflow_store_has_every_run(grid):
    folder, _ = grid
    home = folder / "my runs"
    sweep = only_folder(home)
    client, runs = runs_in(home)
    record = load(sweep)
    assert {run.info.status for run in runs} == {"FINISHED"}
    parents = [run for run in runs if run.data.tags["cl.role"] == "sweep"]
    assert len(parents) == 1
    assert len(runs) == 1 + 6
    children = {run.data.params["c"] + "/" + run.data.params["smax"]: run for run in runs if "c" in run.data.params}
    assert len(children) == 4
    files = matrices(sweep)
    for trial in record.trials.values():
        if trial.role != "trial":
            continue
        run = children[f"{trial.hyperparameters['c']}/{trial.hyperparameters['smax']}"]
        assert run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
        assert run.data.metrics["acc/avg"] == pytest.approx(fmean(files[trial.trial]["test"][-1].tolist()))
        assert [m.step for m in client.get_metric_history(run.info.run_id, "acc/avg")] == [1, 2]
        artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
        assert {"accuracy.parquet", "masks.parquet", "checkpoint.safetensors", "config.json"} <= artifacts


def test_the_table_and_the_commands(grid):
    folder, said = grid
    rows = leaderboard_rows(only_folder(folder / "my runs"))
    table = [line for line in said.out.splitlines() if line.startswith("│")]
    assert len(table) == 4
    shown = [[cell.strip() for cell in line.split("│")] for line in table]
    for row, cells in zip(rows, shown, strict=True):
        assert cells[1] == str(row["rank"])
        assert f"{100 * row['acc_avg_validation']:.1f}" in cells
        assert f"{100 * row['acc_avg']:.1f}" in cells
        assert f"{row['bytes'] / 1000:.1f}" in cells
    assert said.command("open the UI") == ["mlflow", "ui", "--backend-store-uri", "sqlite:///my runs/mlflow.db"]


def test_the_repeat_command_repeats_the_best(grid, cli, monkeypatch):
    folder, said = grid
    monkeypatch.chdir(folder)
    program, script, *words = said.command("repeat best")
    assert (program, script) == ("python", "sweeps/run.py")
    assert cli(*words, "--executor", "inline", "--no-references").code == 0
    best = leaderboard_rows(only_folder(folder / "my runs"))[0]
    (again,) = leaderboard_rows(only_folder(folder / "my runs" / "repeat"))
    assert again["trials"] == best["trials"]  # the very same trial
    assert again["acc_avg"] == pytest.approx(best["acc_avg"], abs=0.015)  # alone instead of in a pack: rounding
    assert again["acc_avg_validation"] == pytest.approx(best["acc_avg_validation"], abs=0.015)


def test_the_same_call_again_skips_all(grid, monkeypatch, capsys):
    folder, _ = grid
    monkeypatch.chdir(folder)
    sweep = only_folder(folder / "my runs")
    before, finished = matrices(sweep), (folder / "my runs" / "pilots.json").read_bytes()
    _, runs = runs_in(folder / "my runs")
    said = in_process([*HAT, "--space", "cells.toml", "--references", "--home", "my runs"], monkeypatch, capsys)
    assert said.code == 0
    assert said.ledger == {"trials": 4, "done": 0, "skipped": 4, "failed": 0, "reference": 2}
    assert len(events(sweep, "done")) == 6
    assert matrices(sweep).keys() == before.keys()
    assert (folder / "my runs" / "pilots.json").read_bytes() == finished  # measured once
    _, again = runs_in(folder / "my runs")
    assert len(again) == len(runs)
    reached = [{run.info.run_id: run.data.metrics.get("acc/avg") for run in found} for found in (runs, again)]
    assert reached[0] == reached[1]


# -- sweeps in this process ---------------------------------------------------------------------------------------------


def test_what_a_replay_model_makes_is_drawn(cli, home):
    words = "--tasks 2 --space default --network mlp:16 --executor inline --pack 1 --set epochs=1 --set encoder=8 --set decoder=8"
    assert cli("--method", "hnet-r", *words.split(), "--set", "latent=4", "--home", str(home)).code == 0
    sweep = only_folder(home)
    (trial,) = load(sweep).trials
    assert (sweep / "trials" / trial / "samples.png").stat().st_size > 2000


def test_where_values_are_learned_the_curves_are_kept_and_drawn(cli, home):
    words = ["--benchmark", "toy-regression", "--space", "default", "--network", "mlp:10-tanh", "--set", "epochs=3"]
    assert cli("--method", "finetune", *words, "--home", str(home), "--executor", "inline", "--pack", "1").code == 0
    sweep = only_folder(home)
    assert (sweep / "report" / "best_fit.png").stat().st_size > 5000
    trial = next(iter(load(sweep).trials.values()))
    [header, *rows] = (sweep / "trials" / trial.trial / "fit.csv").read_text().splitlines()
    points = [[float(value) for value in row.split(",")] for row in rows]
    assert (header, len(points)) == ("task,input,value,output", 300)
    errors = [[(value - output) ** 2 for task, _, value, output in points if task == wanted] for wanted in (1, 2, 3)]
    found = [run for run in runs_in(home)[1] if run.data.tags.get("cl.trial") == trial.trial]
    assert found[0].data.metrics["fit/mse"] == pytest.approx(sum(sum(e) / 100 for e in errors) / 3)
    refused = cli("--method", "random", *words, "--home", str(home), "--executor", "inline")
    assert refused.code == 2
    assert "learn values" in refused.err


def test_where_tasks_are_inferred_the_table_of_them_is_kept(cli, home, cells):
    assert cli(*HAT, "--space", str(cells), "--scenario", "class-il", "--home", str(home), "--executor", "inline").code == 0
    sweep = only_folder(home)
    assert (sweep / "report" / "best_inference.png").exists()
    trial = next(iter(load(sweep).trials.values()))
    [header, *rows] = (sweep / "trials" / trial.trial / "task_inference.csv").read_text().splitlines()
    shares = [[float(value) for value in row.split(",")[1:]] for row in rows]
    assert header.split(",")[:2] == ["task", "taken for 1"]
    assert shares == trial.rows[trial.seen].inferred
    assert all(sum(row) == pytest.approx(1) for row in shares)
    _, runs = runs_in(home)
    last = {run.data.tags.get("cl.trial"): run.data.metrics.get("inference/right_task") for run in runs}
    assert last[trial.trial] == pytest.approx(sum(row[task] for task, row in enumerate(shares)) / len(shares))


def test_overlapping_cells_are_linked(cli, home, cells, tmp_path):
    assert cli(*HAT, "--space", cells, "--home", home, "--no-references").code == 0
    (tmp_path / "more.toml").write_text("[values]\nc = [0.1, 2.0]\nsmax = [10]\n")
    said = cli(*HAT, "--space", "more.toml", "--home", home, "--no-references")
    assert said.code == 0
    assert said.ledger == {"trials": 2, "done": 1, "skipped": 1, "failed": 0}
    (sweep,) = home.glob("hat-more-*")
    assert len(leaderboard_rows(sweep)) == 2  # the linked one is in the table
    assert len(list(sweep.glob("trials/*"))) == 1  # and not copied


def test_tpe(cli, home):
    words = [*HAT, "--space", "tpe", "--seeds", "2", "--home", home, "--no-references", "--pack", "2"]
    said = cli(*words, "--trials", "5")
    assert said.code == 0
    assert said.ledger == {"trials": 10, "done": 10, "skipped": 0, "failed": 0}
    sweep = only_folder(home)
    found = stored(sweep / "study.log")
    assert len(found) == 5
    trials = load(sweep).trials.values()
    files = matrices(sweep)
    for trial in found:
        own = [t for t in trials if t.study == trial.number]
        assert {t.seed for t in own} == {0, 1}
        for t in own:
            assert {key: t.hyperparameters[key] for key in trial.params} == trial.params
        assert trial.value == pytest.approx(fmean(fmean(files[t.trial]["validation"][-1].tolist()) for t in own))
    more = cli(*words, "--trials", "6")
    assert more.code == 0
    assert more.ledger == {"trials": 12, "done": 2, "skipped": 10, "failed": 0}
    assert len(list(home.glob("hat-tpe-*"))) == 1


def test_choices_do_not_see_test_data(cli, home, monkeypatch, tmp_path):
    """The poison test through the whole command: other test rows in every report, the same study."""
    words = [*HAT, "--space", "tpe", "--trials", "13", "--set", "iterations=4", "--no-references"]
    assert cli(*words, "--home", home, "--name", "clean").code == 0
    real = driver.Sweep.reported

    def poisoned(self, pack, said, checkpoint):
        members = [{**m, "test": [math.nan] * len(m["test"])} for m in said.get("members", [])]
        return real(self, pack, {**said, "members": members}, checkpoint)

    monkeypatch.setattr(driver.Sweep, "reported", poisoned)
    assert cli(*words, "--home", tmp_path / "other", "--name", "poisoned").code == 0
    clean, other = stored(home / "clean" / "study.log"), stored(tmp_path / "other" / "poisoned" / "study.log")
    assert [(t.params, t.value, t.state) for t in clean] == [(t.params, t.value, t.state) for t in other]
    order = [[(row["c"], row["smax"]) for row in leaderboard_rows(f)] for f in (home / "clean", tmp_path / "other" / "poisoned")]
    assert order[0] == order[1]


def test_a_failed_member(cli, home, tmp_path):
    (tmp_path / "wild.toml").write_text("[values]\nlr = [0.1, 1e30, 0.5]\n")
    words = ["--method", "finetune", "--tasks", "2", "--network", "mlp:16", "--set", "epochs=2", "--executor", "inline"]
    words += ["--space", "wild.toml", "--no-references", "--pack", "3"]
    said = cli(*words, "--home", home)
    assert said.code == 1
    assert said.ledger == {"trials": 3, "done": 2, "skipped": 0, "failed": 1}
    assert re.search(r"trial [0-9a-f]{12} failed: the loss is not a number \(task 0, epoch 0, step \d+; all from 0\)", said.out)
    assert said.err == ""
    record = record_of(home)
    (failed,) = [t for t in record.trials.values() if t.status == "failed"]
    assert failed.settings["lr"] == 1e30
    assert failed.trial in (only_folder(home) / "log.txt").read_text()
    (tmp_path / "calm.toml").write_text("[values]\nlr = [0.1, 0.5]\n")
    assert cli(*[w if w != "wild.toml" else "calm.toml" for w in words], "--home", tmp_path / "calm").code == 0
    calm = matrices(only_folder(tmp_path / "calm"))
    for trial, found in matrices(only_folder(home)).items():
        assert torch.allclose(found["test"].nan_to_num(-1), calm[trial]["test"].nan_to_num(-1), atol=0.02), "a neighbour suffered"
    again = cli(*words, "--home", home)
    assert again.code == 1
    assert again.ledger == {"trials": 3, "done": 0, "skipped": 2, "failed": 1}
    assert len(events(only_folder(home), "failed")) == 2


BROKEN = """
from clcore.methods.finetune import METHOD as Finetune

class METHOD(Finetune):
    '''Breaks after its first task.'''

    def end_task(self, *arguments):
        raise RuntimeError("out of luck")
"""


def test_a_method_that_breaks_shows_its_traceback(cli, home, tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    said = cli("--method", "broken.py", *TINY, "--space", "default", "--home", home, "--no-references")
    assert said.code == 1
    assert said.ledger["failed"] == 1
    assert "RuntimeError: out of luck" in said.out
    assert "in end_task" in said.out
    (tmp_path / "broken.py").write_text(BROKEN.replace("raise RuntimeError", "return super().end_task(*arguments) or str"))
    mended = cli("--method", "broken.py", *TINY, "--space", "default", "--home", home, "--no-references")
    assert mended.code == 0
    assert mended.ledger["done"] == 1  # another file, another question


METHOD_FILE = """
from dataclasses import dataclass
from clcore.hyper import knob
from clcore.methods import Method

@dataclass(frozen=True)
class Shrink:
    keep: float = knob(0.9, "what is left", low=0, high=1, packed=True, grid=(0.5, 1.0))

class METHOD(Method):
    '''Fine-tuning from shrunken weights.'''

    Hyper = Shrink

    def begin_task(self, memory, hp, at):
        params = super().begin_task(memory, hp, at)
        return {name: t * hp["keep"] if name in self.body else t for name, t in params.items()}
"""
BENCHMARK_FILE = """
from dataclasses import replace
from clcore.benchmarks import BENCHMARKS

def BENCHMARK(options, seed, data_dir):
    return replace(BENCHMARKS.get("split-digits")(replace(options, larger_first_task=3), seed, data_dir), name="mine")
"""
NETWORK_FILE = """
from clcore.networks.mlp import MLP

def NETWORK(argument, input_shape, options):
    return MLP(input_shape, [int(argument or 12)], options)
"""


def test_files_of_ones_own(cli, home, tmp_path):
    for name, text in (("shrink.py", METHOD_FILE), ("mine.py", BENCHMARK_FILE), ("net.py", NETWORK_FILE)):
        (tmp_path / name).write_text(text)
    words = ["--method", "shrink.py", "--benchmark", "mine.py", "--network", "net.py:9", "--executor", "inline", "--tasks", "2"]
    words += ["--set", "epochs=2", "--home", home, "--references"]
    said = cli(*words)
    assert said.code == 0, said.err
    assert said.ledger == {"trials": 2, "done": 2, "skipped": 0, "failed": 0, "reference": 2}
    assert said.command("repeat best")[:4] == ["python", "sweeps/run.py", "--method", "shrink.py"]
    assert cli(*words).ledger["skipped"] == 2
    (tmp_path / "net.py").write_text(NETWORK_FILE + "# another\n")
    assert cli(*words).ledger["done"] == 2
    assert len(list(home.glob("shrink-grid-*"))) == 2


def test_pack_is_solo(cli, tmp_path):
    """The pack law through the command: after a few steps, trained alone or in a pack, every loss and accuracy is the same."""
    text = "[values]\nc = [0.1, 0.5, 1.0, 2.0]\nsmax = [10, 400]\n"
    (tmp_path / "eight.toml").write_text(text)
    words = ["--method", "hat", "--tasks", "2", "--network", "mlp:8", "--set", "epochs=1", "--set", "iterations=4"]
    words += ["--space", "eight.toml", "--executor", "inline", "--no-references"]
    for size in (1, 8):
        assert cli(*words, "--pack", size, "--home", tmp_path / str(size)).code == 0
    solo, packed = (only_folder(tmp_path / str(size)) for size in (1, 8))
    assert [len(e["trials"]) for e in events(solo, "pack")] == [1] * 8
    assert [len(e["trials"]) for e in events(packed, "pack")] == [8]
    one, other = matrices(solo), matrices(packed)
    assert one.keys() == other.keys()
    for trial in one:
        for split in ("test", "validation"):
            assert torch.allclose(one[trial][split], other[trial][split], atol=1e-6, rtol=0, equal_nan=True)
    losses = [{t.trial: [t.rows[s].train_loss for s in (1, 2)] for t in load(f).trials.values()} for f in (solo, packed)]
    assert len({tuple(value) for value in losses[0].values()}) == 8  # eight different trainings
    for trial in losses[0]:
        assert losses[0][trial] == pytest.approx(losses[1][trial], abs=1e-6)


# -- stopping and going on ----------------------------------------------------------------------------------------------


def test_a_stopped_sweep_is_resumed(cli, home, cells, tmp_path):
    whole = [*HAT, "--space", cells, "--pack", "1", "--references"]
    assert cli(*whole, "--home", tmp_path / "whole").code == 0
    stopped = cli(*whole, "--home", home, "--time-budget", "0.000001")
    assert stopped.code == 0
    assert "stopped: time budget (1e-06 s a call; --time-budget says another). Go on with:" in stopped.out
    assert stopped.ledger == {"trials": 4, "done": 0, "skipped": 0, "failed": 0, "open": 4, "reference": 2}
    name = only_folder(home).name
    resumed = cli("--resume", name, "--home", home, "--time-budget", "600")
    assert resumed.code == 0
    assert resumed.ledger == {"trials": 4, "done": 4, "skipped": 0, "failed": 0, "reference": 2}
    assert same_matrices(only_folder(home), only_folder(tmp_path / "whole"))


def test_the_printed_resume_command_works(cli, tmp_path, cells, monkeypatch):
    home = "a home [with] many words, longer than a terminal is wide, " + "x" * 60
    real, left = driver.Sweep.reported, [2]

    def interrupted(self, *said):
        real(self, *said)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), 2)  # Ctrl-C

    with monkeypatch.context() as patch:
        patch.setattr(driver.Sweep, "reported", interrupted)
        stopped = cli(*HAT, "--space", cells, "--pack", "4", "--home", home, "--no-references")
    assert stopped.code == 130
    assert stopped.ledger["open"] == 4
    line = stopped.out.splitlines()[-1]
    assert stopped.out.splitlines()[-2] == "stopped: SIGINT. Go on with:"
    words = shlex.split(line)
    assert words[:2] == ["python", "sweeps/run.py"]
    assert load(tmp_path / home / words[3]).stop["reason"] == "interrupted"
    resumed = cli(*words[2:])
    assert resumed.code == 0
    assert resumed.ledger == {"trials": 4, "done": 4, "skipped": 0, "failed": 0}
    sweep = only_folder(tmp_path / home)
    assert rows_are_unique(sweep)
    assert len(events(sweep, "pack")) == 1
    assert [e["attempt"] for e in events(sweep, "start")] == [1, 2]


def test_sigterm_is_143(cli, home, cells, monkeypatch):
    monkeypatch.setattr(driver.Sweep, "started", lambda self, pack: os.kill(os.getpid(), 15))
    assert cli(*HAT, "--space", cells, "--home", home, "--no-references").code == 143


@pytest.mark.parametrize("kind", ["pack", "start", "task", "done", "end"])
def test_a_full_disk_is_exit_code_3(kind, cli, home, cells, monkeypatch):
    real = Journal.append

    def full(self, what, **facts):
        if what == kind or broken:
            broken.append(True)  # a disk that is full stays full
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, what, **facts)

    broken = []
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", full)
        said = cli(*HAT, "--space", cells, "--home", home, "--no-references")
    assert said.code == 3
    assert "No space left on device" in said.out
    assert "--resume" in said.out.splitlines()[-1]
    assert "Traceback" not in said.out + said.err
    resumed = cli(*shlex.split(said.out.splitlines()[-1])[2:])
    assert resumed.code == 0
    assert resumed.ledger["done"] + resumed.ledger["skipped"] == 4
    assert rows_are_unique(only_folder(home))


def test_a_full_disk_while_files_are_kept(cli, home, cells, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(driver.shutil, "copyfile", full)
        said = cli(*HAT, "--space", cells, "--home", home, "--no-references")
    assert said.code == 3
    assert said.ledger["failed"] == 0
    assert cli(*HAT, "--space", cells, "--home", home, "--no-references").ledger["done"] == 4


# -- looking without running ------------------------------------------------------------------------------------------------


def test_dry_run_writes_the_pilot_alone(cli, tmp_path, cells):
    said = cli(*HAT, "--space", cells, "--seeds", "3", "--home", "new", "--dry-run")
    assert said.code == 0
    assert "4 configurations x 3 seeds = 12" in said.out
    assert "nothing was trained" in said.out
    assert re.search(r"time .*\d", said.out)
    assert re.search(r"disk .*[\d.]+ kB", said.out)
    assert set(listing(tmp_path / "new")) == {"pilots.json"}


def test_help(cli):
    said = cli("--help")
    assert said.code == 0
    for group in ("What is swept", "How much", "Where it is kept", "How it runs"):
        assert group in said.out
    assert said.out.count("python sweeps/run.py --") == 4
    for default in ("split-digits", "mlp:100-100", "task-il", "runs", "sqlite:///HOME/mlflow.db"):
        assert (
            f"[default: {default}]" in re.sub(r"\s*│\n│\s*", " ", said.out).replace("(", "[").replace(")", "]")
            or default in said.out
        )
    for option in ("--method", "--space", "--set", "--seeds", "--resume", "--pack", "--address", "--dry-run", "--time-budget"):
        assert option in said.out


def test_list(cli, tmp_path):
    said = cli("--list")
    assert said.code == 0
    for name in ("hat", "tfm", "joint", "split-digits", "permuted-mnist", "mlp", "tpe", "FILE.toml"):
        assert name in said.out
    keys = cli("--list", "--method", "hat")
    for key in ("smax", "epochs", "validation_fraction"):
        assert key in keys.out
    assert listing(tmp_path) == {}


# -- bad input -----------------------------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


CLOSED = f"127.0.0.1:{free_port()}"
BAD = {
    "no method": ([], "--method is missing"),
    "unknown method": (["--method", "hatt"], "Did you mean 'hat'"),
    "unknown benchmark": (["--method", "hat", "--benchmark", "split-digit"], "Did you mean 'split-digits'"),
    "unknown network": (["--method", "hat", "--network", "mpl:10"], "Did you mean 'mlp'"),
    "network without widths": (["--method", "hat", "--network", "mlp:"], "mlp:100-100"),
    "unknown key": (["--method", "hat", "--set", "smx=3"], "Did you mean 'smax'"),
    "unknown space": (["--method", "hat", "--space", "gird"], "Did you mean 'grid'"),
    "unknown scenario": (["--method", "hat", "--scenario", "task"], "task-il"),
    "unknown executor": (["--method", "hat", "--executor", "rya"], "Did you mean 'ray'"),
    "unknown option": (["--method", "hat", "--sedes", "3"], "--seeds"),
    "unknown device": (["--method", "hat", "--device", "gpu7"], "--device"),
    "out of range": (["--method", "hat", "--set", "lr=-1"], "at least 0"),
    "wrong type": (["--method", "hat", "--set", "epochs=some"], "a whole number"),
    "set without value": (["--method", "hat", "--set", "epochs"], "KEY=VALUE"),
    "text for a number": (["--method", "hat", "--cpus", "two"], "--cpus"),
    "zero trials": (["--method", "hat", "--space", "tpe", "--trials", "0"], "--trials"),
    "trials of a grid": (["--method", "hat", "--trials", "3"], "this grid has 48"),
    "zero seeds": (["--method", "hat", "--seeds", "0"], "--seeds"),
    "zero tasks": (["--method", "hat", "--tasks", "0"], "--tasks"),
    "too many classes": (["--method", "hat", "--classes-per-task", "11"], "at most 10"),
    "too many tasks": (["--method", "hat", "--tasks", "6"], "at most 5"),
    "no data": (["--method", "hat", "--benchmark", "split-mnist", "--data-dir", "nowhere"], "nowhere"),
    "space file with a typo": (["--method", "hat", "--space", "typo.toml"], "Did you mean 'smax'"),
    "empty grid": (["--method", "hat", "--space", "empty.toml"], "non-empty list"),
    "no space file": (["--method", "hat", "--space", "none.toml"], "does not exist"),
    "nothing to sample": (["--method", "finetune", "--space", "tpe"], "nothing to sample"),
    "tpe without validation": (
        ["--method", "hat", "--space", "tpe", "--set", "validation=none", "--set", "protocol=fixed"],
        "validation",
    ),
    "plateau without validation": (["--method", "hat", "--set", "validation=none", "--executor", "inline"], "validation"),
    "no method file": (["--method", "none.py"], "existing Python file"),
    "a method file without METHOD": (["--method", "nothing.py"], "defines METHOD"),
    "unreachable cluster": (["--method", "hat", "--address", CLOSED], "no Ray cluster"),
    "address without port": (["--method", "hat", "--address", "somewhere"], "HOST:PORT"),
    "unreachable tracking": (["--method", "hat", "--tracking-uri", f"http://{CLOSED}"], CLOSED),
    "tracking in no folder": (["--method", "hat", "--tracking-uri", "sqlite:////no/such/folder/x.db"], "no folder"),
    "tracking in a file store": (["--method", "hat", "--tracking-uri", "./mlruns"], "sqlite:///"),
    "home that is a file": (["--method", "hat", "--home", "nothing.py"], "not a folder"),
    "home below a file": (["--method", "hat", "--home", "nothing.py/runs"], "not a folder"),
    "home that cannot be written": (["--method", "hat", "--home", "/proc/runs"], "cannot be written"),
    "a home of two lines": (["--method", "hat", "--home", "/proc/two\nlines"], "two lines"),
    "resume of nothing": (["--resume", "hat-grid-12345678"], "no sweep in runs/hat-grid-12345678"),
    "more CPUs than there are": (["--method", "hat", "--cpus", "999"], "at most"),
    "more GPUs than there are": (["--method", "hat", "--gpus-per-trial", "99"], "at most"),
    "more CPUs than there are, in this process": (["--method", "hat", "--executor", "inline", "--cpus", "999"], "at most"),
    "a device without values": (["--method", "hat", "--device", "meta"], "a device that torch has here"),
    "GPUs without end": (["--method", "hat", "--gpus-per-trial", "inf"], "finite"),
    "a cluster for this process": (["--method", "hat", "--executor", "inline", "--address", CLOSED], "--address does not go"),
    "shipping to nowhere": (["--method", "hat", "--ship"], "--ship goes with --address"),
    "a bad name": (["--method", "hat", "--name", "../x"], "--name"),
    "a bad pack": (["--method", "hat", "--pack", "none"], "--pack"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(case, cli, tmp_path):
    words, message = BAD[case]
    (tmp_path / "typo.toml").write_text("[values]\nsmaxx = [1]\n")
    (tmp_path / "empty.toml").write_text("[values]\nsmax = []\n")
    (tmp_path / "nothing.py").write_text("")
    before = listing(tmp_path)
    said = cli(*words)
    assert said.code == 2
    assert message in said.err
    assert said.err.startswith("clsweep: ")
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert listing(tmp_path) == before


def test_bad_input_through_the_shell(tmp_path):
    """Once with everything between: the interpreter's own exit code, and no traceback."""
    said = outcome(start("--method", "hat", "--set", "smx=3", cwd=tmp_path))
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("clsweep: unknown hyperparameter")
    assert said.err.count("\n") == 1
    assert listing(tmp_path) == {}


def test_resume_with_other_settings_shows_the_difference(cli, home, cells):
    cli(*HAT, "--space", cells, "--home", home, "--time-budget", "0.000001")
    name = only_folder(home).name
    before = listing(home)
    said = cli("--resume", name, "--home", home, "--tasks", "3")
    assert said.code == 2
    assert "tasks: 2 then, 3 now" in said.err
    taken = cli(*HAT, "--space", cells, "--home", home, "--name", name, "--set", "epochs=9")
    assert taken.code == 2
    assert "made with other settings" in taken.err
    assert listing(home) == before


def test_a_space_is_what_it_holds_and_not_where_it_lies(cli, home, cells, tmp_path):
    cli(*HAT, "--space", cells, "--home", home, "--time-budget", "0.000001")
    moved = tmp_path / "elsewhere" / Path(cells).name
    moved.parent.mkdir()
    shutil.copy(cells, moved)
    manifest = only_folder(home) / "sweep.json"
    kept = json.loads(manifest.read_text())
    kept["question"]["space"] = str(cells)  # as sweeps of before 2026-11-22 have it
    manifest.write_text(json.dumps(kept))
    said = cli(*HAT, "--space", moved, "--home", home)
    assert said.code == 0, said.err
    assert only_folder(home) == manifest.parent
    moved.write_text(moved.read_text() + "# another\n")
    assert cli(*HAT, "--space", moved, "--home", home, "--name", manifest.parent.name).code == 2


def test_a_damaged_manifest_is_one_line(cli, home, cells):
    cli(*HAT, "--space", cells, "--home", home, "--time-budget", "0.000001")
    sweep = only_folder(home)
    (sweep / "sweep.json").write_text("{")
    said = cli("--resume", sweep.name, "--home", home)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "cannot be read" in said.err


def test_a_sweep_that_another_process_runs(cli, home, cells):
    words = [*HAT, "--space", cells, "--home", home]
    cli(*words, "--time-budget", "0.000001")
    sweep = only_folder(home)
    with FileLock(sweep / "lock"):
        before = listing(home)
        said = cli(*words)
        assert listing(home) == before
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "run by another process" in said.err
    assert json.loads((sweep / "sweep.json").read_text())["settings"]["time_budget"] == 0.000001  # untouched


def test_wrong_data_is_found_before_the_folder_is_made(cli, tmp_path):
    said = cli("--method", "hat", "--benchmark", "permuted-mnist", "--data-dir", tmp_path / "data", "--home", "a/b/c")
    assert said.code == 2
    assert "digits" in said.err  # the alternative that always works
    assert listing(tmp_path) == {}
