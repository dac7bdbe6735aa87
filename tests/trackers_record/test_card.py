"""The card of a configuration: its numbers against scipy, its command against the settings it was made from, bad input."""

import json
import math
import re
import shlex
import shutil
from statistics import fmean

import pytest
from fake_sweep import TASKS, FakeSweep, item
from mlflow.tracking import MlflowClient
from scipy import stats

from sweeps.run import _settings
from sweeps.settings import validated
from sweeps.trials import base_configuration
from trackers import card as card_file
from trackers.artifacts import write_text
from trackers.interval import mean_and_half, student
from trackers.mlflow_tracker import Publisher
from trackers.repeat import again_command, fork_command

SEEDS = (0, 1, 2)
ASSIGN = {"growth": "0.05", "epochs": "7", "dropout": "0.25", "norm": "batch", "validation_fraction": "0.2"}


def configuration(**changes):
    """A configuration as ``config.json`` holds it."""
    asked = {"method": "tfm", "scenario": "class-il", "tasks": 4, "network": "mlp:20", "assign": ASSIGN}
    return json.loads(json.dumps(vars(base_configuration(validated({**asked, **changes})))))


def skill(number, seed, seen, task):
    return 0.5 + 0.1 * number + 0.02 * seed + 0.01 * task - 0.005 * seen


@pytest.fixture(scope="module")
def home(tmp_path_factory, migrated):
    """A home with an MLflow and a sweep in it: two configurations with three seeds each, the second better."""
    folder = tmp_path_factory.mktemp("carded") / "home"
    sweep = FakeSweep(folder / "tfm-grid-1234")
    sweep.sweep()
    for seed in SEEDS:
        items = [item(number, seed) for number in (0, 1)]
        sweep.pack(f"p{seed}", items)
        sweep.start(f"p{seed}")
        for seen in range(TASKS + 1):
            tests = [[skill(number, seed, seen, task) for task in range(TASKS)] for number in (0, 1)]
            rows = [
                sweep.member(one["trial"], seen, test=test, validation=[value + 0.01 for value in test])
                for one, test in zip(items, tests, strict=True)
            ]
            sweep.task(f"p{seed}", seen, rows)
        for one in items:
            config = {**one, "configuration": configuration(), "pack": {}}
            write_text(sweep.folder / "trials" / one["trial"] / "config.json", json.dumps(config))
            sweep.done(one["trial"], f"p{seed}")
    sweep.end(asked=6, done=6)
    shutil.copy(migrated, folder / "mlflow.db")
    Publisher(sweep.folder, f"sqlite:///{folder}/mlflow.db", folder / "artifacts").publish()
    return folder


@pytest.fixture
def uri(home):
    return f"sqlite:///{home}/mlflow.db"


@pytest.fixture
def record(uri):
    """A client, and trial -> its run."""
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("cl/split-digits").experiment_id])
    return client, {run.data.tags.get("cl.trial", ""): run for run in runs}


@pytest.fixture
def cli(monkeypatch, capsys):
    """``python trackers/card.py`` in this process: the exit code, what is printed, and what is complained of."""

    def call(*words):
        monkeypatch.setattr("sys.argv", ["card.py", *map(str, words)])
        capsys.readouterr()
        code = card_file.main()
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def table(text, title):
    """The rows of a table under a heading, by their first cell."""
    part = text.split(f"## {title}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" |")] for line in part.splitlines() if line.startswith("|")]
    return {row[0].strip(): row[1:] for row in rows}


def test_the_best_of_a_sweep(record, cli, uri):
    _, runs = record
    code, text, err = cli("tfm-grid-1234", "--tracking-uri", uri)
    assert (code, err) == (0, "")
    assert text.startswith("# tfm on split-digits (task-il), `mlp:100-100`\n")
    assert "The best of 2 configuration(s), on validation data, of sweep `tfm-grid-1234`: configuration `c001`." in text
    accuracies = [100 * fmean(skill(1, seed, TASKS, task) for task in range(TASKS)) for seed in SEEDS]
    low, high = stats.t.interval(0.95, 2, loc=fmean(accuracies), scale=stats.sem(accuracies))
    assert table(text, "Results")["test accuracy, %"] == [f"{fmean(accuracies):.2f}", f"± {(high - low) / 2:.2f}"]
    assert table(text, "Results")["validation accuracy, %"][0] == f"{fmean(accuracies) + 1:.2f}"
    lost = 100 * fmean(0.005 * (TASKS - task - 1) for task in range(TASKS - 1))
    assert table(text, "Results")["forgetting, %"] == [f"{lost:.2f}", "± 0.00"]
    assert table(text, "Results")["bytes to keep"][0] == f"{4096 + TASKS:,}"
    seeds = table(text, "Seeds")
    for seed, accuracy in zip(SEEDS, accuracies, strict=True):
        assert seeds[str(seed)][0] == f"{accuracy:.2f}"
        assert seeds[str(seed)][-1] == f"`{runs[item(1, seed)['trial']].info.run_id}`"
    assert table(text, "Values")["**growth**"] == ["0.04"]  # varies
    assert table(text, "Values")["p1"] == ["0.4"]
    assert table(text, "Protocol")["epochs"] == ["3"]
    assert "- commit: `0123abc`" in text
    assert "first seed): `d1g35t`" in text
    assert "- versions: torch 2.13.0, clsweep 0.1.0" in text


def test_the_card_of_a_run(record, cli, uri, home):
    _, runs = record
    worse = runs[item(0, 1)["trial"]].info.run_id
    code, text, _ = cli(worse, "--home", home)
    assert code == 0
    assert "A configuration of sweep `tfm-grid-1234`: configuration `c000`." in text
    assert worse in text
    assert f"--replay {runs[item(0, 0)['trial']].info.run_id} --tracking-uri" in text
    by_name, by_id = cli("tfm-grid-1234", "--tracking-uri", uri), cli(runs[""].info.run_id, "--tracking-uri", uri)
    assert by_name == by_id


def test_one_seed_has_no_interval(record, cli, uri):
    client, runs = record
    others = [runs[item(1, seed)["trial"]].info.run_id for seed in (1, 2)]
    for run_id in others:
        client.delete_run(run_id)
    _, text, _ = cli(runs[item(1, 0)["trial"]].info.run_id, "--tracking-uri", uri)
    for run_id in others:
        client.restore_run(run_id)
    assert table(text, "Results")["test accuracy, %"][1] == "-"
    assert [row for row in table(text, "Seeds") if row.isdigit()] == ["0"]


def test_the_command_asks_for_the_very_same_configuration():
    house = {"optimizer": "sgd", "bias": "true", "norm": "default"}  # what rmn has otherwise by default
    for changes in (
        {},
        {"scenario": "task-il", "tasks": None, "assign": {}},
        {"method": "hnet", "assign": {"layers": "7"}},
        {"method": "rmn", "assign": house},
        {"method": "rmn", "scenario": "task-free", "assign": {}},
    ):
        wanted = configuration(**changes)
        program, script, *words = shlex.split(again_command(wanted, ["4"], "sqlite:///x.db"))
        assert (program, script) == ("python", "sweeps/run.py")
        options = {}
        for key, value in zip(words[::2], words[1::2], strict=True):
            options.setdefault(key.removeprefix("--").replace("-", "_"), []).append(value)
        given = {key: values if key == "set" else values[0] for key, values in options.items()}
        given["assign"] = given.pop("set", [])
        asked = _settings(given, None)
        assert asked.seeds == (4,)
        assert json.loads(json.dumps(vars(base_configuration(asked)))) == wanted
    assert "--set" not in again_command(configuration(assign={}), ["0", "1"], "x").replace("--set norm", "")


def test_the_command_of_a_users_own_method_names_every_value(tmp_path):
    """Its code is not run to find out what it has by default."""
    own = tmp_path / "own.py"
    own.write_text("raise RuntimeError('run')\n")
    made = {**configuration(assign={}), "method": str(own)}
    words = shlex.split(again_command(made, ["0"], "x"))
    values = {**made["hyper"], **made["training"]}
    assert {f"{name}={str(v).lower() if isinstance(v, bool) else v}" for name, v in values.items()} <= {*words}


def test_the_command_of_a_fork():
    fork = {"run": "r", "trial": "t", "at": 3, "before": [{"until": 2, "values": {"c": 0.1, "lr": 0.2}}]}
    command = "python sweeps/run.py --fork r --at-task 3 --set c=2 --set lr=0.5 --tracking-uri u --home h"
    assert fork_command(fork, {"c": 2, "lr": 0.5, "smax": 4}, "u", "h") == command
    made = {**configuration(), "fork": {**fork, "before": [{"until": 2, "values": {"growth": 0.1}}]}}
    command = "python sweeps/run.py --fork r --at-task 3 --set growth=0.05 --tracking-uri u --home repeat"
    assert again_command(made, ["0"], "u") == command


@pytest.mark.parametrize("freedom", [1, 2, 5, 10, 11, 12, 29, 500])
def test_the_quantile_is_scipys(freedom):
    assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=3e-4)


def test_intervals_of_unknown_numbers():
    assert all(map(math.isnan, mean_and_half([])))
    assert all(map(math.isnan, mean_and_half([1.0, math.nan])))
    assert mean_and_half([3.0])[0] == 3.0
    assert mean_and_half([2.0, 2.0]) == (2.0, 0.0)


def test_bad_input_is_one_line(record, cli, uri, tmp_path):
    client, runs = record
    run = runs[item(1, 0)["trial"]]
    other = client.create_run(run.info.experiment_id).info.run_id
    empty = client.create_run(
        run.info.experiment_id, tags={"cl.role": "sweep", "cl.sweep": "empty", "cl.sweep_id": "e"}
    ).info.run_id
    newer = client.create_run(run.info.experiment_id, tags={"cl.role": "sweep", "cl.sweep": "newer", "cl.format": "7"}).info.run_id
    cases = [
        (["0" * 32], "there is no run"),
        (["no-such-sweep"], "no sweep 'no-such-sweep'"),
        (["it's"], "the name of a sweep"),
        ([other], "of another program"),
        ([empty], "no finished trial"),
        (["newer"], "reads up to format 1"),
        ([newer], "reads up to format 1"),
        ([], "RUN_ID|SWEEP"),
    ]
    for words, message in cases:
        code, out, err = cli(*words, "--tracking-uri", uri)
        assert (code, out) == (2, ""), words
        assert message in err
        assert re.fullmatch(r"clsweep: .*\n", err), err
    assert cli("x", "--home", tmp_path / "none")[0] == 2
    assert not (tmp_path / "none").exists()


DAMAGED = ("", "[]", "{}", '{"hyperparameters": 3, "settings": {}}', '{"hyperparameters": {}, "settings": {}}', "[")


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_config_is_one_line(text, record, cli, uri, tmp_path):
    client, runs = record
    run_id = runs[item(1, 0)["trial"]].info.run_id
    before = client.download_artifacts(run_id, "config.json", str(tmp_path))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text(text)
    client.log_artifact(run_id, str(tmp_path / "damaged" / "config.json"))
    code, out, err = cli("tfm-grid-1234", "--tracking-uri", uri)
    client.log_artifact(run_id, before)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "config.json" in err
