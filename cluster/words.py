"""The words of a sweep, which stand behind ``--``: read and checked here before anything is started elsewhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from clcore.errors import BadValue, UserError
from sweeps.run import given_in, settings_of

Words = Annotated[list[str] | None, typer.Argument(metavar="-- SWEEP...", help="the sweep, as for sweeps/run.py")]
Retries = Annotated[int, typer.Option("--retries", min=0, help="times that a lost driver is started again")]
TokenFile = Annotated[
    Path | None, typer.Option("--token-file", help="file with the cluster's token", show_default="by RAY_AUTH_MODE")
]


#: A sweep as it could run on this machine: what its packs are given is the cluster's.
HERE = {"executor": "inline", "cpus": 1, "gpus_per_trial": 0.0, "ship": False}


def check_words(words: Sequence[str] | None) -> None:
    """Sees that the words are a sweep's; what they mean is left to who runs it.

    Raises:
        UserError: there are none, or one of them is no option or is not for a cluster.
    """
    if not words:
        raise UserError("the sweep is missing: it stands behind --, e.g. -- --method hat --space grid.")
    given, _ = given_in(words)
    for option, wrong in (("--address", "address" in given), ("--executor", given.get("executor", "ray") != "ray")):
        if wrong:
            raise UserError(f"{option} does not go with cluster/launch.py, which says where the sweep runs.")


def read_words(words: Sequence[str] | None) -> Any:
    """The settings of a sweep that a cluster is to run.

    Raises:
        UserError: there are no words, or one of them is wrong or is not for a cluster.
    """
    check_words(words)
    return settings_of(words or ())


def check_sweep(settings: Any) -> None:
    """Everything about a sweep that can be wrong, its cluster aside.

    Raises:
        UserError: the first thing that is wrong.
    """
    from sweeps.asked import ask

    ask(settings.model_copy(update=HERE))


def check_room(settings: Any, cpus: int, gpus: int) -> None:
    """Sees that a pack fits on a node of a cluster that we are to start.

    Raises:
        BadValue: it does not.
    """
    if settings.cpus > cpus:
        raise BadValue("--cpus", settings.cpus, f"at most {cpus}, the cores of a node (--cpus-per-node)")
    if settings.gpus_per_trial > gpus:
        raise BadValue("--gpus-per-trial", settings.gpus_per_trial, f"at most {gpus}, the GPUs of a node (--gpus-per-node)")
