"""The tracking server's command: what it is, what is refused, and that no password is shown or handed on in an argument."""

import os
import shlex
import socket
import subprocess
import sys
import urllib.request

import pytest
from sweep_kit import ROOT, alive, descendants, wait_for

from cluster.launch import main
from cluster.tracking import client_uri, server_command

LAUNCH = [sys.executable, str(ROOT / "cluster" / "launch.py"), "tracking"]


@pytest.fixture
def tracking(monkeypatch, capsys, tmp_path):
    """``launch.py tracking`` in this process, which nothing here lets come to its start."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_BACKEND_STORE_URI", raising=False)
    monkeypatch.setenv("PGPASSWORD", "")  # so that what the command puts there is gone afterwards

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["launch.py", "tracking", *map(str, words)])
        capsys.readouterr()
        code = main()
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_the_command_that_is_printed_is_mlflows(tracking, tmp_path):
    """Its options are read by MLflow's own parser."""
    from mlflow.cli import server

    code, out, _ = tracking(
        "--print", "--backend", "postgresql://ann@db.example/mlflow", "--port", "5123", "--artifacts", "s3://bucket/a"
    )
    assert code == 0
    words = shlex.split(out)
    variables = dict(word.split("=", 1) for word in words[: words.index(sys.executable)])
    assert variables.pop("MLFLOW_BACKEND_STORE_URI") == "postgresql://ann@db.example/mlflow"
    assert variables == {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    assert words[words.index(sys.executable) :][:4] == [sys.executable, "-m", "mlflow", "server"]
    options = server.make_context("server", words[words.index("server") + 1 :]).params
    assert (options["host"], options["port"], str(options["workers"])) == ("127.0.0.1", 5123, "1")
    assert options["artifacts_destination"] == "s3://bucket/a"
    assert list(tmp_path.iterdir()) == []


def test_files_go_to_an_absolute_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = server_command("127.0.0.1", 5000, "files", "mlflow.example,10.0.0.1:5000", 2)
    assert command[command.index("--artifacts-destination") + 1] == str(tmp_path / "files")
    assert command[command.index("--allowed-hosts") + 1] == "mlflow.example,10.0.0.1:5000"


@pytest.mark.parametrize(
    ("host", "allowed", "uri"),
    [
        ("127.0.0.1", None, "http://127.0.0.1:5000"),
        ("::1", None, "http://[::1]:5000"),
        ("0.0.0.0", "mlflow.example", "http://mlflow.example:5000"),
        ("0.0.0.0", "head:8080,x", "http://head:8080"),
        ("10.0.0.1", "*", "http://10.0.0.1:5000"),
    ],
)
def test_what_a_sweep_is_told(host, allowed, uri):
    assert client_uri(host, 5000, allowed) == uri


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--backend is missing"),
        (["--backend", "postgresql://ann:hunter2@db/mlflow"], "PGPASSWORD"),
        (["--backend", "sqlite:///x.db", "--host", "0.0.0.0"], "it has no login"),
        (["--backend", "sqlite:///x.db", "--host", "example"], "an address of this machine"),
        (["--backend", "sqlite:///no/such/folder/x.db"], "there is no folder"),
        (["--backend", "postgresql://ann@127.0.0.1:1/mlflow"], "does not answer"),
        (["--backend", "ftp://x"], "unknown scheme"),
    ],
)
def test_refused(tracking, words, said, tmp_path):
    code, out, err = tracking(*words)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert "hunter2" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken(tracking):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        code, _, err = tracking("--backend", "sqlite:///x.db", "--port", other.getsockname()[1])
    assert code == 2
    assert "in use" in err


URIS_WITH_A_PASSWORD = [
    "postgresql://ann:hun%40ter2@127.0.0.1:1/mlflow",
    "postgresql://127.0.0.1:1/mlflow?user=ann&password=hun%40ter2",
]


@pytest.mark.parametrize("uri", URIS_WITH_A_PASSWORD)
def test_a_password_in_an_argument_is_refused(tracking, uri):
    code, out, err = tracking("--backend", uri, "--print")
    assert code == 2
    assert "holds a password" in err
    assert "ter2" not in out + err


@pytest.mark.parametrize("uri", URIS_WITH_A_PASSWORD)
def test_a_password_of_the_environment_is_not_shown(tracking, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", uri)
    for words in (["--print"], []):
        _, out, err = tracking(*words)
        assert "ter2" not in out + err
    assert os.environ["PGPASSWORD"] == "hun@ter2", "PostgreSQL's client takes it from there"


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_real_server(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [*LAUNCH, "--backend", f"sqlite:///{tmp_path}/mlflow.db", "--port", str(port), "--artifacts", str(tmp_path / "files")]
    process = subprocess.Popen(words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, stdout=subprocess.PIPE)
    try:
        uri = process.stdout.readline().split()[-1]
        assert uri == f"http://127.0.0.1:{port}"
        wait_for(lambda: answers(f"{uri}/health"), 400, process)
        below = descendants(process.pid)
        assert len(below) < 5, "without its job execution it is a few processes"
        from mlflow.tracking import MlflowClient

        client = MlflowClient(uri)
        run = client.create_run(client.create_experiment("e"))
        (tmp_path / "said.txt").write_text("well")
        client.log_artifact(run.info.run_id, str(tmp_path / "said.txt"))
        assert [path.read_text() for path in (tmp_path / "files").rglob("said.txt")] == ["well"]
        process.terminate()
        process.wait(60)
        wait_for(lambda: not any(map(alive, below)), 60)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def answers(address):
    try:
        return urllib.request.urlopen(address, timeout=5).status == 200
    except OSError:
        return False
