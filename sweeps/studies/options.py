"""Options that all studies share: those of a sweep that make sense for several of them."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from clcore.errors import BadValue, UnknownName, UserError
from sweeps.run import option_values

WHAT, COST, WHERE, HOW = "What is asked", "How much", "Where it is kept", "How it runs"


def option(names: str, panel: str, help: str, default: str | bool = False) -> Any:
    """An option of the command; several names are separated by a space."""
    return typer.Option(*names.split(), rich_help_panel=panel, help=help, show_default=default)


Benchmark = Annotated[str | None, option("--benchmark", WHAT, "what is learned, or a FILE.py", "split-digits")]
Network = Annotated[str | None, option("--network", WHAT, "network, e.g. mlp:500-500, or a FILE.py", "mlp:100-100")]
Scenario = Annotated[str | None, option("--scenario", WHAT, "task-il, domain-il or class-il", "task-il")]
Tasks = Annotated[int | None, option("--tasks", WHAT, "number of tasks", "its own")]
ClassesPerTask = Annotated[int | None, option("--classes-per-task", WHAT, "classes of a task", "its own")]
Assign = Annotated[
    list[str] | None,
    option("--set", WHAT, "KEY=VALUE, or METHOD.KEY=VALUE for one of several methods; may be repeated"),
]
Seeds = Annotated[str, option("--seeds", COST, "how many (3: 0,1,2), or which (4,7)", True)]
TimeBudget = Annotated[float | None, option("--time-budget", COST, "seconds after which a sweep starts nothing new", "none")]
Home = Annotated[Path, option("--home", WHERE, "folder of all sweeps and of their MLflow record", True)]
TrackingUri = Annotated[str | None, option("--tracking-uri", WHERE, "MLflow", "sqlite:///HOME/mlflow.db")]
DataDir = Annotated[Path | None, option("--data-dir", WHERE, "folder of MNIST and Fashion-MNIST", "the user's cache")]
Pack = Annotated[str | None, option("--pack", HOW, "members trained as one program: auto, or a number", "auto")]
Compiled = Annotated[str | None, option("--compile", HOW, "compile steps: auto (long sweeps), on, off", "auto")]
Executor = Annotated[str | None, option("--executor", HOW, "ray, or inline: in this process", "ray")]
Device = Annotated[str | None, option("--device", HOW, "torch device, or auto", "auto")]
Cpus = Annotated[int | None, option("--cpus", HOW, "CPU threads of a pack", "1")]
GpusPerTrial = Annotated[float | None, option("--gpus-per-trial", HOW, "GPUs of a pack; a fraction shares one", "0")]
Workers = Annotated[int | None, option("--workers", HOW, "packs at a time", "cores / cpus")]
Address = Annotated[str | None, option("--address", HOW, "Ray cluster: HOST:PORT or auto", "our own")]
DryRun = Annotated[bool, option("--dry-run", HOW, "say what it would run and cost; train nothing")]
FromRecord = Annotated[bool, option("--from-record", HOW, "run nothing: report what is there, and say what is missing")]


@dataclass(frozen=True)
class Common:
    """What all sweeps of a study share.

    Attributes:
        values: settings as :func:`sweeps.settings.validated` takes them, but for method, space and ``--set``.
        assign: ``--set`` as it was said, also with a method before the key.
    """

    values: Mapping[str, Any]
    assign: Mapping[str, str]

    @property
    def home(self) -> Path:
        """Folder of all sweeps."""
        return Path(self.values["home"])

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of every configuration."""
        return tuple(self.values["seeds"])

    def own(self, method: str) -> dict[str, str]:
        """What ``--set`` says for a method: keys of its own go before those of all."""
        plain = {key: value for key, value in self.assign.items() if "." not in key}
        prefix = f"{Path(method).stem}."
        return plain | {key.removeprefix(prefix): value for key, value in self.assign.items() if key.startswith(prefix)}

    def settings(self, method: str, space: str = "default", **others: Any) -> dict[str, Any]:
        """Settings of one sweep."""
        return {**self.values, "method": method, "space": space, "assign": self.own(method), **others}

    def seeded(self, seeds: Sequence[int]) -> "Common":
        """The same for other seeds."""
        return replace(self, values={**self.values, "seeds": tuple(seeds)})


def common(given: Mapping[str, Any], methods: Sequence[str]) -> Common:
    """What all sweeps share, from the options that were given.

    Raises:
        UserError: a bad value, or a key of ``--set`` that belongs to none of the methods.
    """
    from sweeps.settings import declarations  # it imports torch, which --help should not wait for

    values = option_values({key: value for key, value in given.items() if value is not None})
    assign = values.pop("assign", {})
    names = {Path(method).stem: method for method in methods}
    for key in assign:
        owner, dot, rest = key.partition(".")
        if dot and owner not in names:
            raise UnknownName("method in --set", owner, names)
        for method in [names[owner]] if dot else methods:
            known = declarations(method)
            if (rest if dot else key) not in known:
                raise UnknownName(f"hyperparameter or setting of {method}", rest if dot else key, known)
    return Common(values, assign)


def method_names(text: str | None, option_name: str) -> list[str]:
    """Methods by name, joined by commas; each of them is there.

    Raises:
        UserError: none is named.
        UnknownName: one that is not known; the nearest is shown.
        BadValue: one of them twice.
    """
    from clcore.methods import METHODS

    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    if not names:
        raise UserError(f"{option_name} is missing: name one, e.g. {option_name} hat; python sweeps/run.py --list shows all.")
    for name in names:
        METHODS.get(name)
    if len({Path(name).stem for name in names}) < len(names):
        raise BadValue(option_name, text, "different methods")
    return names


def typed_command() -> str:
    """What was typed."""
    program, *words = sys.argv
    return shlex.join([*(["python", program] if program.endswith(".py") else [Path(program).name]), *words])
