"""Thousands of random edits of every file of a record: it is read, or refused in one line; nothing in it is ever executed."""

import json
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from command_kit import MANIFEST, NAME, ODD, byte_edits, call, finished, value_edits
from sweep_kit import Silent, in_process, own_logs

from clcore import checkpoint
from clcore.errors import UserError
from clcore.masks import Mask
from clcore.predictor import Predictor
from sweeps import replay
from sweeps.run import _settings
from trackers import archive, artifacts, card, many, model, publish, sweeps
from trackers.command import run
from trackers.journal import Journal, read
from trackers.manifest import read_manifest
from trackers.parcel import open_parcel
from trackers.predictors import recipe_of
from trackers.record import JOURNAL
from trackers.record import replay as replayed
from trackers.recorded import RecordedTrial, client_of, read_config, recorded_trial

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

TINY = ["--method", "hat", "--space", "default", "--benchmark", "split-digits", "--tasks", "2", "--network", "mlp:8"]
TINY += ["--set", "epochs=1", "--executor", "inline", "--pack", "1"]


@pytest.fixture(scope="module")
def canary(tmp_path_factory):
    """A Python file that says when it is run; damaged values name it."""
    folder = tmp_path_factory.mktemp("canary")
    path, mark = folder / "canary.py", folder / "was_run"
    path.write_text(f"open({str(mark)!r}, 'w').close()\nMETHOD = BENCHMARK = NETWORK = None\n")
    yield str(path)
    assert not mark.exists(), "a file that a damaged record names was run"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, migrated):
    """A home with a trial that was trained, published; and a copy of it to be damaged."""
    home = tmp_path_factory.mktemp("trained") / "home"
    home.mkdir()
    shutil.copy(migrated, home / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch, own_logs():
        assert in_process([*TINY, "--home", home], patch, Silent()).code == 0
    return home


@pytest.fixture(scope="module")
def run_id(trained):
    return run_ids(trained)["trial"]


def run_ids(home):
    client = client_of(uri_of(home))
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return {run.data.tags["cl.role"]: run.info.run_id for run in runs}


def uri_of(home):
    return f"sqlite:///{home / 'mlflow.db'}"


def in_mlflow(home, run_id, name) -> Path:
    """Where MLflow keeps a file of a run."""
    (path,) = (home / "mlflow-artifacts").glob(f"*/{run_id}/artifacts/{name}")
    return path


def survived(path, edits, reader, least=100):
    """Reads a file after each edit; more than ``least`` of them are refused, in one line, and some are not."""
    before, refused, whole = path.read_bytes(), 0, 0
    try:
        for damaged in edits:
            path.write_bytes(damaged)
            try:
                reader()
                whole += 1
            except UserError:
                refused += 1
    finally:
        path.write_bytes(before)
    assert refused > least
    assert whole


def odd_with(canary):
    return (*ODD, "\ud800", canary, canary, Path(canary).name, "x.py", [canary], {"name": canary})


# -- journal and manifest --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "count"), [("bytes", 3000), ("values", 3000)])
def test_journals(tmp_path, canary, kind, count):
    folder = finished(tmp_path / "home")
    path = folder / JOURNAL
    events = read(path)[0]
    edits = byte_edits(path.read_bytes(), count, 11) if kind == "bytes" else value_edits(events, count, 12, odd_with(canary))

    def reader():
        replayed(read(path)[0])
        Journal(path).close()
        found = many.trials(tmp_path / "home", NAME)
        many.leaderboard(found)

    survived(path, edits, reader)


@pytest.mark.parametrize(("kind", "count"), [("bytes", 3000), ("values", 3000)])
def test_manifests(tmp_path, canary, kind, count):
    folder = finished(tmp_path / "home")
    path = folder / "sweep.json"
    edits = byte_edits(path.read_bytes(), count, 21) if kind == "bytes" else value_edits([MANIFEST], count, 22, odd_with(canary))

    def reader():
        read_manifest(path)
        _settings({"home": tmp_path / "home"}, NAME)

    survived(path, edits, reader)


# -- Parquet ---------------------------------------------------------------------------------------------------------------


def write_masks(path):
    draw = torch.Generator().manual_seed(3)
    kinds = {"units1": ("unit", (101,)), "units2": ("ternary", (7,)), "layers.0.weight": ("weight", (5, 3, 2, 2))}
    masks = {}
    for task in range(3):
        for layer, (kind, shape) in kinds.items():
            codes = torch.randint(0, 3, shape, generator=draw, dtype=torch.uint8)
            masks[task, layer] = Mask(kind, codes if kind == "ternary" else codes > 0)
    artifacts.write_masks(path, masks)


def write_matrix(path):
    matrix = torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    artifacts.write_matrix(path, {"test": matrix, "validation": matrix / 2})


def write_board(path):
    rows = [{"rank": n, "config": f"c{n}", "smax": 0.1 * n, "kind": "x" if n else 1, "acc": None if n else 0.5} for n in range(4)]
    artifacts.write_leaderboard(path.parent / "board", rows)[0].replace(path)


def check_masks(path, task=None):
    for (of, layer), mask in artifacts.read_masks(path, task).items():
        assert isinstance(of, int)
        assert of >= 0
        assert isinstance(layer, str)
        assert mask.kind in ("unit", "weight", "ternary")
        assert mask.values.dim() > 0
        assert task in (None, of)


def check_matrix(path):
    for split, matrix in artifacts.read_matrix(path).items():
        assert isinstance(split, str)
        assert matrix.dtype == torch.float64
        assert matrix.shape[0] == matrix.shape[1] + 1


def check_board(path):
    artifacts.read_leaderboard(path).to_pylist()


PARQUET = {
    "masks": (write_masks, check_masks),
    "masks of a task": (write_masks, lambda path: check_masks(path, 1)),
    "matrix": (write_matrix, check_matrix),
    "leaderboard": (write_board, check_board),
}


@pytest.mark.parametrize("what", PARQUET)
def test_bytes_of_parquet_files(tmp_path, what):
    write, check = PARQUET[what]
    path = tmp_path / "x.parquet"
    write(path)
    survived(path, byte_edits(path.read_bytes(), 2500, 31), lambda: check(path), least=1000)


@pytest.mark.parametrize("what", PARQUET)
def test_parquet_files_of_other_contents(tmp_path, what):
    """Sound Parquet files whose columns, values and notes are not what they should be."""
    write, check = PARQUET[what]
    path = tmp_path / "x.parquet"
    write(path)
    edits = (written(table, tmp_path / "y.parquet") for table in table_edits(pq.read_table(path), 1500, 32))
    survived(path, edits, lambda: check(path), least=0 if what == "leaderboard" else 500)


ODD_CELLS = (
    None,
    True,
    -1,
    0,
    3,
    10**6,
    2**31 - 1,
    2**40,
    0.5,
    float("nan"),
    "",
    "x",
    "unit",
    b"",
    b"\xff",
    b"x" * 40,
    [],
    [0],
    [-3],
    [2**30] * 3,
)


def table_edits(table, count, seed):
    """The table with an odd value in a cell or in all of a column, with other notes, or without some of it."""
    draw = random.Random(seed)
    for _ in range(count):
        name, kind = draw.choice(table.column_names), draw.randrange(5)
        values, place = table[name].to_pylist(), table.column_names.index(name)
        if kind < 3:
            rows = range(len(values)) if kind == 0 else [draw.randrange(len(values))]
            cell = draw.choice(ODD_CELLS)
            try:
                column = pa.array([cell if row in rows else value for row, value in enumerate(values)])
            except (pa.ArrowException, OverflowError, TypeError):
                column = pa.array([cell] * len(values))
            yield table.set_column(place, name, column).replace_schema_metadata(table.schema.metadata)
        elif kind == 3:
            yield draw.choice([table.drop_columns([name]), table.slice(0, draw.randrange(3)), pa.concat_tables([table, table])])
        else:
            notes = dict(table.schema.metadata or {})
            notes[draw.choice([*notes, b"x"])] = draw.choice([b"", b"0", b"2", b"99999999999", b"-1", b"\xff", b"x", b"big"])
            yield table.replace_schema_metadata(notes)


def written(table, path):
    pq.write_table(table, path)
    return path.read_bytes()


# -- weights and checkpoints -----------------------------------------------------------------------------------------------


def test_safetensors(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.write_tensors(path, {"a": torch.rand(3, 4), "b.c": torch.arange(5), "d": torch.rand(2) < 0.5})
    survived(path, byte_edits(path.read_bytes(), 3000, 41), lambda: checkpoint.read_tensors(path), least=1000)


@pytest.mark.parametrize("name", [checkpoint.TENSORS, checkpoint.FACTS])
def test_checkpoints(tmp_path, name):
    tensors = {"a": torch.rand(3, 4), "b": torch.arange(5)}
    checkpoint.write(tmp_path, tensors, {"pack": ["x"], "task": 1, "more": {"e": [1, 2.5, None]}})

    def reader():
        found, _ = checkpoint.read_own(tmp_path, ["x"])
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[key], tensor) for key, tensor in tensors.items())

    edits = list(byte_edits((tmp_path / name).read_bytes(), 3000, 42))
    survived(tmp_path / name, [*edits, (tmp_path / name).read_bytes()], reader, least=1000)


# -- archives --------------------------------------------------------------------------------------------------------------


def test_archives(tmp_path, capsys):
    finished(tmp_path / "home")
    box, target = tmp_path / "box.zip", tmp_path / "out"
    assert call(archive.main, ["pack", NAME, "--home", tmp_path / "home", "--to", box], capsys).code == 0

    def reader():
        shutil.rmtree(target, ignore_errors=True)
        with open_parcel(box) as parcel:
            parcel.extract(target)

    survived(box, byte_edits(box.read_bytes(), 2500, 51), reader, least=1000)
    assert {path.name for path in tmp_path.iterdir()} <= {"home", "box.zip", "out"}


# -- what a run in MLflow says ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "count"), [("bytes", 2500), ("values", 2500)])
def test_configurations(trained, run_id, canary, kind, count):
    """As ``--replay`` reads them."""
    path, client = in_mlflow(trained, run_id, artifacts.CONFIG), client_of(uri_of(trained))
    whole, recorded = json.loads(path.read_bytes()), recorded_trial(client, run_id)
    edits = byte_edits(path.read_bytes(), count, 61) if kind == "bytes" else value_edits([whole], count, 62, odd_with(canary))

    def reader():
        found = RecordedTrial(run_id, recorded.trial, read_config(Local(path), run_id), recorded.matrices, {})
        pack, trial = replay.pack_of(found, None)
        assert trial.identity == whole["trial"]
        assert pack.trials[0].configuration.method == "hat"

    survived(path, edits, reader)


class Local:
    """A client that has one file of one run, without the way through a database."""

    path = artifacts.CONFIG

    def __init__(self, file):
        self.file = file

    def list_artifacts(self, run_id):
        return [self]

    def download_artifacts(self, run_id, name, folder):
        return shutil.copy(self.file, folder)


@pytest.mark.parametrize("name", [checkpoint.TENSORS, checkpoint.FACTS])
def test_models(trained, run_id, tmp_path, canary, name):
    """A folder that ``Predictor`` reads."""
    recorded = recorded_trial(client_of(uri_of(trained)), run_id)
    recipe, _ = recipe_of(f"run {run_id}", recorded.config, None)
    weights = checkpoint.read_tensors(in_mlflow(trained, run_id, artifacts.WEIGHTS))
    Predictor(recipe, weights).save(tmp_path)
    path = tmp_path / name
    edits = list(byte_edits(path.read_bytes(), 500, 71))
    if name == checkpoint.FACTS:
        edits += value_edits([json.loads(path.read_bytes())], 1000, 72, odd_with(canary))
    survived(path, [*edits, path.read_bytes()], lambda: Predictor.load(tmp_path))


#: What is read in MLflow, by which command, and of whose run.
COMMANDS = {
    "replay": (artifacts.CONFIG, "trial", ["--replay", "RUN"]),
    "replay, accuracies": (artifacts.MATRIX, "trial", ["--replay", "RUN"]),
    "fork": (artifacts.CONFIG, "trial", ["--fork", "RUN", "--at-task", "2", "--set", "c=0.3", "--dry-run"]),
    "model": (artifacts.CONFIG, "trial", ["RUN"]),
    "model, weights": (artifacts.WEIGHTS, "trial", ["RUN"]),
    "card": (artifacts.CONFIG, "trial", ["RUN"]),
    "card, leaderboard": ("leaderboard.parquet", "sweep", ["RUN"]),
}


@pytest.mark.parametrize("what", COMMANDS)
def test_commands(trained, canary, monkeypatch, capsys, what):
    """Exit code 0 or 1, or 2 and one line; nothing else is said on standard error. Nothing is trained, and no model is kept."""
    name, role, words = COMMANDS[what]
    run_id = run_ids(trained)[role]
    monkeypatch.setattr(replay, "_run", lambda *_: (recorded, ""))
    monkeypatch.setattr(model, "save_model", lambda predictor, benchmark, folder: folder.mkdir())
    recorded = {split: torch.zeros(3, 2, dtype=torch.float64) for split in replay.SPLITS}
    words = [run_id if word == "RUN" else word for word in words] + ["--tracking-uri", uri_of(trained)]
    path = in_mlflow(trained, run_id, name)
    before, refused = path.read_bytes(), 0
    edits = list(byte_edits(before, 30, 81))
    if name == artifacts.CONFIG:
        edits += value_edits([json.loads(before)], 40, 82, odd_with(canary))
    try:
        for damaged in edits:
            path.write_bytes(damaged)
            result = said(what, words, monkeypatch, capsys)
            assert result.code in (0, 1) or is_refusal(result), result
            refused += result.code == 2
    finally:
        path.write_bytes(before)
    assert refused > 10 or name == "leaderboard.parquet"  # without it, the card ranks the runs itself
    assert said(what, words, monkeypatch, capsys).code in (0, 1)


def said(what, words, monkeypatch, capsys):
    if what.startswith(("replay", "fork")):
        return in_process(words, monkeypatch, capsys)
    monkeypatch.setattr("sys.argv", ["x", *words])
    return call(lambda _: card.main() if what.startswith("card") else run(model.app), [], capsys)


def is_refusal(result):
    return result.code == 2 and result.err.startswith("clsweep: ") and result.err.count("\n") == 1


@pytest.mark.parametrize("main", [publish.main, archive.main, sweeps.main])
def test_commands_on_folders(tmp_path, migrated, canary, capsys, main):
    """Journal and manifest as publish, archive and list, show meet them."""
    home = tmp_path / "home"
    folder = finished(home)
    shutil.copy(migrated, home / "mlflow.db")
    calls = {
        publish.main: [[NAME, "--home", home]],
        archive.main: [
            ["pack", NAME, "--home", home, "--to", tmp_path / "box.zip"],
            ["unpack", tmp_path / "box.zip", "--home", tmp_path / "new"],
        ],
        sweeps.main: [["show", NAME, "--home", home], ["list", "--home", home]],
    }[main]
    for name in (JOURNAL, "sweep.json"):
        path = folder / name
        before, events = (
            path.read_bytes(),
            [json.loads(line) for line in path.read_bytes().splitlines()] if name == JOURNAL else [MANIFEST],
        )
        for damaged in [*byte_edits(before, 16, 91), *value_edits(events, 16, 92, odd_with(canary))]:
            path.write_bytes(damaged)
            for words in calls:
                result = call(main, words, capsys)
                assert result.code == 0 or is_refusal(result), (result, damaged)
            shutil.rmtree(tmp_path / "new", ignore_errors=True)
        path.write_bytes(before)
