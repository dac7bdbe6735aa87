"""The record in PostgreSQL, directly and through ``mlflow server``: the same sweeps, the same faults, the same rows."""

import contextlib
from dataclasses import dataclass
from functools import partial

import pytest
import record_faults
from record_faults import Place
from server_kit import INLINE, SWEEP, TRIALS, Postgres, Server, check, end_of, interrupted, publish, serving
from sweep_kit import listing, matrices, only_folder

from trackers import read

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

TABLES = ("experiments", "runs", "metrics", "latest_metrics", "params", "tags", "inputs", "datasets")


@dataclass
class Store:
    """A new database, and how MLflow is reached: directly, or through a server."""

    postgres: Postgres
    database: str
    server: Server | None

    @property
    def uri(self) -> str:
        return self.server.uri if self.server else self.database

    def stop(self) -> None:
        if self.server:
            self.server.kill()
        self.postgres.stop()

    def start(self) -> None:
        self.postgres.start()
        if self.server:
            self.server.start()

    def place(self, name: str) -> Place:
        """Where a sweep of this name is recorded in it."""
        return Place(name, self.uri, self.database, self._held, ("--tracking-uri", self.uri))

    def _held(self) -> bool:
        """Whether a transaction is open; the server's own ends by itself."""
        import psycopg

        with contextlib.closing(psycopg.connect(self.database)) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
                "AND state NOT IN ('idle', 'disabled')"
            )
            return bool(cursor.fetchone()[0])

    def rows(self) -> dict[str, list]:
        """All that is in it."""
        import psycopg

        with contextlib.closing(psycopg.connect(self.database)) as connection, connection.cursor() as cursor:
            found = {}
            for table in TABLES:
                cursor.execute(f"SELECT * FROM {table}")
                found[table] = sorted(map(repr, cursor.fetchall()))
        return found


@pytest.fixture(scope="module")
def postgres():
    made = Postgres()
    try:
        yield made.start()
    finally:
        made.remove()


@pytest.fixture(scope="module", params=["direct", "server"])
def store(request, postgres, tmp_path_factory):
    database = postgres.database(request.param)
    behind = serving(tmp_path_factory.mktemp("behind"), database) if request.param == "server" else contextlib.nullcontext()
    with behind as server:
        yield Store(postgres, database, server)


def test_four_sweeps_start_at_once_on_a_fresh_store(launch, tmp_path, store):
    """Each with a home of its own, as on four machines; the first test of a store, so that it is fresh."""
    homes = [tmp_path / f"home-{seed}" for seed in range(4)]
    words = [*INLINE, "--tracking-uri", store.uri]
    started = [launch(*words, "--seeds", f"{n},", "--name", f"four-{n}", "--home", home) for n, home in enumerate(homes)]
    for process in started:
        said = end_of(process)
        assert said.code == 0, said.err
    for home in homes:
        check(only_folder(home), store.database, store.uri)


def test_twice_is_once_and_can_be_read(launch, tmp_path, store):
    said = end_of(launch(*INLINE, "--name", "twice", "--home", "home"))
    assert said.code == 0, said.err
    sweep = only_folder(tmp_path / "home")
    assert publish(sweep, "--tracking-uri", store.uri).code == 0
    check(sweep, store.database, store.uri)
    before = store.rows()
    for _ in range(2):
        assert publish(sweep, "--tracking-uri", store.uri).code == 0
        after = store.rows()
        for table in TABLES:
            assert {*after[table]} ^ {*before[table]} == set(), table
    _read_back(sweep, store.uri)


def _read_back(sweep, uri):
    from mlflow.tracking import MlflowClient

    assert len(read.leaderboard("twice", uri)) == TRIALS
    client, known = MlflowClient(uri), matrices(sweep)
    for experiment in client.search_experiments(filter_string="name LIKE 'cl/%'"):
        for run in client.search_runs([experiment.experiment_id], "tags.`cl.sweep` = 'twice' and tags.`cl.role` = 'trial'"):
            own = known.pop(run.data.tags["cl.trial"])
            assert read.matrix(run.info.run_id, uri).nan_to_num(-1).equal(own["test"].nan_to_num(-1))
            assert read.masks(run.info.run_id, uri)
    assert not known


@pytest.mark.parametrize("executor", ["inline", "ray"])
def test_it_is_restarted_in_the_middle(launch, tmp_path, store, executor):
    more = ["--executor", executor, "--name", f"back-{executor}"]
    check(interrupted(launch, tmp_path / "home", store.uri, store.stop, store.start, *more), store.database, store.uri)


@pytest.mark.parametrize(
    "fault",
    [
        record_faults.runs_are_deleted_meanwhile,
        record_faults.the_journal_is_torn,
        partial(record_faults.the_driver_is_killed, times=4),
    ],
    ids=["deleted", "torn", "killed"],
)
def test_faults_of_each_store(fault, launch, tmp_path, store, request):
    fault(launch, tmp_path / "home", store.place(request.node.callspec.id.replace("-", "_")))


def test_there_is_no_such_database(launch, tmp_path, postgres):
    before = listing(tmp_path)
    place = f"127.0.0.1:{postgres.port}/missing"
    said = end_of(launch(*SWEEP, "--home", "home", "--tracking-uri", f"postgresql://{Postgres.USER}@{place}"))
    assert said.is_refusal, said
    assert 'database "missing" does not exist' in said.err
    said = end_of(launch(*SWEEP, "--home", "home", "--tracking-uri", f"postgresql://{Postgres.USER}:secret@{place}"))
    assert said.is_refusal, said
    assert "PGPASSWORD" in said.err
    assert "secret" not in said.err
    assert listing(tmp_path) == before
