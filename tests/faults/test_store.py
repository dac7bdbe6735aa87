"""Store and journal are touched by others: locked, four sweeps at once, runs deleted, a torn line, a file in a folder's place."""

import contextlib
import signal
import sqlite3

import pytest
from mlflow.tracking import MlflowClient
from server_kit import INLINE, SWEEP, check, end_of, publish, until
from sweep_kit import events, listing, only_folder, reports

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


def runs(uri):
    client = MlflowClient(uri)
    return client, client.search_runs([e.experiment_id for e in client.search_experiments(filter_string="name LIKE 'cl/%'")])


def _stopped_between_writes(process, database):
    """Stops the sweep, unless it holds the database at that moment: a stopped process would never let go of it."""
    process.send_signal(signal.SIGSTOP)
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=0, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")
    except sqlite3.OperationalError:
        process.send_signal(signal.SIGCONT)
        return False
    return True


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


def test_runs_are_deleted_meanwhile(launch, tmp_path):
    """The sweep's, a finished trial's and the one that is running."""
    home = tmp_path / "home"
    uri = f"sqlite:///{home / 'mlflow.db'}"
    process = launch(*INLINE, "--home", home)
    until(lambda: reports(home) >= 3 and {"FINISHED", "RUNNING"} <= _states(uri), process=process)
    until(lambda: _stopped_between_writes(process, home / "mlflow.db"))  # so that they are what they were when they are deleted
    client, found = runs(uri)
    finished = next(run for run in found if run.info.status == "FINISHED")
    deleted = [run for run in found if run.info.status == "RUNNING"] + [finished]
    assert {run.data.tags["cl.role"] for run in deleted} == {"sweep", "trial"}
    for run in deleted:
        client.delete_run(run.info.run_id)
    process.send_signal(signal.SIGCONT)
    said = end_of(process)
    assert said.code == 0, said.err
    check(only_folder(home), uri)
    for run in deleted:  # taken back out of the trash: now they are there twice
        client.restore_run(run.info.run_id)
    assert publish(only_folder(home)).code == 0
    check(only_folder(home), uri)
    assert sum("cl.orphan" in run.data.tags for run in runs(uri)[1]) == len(deleted)


def test_the_last_line_of_the_journal_is_torn(launch, tmp_path):
    home = tmp_path / "home"
    uri = f"sqlite:///{home / 'mlflow.db'}"
    process = launch(*INLINE, "--home", home)
    until(lambda: reports(home) >= 6 and "RUNNING" in _states(uri), process=process)
    process.kill()
    process.wait()
    sweep = only_folder(home)
    with (sweep / "journal.jsonl").open("ab") as journal:
        journal.write(b'{"n":77,"time":1763760000.0,"event":"task","pack":"')
    for _ in range(2):
        said = publish(sweep)
        assert said.code == 0, said.err
        assert "RUNNING" not in _states(uri)  # nobody runs it
    resumed = end_of(launch("--resume", sweep.name, "--home", home))
    assert resumed.code == 0, resumed.err
    check(sweep, uri)


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


def _states(uri) -> set[str]:
    try:
        return {run.info.status for run in runs(uri)[1]}
    except Exception:  # noqa: BLE001 - the database is only being made
        return set()
