"""What is wrong with a call of ``cluster/launch.py`` is one line, and nothing is started or written."""

import contextlib
import socket
import threading

import pytest
from sweep_kit import listing

from clcore.errors import UserError
from sweeps import joining
from sweeps.joining import knock, reason

CLOSED = "127.0.0.1:9"
SWEEP = ["--", "--method", "hat"]
BAD = {
    "no sweep": (["local"], "behind --"),
    "an address of its own": (["local", *SWEEP, "--address", "h:1"], "--address does not go"),
    "inline": (["local", *SWEEP, "--executor", "inline"], "--executor does not go"),
    "dry run": (["local", *SWEEP, "--dry-run"], "--dry-run does not go"),
    "replay": (["local", *SWEEP, "--replay", "abc"], "--replay does not go"),
    "unknown option": (["local", *SWEEP, "--sedes", "3"], "--seeds"),
    "unknown method": (["local", "--", "--method", "hatt"], "Did you mean 'hat'"),
    "unknown key": (["local", *SWEEP, "--set", "smx=3"], "Did you mean 'smax'"),
    "no nodes": (["local", "--nodes", "0", *SWEEP], "--nodes"),
    "more cores than a node has": (["local", "--cpus-per-node", "2", *SWEEP, "--cpus", "3"], "at most 2"),
    "more GPUs than a node has": (["local", *SWEEP, "--gpus-per-trial", "1"], "at most 0"),
    "more GPUs than there are": (["local", "--gpus-per-node", "99", *SWEEP, "--gpus-per-trial", "1"], "this machine has"),
    "a closed port": (["attach", CLOSED, *SWEEP], f"{CLOSED}: no Ray cluster answers there"),
    "no port": (["attach", "somewhere", *SWEEP], "HOST:PORT"),
    "no token file": (["attach", CLOSED, "--token-file", "none", *SWEEP], "--token-file none cannot be read"),
    "no job server": (["submit", f"http://{CLOSED}", *SWEEP, "--home", "/shared"], "ray[default]"),
    "no URL": (["submit", CLOSED, *SWEEP, "--home", "/shared"], "must be http://HOST:8265"),
    "a home that no node sees": (["submit", f"http://{CLOSED}", *SWEEP], "--home = 'runs'"),
    "data that no node sees": (["submit", f"http://{CLOSED}", *SWEEP, "--home", "/s", "--data-dir", "d"], "--data-dir"),
    "a password": (["submit", f"http://{CLOSED}", *SWEEP, "--home", "/s", "--tracking-uri", "http://me:s3cret@h:1"], "password"),
    "a job and a sweep": (["submit", f"http://{CLOSED}", "--stop", "x", *SWEEP], "--stop stands alone"),
    "two of a job": (["submit", f"http://{CLOSED}", "--stop", "x", "--logs", "x"], "--stop stands alone"),
    "unknown command": (["locl", *SWEEP], "locl"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_call_is_one_line_and_writes_nothing(case, launch, tmp_path):
    words, message = BAD[case]
    said = launch(*words)
    assert said.code == 2
    assert message in said.err
    assert said.err.startswith("clsweep: ")
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert "s3cret" not in said.err
    assert listing(tmp_path) == {}


def test_a_port_where_something_else_answers(launch):
    """Whatever it is, it is no job server; nothing waits for it for long."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        said = launch("submit", f"http://127.0.0.1:{other.getsockname()[1]}", *SWEEP, "--home", "/shared")
    assert said.code == 2
    assert "no job server answers" in said.err


@contextlib.contextmanager
def answering(word):
    """A port where whoever calls is told this, and nothing else; None: nothing at all."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            caller, _ = server.accept()
            if word is None:
                held.append(caller)
                return
            with caller:
                caller.recv(4096)
                caller.sendall(word)

        held = []
        thread = threading.Thread(target=answer)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join()
        for caller in held:
            caller.close()


#: The first frames of a head of Ray 2.60: SETTINGS of 24 bytes and so on.
HEAD = bytes.fromhex("000018040000000000 000400400000 000500400000 00060000 4000 fe0300000001 000004080000000000003f0001")


@pytest.mark.parametrize(
    "word",
    [HEAD, b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70000 + b"\r\n\r\n"],
    ids=["a head's own port", "half an answer", "a long line"],
)
def test_what_answers_is_no_job_server(word, launch):
    with answering(word) as address:
        said = launch("submit", f"http://{address}", "--status", "x")
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert "is no job server of Ray" in said.err


def test_who_answers_is_asked_before_ray_is(monkeypatch):
    """Ray would try for a minute and a half, whoever it is."""
    monkeypatch.setattr(joining, "FIRST_WORD", 0.1)
    with answering(HEAD) as address:
        knock(address)
    with answering(b"HTTP/1.0 400 Bad Request\r\n") as address, pytest.raises(UserError, match="no head of a Ray cluster"):
        knock(address)
    with answering(b"") as address, pytest.raises(UserError, match="no head of a Ray cluster"):
        knock(address)
    with answering(None) as address, pytest.raises(UserError, match="no Ray cluster answers there"):
        knock(address)
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with answering(b"") as address:
        knock(address)


def test_a_job_of_a_cluster_is_in_it_already(monkeypatch):
    def never(*words, **more):
        raise AssertionError("it tries to join")

    monkeypatch.setattr(joining.subprocess, "Popen", never)
    monkeypatch.setenv(joining.OF_JOB, "{}")
    joining.check_joining("auto")
    monkeypatch.delenv(joining.OF_JOB)
    with pytest.raises(AssertionError):
        joining.check_joining("auto")


VERSIONS = """RuntimeError: Version mismatch: The cluster was started with:
    Ray: 2.60.0
    Python: 3.11.7
This process on node 127.0.0.1 was started with:
    Ray: 2.59.0
    Python: 3.12.1
"""


@pytest.mark.parametrize(
    ("said", "code", "message"),
    [
        ("gcs_client.cc:210: Unauthenticated: RPC error: InvalidAuthToken: missing or incorrect", None, "does not take the token"),
        ("ray.exceptions.AuthenticationError: RAY_AUTH_TOKEN_PATH is set but", 1, "there is no token here"),
        ("Failed to connect to GCS at address 127.0.0.1:80 within 5 seconds.", None, "no head of a Ray cluster"),
        ("gcs_client.cc:210: RPC error: Method not found! rpc_code: 12", None, "no head of a Ray cluster"),
        (VERSIONS, 1, "it runs Ray 2.60.0 on Python 3.11.7, this machine Ray 2.59.0 on Python 3.12.1"),
        ("Traceback\nValueError: something else.\n", 1, "(ValueError: something else)"),
        ("", None, "too long"),
    ],
)
def test_what_rays_words_mean(said, code, message):
    """Words that Ray 2.60 was seen to say."""
    assert message in reason(said, code)
