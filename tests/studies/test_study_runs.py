"""Whole studies, tiny: what is run, what is not run twice, what is written, and whether a browser likes it."""

import csv
import os
import shlex
import shutil
import subprocess
import sys

import pytest
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file
from studies_kit import SMALL
from sweep_kit import ROOT, reports, rows_are_unique, stored, wait_for

from clcore.errors import UserError
from sweeps import session
from sweeps.studies.knobs import NAMED
from trackers.predictors import stored_predictor
from trackers.record import load

pytestmark = pytest.mark.faults
COMPARE = "compare --methods hat,finetune,joint --seeds 2"


def rows(folder, name):
    return list(csv.DictReader((folder / f"{name}.csv").open()))


def study_runs(home):
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    experiments = [e.experiment_id for e in client.search_experiments()]
    return client, list(client.search_runs(experiments, "tags.`cl.role` = 'study'"))


def test_a_comparison_is_run_once_grows_by_seeds_and_is_read_back(studies):
    code, out = studies(COMPARE)
    assert code == 0, out
    folder, first = studies.folder("compare"), studies.reports
    assert [row["method"] for row in rows(folder, "comparison")].count("joint") == 1
    assert {row["seeds"] for row in rows(folder, "comparison")} == {"2"}
    assert "| method | accuracy, % |" in out
    the_table_says_what_the_journals_say(studies.home, folder)

    code, out = studies(COMPARE)
    assert code == 0
    assert studies.reports == first
    assert out.count("all 2 trials are there") == 4  # guessing comes with joint training

    code, out = studies(COMPARE.replace("--seeds 2", "--seeds 3"), "--from-record")
    assert code == 0
    assert studies.reports == first
    assert "missing        hat: 1 trials, of seeds 2" in out
    assert studies.folder("compare") == folder  # more seeds are the same study

    code, out = studies(COMPARE.replace("--seeds 2", "--seeds 3"))
    assert code == 0
    assert {row["seeds"] for row in rows(folder, "comparison")} == {"3"}
    assert all(len(load(path.parent).trials) in (1, 2) for path in studies.home.glob("*/journal.jsonl"))

    client, runs = study_runs(studies.home)
    (run,) = runs
    sweeps = [client.get_run(name) for name in run.data.tags["cl.sweep_runs"].split()]
    assert {sweep.data.tags["cl.role"] for sweep in sweeps} == {"sweep"}
    assert {sweep.data.tags["cl.sweep"] for sweep in sweeps} == set(run.data.tags["cl.sweeps"].split())
    files = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"index.html", "curves.png", "curves.svg", "comparison.csv", "comparison.tex", "comparison.md"} <= files


def the_table_says_what_the_journals_say(home, folder):
    by_method = {row["method"]: row for row in rows(folder, "comparison")}
    for path in home.glob("compare-*/journal.jsonl"):
        record = load(path.parent)
        ends = [float(100 * trial.test[2].mean()) for trial in record.trials.values()]
        lost = [float(100 * (trial.test[1, 0] - trial.test[2, 0])) for trial in record.trials.values()]
        row = by_method[record.sweep["method"]]
        assert float(row["accuracy, %"]) == pytest.approx(sum(ends) / 2)
        assert float(row["forgetting, points"]) == pytest.approx(sum(lost) / 2)
    assert float(by_method["joint"]["rho"]) == pytest.approx(0)
    assert float(by_method["random"]["rho"]) < -0.5


def test_tuning_chooses_on_validation_and_its_trials_count(studies):
    words = "compare --methods finetune --seeds 2 --tune 3"
    assert studies(words)[0] == 0
    (tuning,) = (load(path.parent) for path in studies.home.glob("*tuning*/journal.jsonl"))
    (final,) = (load(path.parent) for path in studies.home.glob("compare-finetune-[0-9a-f]*/journal.jsonl"))
    best = max(tuning.trials.values(), key=lambda trial: float(trial.validation[2].mean()))
    assert {trial.settings["lr"] for trial in final.trials.values()} == {best.settings["lr"]}
    assert set(final.linked) == {best.trial}  # seed 0 is not learned again
    before = studies.reports
    assert studies(words)[0] == 0
    assert studies.reports == before


def test_an_interrupted_study_goes_on(studies, monkeypatch):
    real, calls = session.run, []

    def second_is_interrupted(asked, console, command):
        calls.append(asked.folder.name)
        return 130 if len(calls) == 2 else real(asked, console, command)

    monkeypatch.setattr(session, "run", second_is_interrupted)
    code, out = studies("compare --methods hat,finetune,freeze --seeds 1")
    assert code == 130
    assert "the same command goes on" in out
    monkeypatch.setattr(session, "run", real)
    done = studies.reports
    code, out = studies("compare --methods hat,finetune,freeze --seeds 1")
    assert code == 0
    assert out.count("are there") == 1
    assert set(done) < set(studies.reports)
    assert all(rows_are_unique(path.parent) for path in studies.home.glob("*/journal.jsonl"))


def test_a_killed_study_runs_nothing_twice(studies, tmp_path):
    words = [*shlex.split("compare --methods hat,finetune --seeds 3"), *shlex.split(SMALL.replace("--pack 2", "--pack 1"))]
    command = [sys.executable, str(ROOT / "sweeps" / "study.py"), *words, "--home", str(studies.home)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: reports(studies.home) >= 3, process=process)  # the second seed of the first method is under way
    process.kill()
    process.wait()
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert again.returncode == 0, again.stderr
    folders = [path.parent for path in studies.home.glob("compare-*/journal.jsonl")]
    assert len(folders) == 2
    assert all(rows_are_unique(folder) for folder in folders)
    assert all(len(load(folder).trials) == 3 and not load(folder).linked for folder in folders)


def test_robustness_of_a_grid_with_corrupted_images(studies):
    words = "robustness --method hat --seeds 2 --cells 2x3"
    code, out = studies(words)
    assert code == 0, out
    folder = studies.folder("robustness")
    assert len(rows(folder, "cells")) == 6
    shares = [float(row["share, %"]) for row in rows(folder, "variance") if row["measure"].startswith("average")]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    clean = {row["cell"]: float(row["severity 0, %"]) for row in rows(folder, "corruptions")}
    named = {row["cell"]: float(row["accuracy, %"]) for row in rows(folder, "advice")}
    assert clean  # stored weights give the recorded accuracies
    for cell, accuracy in clean.items():
        assert accuracy == pytest.approx(named[cell.split(":")[0].split(",")[0]], abs=1e-6)
    kept = {path: path.stat().st_mtime_ns for path in (studies.home / "studies" / "corruptions").iterdir()}
    before = studies.reports
    assert studies(words, "--from-record")[0] == 0
    assert studies.reports == before
    assert kept == {path: path.stat().st_mtime_ns for path in (studies.home / "studies" / "corruptions").iterdir()}


#: What each named method's paper measures besides accuracy and forgetting.
MORE = {"hat": {"rho"}, "hnet": {"during"}, "hnet-r": {"during"}}


@pytest.mark.parametrize("method", sorted(NAMED))
def test_a_grid_of_each_named_method_is_analysed_in_full(method, studies):
    own_rate = SMALL.replace("--set lr=0.5", "")  # SupSup's is varied
    code, out = studies(f"robustness --method {method} --seeds 2 --cells 2x2 --no-corruptions", small=own_rate)
    assert code == 0, out
    folder, measures = studies.folder("robustness"), {"accuracy", "forgetting"} | MORE.get(method, set())
    assert {path.stem.split("_")[1] for path in folder.glob("map_*.png")} == measures
    assert {path.stem.split("_")[1] for path in folder.glob("effects_*.png")} == measures
    assert [row["seeds"] for row in rows(folder, "cells")] == ["2"] * 4
    assert all(float(row["validation accuracy, %, half of 95 % interval"]) >= 0 for row in rows(folder, "cells"))
    sources = [row["source"] for row in rows(folder, "variance") if row["measure"].startswith("average")]
    assert sources == [*NAMED[method], " x ".join(NAMED[method]), "seed (residual)"]
    assert [row["cell"] for row in rows(folder, "advice")] == ["default", "best on validation", "start here"]
    assert all(float(row["below the best, points, half of 95 % interval"]) >= 0 for row in rows(folder, "advice"))
    assert len(rows(folder, "shares")) == 2
    lead = (folder / "report.md").read_text().splitlines()[2]
    for said in ("within 1 point of the best", "within 5 points", "A newcomer should start from", "Not tuning at all costs"):
        assert said in lead


def test_an_unfinished_grid_says_so_and_has_no_variance(studies):
    assert studies("robustness --method hat --seeds 1 --cells 2x2 --no-corruptions --no-references")[0] == 0
    code, out = studies("robustness --method hat --seeds 2 --cells 2x2 --no-corruptions --no-references", "--from-record")
    assert code == 0
    assert "missing        hat: 4 trials, of seeds 1" in out
    text = (studies.folder("robustness") / "report.md").read_text()
    assert "4 of 8 trials are missing" in text
    assert "The grid is not complete" in text


def test_sweeps_from_an_archive_are_found_in_another_home(studies, tmp_path):
    """As results come from a cluster: what a space file of the other home holds counts, not where it lay."""
    words = "robustness --method hat --seeds 1 --cells 2x2 --no-corruptions --no-references"
    assert studies(words)[0] == 0
    (sweep,) = (path.parent for path in studies.home.glob("*/journal.jsonl"))
    other, file = tmp_path / "other", tmp_path / "sweep.zip"
    archive = [sys.executable, str(ROOT / "trackers" / "archive.py")]
    subprocess.run([*archive, "pack", str(sweep), "--to", str(file)], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    subprocess.run([*archive, "unpack", str(file), "--home", str(other)], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    shutil.rmtree(studies.home)
    studies.home = other
    code, out = studies(words, "--from-record")
    assert code == 0, out
    assert "missing" not in out
    assert len(rows(studies.folder("robustness"), "cells")) == 4
    code, out = studies(words)
    assert code == 0, out
    assert "all 4 trials are there" in out


def test_robustness_of_a_sampled_space(studies):
    assert studies("robustness --method hat --space random --trials 4 --seeds 1")[0] == 0
    folder = studies.folder("robustness")
    assert len(rows(folder, "configurations")) == 5  # four and the default
    assert "It takes 20 configurations" in (folder / "report.md").read_text()
    listed, found = rows(folder, "configurations"), rows(folder, "corruptions")
    clean = {row["configuration"]: float(row["severity 0, %"]) for row in found}
    assert clean["default"] == pytest.approx(float(listed[-1]["accuracy, %"]), abs=1e-6)
    assert clean["best on validation"] == pytest.approx(float(listed[0]["accuracy, %"]), abs=1e-6)
    before = studies.reports
    assert studies("robustness --method hat --space random --trials 4 --seeds 1")[0] == 0
    assert studies.reports == before


def test_a_comparison_on_corrupted_images_trains_nothing(studies):
    assert studies(COMPARE)[0] == 0
    before, folder = studies.reports, studies.folder("compare")
    assert not (folder / "corruptions.csv").exists()
    assert studies(COMPARE, "--corruptions", "--from-record")[0] == 0
    assert studies.reports == before
    assert studies.folder("compare") == folder  # the same study, with more in its report
    compared = {row["method"]: float(row["accuracy, %"]) for row in rows(folder, "comparison")}
    found = rows(folder, "corruptions")
    assert {row["method"] for row in found} == {"hat", "finetune", "joint"}
    assert {row["corruption"] for row in found} == {"noise", "blur", "brightness", "rotation"}
    for row in found:  # severity 0: stored weights give the recorded accuracies
        assert float(row["severity 0, %"]) == pytest.approx(compared[row["method"]], abs=1e-6)
    full = rows(folder, "corruptions_in_full")
    assert len(full) == 3 * 4 * 2
    for row in rows(folder, "corruptions_by_task"):
        own = [r for r in full if (r["method"], r["task"], r["corruption"]) == (row["method"], row["task"], "blur")]
        assert float(row["blur, %"]) == pytest.approx(sum(float(own[0][f"severity {s}, %"]) for s in range(1, 6)) / 5)
    text = (folder / "report.md").read_text()
    assert "corruptions_in_full.csv" in text
    command = next(line for line in text.splitlines() if line.startswith("python sweeps/study.py compare"))
    assert "--from-record" not in command


def test_compression_counts_what_the_files_hold(studies, tmp_path):
    to = tmp_path / "exported"
    code, out = studies("compression --methods hat,supsup --seeds 1 --cells 2", "--export", to)
    assert code == 0, out
    folder = studies.folder("compression")
    for row in rows(folder, "exported"):
        name = "all" if row["what"] == "all tasks" else f"task-{int(row['what'].split()[1]) - 1}"
        path = to / row["method"] / f"{name}.safetensors"
        kept = sum(tensor.numel() * tensor.element_size() for tensor in load_file(path).values())
        assert float(row["tensors, kB"]) == pytest.approx(kept / 1e3, abs=0.051)
        assert float(row["file, kB"]) == pytest.approx(path.stat().st_size / 1e3, abs=0.051)
    assert {row["method"] for row in rows(folder, "sizes")} == {"hat", "supsup"}
    each = {(row["method"], row["values"], row["task"]): row for row in rows(folder, "each_task")}
    alone = [row for row in rows(folder, "exported") if row["what"] != "all tasks"]
    assert len(each) == 2 * 2 * 2
    for row in alone:
        own = each[row["method"], row["values"], row["what"].split()[1]]
        assert float(own["one task alone, kB"]) == pytest.approx(float(row["tensors, kB"]), abs=0.051)
        assert float(own["accuracy, %"]) == pytest.approx(float(row["accuracy, %"]), abs=0.0051)
    assert len(rows(folder, "isolated")) >= 2
    assert {row["method"] for row in rows(folder, "overhead")} == {
        "hat", "supsup", "a plain network", "a network a task",
    }  # fmt: skip


def test_a_method_of_ones_own_is_exported_by_the_study_that_names_it(studies, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from clcore.methods.finetune import FineTune\n\n\nclass Mine(FineTune):\n    pass\n\n\nMETHOD = Mine\n"
    )
    code, out = studies("compression --methods mine.py --seeds 1 --no-isolated")
    assert code == 0, out
    assert [row["what"] for row in rows(studies.folder("compression"), "exported")] == ["all tasks", "task 1", "task 2"]
    (config,) = studies.home.glob("compression-mine-*/trials/*/config.json")
    with pytest.raises(UserError, match="--run-files"):
        stored_predictor(config.parent)
    with pytest.raises(UserError, match="--run-files"):
        stored_predictor(config.parent, run_files=[str(tmp_path / "another.py")])


def test_compression_searches_for_the_front(studies):
    words = "compression --methods hat --seeds 1 --space nsga2 --trials 4 --no-isolated"
    code, out = studies(words)
    assert code == 0, out
    points = [(float(row["stored, kB"]), float(row["accuracy, %"])) for row in rows(studies.folder("compression"), "sizes")]
    assert 2 <= len(points) <= 4  # children may be what their parents were
    (path,) = studies.home.glob("compression-hat-*/study.log")
    for trial in stored(path):
        assert 0 <= trial.values[0] <= 1
        assert any(abs(trial.values[1] / 1e3 - size) < 1e-6 for size, _ in points)
    before = studies.reports
    assert studies(words)[0] == 0
    assert studies.reports == before


def test_a_dry_run_trains_nothing_and_counts(studies):
    code, out = studies("compare --methods hat,finetune --seeds 3", "--dry-run")
    assert code == 0
    assert "6 trials, 6 to run" in out
    assert not list(studies.home.glob("*/journal.jsonl"))
    assert not list((studies.home / "studies").glob("compare-*"))
