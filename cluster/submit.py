"""``launch.py submit``: a sweep as a Ray job, its driver on the cluster; the same call again follows the one that runs."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clcore.errors import BadValue, UserError
from cluster.auth import own_environment
from cluster.driven import BROKEN
from cluster.jobs import RUNNING, STOPPED, Job, JobServer, Unreachable
from cluster.supervise import FINAL
from cluster.words import Retries, TokenFile, Words, read_words
from sweeps.ship import runtime_env
from trackers.check import check_password
from trackers.command import BAD_CALL, INTERRUPTED, console_here, say, typed_command

if TYPE_CHECKING:  # it needs torch, whose import takes seconds
    from sweeps.settings import Settings

#: Seconds before a lost driver or job server is tried again, and as many more each time.
PAUSE = 15.0


@dataclass(frozen=True)
class Order:
    """What is submitted: the job's id, the command that runs it, its question, and what is sent along."""

    name: str
    entrypoint: str
    question: str
    sent: dict[str, Any]


def submit(  # noqa: PLR0913 - one parameter an option
    url: Annotated[str, typer.Argument(metavar="http://HOST:8265", help="job server of a Ray cluster")],
    words: Words = None,
    status: Annotated[str | None, typer.Option("--status", metavar="NAME", help="say how the job of a sweep stands")] = None,
    stop: Annotated[str | None, typer.Option("--stop", metavar="NAME", help="stop the job of a sweep; it can go on later")] = None,
    logs: Annotated[str | None, typer.Option("--logs", metavar="NAME", help="show what the job of a sweep has said")] = None,
    python: Annotated[str, typer.Option("--python", help="Python of the cluster's head")] = "python",
    token_file: TokenFile = None,
    ship: Annotated[bool, typer.Option("--ship", help="send the working tree to the cluster")] = False,
    retries: Retries = 3,
) -> None:
    """Runs a sweep as a Ray job and follows it; submitting it again follows the one that runs, or goes on with it."""
    asked = {"--status": status, "--stop": stop, "--logs": logs}
    given = [option for option, name in asked.items() if name is not None]
    if len(given) + bool(words) > 1:
        raise UserError(f"{given[0]} stands alone: name a job, e.g. {given[0]} hat-grid-12345678.")
    environment = own_environment(token_file)
    if not given:
        order = _order(words, python, ship)
        raise typer.Exit(_Following(url, environment, order, retries).run())
    server = JobServer(url, environment)
    if logs is not None:
        typer.echo(server.logs(server.get(logs).name), nl=False)
    elif stop is not None:
        server.stop(server.get(stop).name)
        typer.echo(f"{stop} is being stopped; submitted again, it goes on")
    else:
        assert status is not None
        found = server.get(status)
        typer.echo(f"{found.name}: {found.status.lower()}" + (f" ({found.message})" if found.message else ""))


def check_portable(settings: "Settings", ship: bool) -> None:
    """Sees that what a sweep names is there when its driver runs elsewhere.

    Raises:
        BadValue: a path that means nothing on another machine.
        UserError: a file that is not sent, or a password, which everybody on the cluster could read.
    """
    check_password(settings.tracking)
    for option, path in (("--home", settings.home), ("--data-dir", settings.data_dir)):
        if path is not None and not path.is_absolute():
            raise BadValue(option, str(path), "an absolute path that all nodes share: a job runs in a folder of its own")
    named = (settings.method, settings.space, settings.benchmark, settings.network.partition(":")[0])
    files = [name for name in named if name.endswith((".py", ".toml")) and not Path(name).is_absolute()]
    if files and not ship:
        raise UserError(f"{files[0]} is a file of this machine: add --ship before the --, which sends the working tree.")


class _Following:
    """A job, submitted where it does not run yet, and followed until it ends."""

    def __init__(self, url: str, environment: dict[str, str], order: Order, retries: int) -> None:
        self.url, self.environment, self.order, self.retries = url, environment, order, retries
        self.console = console_here()

    def run(self) -> int:
        """The exit code of the sweep; that of Ctrl-C where it was only the following that ended."""
        try:
            return self._run()
        except KeyboardInterrupt:
            self._say(f"{self.order.name} goes on; the same call follows it, --stop {self.order.name} stops it")
            return INTERRUPTED

    def _run(self) -> int:
        for attempt in range(self.retries + 1):
            try:
                ended = self._once(JobServer(self.url, self.environment))
            except Unreachable as error:
                if attempt in (0, self.retries):
                    raise
                self._say(str(error))
            else:
                if ended.status == STOPPED:
                    self._say(f"{ended.name} was stopped; submitted again, it goes on")
                    return INTERRUPTED
                if ended.code in FINAL or (ended.code == BAD_CALL and not attempt):
                    return int(ended.code or 0)
                self._say(f"the driver was lost ({ended.message or ended.status})")
            time.sleep(PAUSE * (attempt + 1) if attempt < self.retries else 0)
        return BROKEN

    def _once(self, server: JobServer) -> Job:
        """The job as it ended."""
        order, found = self.order, server.find(self.order.name)
        if found is not None and found.question != order.question:
            what = "asks another question" if found.question else "is no sweep"
            raise UserError(f"job {order.name} at {self.url} {what}: give this sweep another --name.")
        before = 0
        if found is None or found.status not in RUNNING:
            before = server.submit(order.name, order.entrypoint, order.question, order.sent)
            self._say(f"{order.name} is submitted to {self.url}")
        else:
            self._say(f"{order.name} runs already: following it")
        server.follow(order.name, lambda text: typer.echo(text, nl=False), before)
        while (ended := server.get(order.name)).status in RUNNING:
            time.sleep(0.2)  # its last words come a moment before its end
        return ended

    def _say(self, line: str) -> None:
        say(self.console, line)


def _order(words: Sequence[str] | None, python: str, ship: bool) -> Order:
    from sweeps.settings import digest

    settings = read_words(words)
    check_portable(settings, ship)
    name = settings.sweep_name()
    whole = [*(words or ()), *([] if settings.name else ["--name", name]), "--address", "auto"]
    entrypoint = shlex.join([python, "-m", "cluster.driven", typed_command(), *whole])
    return Order(name, entrypoint, digest(settings.question()), runtime_env(Path.cwd(), settings.home) if ship else {})
