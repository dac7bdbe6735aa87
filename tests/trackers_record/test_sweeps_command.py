"""``python trackers/sweeps.py``: list, show, delete."""

import contextlib
import io
import shutil
import subprocess
import sys

import pytest
from command_kit import NAME, begun, call, finished, item
from mlflow.tracking import MlflowClient
from sweep_kit import HAT, ROOT, listing, own_logs

import sweeps.run
from trackers import sweeps as command
from trackers.lock import LOCK, only_one
from trackers.publish import publish_sweep
from trackers.record import JOURNAL


@pytest.fixture
def says(capsys):
    return lambda *words: call(command.main, words, capsys)


@pytest.fixture(scope="module")
def real_home(tmp_path_factory, migrated):
    """A home with a sweep that was really run, in this process."""
    home = tmp_path_factory.mktemp("real") / "home"
    home.mkdir()
    shutil.copy(migrated, home / "mlflow.db")
    with own_logs(), pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr(sys, "argv", ["run.py", *HAT, "--space", "default", "--pack", "1", "--home", str(home), "--name", "real"])
        assert sweeps.run.main() == 0
    return home


def line_of(out, name):
    return next(line for line in out.splitlines() if name in line).replace("│", " ").split()


def test_list(home, says):
    begun(home, "stopped-one").journal.append("stop", reason="interrupted", detail="SIGINT")
    left = begun(home, "left-one")
    left.pack("p0", [item(0), item(1)])
    left.start("p0")
    left.failed(item(0)["trial"], "p0")
    result = says("list", "--home", home)
    assert result.code == 0
    assert line_of(result.out, NAME)[:7] == [NAME, "tfm", "split-digits", "done", "3", "0", "0"]
    assert line_of(result.out, "stopped-one")[3] == "stopped"
    assert line_of(result.out, "left-one")[3:8] == ["broken", "off", "0", "1", "1"]
    with only_one(home / "left-one"):
        assert line_of(says("list", "--home", home).out, "left-one")[3] == "running"


def test_a_damaged_sweep_does_not_hide_the_others(home, says):
    finished(home, "damaged")
    (home / "damaged" / JOURNAL).write_bytes(b"{}\n")
    (home / "no-sweep").mkdir()
    finished(home, "later")
    newer = (home / "later" / JOURNAL).read_text().replace('"format":1', '"format":99', 1)
    (home / "later" / JOURNAL).write_text(newer)
    result = says("list", "--home", home)
    assert result.code == 0
    assert line_of(result.out, NAME)[3] == "done"
    assert line_of(result.out, "damaged")[1] == "damaged"
    assert "line 1 is damaged" in result.out
    assert line_of(result.out, "later")[1:5] == ["of", "a", "newer", "clsweep"]
    assert "no-sweep" not in result.out


def test_an_empty_home(tmp_path, says):
    assert "there is no sweep" in says("list", "--home", tmp_path).out
    assert says("list", "--home", tmp_path / "no").is_refusal


def test_show(home, says):
    (home.parent / "moved").mkdir()
    shutil.move(home / NAME, home.parent / "moved")
    result = says("show", NAME, "--home", home.parent / "moved")
    assert result.code == 0
    for text in (
        "3 asked · 2 done · 1 skipped",
        "Best configurations",
        "`x1` in sweep `older`",
        f"python sweeps/run.py --resume {NAME} --home {home.parent}/moved",  # where it is, not where it was
        f"python trackers/publish.py {NAME} --home {home.parent}/moved",
        "space = grid",
        "status         done",
    ):
        assert text in result.out


def test_show_and_list_of_a_sweep_that_was_run(real_home, says):
    assert line_of(says("list", "--home", real_home).out, "real")[:7] == ["real", "hat", "split-digits", "done", "1", "0", "0"]
    result = says("show", "real", "--home", real_home)
    assert "1 asked · 1 done" in result.out
    assert "assign = {" in result.out


@pytest.mark.parametrize(
    "words", [["show"], ["delete", "--yes"], ["show", "../.."], ["delete", "..", "--yes"], ["delete", ".", "--yes"]]
)
def test_unknown_sweeps(home, says, words):
    words = words if len(words) > 1 and words[1] != "--yes" else [words[0], "nothing", *words[1:]]
    before = listing(home)
    assert says(*words, "--home", home).is_refusal
    assert listing(home) == before


def test_delete_asks(home, says, monkeypatch):
    before = listing(home / NAME)
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    result = says("delete", NAME, "--home", home)
    assert result.code == 130
    assert "nothing was deleted" in result.out
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))  # nobody is there to answer
    result = says("delete", NAME, "--home", home)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "--yes" in result.err
    assert {**listing(home / NAME), LOCK: b""} == {**before, LOCK: b""}
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert says("delete", NAME, "--home", home).code == 0
    assert not (home / NAME).exists()


def test_delete_leaves_the_rest_of_the_home(home, says):
    finished(home, "other")
    before = {name: data for name, data in listing(home).items() if not name.startswith(NAME)}
    assert says("delete", NAME, "--home", home, "--yes").code == 0
    assert listing(home) == before


def test_delete_says_who_links_to_it(home, says):
    other = begun(home, "later")
    other.journal.append("linked", trial="x2", config="c", seed=0, sweep=NAME, method="tfm", hyperparameters={})
    assert f"later takes 1 of its trials from {NAME}" in says("delete", NAME, "--home", home, "--yes").out


def test_delete_while_it_runs(home, says):
    before = listing(home)
    with only_one(home / NAME):
        result = says("delete", NAME, "--home", home, "--yes")
    assert result.is_refusal
    assert "another process" in result.err
    assert {**listing(home), f"{NAME}/{LOCK}": b""} == {**before, f"{NAME}/{LOCK}": b""}


def test_delete_from_mlflow_too(home, says):
    finished(home, "other")
    uri, _ = publish_sweep(home / NAME)
    publish_sweep(home / "other")
    result = says("delete", NAME, "--home", home, "--yes", "--mlflow")
    assert result.code == 0
    assert f"3 runs are in the trash of MLflow at {uri}" in result.out
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("cl/split-digits").experiment_id
    assert {run.data.tags["cl.sweep"] for run in client.search_runs([experiment])} == {"other"}


def test_an_mlflow_that_nothing_is_deleted_from_is_refused(home, says):
    result = says("delete", NAME, "--home", home, "--yes", "--tracking-uri", "sqlite:///no.db")
    assert result.is_refusal
    assert "--mlflow" in result.err
    assert (home / NAME).is_dir()


def test_delete_where_mlflow_cannot_be_asked(home, says, tmp_path):
    before = listing(home)
    result = says("delete", NAME, "--home", home, "--yes", "--mlflow", "--tracking-uri", "http://127.0.0.1:9")
    assert result.is_refusal
    assert {**listing(home), f"{NAME}/{LOCK}": b""} == {**before, f"{NAME}/{LOCK}": b""}
    assert says("delete", NAME, "--home", home, "--yes", "--mlflow", "--tracking-uri", f"sqlite:///{tmp_path}/no.db").code == 0
    assert not (tmp_path / "no.db").exists()


def test_a_damaged_sweep_can_be_deleted(home, says):
    (home / NAME / JOURNAL).write_bytes(b"\x00\n")
    assert says("delete", NAME, "--home", home, "--yes", "--mlflow").is_refusal  # which runs are its own is not known
    assert says("delete", NAME, "--home", home, "--yes").code == 0
    assert not (home / NAME).exists()


def test_a_deletion_that_was_broken_off_is_done_again(home, says, monkeypatch):
    def broken(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", broken)
    assert "Permission denied" in says("delete", NAME, "--home", home, "--yes").err
    monkeypatch.undo()
    assert "there is no journal" in says("list", "--home", home).out
    assert says("delete", NAME, "--home", home, "--yes").code == 0
    assert not (home / NAME).exists()


def test_as_scripts_without_mlflow_and_matplotlib(home):
    code = (
        "import sys, trackers.publish, trackers.sweeps, trackers.archive;"
        "trackers.sweeps.main(['show', 'tfm-grid-1234', '--home', '.']);"
        "print([m for m in ('mlflow', 'matplotlib', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=home)
    assert done.stdout.endswith("[]\n"), done.stdout + done.stderr
    script = [sys.executable, str(ROOT / "trackers" / "sweeps.py"), "show"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "clsweep: Missing argument 'SWEEP'.\n")
