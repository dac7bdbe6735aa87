"""Many trials read at once: from a home and from MLflow alike, compared by hand, and as the documentation shows it."""

import itertools
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from command_kit import finished
from fake_sweep import TASKS, FakeSweep, item

from clcore.errors import UserError
from clcore.masks import Mask
from trackers import artifacts, many
from trackers.compare import between_tasks, between_trials, overlap, room_left
from trackers.mlflow_tracker import Publisher
from trackers.record import load
from trackers.summary import leaderboard

DOCS = Path(__file__).resolve().parents[2] / "docs" / "tracking.md"
NAME, SIZES = "hat-demo", {"units1": 12, "units2": 7}


def bits(text):
    return torch.tensor([letter == "1" for letter in text])


def unit(text):
    return Mask("unit", bits(text))


def learned(number, seed):
    """Masks of a trial; those of task 1 do not depend on the seed, and those of units2 of task 5 are empty."""
    result = {}
    for task, layer in itertools.product(range(TASKS), SIZES):
        draw = torch.Generator().manual_seed(1000 * number + 10 * task + len(layer) + (100 * seed if task else 0))
        values = torch.rand(SIZES[layer], generator=draw) < 0.4
        result[task, layer] = Mask("unit", values & (task < TASKS - 1 or layer == "units1"))
    return result


@pytest.fixture(scope="module")
def place(tmp_path_factory, migrated):
    """A folder with a home ``runs``: a sweep of two configurations with two seeds, published to MLflow."""
    folder = tmp_path_factory.mktemp("many")
    sweep = FakeSweep(folder / "runs" / NAME, name=NAME)
    sweep.sweep()
    for seed in (0, 1):
        items = [item(number, seed) for number in (0, 1)]
        for number, one in enumerate(items):
            files = sweep.folder / "trials" / one["trial"]
            tests = [sweep.member(one["trial"], seen)["test"] for seen in range(TASKS + 1)]
            artifacts.write_matrix(files / artifacts.MATRIX, {"test": torch.tensor(tests, dtype=torch.float64)})
            artifacts.write_masks(files / artifacts.MASKS, learned(number, seed))
            (files / artifacts.CONFIG).write_text(json.dumps(one))
        sweep.whole_pack(f"p{seed}", items)
    artifacts.write_leaderboard(sweep.folder / "report", leaderboard(load(sweep.folder)))
    sweep.end(asked=4, done=4)
    sweep.journal.close()
    shutil.copy(migrated, folder / "runs" / "mlflow.db")
    Publisher(sweep.folder, f"sqlite:///{folder}/runs/mlflow.db", folder / "runs" / "artifacts").publish()
    return folder


@pytest.fixture(params=["home", "mlflow"])
def found(request, place):
    return many.trials(place / "runs" if request.param == "home" else f"sqlite:///{place}/runs/mlflow.db", NAME)


def test_trials_are_the_same_from_a_home_and_from_mlflow(found, place):
    record = load(place / "runs" / NAME)
    assert {t.trial for t in found} == {*record.trials}
    for trial in found:
        own = record.trials[trial.trial]
        assert (trial.sweep, trial.config, trial.seed, trial.method) == (NAME, own.config, own.seed, "tfm")
        assert trial.values["growth"] == own.hyperparameters["growth"]
        assert {
            "benchmark": "split-digits",
            "network": "mlp:100-100",
            "scenario": "task-il",
            "epochs": 3,
        }.items() <= trial.values.items()
        assert "schedule" not in trial.values
        assert trial.final.test == pytest.approx(float(own.test[-1].mean()))
        assert (trial.final.seconds, trial.final.bytes) == (1.5 * (TASKS + 1), 4096 + TASKS)


def test_a_leaderboard_over_many(found, place):
    board = many.leaderboard(found)
    theirs = artifacts.read_leaderboard(place / "runs" / NAME / "report")
    assert sorted(board.column_names) == sorted(theirs.column_names)
    for mine, own in zip(board.to_pylist(), theirs.to_pylist(), strict=True):
        assert {*mine.pop("trials").split()} == {*own.pop("trials").split()}
        assert mine == pytest.approx(own)


def test_matrices_and_their_table(found, place):
    read, table, record = many.matrices(found), many.matrix_table(found), load(place / "runs" / NAME)
    assert read.shape == (4, TASKS + 1, TASKS)
    for trial, matrix in zip(found, read, strict=True):
        expected = record.trials[trial.trial].test.tolist()
        assert matrix.tolist() == expected
        rows = [row for row in table.to_pylist() if row["trial"] == trial.trial]
        assert len(rows) == TASKS * (TASKS + 1)
        assert all(row["accuracy"] == expected[row["seen"]][row["task"] - 1] for row in rows)
        assert {(row["sweep"], row["config"], row["seed"], row["split"]) for row in rows} == {
            (NAME, trial.config, trial.seed, "test")
        }
    with pytest.raises(UserError, match="split"):
        many.matrices(found, "validation")
    with pytest.raises(UserError, match="no trial"):
        many.matrices([])


def test_masks_and_their_table(found):
    read, table = many.masks(found), many.mask_table(found).to_pylist()
    for trial, own in zip(found, read, strict=True):
        expected = learned(int(trial.config[1:]), trial.seed)
        assert own.keys() == expected.keys()
        assert all(torch.equal(own[key].values, mask.values) for key, mask in expected.items())
        rows = {(row["task"], row["layer"]): row for row in table if row["trial"] == trial.trial}
        assert {key: (row["kind"], row["shape"], row["n"], row["ones"]) for key, row in rows.items()} == {
            key: ("unit", [len(mask.values)], len(mask.values), sum(mask.values.tolist())) for key, mask in expected.items()
        }
    assert [{task for task, _ in own} for own in many.masks(found, task=2)] == [{2}] * 4


def test_runs_by_their_ids_and_all_there_are(place):
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{place}/runs/mlflow.db"
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("cl/split-digits").experiment_id])
    (sweep,) = (run.info.run_id for run in runs if run.data.tags["cl.role"] == "sweep")
    ids = {run.data.tags.get("cl.trial"): run.info.run_id for run in runs if run.info.run_id != sweep}
    names = [t.trial for t in many.trials(uri)]
    assert [t.trial for t in many.trials(uri, sweep)] == names
    assert [t.trial for t in many.trials(uri, ids[names[2]], ids[names[0]], ids[names[2]])] == [names[2], names[0]]
    assert [t.trial for t in many.trials(uri, ids[names[3]], NAME)] == [names[3], *names[:3]]
    assert [t.trial for t in many.trials(place / "runs")] == [t.trial for t in many.trials(str(place / "runs"), NAME)]


def test_trials_that_another_sweep_had(tmp_path):
    finished(tmp_path, "older")
    newer = FakeSweep(tmp_path / "newer", name="newer")
    newer.sweep()
    for one, sweep in ((item(0), "older"), (item(7), "older"), (item(1), "gone"), (item(1), "../..")):
        newer.journal.append("linked", **{k: one[k] for k in ("trial", "config", "seed", "method", "hyperparameters")}, sweep=sweep)
    newer.journal.close()
    (trial,) = many.trials(tmp_path, "newer")
    assert (trial.trial, trial.sweep) == (item(0)["trial"], "older")
    assert many.matrices([trial]).shape == (1, TASKS + 1, TASKS)
    assert [t.trial for t in many.trials(tmp_path)] == [item(0)["trial"], item(1)["trial"]]


def test_seeds_of_one_configuration_stand_in_one_row_whichever_sweep_ran_them(tmp_path):
    for name, seed in (("first", 0), ("second", 1)):
        sweep = FakeSweep(tmp_path / name, name=name)
        sweep.sweep(network="mlp:100-100" if name == "first" else "mlp:7")
        sweep.whole_pack("p0", [item(number, seed) for number in (0, 1 + seed)])
        sweep.journal.close()
    board = many.leaderboard(many.trials(tmp_path, "first", "second")).to_pylist()
    assert {row["config"]: row["seeds"] for row in board} == {"c000": 2, "c001": 1, "c002": 1}
    assert {"network", "growth", "norm"} <= board[0].keys()


@pytest.mark.parametrize(
    ("where", "names", "message"),
    [
        ("runs", ["hat-dem"], "Did you mean 'hat-demo'"),
        ("nowhere", [], "nowhere"),
        ("sqlite:///runs/mlflow.db", ["hat-dem"], "no sweep 'hat-dem'"),
        ("sqlite:///runs/mlflow.db", ["0" * 32], "no run"),
        ("sqlite:///runs/other.db", [], "no tracking database"),
    ],
)
def test_what_is_not_there(place, monkeypatch, where, names, message):
    monkeypatch.chdir(place)
    with pytest.raises(UserError, match=message):
        many.trials(where, *names)


def test_trials_that_do_not_go_together(tmp_path):
    for name, tasks in (("three", 3), ("two", 2)):
        sweep = FakeSweep(tmp_path / name, tasks, name)
        sweep.sweep()
        one = item(tasks)
        artifacts.write_matrix(sweep.folder / "trials" / one["trial"] / artifacts.MATRIX, {"test": torch.rand(tasks + 1, tasks)})
        sweep.whole_pack("p0", [one])
        sweep.journal.close()
    with pytest.raises(UserError, match="2 and 3 tasks"):
        many.matrices(many.trials(tmp_path))
    with pytest.raises(UserError, match=r"there is no file .*masks\.parquet"):
        many.masks(many.trials(tmp_path))


def test_masks_compared_by_hand():
    masks = {(0, "u"): unit("11000"), (1, "u"): unit("01110"), (2, "u"): unit("00000"), (1, "v"): unit("10")}
    nan = torch.nan
    alike = between_tasks(masks)
    expected = torch.tensor([[1, 1 / 4, 0], [1 / 4, 1, 0], [0, 0, nan]], dtype=torch.float64)
    torch.testing.assert_close(alike["u"], expected, equal_nan=True)
    torch.testing.assert_close(alike["v"], torch.tensor([[nan, 0, nan], [0, 1, 0], [nan, 0, nan]]).double(), equal_nan=True)
    left = room_left(masks)
    torch.testing.assert_close(left["u"], torch.tensor([3 / 5, 1 / 5, 1 / 5], dtype=torch.float64))
    torch.testing.assert_close(left["v"], torch.tensor([1, 1 / 2, 1 / 2], dtype=torch.float64))


def test_masks_that_grow_ternary_ones_and_weights():
    small, large = (
        Mask("ternary", torch.tensor([0, 1], dtype=torch.uint8)),
        Mask("ternary", torch.tensor([2, 1, 2], dtype=torch.uint8)),
    )
    masks = {(0, "u"): small, (1, "u"): large}
    torch.testing.assert_close(between_tasks(masks)["u"], torch.tensor([[1, 1 / 3], [1 / 3, 1]], dtype=torch.float64))
    torch.testing.assert_close(room_left(masks)["u"], torch.tensor([2 / 3, 0], dtype=torch.float64))
    weights = {(0, "w"): Mask("weight", bits("1010").reshape(2, 2)), (1, "w"): Mask("weight", bits("100001").reshape(3, 2))}
    torch.testing.assert_close(between_tasks(weights)["w"][0, 1], torch.tensor(1 / 3).double())
    with pytest.raises(UserError, match="1 and 2 dimensions"):
        overlap({(0, "u"): unit("11"), (1, "u"): Mask("weight", bits("11").reshape(1, 2))})


def test_trials_compared_by_hand():
    trials = [
        {(0, "u"): unit("110"), (1, "u"): unit("001")},
        {(0, "u"): unit("110")},
        {(0, "u"): unit("011"), (1, "u"): unit("001")},
    ]
    alike = between_trials(trials)
    assert alike[0, "u"].tolist() == [[1, 1, 1 / 3], [1, 1, 1 / 3], [1 / 3, 1 / 3, 1]]
    torch.testing.assert_close(alike[1, "u"], torch.tensor([[1, 0, 1], [0, torch.nan, 0], [1, 0, 1]]).double(), equal_nan=True)
    assert between_trials([]) == {} == room_left({}) == between_tasks({})


def test_the_examples_of_the_documentation(place, monkeypatch, capsys):
    """Run as they stand, one after another, and what they say is counted here by hand."""
    section = re.search(r"\n## Read it\n(.*?)\n## ", DOCS.read_text(), re.DOTALL)
    blocks = re.findall(r"```python\n(.*?)```", section[1], re.DOTALL)
    assert len(blocks) == 5
    monkeypatch.chdir(place)
    names = {}
    for block in blocks:
        exec(compile(block, str(DOCS), "exec"), names)
    said = capsys.readouterr().out
    first = learned(int(names["found"][0].config[1:]), names["found"][0].seed)
    for layer, size in SIZES.items():
        sets = [{i for i in range(size) if first[task, layer].values[i]} for task in range(TASKS)]
        pairs = {(a, b): len(sets[a] & sets[b]) / len(sets[a] | sets[b]) for a, b in itertools.combinations(range(TASKS), 2)}
        (a, b), share = max(pairs.items(), key=lambda pair: pair[1])
        assert f"{layer}: tasks {a + 1} and {b + 1} share {share:.0%}" in said
        left = " ".join(f"{1 - len(set().union(*sets[: t + 1])) / size:.0%}" for t in range(TASKS))
        assert f"{names['found'][0].config} {names['found'][0].seed} {layer} {left}\n" in said
    assert {(1, layer, 0, 1) for layer in SIZES} == {twin for twin in names["twins"] if twin[0] == 1}
    shares = [float(mask.values.float().mean()) for t in names["found"] for mask in learned(int(t.config[1:]), t.seed).values()]
    assert sorted(names["use"]["share"].to_pylist()) == pytest.approx(sorted(shares))
    assert names["accuracy"].shape == (4, TASKS + 1, TASKS)
