"""What the commands share: one line for a mistake, a console, and where a sweep is found."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
import typer.exceptions
from rich.console import Console

from clcore.errors import BadValue, UnknownName, UserError

BAD_CALL, INTERRUPTED = 2, 130
#: Columns where the output is no terminal.
PLAIN_WIDTH = 120

HOME = "folder of all sweeps and of their MLflow record"


def some_uri(given: str | None) -> str | None:
    """A tracking URI as it was given; an empty one is most often a variable of the shell that is not set.

    Raises:
        BadValue: it is empty.
    """
    if given is not None and not given.strip():
        raise BadValue("--tracking-uri", given, "a URI such as sqlite:///FILE or http://HOST:PORT, or left out")
    return given


Home = Annotated[Path, typer.Option("--home", help=HOME)]
TrackingUri = Annotated[
    str | None, typer.Option("--tracking-uri", help="MLflow", show_default="sqlite:///HOME/mlflow.db", callback=some_uri)
]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="folder of data files", show_default="the user's cache")]
RunFiles = Annotated[
    bool, typer.Option("--run-files", help="the trial was made with a file of mine (method, benchmark, network): run it")
]
Sweep = Annotated[str, typer.Argument(metavar="SWEEP", help="name of a sweep in the home, or a path of its folder")]


def run(app: typer.Typer, words: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code. A user's mistake is one line on standard error.

    Args:
        app: the command.
        words: what was typed after the program's name; None: what this process was called with.
    """
    try:
        return app(args=words, standalone_mode=False) or 0  # typer gives back the code of typer.Exit
    except UserError as error:
        return _complain(str(error))
    except typer.exceptions.TyperException as error:
        said = error.format_message()
        return _complain(said) if said else BAD_CALL  # without words the help is shown
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED


def _complain(message: str) -> int:
    typer.echo("clsweep: " + " ".join(message.split()), err=True)
    return BAD_CALL


def console_here() -> Console:
    """Standard output, with a width of its own where it is no terminal."""
    return Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)


def typed_command() -> str:
    """What was typed, for the record; a program that is installed by its name."""
    program, *words = sys.argv
    return shlex.join([*(["python", program] if program.endswith(".py") else [Path(program).name]), *words])


def say(console: Console, line: str) -> None:
    """One line as it is: not wrapped, nothing in it taken for markup."""
    console.print(line, highlight=False, soft_wrap=True, markup=False)


def sweeps_in(home: Path) -> list[Path]:
    """The folders of the sweeps in a home, by name; also of those that lost one of their two files.

    Raises:
        UserError: there is no such home, or it cannot be read.
    """
    try:
        return sorted(folder for folder in home.iterdir() if is_sweep(folder))
    except OSError as error:
        raise UserError(f"--home {home} cannot be read: {error.strerror}.") from None


def is_sweep(folder: Path) -> bool:
    """Whether a folder is a sweep's: it has a journal or a manifest."""
    from trackers.manifest import MANIFEST
    from trackers.record import JOURNAL  # it imports torch, which no wrong call should wait for

    try:
        return (folder / JOURNAL).is_file() or (folder / MANIFEST).is_file()
    except (OSError, ValueError):  # a name too long for the disk, or with a zero in it
        return False


def find_sweep(sweep: str, home: Path) -> Path:
    """The folder of a sweep.

    Args:
        sweep: its name in the home, or a path.
        home: the folder of all sweeps.

    Raises:
        UnknownName: there is no such sweep.
        UserError: there is no such home.
    """
    if is_sweep(home / sweep):
        return home / sweep if Path(sweep).name == sweep else (home / sweep).resolve()
    if is_sweep(Path(sweep)):
        return Path(sweep).resolve()
    raise UnknownName("sweep", sweep, [folder.name for folder in sweeps_in(home)])
