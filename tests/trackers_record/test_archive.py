"""``python trackers/archive.py``: a sweep as one file, merged into other homes; files from strangers are only data."""

import hashlib
import json
import shutil
import stat
import zipfile

import pytest
from command_kit import NAME, begun, byte_edits, call, finished, item, trial_files
from sweep_kit import CELLS, HAT, in_process, listing, own_logs, record_of

from trackers import archive
from trackers.lock import LOCK, only_one
from trackers.parcel import HEADER, open_parcel, write_parcel
from trackers.record import JOURNAL, load


@pytest.fixture
def home(tmp_path):
    finished(tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def does(capsys):
    return lambda *words: call(archive.main, words, capsys)


@pytest.fixture
def box(home, does, tmp_path):
    assert does("pack", NAME, "--home", home, "--to", tmp_path / "box.zip").code == 0
    return tmp_path / "box.zip"


def content(folder):
    return {name: data for name, data in listing(folder).items() if name != LOCK}


def test_there_and_back(home, box, does, tmp_path):
    result = does("unpack", box, "--home", tmp_path / "new" / "home")
    assert result.code == 0, result.err
    assert "unpacked, 10 files" in result.out
    assert content(tmp_path / "new" / "home" / NAME) == content(home / NAME)
    assert [path.name for path in (tmp_path / "new" / "home").iterdir()] == [NAME]


def test_packing_twice_gives_the_same_bytes(home, box, does):
    before = box.read_bytes()
    assert does("pack", NAME, "--home", home, "--to", box).code == 0
    assert box.read_bytes() == before
    with zipfile.ZipFile(box) as opened:
        assert opened.testzip() is None
        assert {info.compress_type for info in opened.infolist()} == {zipfile.ZIP_STORED}


def test_the_file_is_named_after_the_sweep(home, does, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert does("pack", home / NAME).code == 0
    assert [path.name for path in (tmp_path / "here").iterdir()] == [f"{NAME}.zip"]


def test_unpacking_again_changes_nothing_but_what_was_lost(box, does, tmp_path):
    new = tmp_path / "new"
    does("unpack", box, "--home", new)
    before = content(new)
    assert "it was here already" in does("unpack", box, "--home", new).out
    assert content(new) == before
    shutil.rmtree(new / NAME / "trials")
    assert "5 missing files were added" not in does("unpack", box, "--home", new).out
    assert content(new) == before


def test_a_longer_journal_replaces_and_a_shorter_one_does_not(tmp_path, does):
    sweep = begun(tmp_path / "cluster")
    a, b = item(0), item(1)
    for one in (a, b):
        sweep.pack(one["config"], [one])
    sweep.start(a["config"])
    sweep.run_tasks(a["config"], [a["trial"]], [0, 1])
    checkpoint = sweep.folder / "checkpoints" / a["config"] / "1" / "state.json"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("{}")
    early, late, new = tmp_path / "early.zip", tmp_path / "late.zip", tmp_path / "new"
    assert does("pack", NAME, "--home", tmp_path / "cluster", "--to", early).code == 0
    sweep.run_tasks(a["config"], [a["trial"]], [2, 3, 4, 5])
    trial_files(sweep.folder, a["trial"])
    sweep.done(a["trial"], a["config"])
    assert does("pack", NAME, "--home", tmp_path / "cluster", "--to", late).code == 0
    assert does("unpack", early, "--home", new).code == 0
    assert (new / NAME / checkpoint.relative_to(sweep.folder)).exists()  # it can go on from there
    (new / NAME / "packs" / "old").mkdir(parents=True)
    (new / NAME / "packs" / "old" / "state.json").write_text("{}")
    assert "replaced, since it has gone further" in does("unpack", late, "--home", new).out
    assert not (new / NAME / "packs" / "old" / "state.json").exists()
    assert load(new / NAME).ledger["done"] == 1
    after = content(new)
    assert "was left as it is" in does("unpack", early, "--home", new).out
    assert content(new) == after


@pytest.mark.parametrize("with_earlier", [False, True])
def test_an_unpacking_that_is_killed_is_done_again(home, box, does, tmp_path, monkeypatch, with_earlier):
    real, wanted = archive._place, content(home / NAME)
    for after in range(10):
        new = tmp_path / f"new{after}"
        if with_earlier:
            early = begun(new).folder
            shutil.copy(home / NAME / "sweep.json", early)
            (early / JOURNAL).write_bytes((home / NAME / JOURNAL).read_bytes().splitlines(keepends=True)[0])
        places = iter(range(after))

        def killed(source, target, places=places):
            if next(places, None) is None:
                raise KeyboardInterrupt
            real(source, target)

        monkeypatch.setattr(archive, "_place", killed)
        monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # nobody tidies up after a SIGKILL
        assert does("unpack", box, "--home", new).code == 130
        monkeypatch.undo()
        assert len(archive._journal(new / NAME).splitlines()) == with_earlier  # it comes last: what it tells of is there
        assert does("unpack", box, "--home", new).code == 0
        assert content(new / NAME) == wanted


def test_a_torn_last_line_stays_behind(home, does, tmp_path):
    with (home / NAME / JOURNAL).open("ab") as file:
        file.write(b'{"n": 99, "ti')
    assert does("pack", NAME, "--home", home, "--to", tmp_path / "box.zip").code == 0
    assert does("unpack", tmp_path / "box.zip", "--home", tmp_path / "new").code == 0
    assert (tmp_path / "new" / NAME / JOURNAL).read_bytes().endswith(b"}\n")
    assert "it was here already" in does("unpack", tmp_path / "box.zip", "--home", home).out


def test_what_only_the_process_that_runs_needs_stays_behind(home, does, tmp_path):
    folder = home / NAME
    for name in ("packs/p9/state.json", "heartbeats/p0.json", "trials/.masks.parquet.x"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    (folder / "trials" / "link").symlink_to("/etc/passwd")
    (folder / "log.txt").write_text("said")
    assert does("pack", NAME, "--home", home, "--to", tmp_path / "box.zip").code == 0
    with open_parcel(tmp_path / "box.zip") as parcel:
        names = set(parcel.files)
    assert {"log.txt", "sweep.json", JOURNAL} < names
    assert not {name for name in names if name.startswith(("packs", "heartbeats", LOCK)) or "link" in name or "/." in name}


def test_another_sweep_of_the_same_name(box, does, tmp_path):
    finished(tmp_path / "other")
    before = content(tmp_path / "other")
    result = does("unpack", box, "--home", tmp_path / "other")
    assert result.is_refusal
    assert "another sweep of the same name" in result.err
    assert content(tmp_path / "other" / NAME) == {k.removeprefix(f"{NAME}/"): v for k, v in before.items() if k != NAME}


def test_a_sweep_that_went_on_in_both_places(home, box, does, tmp_path):
    does("unpack", box, "--home", tmp_path / "new")
    for place, reason in ((home, "here"), (tmp_path / "new", "there")):
        with (place / NAME / JOURNAL).open("a") as file:
            file.write(json.dumps({"n": 99, "time": 2e9, "event": "stop", "reason": reason, "detail": None}) + "\n")
    does("pack", NAME, "--home", home, "--to", box)
    result = does("unpack", box, "--home", tmp_path / "new")
    assert result.is_refusal
    assert "gone on in both places" in result.err


def test_what_is_refused(home, box, does, tmp_path):
    (tmp_path / "text.txt").write_text("text")
    (tmp_path / "new" / NAME).mkdir(parents=True)
    (tmp_path / "new" / NAME / "thesis.tex").write_text("mine")
    (tmp_path / "file").touch()
    for words, message in [
        (["pack", "nothing", "--home", home], "unknown sweep"),
        (["pack", NAME, "--home", home, "--to", tmp_path / "text.txt"], "is no archive"),
        (["pack", NAME, "--home", home, "--to", tmp_path / "no" / "box.zip"], "cannot be written"),
        (["unpack", tmp_path / "no.zip"], "there is no file"),
        (["unpack", tmp_path], "there is no file"),
        (["unpack", tmp_path / "text.txt"], "not a zip file"),
        (["unpack", box, "--home", tmp_path / "new"], "is no sweep"),
        (["unpack", box, "--home", tmp_path / "file"], "cannot be written"),
        (["unpack"], "Missing argument"),
        ([], "Missing command"),
    ]:
        result = does(*words)
        assert result.is_refusal, result
        assert message in result.err, result.err
    assert (tmp_path / "text.txt").read_text() == "text"
    assert (tmp_path / "new" / NAME / "thesis.tex").read_text() == "mine"
    with only_one(home / NAME):
        assert "another process" in does("pack", NAME, "--home", home).err
        assert "another process" in does("unpack", box, "--home", home).err


def made(path, header, members):
    """A zip as somebody might make it: members are (name or ZipInfo, bytes)."""
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr(HEADER, json.dumps(header))
        for name, data in members:
            opened.writestr(name, data)
    return path


def digest(data):
    return [len(data), hashlib.sha256(data).hexdigest()]


def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def deflated(name):
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


NOT_IN_PLACE = "not as it should be"


@pytest.mark.parametrize(
    ("name", "member", "message"),
    [
        ("../x", "../x", NOT_IN_PLACE),
        ("/tmp/x", "/tmp/x", NOT_IN_PLACE),
        ("a/../../x", "a/../../x", NOT_IN_PLACE),
        ("a\\..\\x", "a\\..\\x", NOT_IN_PLACE),
        ("C:\\x", "C:\\x", NOT_IN_PLACE),
        (".ssh/x", ".ssh/x", NOT_IN_PLACE),
        ("", "x", NOT_IN_PLACE),
        ("trials/", "trials/", NOT_IN_PLACE),
        ("trials/x", "trials/y", "not those of its list"),
        ("trials/x", link("trials/x"), "is no regular file"),
        ("trials/x", deflated("trials/x"), "is not stored as it is"),
    ],
)
def test_members_that_are_not_taken(tmp_path, does, name, member, message):
    data = b"/etc/passwd"
    path = made(tmp_path / "box.zip", {"format": 1, "sweep": NAME, "files": {name: digest(data)}}, [(member, data)])
    before = listing(tmp_path)
    result = does("unpack", path, "--home", tmp_path / "home")
    assert result.is_refusal
    assert message in result.err
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"format": 2, "sweep": NAME, "files": {}}, "newer one wrote it"),
        ({"format": None, "sweep": NAME, "files": {}}, "is none"),
        ({"format": 1, "sweep": "../up", "files": {}}, "not as it should be"),
        ({"format": 1, "sweep": "", "files": {}}, "not as it should be"),
        ({"format": 1, "sweep": [], "files": {}}, "not as it should be"),
        ({"format": 1, "sweep": NAME, "files": []}, "not as it should be"),
        ({"format": 1, "sweep": NAME, "files": {"a": [1]}}, "not as it should be"),
        ({"format": 1, "sweep": NAME, "files": {"a": [-1, "x"]}}, "not as it should be"),
        ({"format": 1, "sweep": NAME, "files": {"a": [1, "x"]}}, "not those of its list"),
        ({"format": 1, "sweep": NAME, "files": {}}, "holds no sweep"),
        ([], "not as it should be"),
        (7, "not as it should be"),
    ],
)
def test_headers_that_are_not_taken(tmp_path, does, header, message):
    path = made(tmp_path / "box.zip", header, [])
    result = does("unpack", path, "--home", tmp_path / "home")
    assert result.is_refusal
    assert message in result.err
    assert [p.name for p in tmp_path.iterdir()] == ["box.zip"]


def test_a_checksum_that_is_wrong(tmp_path, does):
    files = {"sweep.json": [2, "0" * 64]}
    path = made(tmp_path / "box.zip", {"format": 1, "sweep": NAME, "files": files}, [("sweep.json", b"{}")])
    result = does("unpack", path, "--home", tmp_path / "home")
    assert result.is_refusal
    assert "another checksum" in result.err


def repacked(home, path, **changes):
    contents = {p.relative_to(home / NAME).as_posix(): p for p in (home / NAME).rglob("*") if p.is_file() and p.name != LOCK}
    write_parcel(path, NAME, {**contents, **{name.replace("_", "."): data for name, data in changes.items()}})
    return path


def test_sweeps_that_are_not_taken(home, does, tmp_path):
    """The zip is sound, and what is in it is not."""
    newer = (home / NAME / JOURNAL).read_bytes().replace(b'"format":1', b'"format":2')
    up = (home / NAME / JOURNAL).read_bytes().replace(b'"artifacts":"trials/', b'"artifacts":"../ssh/')
    manifest = (home / NAME / "sweep.json").read_bytes()
    for changes, message in [
        ({"journal_jsonl": newer}, "newer one wrote it"),
        ({"journal_jsonl": up}, "wrong 'artifacts'"),
        ({"journal_jsonl": b""}, "empty or torn"),
        ({"journal_jsonl": newer[:-1].replace(b'"format":2', b'"format":1')}, "empty or torn"),
        ({"sweep_json": manifest.replace(b'"format": 1', b'"format": 2')}, "newer one wrote it"),
        ({"sweep_json": b"{"}, "cannot be read"),
        ({LOCK: b""}, "holds no sweep"),
    ]:
        path = repacked(home, tmp_path / "box.zip", **changes)
        result = does("unpack", path, "--home", tmp_path / "new")
        assert result.is_refusal, changes
        assert message in result.err, result.err
        assert archive._SCRATCH not in result.err
        assert not (tmp_path / "new").exists()


def test_no_room(box, does, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    result = does("unpack", box, "--home", tmp_path / "new")
    assert result.is_refusal
    assert "has room for 0" in result.err
    assert not (tmp_path / "new").exists()


def test_damaged_files_are_unpacked_as_they_were_or_refused(home, box, does, tmp_path):
    before, wanted, refused = box.read_bytes(), content(home / NAME), 0
    for damaged in byte_edits(before, 200, seed=4):
        box.write_bytes(damaged)
        result = does("unpack", box, "--home", tmp_path / "new")
        if result.code == 0:
            assert content(tmp_path / "new" / NAME) == wanted
            shutil.rmtree(tmp_path / "new")
        else:
            refused += 1
            assert result.is_refusal, (result, damaged)
            assert not (tmp_path / "new").exists()
    assert refused > 100


def test_a_sweep_goes_on_in_its_new_home(tmp_path, migrated, monkeypatch, capsys, does, few_pictures, timed_once):
    """A sweep that was stopped after half of its trials is finished where it was unpacked."""
    cluster, laptop = tmp_path / "cluster", tmp_path / "laptop"
    for place in (cluster, laptop):
        place.mkdir()
        shutil.copy(migrated, place / "mlflow.db")
    (tmp_path / "cells.toml").write_text(CELLS)
    words = [*HAT, "--space", tmp_path / "cells.toml", "--pack", "1", "--name", "s", "--time-budget", "0.001"]
    with own_logs():
        assert in_process([*words, "--home", cluster], monkeypatch, capsys).code == 0
    left = record_of(cluster)
    assert does("pack", "s", "--home", cluster, "--to", tmp_path / "s.zip").code == 0
    assert does("unpack", tmp_path / "s.zip", "--home", laptop).code == 0
    with own_logs():
        resumed = in_process(["--resume", "s", "--home", laptop, "--time-budget", "600"], monkeypatch, capsys)
    assert resumed.code == 0, resumed.err
    assert left.end is None
    assert load(laptop / "s").ledger["done"] == 4
    assert record_of(laptop).identity == left.identity
