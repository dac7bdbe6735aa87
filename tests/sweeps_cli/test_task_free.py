"""Sweeps without task ids, through the command line in this process."""

import shlex

import pytest
import torch
from sweep_kit import leaderboard_rows, listing, matrices, only_folder, record_of, same_matrices

from sweeps import trainable
from trackers import pictures, pictures_kit
from trackers.artifacts import read_masks
from trackers.record import load

STREAM = shlex.split(
    "--scenario task-free --benchmark permuted-digits --tasks 2 --network mlp:16 --space default --executor inline "
    "--set epochs=2 --set batch_size=32"
)
RMN = ["--method", "rmn", *STREAM, *shlex.split("--set transition=4 --set noise=off --set switch_grace=8")]
SUPSUP = ["--method", "supsup", *STREAM, *shlex.split("--set mask=threshold --set period=20 --set lr=0.005")]
BOTH = pytest.mark.parametrize("words", [RMN, SUPSUP], ids=["rmn", "supsup"])


@BOTH
def test_a_stream_is_swept_and_recorded(words, cli, home, tmp_path):
    said = cli(*words, "--home", home)
    assert (said.code, said.err) == (0, "")
    assert said.ledger == {"trials": 1, "done": 1, "skipped": 0, "failed": 0}
    sweep = only_folder(home)
    record = load(sweep)
    (trial,) = record.trials.values()
    assert record.sweep["scenario"] == trial.settings["scenario"] == "task-free"
    assert trial.settings["transition"] == (4 if words is RMN else 0)
    assert trial.rows.keys() == {0, 1, 2}
    files = matrices(sweep)[trial.trial]
    assert not files["test"][-1].isnan().any()
    assert not files["validation"][-1].isnan().any()
    inferred = trial.rows[2].inferred
    assert len(inferred) == 2 < len(inferred[0]) if words is SUPSUP else len(inferred[0]) == 2
    [header, *rows] = (sweep / "trials" / trial.trial / "task_inference.csv").read_text().splitlines()
    assert [[float(value) for value in row.split(",")[1:]] for row in rows] == inferred
    assert header.split(",") == ["task", *(f"taken for {mapping + 1}" for mapping in range(len(inferred[0])))]
    masks = read_masks(sweep / "trials" / trial.trial / "masks.parquet")
    assert {mapping for mapping, _ in masks} == set(range(len(inferred[0])))
    assert (sweep / "report" / "best_inference.png").exists()
    assert leaderboard_rows(sweep)[0]["acc_avg"] == pytest.approx(float(files["test"][-1].mean()))
    metrics = metrics_of(home, trial.trial)
    assert metrics["acc/avg"] == pytest.approx(float(files["test"][-1].mean()))
    assert "inference/right_task" not in metrics
    again = cli(*words, "--home", home)
    assert again.ledger == {"trials": 1, "done": 0, "skipped": 1, "failed": 0}


def metrics_of(home, trial):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    (found,) = [run for run in runs if run.data.tags.get("cl.trial") == trial]
    assert found.data.tags["cl.scenario"] == "task-free"
    return found.data.metrics


def test_a_sweep_cut_off_after_a_task_ends_as_if_it_were_not(cli, home, tmp_path, monkeypatch):
    assert cli(*RMN, "--home", tmp_path / "whole").code == 0
    real = trainable.run_pack

    def cut(pack, resume, beat):
        for said, save in real(pack, resume, beat):
            yield said, save
            if said["seen"] == 1:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sweeps.inline.run_pack", cut)
        cli(*RMN, "--home", home)
    begun = []
    monkeypatch.setattr("sweeps.inline.run_pack", lambda pack, resume, beat: begun.append(resume) or real(pack, resume, beat))
    resumed = cli("--resume", only_folder(home).name, "--home", home)
    assert [path is not None for path in begun] == [True]
    assert resumed.ledger["done"] == 1
    assert same_matrices(only_folder(home), only_folder(tmp_path / "whole"))
    one, two = (next(folder.glob("*/trials/*/checkpoint.safetensors")).read_bytes() for folder in (home, tmp_path / "whole"))
    assert one == two


def test_references_are_told_the_tasks(cli, home):
    said = cli(*RMN, "--references", "--home", home)
    assert said.code == 0
    assert said.ledger["reference"] == 2
    trials = record_of(home).trials.values()
    assert {t.method: t.settings["scenario"] for t in trials} == {
        "rmn": "task-free", "joint": "domain-il", "random": "domain-il",
    }  # fmt: skip
    assert all(t.rho is not None for t in trials if t.role == "trial")


def test_two_configurations_are_two_packs(cli, home, tmp_path):
    (tmp_path / "two.toml").write_text('search = "grid"\n[values]\nlr = [0.002, 0.01]\n')
    said = cli(*RMN, "--set", "epochs=1", "--space", "two.toml", "--home", home)
    assert said.ledger["done"] == 2
    assert [len(pack.trials) for pack in record_of(home).packs.values()] == [1, 1]
    dry = cli(*RMN, "--space", "two.toml", "--home", tmp_path / "other", "--dry-run")
    assert "2 of at most 1" in dry.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "hat", *STREAM], "rmn, supsup"),
        (["--method", "joint", *STREAM], "rmn, supsup"),
        ([*RMN, "--pack", "4"], "--pack = '4'"),
        ([*RMN, "--set", "transition=500"], "transition = 500"),
        ([*RMN, "--set", "batch_size=5000"], "batch_size = 5000"),
        ([*RMN, "--set", "protocol=plateau"], "protocol = 'plateau'"),
        ([*RMN, "--scenario", "domain-il"], "transition = 4"),
        ([*RMN, "--benchmark", "split-digits", "--larger-first-task", "4"], "differ in classes"),
    ],
)
def test_bad_calls_are_one_line(words, message, cli, tmp_path):
    before = listing(tmp_path)
    said = cli(*words)
    assert (said.code, said.out) == (2, "")
    assert message in said.err
    assert said.err.count("\n") == 1
    assert listing(tmp_path) == before


def test_the_picture_says_what_its_columns_are(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(pictures_kit, "save", lambda made, path: figures.append(made))
    pictures.draw_inference(tmp_path / "i.png", torch.rand(2, 5), "x", "mapping")
    axes = figures[0].axes[0]
    assert axes.get_xlabel() == "taken for mapping"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "3", "4", "5"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1", "2"]
