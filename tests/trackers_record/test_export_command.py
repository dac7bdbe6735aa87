"""``trackers/export.py``: which trial is meant, which files are written, and what is said of wrong calls."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fake_sweep import FakeSweep, item
from helpers import finish, learner

from clcore.checkpoint import write_tensors
from clcore.errors import UserError
from clcore.export import read_all, read_task
from sweeps.settings import validated
from sweeps.trials import base_configuration
from trackers import export as command
from trackers.artifacts import CONFIG, WEIGHTS, write_text
from trackers.command import run
from trackers.predictors import recorded_predictor, stored_predictor
from trackers.recorded import client_of

NAME, TASKS = "hat-grid-1234", 2
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with a sweep of two configurations and two seeds, the second better; its trials are all one small training."""
    folder = tmp_path_factory.mktemp("exported") / "home"
    sweep = FakeSweep(folder / NAME, TASKS, NAME)
    sweep.sweep()
    asked = {"method": "hat", "tasks": TASKS, "network": "mlp:16-16", "assign": {"binarize": "true"}}
    made = learner("hat", [{"binarize": True}], tasks=TASKS, epochs=1)
    finish(made)
    configuration = json.loads(json.dumps(vars(base_configuration(validated(asked)))))
    for seed in (1, 0):
        items = [item(number, seed) for number in (0, 1)]
        sweep.pack(f"p{seed}", items)
        sweep.start(f"p{seed}")
        for seen in range(TASKS + 1):
            rows = [sweep.member(one["trial"], seen, validation=[0.5 + 0.1 * n] * TASKS) for n, one in enumerate(items)]
            sweep.task(f"p{seed}", seen, rows)
        for one in items:
            own = sweep.folder / "trials" / one["trial"]
            write_text(own / CONFIG, json.dumps({**one, "configuration": configuration, "pack": {}}))
            write_tensors(own / WEIGHTS, made.memory_of(0))
            sweep.done(one["trial"], f"p{seed}")
    return folder, made


def called(capsys, *words):
    capsys.readouterr()
    code = run(command.app, [str(word) for word in words])
    return code, *capsys.readouterr()


def test_a_sweeps_best_is_written_and_answers_as_it_did(home, capsys, tmp_path):
    folder, made = home
    assert command.find_trial(NAME, folder) == folder / NAME / "trials" / item(1, 0)["trial"]
    code, out, _ = called(capsys, NAME, "--home", folder, "--to", tmp_path / "new" / "x")
    files = {path.name: path for path in (tmp_path / "new" / "x").iterdir()}
    assert (code, sorted(files)) == (0, ["all.safetensors", "task-0.safetensors", "task-1.safetensors"])
    lines = out.splitlines()
    for (name, path), line in zip(sorted(files.items()), lines, strict=False):
        assert line.startswith(name)
        assert f"{path.stat().st_size:,} bytes" in line
        assert path.stat().st_mode & 0o777 == 0o644
    stored = made.method.stored_bytes(made.memory_of(0), {n: t[0] for n, t in made.hp.items()})
    assert f"= {stored:,} + a header of" in lines[0]
    assert f"{made.method.learning_bytes(made.memory_of(0)):,} bytes" in lines[3]
    predictor, bench = stored_predictor(command.find_trial(NAME, folder))
    inputs, _ = bench.test(1).batch(torch.arange(40))
    labels = predictor.predict(inputs, 1)[1]
    assert torch.equal(read_all(files["all.safetensors"]).predict(inputs, 1)[1], labels)
    assert torch.equal(read_task(files["task-1.safetensors"]).predict(inputs), labels)


def test_one_trial_and_one_task(home, capsys, tmp_path):
    folder, _ = home
    wanted = item(0, 1)["trial"]
    for what in (f"{NAME}/{wanted}", f"{NAME}/{wanted[:4]}", f"{folder / NAME}/{wanted}"):
        assert command.find_trial(what, folder) == folder / NAME / "trials" / wanted
    code, out, _ = called(capsys, f"{NAME}/{wanted}", "--home", folder, "--to", tmp_path, "--task", 1, "--cut", "masked")
    assert (code, [path.name for path in tmp_path.iterdir()]) == (0, ["task-1.safetensors"])
    assert "of the body's weights" in out


@pytest.mark.parametrize(("words", "text"), [
    (["nope"], "unknown sweep 'nope'"), ([f"{NAME}/zz"], "unknown finished trial 'zz'"), ([f"{NAME}/0"], "finished trial '0'"),
    ([NAME, "--task", "2"], "0 to 1"), ([NAME, "--task", "-1"], "0 to 1"), ([NAME, "--cut", "all"], "negligible, masked"),
    ([NAME, "--to", "/proc/none"], "cannot be written"), ([NAME, "--too", "x"], "No such option"),
])  # fmt: skip
def test_a_wrong_call_is_one_line(words, text, home, capsys, tmp_path):
    folder, _ = home
    to = [] if "--to" in words else ["--to", tmp_path / "new"]
    code, out, err = called(capsys, *words, "--home", folder, *to)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert text in err
    assert not (tmp_path / "new").exists()


def test_a_wrong_trial_is_told_the_nearest_few():
    names = [f"{number:06x}" for number in range(500)]
    said = str(command._no_trial("0000zz", [], names))
    assert "none of the 500" in said
    assert len(said) < 150
    assert "may be any of 500: 000000, 000001, 000002, 000003 .." in str(command._no_trial("0", names, names))


def test_damaged_trials_are_refused(home, capsys, tmp_path):
    folder, _ = home
    own = folder / NAME / "trials" / item(0, 0)["trial"]
    whole = {name: (own / name).read_bytes() for name in (CONFIG, WEIGHTS)}
    damage = [
        (CONFIG, b"{"),
        (CONFIG, b"[]"),
        (CONFIG, b'{"configuration": {}, "seed": 0}'),
        (WEIGHTS, b""),
        (WEIGHTS, whole[WEIGHTS][:99]),
    ]
    for name, content in damage:
        (own / name).write_bytes(content)
        code, _, err = called(capsys, f"{NAME}/{own.name}", "--home", folder, "--to", tmp_path)
        assert (code, err.count("\n")) == (2, 1), content
        (own / name).write_bytes(whole[name])
    (own / WEIGHTS).unlink()
    assert called(capsys, f"{NAME}/{own.name}", "--home", folder, "--to", tmp_path)[0] == 2
    (own / WEIGHTS).write_bytes(whole[WEIGHTS])


MINE = """from pathlib import Path
from clcore.methods.hat import HAT
Path(__file__).with_name("was_run").touch()
class Mine(HAT):
    pass
METHOD = Mine
"""


def test_a_trial_of_a_file_of_ones_own_is_exported_where_that_is_allowed(home, capsys, tmp_path):
    """Neither the record nor what was exported may name a file that is run without a word."""
    folder, made = home
    mine = tmp_path / "mine.py"
    mine.write_text(MINE)
    own = folder / NAME / "trials" / item(0, 0)["trial"]
    before = (own / CONFIG).read_text()
    config = json.loads(before)
    config["configuration"]["method"] = str(mine)
    write_text(own / CONFIG, json.dumps(config))
    words = f"{NAME}/{own.name}", "--home", folder, "--to", tmp_path / "to"
    try:
        code, _, err = called(capsys, *words)
        assert (code, err.count("\n")) == (2, 1)
        assert f"{mine}, which would be run: allow it (--run-files" in err
        assert not (tmp_path / "was_run").exists()
        assert called(capsys, *words, "--run-files")[0] == 0
        assert (tmp_path / "was_run").exists()
    finally:
        write_text(own / CONFIG, before)
    whole = tmp_path / "to" / "all.safetensors"
    with pytest.raises(UserError, match="run_files=True"):
        read_all(whole)
    inputs = torch.rand(20, *made.benchmark.input_shape)
    answers = stored_predictor(own)[0].predict(inputs, 1)[1]
    assert torch.equal(read_all(whole, run_files=True).predict(inputs, 1)[1], answers)
    assert torch.equal(read_task(tmp_path / "to" / "task-1.safetensors").predict(inputs), answers)  # a network of ours


def test_a_stream_has_no_tasks_to_export(home, capsys, tmp_path):
    folder, _ = home
    own = folder / NAME / "trials" / item(0, 0)["trial"]
    before = (own / CONFIG).read_text()
    config = json.loads(before)
    config["configuration"]["benchmark"]["options"]["scenario"] = "task-free"
    write_text(own / CONFIG, json.dumps(config))
    code, _, err = called(capsys, f"{NAME}/{own.name}", "--home", folder, "--to", tmp_path)
    write_text(own / CONFIG, before)
    assert (code, err.count("\n")) == (2, 1)
    assert "learned a stream" in err


@pytest.mark.faults
def test_a_run_of_mlflows_read_in_a_process_with_its_files_alone(tmp_path):
    """The whole way: a sweep, its run exported through MLflow, and answers where nothing but the files is left."""
    words = ["--method", "tfm", "--space", "default", "--tasks", "2", "--network", "mlp:16", "--set", "epochs=3", "--executor",
             "inline", "--pack", "1", "--home", tmp_path / "home"]  # fmt: skip
    subprocess.run([sys.executable, ROOT / "sweeps" / "run.py", *map(str, words)], check=True, capture_output=True, timeout=300)
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'home' / 'mlflow.db'}"
    client = MlflowClient(uri)
    (found,) = client.search_runs([e.experiment_id for e in client.search_experiments()], "tags.`cl.role` = 'trial'")
    with pytest.raises(UserError, match="no tracking database"):
        client_of(f"sqlite:///{tmp_path / 'none.db'}")
    to = tmp_path / "to"
    call = [sys.executable, ROOT / "trackers" / "export.py", found.info.run_id, "--to", to, "--tracking-uri", uri]
    done = subprocess.run([*map(str, call)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    predictor, bench = recorded_predictor(client_of(uri), found.info.run_id)
    inputs, _ = bench.test(0).batch(torch.arange(30))
    code = f"""
import json, sys, torch
from pathlib import Path
from clcore.export import read_all, read_task
inputs = torch.tensor(json.load(sys.stdin))
folder = Path({str(to)!r})
print(json.dumps([read_all(folder / "all.safetensors").predict(inputs, 0)[1].tolist(),
                  read_task(folder / "task-0.safetensors").predict(inputs).tolist()]))
assert not {{"sklearn", "mlflow", "ray"}} & set(sys.modules)
"""
    text = json.dumps(inputs.tolist())
    said = subprocess.run(
        [sys.executable, "-c", code], input=text, capture_output=True, text=True, timeout=300, cwd=ROOT, check=False
    )
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout) == [predictor.predict(inputs, 0)[1].tolist()] * 2
    metrics = client.get_run(found.info.run_id).data.metrics
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("all.safetensors")]
    assert f"= {int(metrics['cost/bytes']):,} + " in line
