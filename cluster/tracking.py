"""``launch.py tracking``: an MLflow server as it should be started for a cluster."""

import ipaddress
import os
import shlex
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl, urlencode, urlsplit

import typer

from clcore.errors import BadValue, UserError
from trackers.check import check_tracking, password_of
from trackers.command import console_here, say

#: How MLflow is told of its database: an argument could be read by everybody on the machine.
STORE = "MLFLOW_BACKEND_STORE_URI"
#: Without its job execution the server is 2 processes in place of 10; it is for features that sweeps do not use.
ENVIRONMENT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
#: Ways that PostgreSQL's own client is told a password.
PASSWORD = "PGPASSWORD, or ~/.pgpass"


def tracking(
    backend: Annotated[str | None, typer.Option("--backend", help="postgresql://USER@HOST/DB", show_default=f"${STORE}")] = None,
    host: Annotated[str, typer.Option("--host", help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="port to listen on")] = 5000,
    artifacts: Annotated[str, typer.Option("--artifacts", help="folder or URI where files go")] = "mlflow-artifacts",
    allowed_hosts: Annotated[str | None, typer.Option("--allowed-hosts", help="names that clients may use, by commas")] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="processes; more than 1 pay with uvloop installed")] = 1,
    show: Annotated[bool, typer.Option("--print", help="print the command, and start nothing")] = False,
) -> None:  # fmt: skip
    """Starts an MLflow server for the sweeps of a cluster: on loopback unless told, its password in no argument."""
    uri = _backend(backend)
    _check_host(host, allowed_hosts)
    command = server_command(host, port, artifacts, allowed_hosts, workers)
    console = console_here()
    if show:
        say(console, _shown(backend, command))
        return
    check_tracking(uri, Path.cwd())
    _check_free(host, port)
    say(console, f"use it with    --tracking-uri {client_uri(host, port, allowed_hosts)}")
    sys.stdout.flush()
    os.execve(command[0], command, {**os.environ, **ENVIRONMENT, STORE: uri})


def server_command(host: str, port: int, artifacts: str, allowed_hosts: str | None, workers: int) -> list[str]:
    """The command of the server; the database is not in it.

    Args:
        host: address to listen on.
        port: port to listen on.
        artifacts: folder or URI where the server keeps the files of runs, which clients send to it.
        allowed_hosts: names and addresses that clients may call it by; None: loopback and private addresses.
        workers: processes. Each request waits 40 ms with more than one, unless uvloop is installed (measured with MLflow 3.17).
    """
    place = artifacts if "://" in artifacts else str(Path(artifacts).absolute())
    allowed = ["--allowed-hosts", allowed_hosts] if allowed_hosts else []
    where = ["--host", host, "--port", str(port), *allowed]
    return [sys.executable, "-m", "mlflow", "server", *where, "--workers", str(workers), "--artifacts-destination", place]


def client_uri(host: str, port: int, allowed_hosts: str | None) -> str:
    """What a sweep is to be told: the first name that clients may use, where the server has one."""
    named = (allowed_hosts or "").split(",")[0].strip()
    if not named or "*" in named:
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{port}"
    return f"http://{named}" if ":" in named else f"http://{named}:{port}"


def _backend(backend: str | None) -> str:
    """The database, from the option or the environment, without its password.

    Raises:
        UserError: there is none, or the option holds a password.
    """
    uri = backend or os.environ.get(STORE)
    if not uri:
        raise UserError(f"--backend is missing: name a database, e.g. --backend postgresql://USER@HOST/DB, or set {STORE}.")
    try:
        secret = password_of(uri)
    except ValueError:
        raise UserError("--backend is no URI of a database, such as postgresql://USER@HOST/DB.") from None
    if secret is None:
        return uri
    if backend is not None:
        raise UserError(
            f"--backend holds a password, which everybody on this machine can read: leave it out and give it by {PASSWORD}."
        )
    parts = urlsplit(uri)
    if not parts.scheme.startswith("postgresql"):
        return uri
    os.environ["PGPASSWORD"] = secret  # the same for the server, and no message can show it
    user, at, address = parts.netloc.rpartition("@")
    others = urlencode([(name, value) for name, value in parse_qsl(parts.query) if name != "password"])
    return parts._replace(netloc=f"{user.partition(':')[0]}{at}{address}", query=others).geturl()


def _check_host(host: str, allowed_hosts: str | None) -> None:
    """Sees that who listens to more than this machine says to whom: the server has no login of its own.

    Raises:
        UserError: it does not, or it is no address.
    """
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise BadValue("--host", host, "an address of this machine, e.g. 127.0.0.1, or 0.0.0.0 for all") from None
    if not loopback and not allowed_hosts:
        raise UserError(
            f"--host {host}: who reaches this server can read and delete everything on it, since it has no login. Say with "
            "--allowed-hosts by which names it may be called, and let a firewall or a proxy with a login stand before it."
        )


def _check_free(host: str, port: int) -> None:
    """Sees that nobody listens on a port.

    Raises:
        UserError: somebody does, or the address is not this machine's.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"--host {host} --port {port} cannot be listened on: {error.strerror}.") from None


def _shown(backend: str | None, command: list[str]) -> str:
    """The command for a shell; a database from the environment is named by its variable alone."""
    variables: Mapping[str, str] = {**ENVIRONMENT, **({STORE: backend} if backend else {})}
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in variables.items()), shlex.join(command)])
