"""MLflow servers and PostgreSQL clusters of our own, a proxy that breaks on command, and what must hold of a record afterwards."""

import contextlib
import http.client
import http.server
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from sweep_kit import ROOT, Result, events, only_folder, outcome, reports, start, wait_for

#: Six short trials, one after another, so that there is a middle in which to take things away.
CELLS = 'search = "grid"\n[values]\nc = [0.1, 1.0]\nsmax = [5, 10, 20]\n'
TRIALS, TASKS = 6, 3
SWEEP = f"--method hat --space cells.toml --tasks {TASKS} --network mlp:16 --set epochs=6 --set lr=0.5 --pack 1".split()
INLINE = [*SWEEP, "--executor", "inline"]


#: Seconds that anything may take. Alone, nothing takes a tenth of it; but this machine may have other work.
SECONDS = 600


def end_of(process: subprocess.Popen) -> Result:
    """What a sweep came to."""
    return outcome(process, SECONDS)


def until(happened: Callable[[], bool], process: subprocess.Popen | None = None) -> None:
    """Waits for something that the process, if it is named, must bring about before it ends."""
    wait_for(happened, SECONDS, process)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """``mlflow server`` on loopback, in a process group of its own."""

    def __init__(self, folder: Path, store: str | None = None, *options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port = folder, free_port()
        self.store = store or f"sqlite:///{folder / 'server.db'}"
        self.uri = f"http://127.0.0.1:{self.port}"
        self._options = options
        self._process: subprocess.Popen | None = None

    def start(self) -> "Server":
        """Starts it, where it is not running, and waits until it answers."""
        if self._process is not None:
            return self
        words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        words += ["--backend-store-uri", self.store, "--artifacts-destination", str(self.folder / "files"), *self._options]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                words, cwd=self.folder, env={**os.environ, **quiet}, start_new_session=True, stdout=log, stderr=log
            )
        until(self._answers)
        assert self._process.poll() is None, (self.folder / "server.log").read_text()
        return self

    def kill(self) -> None:
        """SIGKILL to all of it."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            assert self._process.poll() is None, (self.folder / "server.log").read_text()
            return False


class Proxy:
    """Stands before a server and lets everything through, until ``breaks`` is set.

    ``breaks(method, path)`` gives a status to answer in the server's place, ``"lose"`` to let the server do what it is asked and
    lose its answer, or None to let a request through.
    """

    def __init__(self, port: int) -> None:
        self.breaks = lambda method, path: None
        self.refused = 0
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _handle(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                broken = proxy.breaks(self.command, self.path)
                if isinstance(broken, int):
                    proxy.refused += 1
                    return self._answer(broken, b"broken on purpose", {})
                server = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                try:
                    server.request(self.command, self.path, body, dict(self.headers))
                    answer = server.getresponse()
                    data = answer.read()
                except OSError:
                    return self._answer(502, b"no server", {})
                finally:
                    server.close()
                if broken == "lose":
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return None
                return self._answer(answer.status, data, {"Content-Type": answer.headers.get("Content-Type", "text/plain")})

            def _answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _handle  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Postgres:
    """A throw-away PostgreSQL cluster on loopback, of Debian's binaries; these refuse to be run by root."""

    USER = "clsweep"

    def __init__(self) -> None:
        binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
        if not binaries:
            pytest.skip("there is no PostgreSQL here: apt-get install postgresql")
        pytest.importorskip("psycopg", reason="there is no psycopg here: pip install 'clsweep[postgres]'")
        self._bin, self.port = binaries[-1], free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # pytest's own is closed to other users
        self._as = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._as:
            shutil.chown(self.folder, "postgres")
        self._do("initdb", "-D", self.folder / "data", "-U", self.USER, "--auth=trust", "--no-sync")

    def start(self) -> "Postgres":
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        self._do("pg_ctl", "-D", self.folder / "data", "-w", "-l", self.folder / "log", "-o", options, "start")
        return self

    def stop(self) -> None:
        """As a power cut would: without a checkpoint, its clients thrown out."""
        self._do("pg_ctl", "-D", self.folder / "data", "-w", "-m", "immediate", "stop")

    def remove(self) -> None:
        """Stops it where it runs, and takes its files away."""
        if (self.folder / "data" / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self.folder)

    def database(self, name: str) -> str:
        """The URI of a new, empty database."""
        self._do("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", self.USER, name)
        return f"postgresql://{self.USER}@127.0.0.1:{self.port}/{name}"

    def _do(self, program: str, *words: object) -> None:
        done = subprocess.run(
            [*self._as, str(self._bin / program), *map(str, words)], cwd="/", stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def serving(folder: Path, store: str | None = None, *options: str):
    """A server for as long as it is needed."""
    made = Server(folder, store, *options).start()
    try:
        yield made
    finally:
        made.kill()


def interrupted(
    launch: "Launcher", home: Path, uri: str, stop: Callable[[], object], back: Callable[[], object], *more: str
) -> Path:
    """A sweep during which the record cannot be written for a while, and that learns on; returns its folder."""
    process = launch(*INLINE, "--name", "back", "--home", home, "--tracking-uri", uri, *more)
    until(lambda: reports(home) >= 3, process=process)
    stop()
    until(lambda: reports(home) > 10, process=process)  # it learns on
    back()
    said = end_of(process)
    assert said.code == 0, said.err
    assert "Traceback" not in said.out + said.err
    assert "not up to date" not in said.out
    return only_folder(home)


def publish(*words: object) -> Result:
    """``python trackers/publish.py`` in a process of its own."""
    command = [sys.executable, str(ROOT / "trackers" / "publish.py"), *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return end_of(subprocess.Popen(command, text=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE))


def check(sweep: Path, uri: str, files_at: str | None = None) -> None:
    """MLflow has every finished task of every trial once, as the journal says it, and nothing runs any more.

    Read here line by line and run by run, not with what wrote it; ``files_at`` is the server before the store, which has the files.
    """
    from mlflow.tracking import MlflowClient

    client, files = MlflowClient(uri), MlflowClient(files_at or uri)
    (identity,) = {run.data.tags["cl.sweep_id"] for run in all_runs(client) if run.data.tags["cl.sweep"] == sweep.name}
    found = [run for run in all_runs(client) if run.data.tags["cl.sweep_id"] == identity]
    orphans = [run for run in found if "cl.orphan" in run.data.tags]
    parents = [run for run in found if run.data.tags["cl.role"] == "sweep"]
    children = [run for run in found if run not in orphans and run not in parents]
    assert {run.info.status for run in orphans} <= {"KILLED"}
    assert {run.data.tags["cl.role"] for run in orphans} <= {"orphan"}
    assert [run.info.status for run in parents] == ["FINISHED"]
    assert len(events(sweep, "end")) >= 1
    told = _told(sweep)
    assert len(told) == TRIALS == len(events(sweep, "done"))
    assert sorted(run.data.tags["cl.trial"] for run in children) == sorted(told)
    for run in children:
        _check_trial(client, run, told[run.data.tags["cl.trial"]])
        assert run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
        kept = {item.path for item in files.list_artifacts(run.info.run_id)}
        assert {"accuracy.parquet", "masks.parquet", "config.json", "checkpoint.safetensors"} <= kept
    _check_curves(client, parents[0])
    assert parents[0].data.metrics["count/done"] == TRIALS
    steps = [point.step for point in client.get_metric_history(parents[0].info.run_id, "count/done")]
    assert steps == list(range(1, TRIALS + 1))


def _told(sweep: Path) -> dict[str, dict[int, tuple[dict, float]]]:
    """Trial -> tasks seen -> what the journal says of it first, and when."""
    told: dict[str, dict[int, tuple[dict, float]]] = {}
    for line in (sweep / "journal.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "task":
            for member in event["members"]:
                told.setdefault(member["trial"], {}).setdefault(event["seen"], (member, event["time"]))
    return told


def _check_trial(client, run, told: dict[int, tuple[dict, float]]) -> None:
    assert run.info.status == "FINISHED"
    assert sorted(told) == list(range(TASKS + 1))
    curve = [(p.step, p.value, p.timestamp) for p in client.get_metric_history(run.info.run_id, "acc/avg")]
    expected = [(seen, statistics.fmean(told[seen][0]["test"][:seen]), int(told[seen][1] * 1000)) for seen in range(1, TASKS + 1)]
    assert curve == [(step, pytest.approx(value), time) for step, value, time in expected]
    _check_curves(client, run)


def _check_curves(client, run) -> None:
    """No curve has two points at a step."""
    for key in run.data.metrics:
        steps = [point.step for point in client.get_metric_history(run.info.run_id, key)]
        assert len(steps) == len(set(steps)), (key, steps)


def all_runs(client, only: str = "") -> list:
    """The runs of all sweeps, or those that MLflow's filter lets through."""
    experiments = [e.experiment_id for e in client.search_experiments(filter_string="name LIKE 'cl/%'")]
    return list(client.search_runs(experiments, only, max_results=1000)) if experiments else []


class Launcher:
    """Starts sweeps in a folder and ends what is left of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen] = []
        (folder / "cells.toml").write_text(CELLS)

    def __call__(self, *words: object, **environment: str) -> subprocess.Popen:
        self._started.append(start(*words, cwd=self.folder, **environment))
        return self._started[-1]

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
