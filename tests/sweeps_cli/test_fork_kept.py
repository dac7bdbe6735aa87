"""``--fork`` from a state that was kept: the fork that goes on there is the one that learns everything again, bit for bit."""

import json
import shutil

import pytest
import torch
from again_kit import runs_of, sweep_once, uri_of
from helpers import finish, learner, same, up_to
from sweep_kit import HAT, events, matrices, same_matrices

from clcore import checkpoint
from clcore.checkpoint import DamagedCheckpoint, read_tensors
from clcore.forked import of_one

FOUR = [word if word != "2" else "4" for word in HAT]
VALUES = ["--at-task", "3", "--set", "c=2.5", "--set", "lr=0.2"]
KEPT = "the state before task 3 was kept: it goes on from there, tasks 1 to 2 are not learned again"


# -- one member of a pack's checkpoint ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hat", "tfm", "ewc"])
def test_a_member_of_a_pack_goes_on_alone(name, tmp_path):
    lrs, short = [0.05, 1e30, 0.02], {"epochs": 1, "protocol": "fixed"}  # one fails, and leaves the pack
    pack = up_to(learner(name, [{}] * 3, lrs=lrs, **short), 2)
    pack.save(tmp_path / "pack")
    checkpoint.write(tmp_path / "alone", *of_one(*checkpoint.read(tmp_path / "pack"), 2, 3))
    alone = learner(name, [{}], lrs=lrs[2:], **short)
    alone.load(tmp_path / "alone")
    assert same(alone.memory, {key: value[pack.alive.index(2)][None] for key, value in pack.memory.items()})
    (last,) = finish(alone)
    (expected,) = [member for member in finish(pack)[-1].members if member.member == 2]
    assert last.members[0].test == pytest.approx(expected.test, abs=0.05)  # to rounding: it was trained beside others
    with pytest.raises(DamagedCheckpoint, match="another pack"):
        learner(name, [{}], lrs=[0.07], **short).load(tmp_path / "alone")


def test_a_pack_of_one_is_its_own_member(tmp_path):
    one = up_to(learner("hat", epochs=1), 1)
    one.save(tmp_path / "pack")
    tensors, said = checkpoint.read(tmp_path / "pack")
    again, told = of_one(tensors, said, 0, 1)
    assert same(tensors, again)
    assert {"format": 1, **told} == said


# -- the command -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, migrated):
    """A HAT trial of four tasks that ran alone, and its states."""
    words = [*FOUR, "--space", "default", "--set", "c=0.1", "--pack", "1", "--keep", "every-task"]
    return sweep_once(tmp_path_factory.mktemp("parent"), migrated, words)


@pytest.fixture
def parent(mine):
    """The same in a home that a test may add to: the home, the sweep's folder there, the trial, and its run."""
    (trial,) = matrices(mine)
    return mine.parent, mine, trial, runs_of(uri_of(mine.parent))[1][trial].info.run_id


def fork(cli, home, run_id, *words):
    said = cli("--fork", run_id, *VALUES, "--home", home, "--executor", "inline", *words)
    (folder,) = home.glob("hat-fork-*")
    return said, folder


def weights(folder):
    (path,) = folder.glob("trials/*/checkpoint.safetensors")
    return read_tensors(path)


def test_what_is_kept_of_a_trial(recorded):
    ((trial, accuracies),) = matrices(recorded).items()
    own = recorded / "trials" / trial
    assert sorted(path.name for path in own.glob("after-*")) == ["after-01", "after-02", "after-03"]
    assert json.loads((own / "config.json").read_text())["kept"] == {
        "weights": True, "masks": True, "boundaries": [1, 2, 3], "dropped": {},
    }  # fmt: skip
    _, said = checkpoint.read(own / "after-02")
    assert [row["test"] for row in said["rows"]] == [
        [None if value != value else value for value in row] for row in accuracies["test"][:3].tolist()
    ]
    assert {row["bytes"] for row in said["rows"]} == {m["bytes"] for e in events(recorded, "task")[:3] for m in e["members"]}


def test_a_fork_from_a_kept_state_is_the_fork_learned_again(parent, cli, tmp_path):
    home, sweep, trial, run_id = parent
    said, kept = fork(cli, home, run_id, "--name", "hat-fork-a")
    assert said.code == 0, said.out + said.err
    assert said.out.splitlines()[1] == KEPT
    assert [(e["seen"], e["checkpoint"]) for e in events(kept, "task")] == [
        (0, None), (1, None), (2, "packs/parent-02"), (3, events(kept, "task")[3]["checkpoint"]),
        (4, events(kept, "task")[4]["checkpoint"]),
    ]  # fmt: skip
    rows = [event["members"][0] for event in events(kept, "task")]
    assert [row["seconds"] > 0 for row in rows] == [False, False, False, True, True]
    assert not (kept / "packs").exists()
    _, runs = runs_of(uri_of(home))
    (own,) = matrices(kept)
    replayed = cli("--replay", runs[own].info.run_id, "--home", home)
    assert (replayed.code, "identical" in replayed.out) == (0, True), replayed.out

    shutil.move(kept, tmp_path / "kept")
    for state in (sweep / "trials" / trial).glob("after-*"):
        shutil.rmtree(state)
    for state in (home / "mlflow-artifacts").rglob("after-*"):
        shutil.rmtree(state)
    replayed = cli("--replay", runs[own].info.run_id, "--home", home)
    assert "is gone" in replayed.out
    assert replayed.code == 0, replayed.out
    said, again = fork(cli, home, run_id, "--name", "hat-fork-b")
    assert said.code == 0, said.out + said.err
    assert "learned again with the old values" in said.out
    assert same_matrices(tmp_path / "kept", again)
    assert same(weights(tmp_path / "kept"), weights(again))
    parts = ("train_loss", "epochs", "bytes", "capacity", "reuse", "use", "compressed")
    one, other = ([m for e in events(f, "task") for m in e["members"]] for f in (tmp_path / "kept", again))
    assert [{p: m[p] for p in parts} for m in one] == [{p: m[p] for p in parts} for m in other]


@pytest.mark.faults
def test_a_state_is_found_in_mlflow_where_the_sweep_is_elsewhere(parent, cli):
    home, sweep, _, run_id = parent
    shutil.rmtree(sweep)
    said, made = fork(cli, home, run_id)
    assert said.code == 0, said.out + said.err
    assert said.out.splitlines()[1] == KEPT
    assert {m["seconds"] for e in events(made, "task")[:3] for m in e["members"]} == {0.0}


@pytest.mark.faults
def test_a_fork_that_dies_before_its_first_report_goes_on(parent, cli, monkeypatch):
    from sweeps import inline

    home, *_, run_id = parent
    with monkeypatch.context() as patch:
        patch.setattr(inline, "run_pack", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert fork(cli, home, run_id)[0].code not in (0, 1)
    (made,) = home.glob("hat-fork-*")
    assert [event["seen"] for event in events(made, "task")] == [0, 1, 2]
    shutil.rmtree(home / "mlflow-artifacts")  # what it goes on from is its own by now
    resumed = cli("--resume", made.name, "--home", home)
    assert resumed.code == 0, resumed.out + resumed.err
    assert [event["seen"] for event in events(made, "task")] == [0, 1, 2, 3, 4]
    assert torch.isfinite(matrices(made)[next(iter(matrices(made)))]["test"][4]).all()


def test_a_damaged_state_is_one_line(parent, cli):
    home, sweep, trial, run_id = parent
    state = sweep / "trials" / trial / "after-02" / "state.json"
    told = json.loads(state.read_text())
    for changed in ({"rows": told["rows"][:2]}, {"rows": "no"}, {"sizes": 7}, {"digest": "0"}):
        state.write_text(json.dumps({**told, **changed}))
        said = cli("--fork", run_id, *VALUES, "--home", home, "--executor", "inline")
        assert (said.code, said.err.count("\n"), said.out) == (2, 1, ""), (changed, said)
    rows = [dict(row) for row in told["rows"]]
    rows[1]["epochs"] = "many"
    state.write_text(json.dumps({**told, "rows": rows}))
    assert cli("--fork", run_id, *VALUES, "--home", home, "--executor", "inline").code == 2
    assert not [*home.glob("hat-fork-*")]
