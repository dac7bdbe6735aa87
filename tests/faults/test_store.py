"""Store and journal are touched by others: locked, four sweeps at once, runs deleted, a torn line, a file in a folder's place."""

import contextlib
import sqlite3

import pytest
import record_faults
from record_faults import Place
from server_kit import INLINE, SWEEP, check, end_of, until
from sweep_kit import events, listing, only_folder, reports

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


def in_sqlite(home, name):
    """The database of a home."""
    database = home / "mlflow.db"
    uri = f"sqlite:///{database}"

    def held():
        try:
            with contextlib.closing(sqlite3.connect(database, timeout=0, isolation_level=None)) as other:
                other.execute("BEGIN EXCLUSIVE")  # whoever reads is in the way of a commit, too
                other.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return True
        return False

    return Place(name, uri, uri, held)


def test_sqlite_is_locked_by_another(launch, tmp_path):
    home = tmp_path / "home"
    process = launch(*INLINE, "--home", home)
    until(lambda: reports(home) >= 3, process=process)
    with contextlib.closing(sqlite3.connect(home / "mlflow.db", timeout=60, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        until(lambda: events(only_folder(home), "end"), process=process)  # it learned on, to the end
        other.execute("ROLLBACK")
    said = end_of(process)
    assert said.code == 0, said.err
    assert "Traceback" not in said.out + said.err
    check(only_folder(home), f"sqlite:///{home / 'mlflow.db'}")


def test_sqlite_is_locked_at_the_start(launch, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    with contextlib.closing(sqlite3.connect(home / "mlflow.db", isolation_level=None)) as other:
        other.execute("CREATE TABLE x (y)")
        other.execute("BEGIN EXCLUSIVE")
        said = end_of(launch(*SWEEP, "--home", home))
    assert said.is_refusal, said
    assert "database is locked" in said.err
    assert set(listing(home)) == {"mlflow.db"}


def test_four_sweeps_start_at_once_on_a_fresh_store(launch, tmp_path):
    home = tmp_path / "home"
    names = [f"seed-{seed}" for seed in range(4)]
    started = [launch(*INLINE, "--seeds", f"{seed},", "--name", name, "--home", home) for seed, name in enumerate(names)]
    for process in started:
        said = end_of(process)
        assert said.code == 0, said.err
    for name in names:
        check(home / name, f"sqlite:///{home / 'mlflow.db'}")


@pytest.mark.parametrize("fault", [record_faults.runs_are_deleted_meanwhile, record_faults.the_journal_is_torn])
def test_faults_of_each_store(fault, launch, tmp_path):
    fault(launch, tmp_path / "home", in_sqlite(tmp_path / "home", "broken"))


@pytest.mark.parametrize(
    ("place", "message"),
    [("home", "home is not a folder"), ("home/below", "home is not a folder"), ("other", "cannot be written")],
)
def test_a_file_is_in_a_folders_place(place, message, launch, tmp_path):
    (tmp_path / "home").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine").write_text("x")
    before = listing(tmp_path)
    said = end_of(launch(*SWEEP, "--name", "mine", "--home", place))
    assert said.is_refusal, said
    assert message in said.err
    assert listing(tmp_path) == before


def test_a_file_is_in_the_place_of_mlflows_files(launch, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "mlflow-artifacts").write_text("x")
    said = end_of(launch(*SWEEP, "--home", home))
    assert said.is_refusal, said
    assert "mlflow-artifacts" in said.err
