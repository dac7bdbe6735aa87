"""Options that commands have in common - a sweep's and a study's - and the reading of those that hold several values."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from clcore.errors import BadValue

WHAT, COST, WHERE, HOW = "What is swept", "How much", "Where it is kept", "How it runs"


def option(names: str, panel: str, help: str, default: str | bool = False) -> Any:
    """An option of a command.

    Args:
        names: separated by spaces.
        panel: heading that it stands under.
        help: what it is.
        default: what is said of its default; True: the default itself, False: nothing.
    """
    return typer.Option(*names.split(), rich_help_panel=panel, help=help, show_default=default)


def typed_option(parameter: str) -> str:
    """How a parameter of the command is typed: ``assign`` is ``--set``."""
    return "--" + {"assign": "set", "compiled": "compile", "list_": "list"}.get(parameter, parameter).replace("_", "-")


Benchmark = Annotated[str | None, option("--benchmark", WHAT, "what is learned, or a FILE.py", "split-digits")]
Network = Annotated[str | None, option("--network", WHAT, "network, e.g. mlp:500-500, or a FILE.py", "mlp:100-100")]
Tasks = Annotated[int | None, option("--tasks", WHAT, "number of tasks", "its own")]
ClassesPerTask = Annotated[int | None, option("--classes-per-task", WHAT, "classes of a task", "its own")]
Trials = Annotated[int | None, option("--trials", COST, "configurations of a sampled space", "20")]
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


def option_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options with those read that hold several values.

    Args:
        given: values by parameter; ``assign`` (``--set``) and ``seeds`` as they were typed.

    Raises:
        BadValue: one of them cannot be read.
    """
    values = {**given}
    if "assign" in given:
        values["assign"] = dict(_pair(text) for text in given["assign"])
    if "seeds" in given:
        values["seeds"] = read_seeds(given["seeds"])
    return values


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise BadValue("--set", text, "KEY=VALUE, e.g. --set epochs=5")
    return key.strip(), value.strip()


def read_seeds(text: str) -> tuple[int, ...]:
    """Seeds of ``--seeds``: how many (``3``: 0, 1, 2), or which (``4,7`` or ``4,``).

    Raises:
        BadValue: something else.
    """
    parts = [part.strip() for part in text.split(",")]
    allowed = "a number of seeds (3), or seeds of at least 0 joined by commas (4,7 or 4,)"
    if not all(part.isascii() and part.isdigit() for part in parts if part or len(parts) == 1) or not any(parts):
        raise BadValue("--seeds", text, allowed)
    if len(parts) == 1:
        if int(parts[0]) < 1:
            raise BadValue("--seeds", text, allowed)
        return tuple(range(int(parts[0])))
    return tuple(dict.fromkeys(int(part) for part in parts if part))
