"""Where checkpoints are: what ``--storage`` may be, how the journal names them, and how they come back."""

import json
import shlex
import sys
from types import SimpleNamespace

import pytest

from clcore.errors import BadValue, UserError
from sweeps.run import main, settings_of
from sweeps.storage import StorageFailed, check_storage, discard, failing, fetch, found_at, name_of, opened, place, storage_uri
from sweeps.trainable import fault, of_environment
from sweeps.tune_hooks import Listener
from trackers.schema import is_store, wrong_field

TASK = {"n": 1, "time": 1.0, "event": "task", "pack": "p", "seen": 1, "members": []}


@pytest.mark.parametrize(
    ("said", "uri"),
    [
        ("/shared/runs", "file:///shared/runs"),
        ("/shared/it's here", "file:///shared/it%27s%20here"),
        ("s3://bucket/a/b", "s3://bucket/a/b"),
        ("s3://bucket/a/", "s3://bucket/a"),
        ("gs://bucket", "gs://bucket"),
        ("file:///x", "file:///x"),
    ],
)
def test_what_a_storage_may_be(said, uri):
    assert storage_uri(said) == uri


@pytest.mark.parametrize(
    "said",
    [
        "runs",
        "./runs",
        "",
        "ftp://h/x",
        "s3://",
        "s3:///x",
        "file://host/x",
        "s3://b/../x",
        "s3://b//x",
        "s3://b/a b",
        "s3://b/x#1",
    ],
)
def test_what_it_may_not_be(said):
    with pytest.raises(BadValue, match="--storage"):
        storage_uri(said)


@pytest.mark.parametrize("said", ["s3://KEY:hunter2@bucket/x", "s3://bucket/x?secret_key=hunter2", "gs://bucket/x?a=hunter2@b"])
def test_credentials_are_refused_and_not_shown(said):
    with pytest.raises(BadValue, match="environment") as raised:
        storage_uri(said)
    assert "hunter2" not in str(raised.value)
    assert not is_store(said)


@pytest.mark.parametrize(
    "checkpoint", ["packs/a/checkpoint_000001", "s3://b/x/packs/a=1,b/checkpoint_000001", "file:///s/x/packs/a", None]
)
def test_checkpoints_that_a_journal_may_name(checkpoint):
    assert wrong_field({**TASK, "checkpoint": checkpoint}) is None


@pytest.mark.parametrize("checkpoint", ["/etc", "../x", "http://h/x", "s3://k:s@b/x", "file:///x/../../etc", "s3://b/x?y=1", 7])
def test_checkpoints_that_it_may_not(checkpoint):
    assert wrong_field({**TASK, "checkpoint": checkpoint}) == "checkpoint"


def test_names_lead_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "sweep"
    for checkpoint, name in ((folder / "packs" / "a", "packs/a"), ("s3://b/x/packs/a", "s3://b/x/packs/a")):
        assert name_of(checkpoint, folder) == name
        assert found_at(name, folder) == checkpoint
        assert place(str(checkpoint)) == checkpoint
    assert name_of(folder / "packs" / "a", folder.relative_to(tmp_path)) == "packs/a"  # --home as it was typed


def test_a_checkpoint_elsewhere_comes_back_whole(tmp_path):
    source = tmp_path / "shared place" / "c"
    (source / "members" / "t").mkdir(parents=True)
    (source / "state.json").write_text("{}")
    (source / "members" / "t" / "x.safetensors").write_bytes(b"\0\1")
    with opened(source.as_uri()) as copy:
        assert copy != source
        found = {path.relative_to(copy).as_posix(): path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert found == {"state.json": b"{}", "members/t/x.safetensors": b"\0\1"}
    assert not copy.exists()
    with opened(source) as same:
        assert same == source
    discard(source.as_uri())
    assert not source.exists()
    discard(source.as_uri())  # gone already
    with pytest.raises(StorageFailed, match="there is no folder"):
        fetch(source.as_uri(), tmp_path)


def test_a_storage_that_can_be_used_is_left_as_it_was(tmp_path):
    check_storage((tmp_path / "new" / "place").as_uri())
    assert list((tmp_path / "new" / "place").iterdir()) == []


def test_a_storage_that_cannot_be_used(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be used"):
        check_storage((tmp_path / "file" / "below").as_uri())
    monkeypatch.setattr(sys, "argv", ["run.py", *shlex.split(f"--method tfm --space default --storage {tmp_path}/file/below")])
    assert main() == 2
    said = capsys.readouterr()
    assert said.err.startswith("clsweep: --storage file://")
    assert len(said.err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "nothing is written by a wrong call"


def test_the_storages_fault_is_no_trials_fault():
    """Pyarrow's errors of object stores have no errno, and would else pass for errors of the pack."""
    with pytest.raises(StorageFailed) as raised, failing("s3://b"):
        raise OSError("AWS Error NETWORK_CONNECTION during PutObject operation")
    assert of_environment(raised.value)
    assert "environment" in fault(raised.value)
    assert "error" in fault(OSError("another"))
    with pytest.raises(OSError, match="No space") as full, failing("x"):
        raise OSError(28, "No space left on device")
    assert not isinstance(full.value, StorageFailed)


def test_a_sweep_keeps_to_its_own_folder_and_its_question():
    words = shlex.split("--method hat --name mine")
    plain, elsewhere = settings_of(words), settings_of([*words, "--storage", "s3://b/x/"])
    assert plain.own_storage is None
    assert elsewhere.own_storage == "s3://b/x/mine"
    assert plain.question() == elsewhere.question(), "a sweep may go on elsewhere"
    assert json.loads(elsewhere.model_dump_json())["storage"] == "s3://b/x"


@pytest.mark.parametrize(
    ("storage", "root", "expected"),
    [
        (None, "/h/mine", "/h/mine/packs/t/checkpoint_000002"),
        ("s3://b/x/mine", "b/x/mine", "s3://b/x/mine/packs/t/checkpoint_000002"),
    ],
)
def test_where_the_listener_says_a_checkpoint_is(storage, root, expected):
    heard = []
    sweep = SimpleNamespace(reported=lambda *said: heard.append(said), environment=None)
    trial = SimpleNamespace(
        config={"identity": "p"}, storage=SimpleNamespace(storage_fs_path=root, trial_fs_path=f"{root}/packs/t")
    )
    result = {"payload": "{}", "checkpoint_dir_name": "checkpoint_000002"}
    Listener(sweep, storage).on_trial_result(1, [trial], trial, result)
    assert [str(checkpoint) for _, _, checkpoint in heard] == [expected]
    assert isinstance(heard[0][2], str) == (storage is not None)
