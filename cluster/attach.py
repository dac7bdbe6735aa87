"""``launch.py attach``: a sweep on a Ray cluster that is there, its driver here."""

import ipaddress
from collections.abc import Mapping
from typing import Annotated

import typer

from cluster.auth import own_environment
from cluster.supervise import Stopped, driver_command, signals, supervise
from cluster.words import Retries, TokenFile, Words, check_words
from sweeps.joining import knock
from sweeps.ray_variables import LOOPBACK
from trackers.command import console_here, say, typed_command


def attach(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="of the head of a Ray cluster")],
    words: Words = None,
    token_file: TokenFile = None,
    ship: Annotated[bool, typer.Option("--ship", help="send the working tree to the nodes")] = False,
    retries: Retries = 3,
) -> None:
    """Runs a sweep on a Ray cluster that is there; the driver is here, and is started again when it is lost."""
    environment = {**own_environment(token_file), **near(address)}
    check_words(words)
    knock(address)  # all else the driver sees, which takes seconds to start
    command = driver_command([*(words or ()), "--address", address, *(["--ship"] if ship else [])], typed_command())

    def begin() -> tuple[list[str], Mapping[str, str]]:
        return command, environment

    console = console_here()
    try:
        with signals() as caught:
            raise typer.Exit(supervise(begin, retries, caught, lambda line: say(console, line)))
    except Stopped as stopped:
        raise typer.Exit(stopped.code) from None


def near(address: str) -> dict[str, str]:
    """What a driver needs for a cluster on loopback: Ray would look for it at the machine's own address."""
    host = address.rpartition(":")[0]
    try:
        return dict(LOOPBACK) if ipaddress.ip_address(host).is_loopback else {}
    except ValueError:
        return {}
