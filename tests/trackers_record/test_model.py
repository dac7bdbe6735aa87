"""A trial as an MLflow model: logged into its run, loaded elsewhere, served; it says what the trial's checkpoint says."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from sweep_kit import only_folder

from clcore.checkpoint import DamagedCheckpoint, read_tensors, write_tensors
from clcore.predictor import Predictor, Recipe
from trackers import model
from trackers.artifacts import WEIGHTS

SWEEP = ["--method", "hat", "--space", "default", "--tasks", "2", "--network", "mlp:16", "--set", "epochs=3", "--set", "lr=0.2"]


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A run with its model: tracking URI, run id, and the home."""
    from mlflow.tracking import MlflowClient

    from sweeps import run as command

    home = tmp_path_factory.mktemp("model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sweeps/run.py", *SWEEP, "--executor", "inline", "--pack", "1", "--home", str(home)])
        assert command.main() == 0
    uri = f"sqlite:///{home / 'mlflow.db'}"
    client = MlflowClient(uri)
    (found,) = client.search_runs([e.experiment_id for e in client.search_experiments()], "tags.`cl.role` = 'trial'")
    before = found.info.end_time
    model.log_model(found.info.run_id, uri)
    run = client.get_run(found.info.run_id)
    assert (run.info.status, run.info.end_time) == ("FINISHED", before)
    return uri, found.info.run_id, home


@pytest.fixture(scope="module")
def expected(logged):
    """What the trial's checkpoint says of the second task's test images, with the learner's own network."""
    from sweeps.trials import Pack, Trial

    _, _, home = logged
    sweep = only_folder(home)
    (folder,) = (sweep / "trials").iterdir()
    entry = json.loads((folder / "config.json").read_text())
    learner = Pack((Trial.from_entry({"study": None, "role": "trial", **entry}),), 1, "cpu", None).learner()
    recipe = Recipe.of("hat", vars(learner.method.hyper), entry["configuration"]["network"], learner.benchmark, entry["seed"])
    predictor = Predictor(recipe, read_tensors(folder / WEIGHTS))
    split = learner.benchmark.test(1)
    inputs, _ = split.batch(torch.arange(len(split)))
    return inputs, predictor


@pytest.mark.faults
def test_loaded_in_a_fresh_process_it_says_the_same(logged, expected, tmp_path):
    uri, run_id, _ = logged
    inputs, predictor = expected
    np.save(tmp_path / "inputs.npy", inputs.numpy())
    code = f"""
import json, sys
import mlflow, numpy as np
mlflow.set_tracking_uri({uri!r})
model = mlflow.pyfunc.load_model("runs:/{run_id}/model")
images = np.load({str(tmp_path / "inputs.npy")!r})
for params in ({{"task": 1}}, {{}}):
    print(json.dumps({{name: values.tolist() for name, values in model.predict(images, params=params).items()}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    given, inferred = map(json.loads, done.stdout.splitlines()[-2:])
    for said, task in ((given, 1), (inferred, None)):
        tasks, labels = predictor.predict(inputs, task)
        wanted = {"task": tasks, "label": labels, "class": predictor.classes(tasks, labels)}
        assert said == {name: tensor.tolist() for name, tensor in wanted.items()}


def test_nothing_in_it_is_pickled_and_it_says_what_it_takes(logged):
    import mlflow

    _, run_id, home = logged
    (folder,) = home.glob(f"mlflow-artifacts/*/{run_id}/artifacts/model")
    info = mlflow.models.get_model_info(str(folder))
    assert info.signature.inputs.inputs[0].shape == (-1, 1, 8, 8)
    assert [spec.name for spec in info.signature.outputs.inputs] == ["task", "label", "class"]
    kinds = {path.suffix for path in folder.rglob("*") if path.is_file() and "code" not in path.parts}
    assert not kinds & {".pkl", ".pickle", ".pt", ".pth"}
    assert ".safetensors" in kinds


@pytest.mark.faults
def test_it_is_served(logged, expected):
    uri, run_id, _ = logged
    inputs, predictor = expected
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["models", "serve", "-m", f"runs:/{run_id}/model", "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(
        [str(Path(sys.executable).with_name("mlflow")), *words], env={**os.environ, "MLFLOW_TRACKING_URI": uri},
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for task in (1, None):
            body = {"inputs": inputs[:3].tolist(), **({} if task is None else {"params": {"task": task}})}
            said = _ask(f"http://127.0.0.1:{port}/invocations", body)["predictions"]
            tasks, labels = predictor.predict(inputs[:3], task)
            assert said["task"] == tasks.tolist()
            assert said["label"] == labels.tolist()
    finally:
        os.killpg(server.pid, 15)
        server.wait(timeout=30)


def _ask(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    for _ in range(120):
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError) as error:
            if isinstance(error, urllib.error.HTTPError):
                raise AssertionError(error.read().decode()) from error
            time.sleep(0.5)
    raise AssertionError("no server came up")


@pytest.mark.parametrize("words", [["0" * 32], ["nonsense"], []])
def test_wrong_calls_end_in_one_line(words, logged, capsys):
    _, _, home = logged
    from trackers.command import run

    assert run(model.app, [*words, "--home", str(home)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("clsweep: ")
    assert said.err.count("\n") == 1


def test_damaged_weights_are_refused(tmp_path):
    path = tmp_path / WEIGHTS
    write_tensors(path, {"w": torch.ones(3)})
    assert read_tensors(path)["w"].tolist() == [1.0, 1.0, 1.0]
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(300):
        place = int(generator.integers(len(whole)))
        path.write_bytes(whole[:place] + bytes([int(generator.integers(256))]) + whole[place + 1 :])
        try:
            read_tensors(path)
        except DamagedCheckpoint:
            continue
    path.write_bytes(whole[:20])
    with pytest.raises(DamagedCheckpoint):
        read_tensors(path)
