"""Options that all studies share: those of a sweep that make sense for several of them."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from inspect import Signature, signature
from pathlib import Path
from typing import Annotated, Any

from clcore.errors import BadValue, UnknownName, UserError
from sweeps import options as o
from trackers.command import HOME

Scenario = Annotated[str | None, o.option("--scenario", o.WHAT, "task-il, domain-il, class-il or task-free", "task-il")]
Assign = Annotated[
    list[str] | None,
    o.option("--set", o.WHAT, "KEY=VALUE, or METHOD.KEY=VALUE for one of several methods; may be repeated"),
]
Seeds = Annotated[str, o.option("--seeds", o.COST, "how many (3: 0,1,2), or which (4,7)", True)]
TimeBudget = Annotated[float | None, o.option("--time-budget", o.COST, "seconds after which a sweep starts nothing new", "none")]
Home = Annotated[Path, o.option("--home", o.WHERE, HOME, True)]
Corruptions = Annotated[
    bool,
    o.option("--corruptions/--no-corruptions", o.COST, "try stored weights on noisy, blurred, bright and rotated images", True),
]
FROM_RECORD = "--from-record"
FromRecord = Annotated[bool, o.option(FROM_RECORD, o.HOW, "run nothing: report what is there, and say what is missing")]


@dataclass(frozen=True)
class Shared:
    """The options that every study has, as they were typed; None: not given."""

    benchmark: o.Benchmark = None
    network: o.Network = None
    scenario: Scenario = None
    tasks: o.Tasks = None
    classes_per_task: o.ClassesPerTask = None
    assign: Assign = None
    seeds: Seeds = "3"
    time_budget: TimeBudget = None
    home: Home = Path("runs")
    tracking_uri: o.TrackingUri = None
    data_dir: o.DataDir = None
    pack: o.Pack = None
    compiled: o.Compiled = None
    executor: o.Executor = None
    device: o.Device = None
    cpus: o.Cpus = None
    gpus_per_trial: o.GpusPerTrial = None
    workers: o.Workers = None
    address: o.Address = None
    dry_run: o.DryRun = False
    from_record: FromRecord = False

    @property
    def settings(self) -> dict[str, Any]:
        """Those that are settings of its sweeps, as they were typed."""
        return {key: value for key, value in vars(self).items() if key not in _OF_THE_STUDY and value is not None}


#: Options that are not settings of its sweeps.
_OF_THE_STUDY = ("dry_run", "from_record")


def with_shared(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options of :class:`Shared` besides its own; it is given them as one value, ``shared``."""
    own = [p for p in signature(command).parameters.values() if p.name != "shared"]
    others = signature(Shared).parameters

    @wraps(command)
    def whole(**given: Any) -> None:
        command(**{p.name: given[p.name] for p in own}, shared=Shared(**{name: given[name] for name in others}))

    whole.__signature__ = Signature([*own, *others.values()])  # type: ignore[attr-defined]  # typer reads it
    return whole


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


def common(shared: Shared, methods: Sequence[str]) -> Common:
    """What all sweeps share, from the options that were given.

    Raises:
        UserError: a bad value, or a key of ``--set`` that belongs to none of the methods.
    """
    from sweeps.settings import declarations  # it imports torch, which --help should not wait for

    values = o.option_values(shared.settings)
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


def repeating(typed: str) -> str:
    """The command that makes a study, whose report may have been written again by the same one with ``--from-record``."""
    return shlex.join(word for word in shlex.split(typed) if word != FROM_RECORD)
