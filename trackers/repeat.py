"""What to type to run a recorded configuration again."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clcore import hyper
from clcore.benchmarks import BenchmarkOptions
from clcore.methods import METHODS
from clcore.networks import NetworkOptions
from clcore.quick import preferred
from clcore.training import Training

#: Options of a benchmark that have an option of their own.
CUT = ("scenario", "tasks", "classes_per_task", "larger_first_task")
PROGRAM = ("python", "sweeps/run.py")


def resume_command(name: str, home: Path | str | None) -> str:
    """Goes on with a sweep; ``home`` is None where it is not known."""
    return shlex.join([*PROGRAM, "--resume", name, *(["--home", str(home)] if home else [])])


def publish_command(name: str, home: Path) -> str:
    """Brings MLflow up to date with a sweep."""
    return shlex.join(["python", "trackers/publish.py", name, "--home", str(home)])


def replay_command(run_id: str, tracking_uri: str) -> str:
    """Runs one trial again as it ran, and compares."""
    return shlex.join([*PROGRAM, "--replay", run_id, "--tracking-uri", tracking_uri])


def again_command(configuration: Mapping[str, Any], seeds: Sequence[str], tracking_uri: str) -> str:
    """Runs a configuration as a sweep of its own, in a home of its own; what is as by default is left out.

    Args:
        configuration: as in ``config.json``.
        seeds: which.
        tracking_uri: where the parent of a fork is found.

    Raises:
        KeyError, TypeError, AttributeError: it is not what ``config.json`` holds.
    """
    values = {**configuration["hyper"], **configuration["training"]}
    if configuration.get("fork"):
        return fork_command(configuration["fork"], values, tracking_uri, "repeat")
    options, network = configuration["benchmark"]["options"], configuration["network"]
    method = str(configuration["method"])
    words = [*PROGRAM, "--method", method, "--space", "default", "--benchmark", str(configuration["benchmark"]["name"])]
    words += ["--network", str(network["spec"])]
    for name in CUT:
        if options[name] is not None:
            words += [f"--{name.replace('_', '-')}", str(options[name])]
    rest = {name: value for name, value in {**options, **network}.items() if name not in (*CUT, "spec")}
    usual = _defaults(method, str(options["scenario"]))
    for name, value in {**values, **rest}.items():
        if name not in usual or usual[name] != value:
            words += ["--set", f"{name}={plain(value)}"]
    return shlex.join([*words, "--seeds", ",".join(seeds) + ("," if len(seeds) == 1 else ""), "--home", "repeat"])


def fork_command(fork: Mapping[str, Any], values: Mapping[str, Any], tracking_uri: str, home: str) -> str:
    """Forks a trial's parent again.

    Args:
        fork: as in ``config.json``.
        values: hyperparameters and training settings of the fork.
        tracking_uri: where the parent is found.
        home: another folder than the fork's, where it would be taken for finished.
    """
    words = [*PROGRAM, "--fork", str(fork["run"]), "--at-task", str(fork["at"])]
    for name in fork["before"][-1]["values"]:
        words += ["--set", f"{name}={plain(values[name])}"]
    return shlex.join([*words, "--tracking-uri", tracking_uri, "--home", home])


def _defaults(method: str, scenario: str) -> dict[str, Any]:
    """What a method and its settings are by default; of a user's file nothing, since its code would have to be run."""
    if method not in METHODS.builtin:
        return {}
    cls = METHODS.get(method)
    around = {f.name: f.default for options in (BenchmarkOptions, NetworkOptions) for f in dataclasses.fields(options)}
    preferences = {name: value for name, value in cls.defaults.items() if name in around}
    training = {**hyper.defaults(Training), **preferred(method, Training, scenario)}
    return {**hyper.defaults(cls.Hyper), **training, **around, **preferences}


def plain(value: Any) -> str:
    """A value as ``--set`` takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
