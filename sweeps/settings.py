"""What was asked for, validated: one model from the command line's options, and what ``--set`` reaches."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from clcore import hyper
from clcore.benchmarks import BenchmarkOptions
from clcore.errors import BadValue, UnknownName, UserError
from clcore.hyper import knob
from clcore.methods import METHODS
from clcore.networks import NORMS
from clcore.registry import source_digest
from clcore.training import Training
from sweeps.keeping import POLICIES, Retention, bytes_of
from sweeps.options import typed_option
from sweeps.storage import storage_uri
from trackers.check import own_database

#: Raised when the same configuration gives other numbers than before; identities contain it. 2: bytes are those of an export.
RESULTS_VERSION = 2


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """Settings of the benchmark and the network that ``--set`` reaches besides hyperparameters and training."""

    validation: str = knob(
        "split", "what selects sees: a part held out, a copy of the training data (HAT's code on MNIST), or nothing",
        choices=("split", "train-copy", "none"), source="HAT's code",
    )  # fmt: skip
    validation_fraction: float = knob(0.15, "part held out", low=0.01, high=0.9, source="HAT, section 4.1: 15 %")
    shuffle_classes: bool = knob(False, "draw the order of classes from the seed", source="HAT shuffles tasks")
    normalise: bool = knob(True, "inputs of mean 0 and deviation 1; otherwise in [0, 1]", source="HNET's inputs are in [0, 1]")
    init: str = knob(
        "default", "initial weights: torch's default, or Xavier uniform", choices=("default", "xavier"), source="HAT, section 4"
    )
    dropout: float = knob(0.0, "probability of dropping a hidden activation", low=0, high=0.99, source="HAT: .5 at 2000 units")
    input_dropout: float = knob(0.0, "probability of dropping an input", low=0, high=0.99, source="HAT: .2 at 2000 units")
    bias: bool = knob(True, "whether layers have biases", source="RMN and SupSup have none")
    norm: str = knob(
        "default", "batch normalisation of hidden layers: scale and shift, scale only, neither, none, or the network's own",
        choices=NORMS, source="RMN, M-BN; SupSup: neither",
    )  # fmt: skip


#: Options that are one of a few words.
WORDS = {"compiled": ("auto", "on", "off"), "executor": ("ray", "inline"), "keep": POLICIES}


class Settings(BaseModel):
    """Everything the command line says of a sweep; what each means is the help of its option."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    space: str = "grid"
    benchmark: str = "split-digits"
    network: str = "mlp:100-100"
    scenario: str = "task-il"
    tasks: int | None = Field(None, ge=1)
    classes_per_task: int | None = Field(None, ge=1)
    larger_first_task: int | None = Field(None, ge=1)
    assign: dict[str, str] = {}
    seeds: tuple[int, ...] = (0,)
    trials: int | None = Field(None, ge=1)
    pack: str = "auto"
    compiled: str = "auto"
    references: bool = False
    executor: str = "ray"
    device: str = "auto"
    cpus: int = Field(1, ge=1)
    gpus_per_trial: float = Field(0.0, ge=0, allow_inf_nan=False)
    memory: float | None = Field(None, gt=0, allow_inf_nan=False)
    workers: int | None = Field(None, ge=1)
    time_budget: float | None = Field(None, gt=0, allow_inf_nan=False)
    keep: str = "final"
    keep_bytes: int | None = None
    home: Path = Path("runs")
    data_dir: Path | None = None
    tracking_uri: str | None = Field(None, min_length=1)
    storage: str | None = None
    name: str | None = None
    address: str | None = None
    ship: bool = False
    #: As in ``sweeps.trials.Configuration``; of ``--fork``.
    fork: dict[str, Any] | None = None

    @field_validator("pack")
    @classmethod
    def _pack(cls, value: str) -> str:
        if value != "auto" and not (value.isascii() and value.isdigit() and int(value) >= 1):
            raise ValueError("must be auto or a whole number of at least 1")
        return value

    @field_validator(*WORDS)
    @classmethod
    def _word(cls, value: str, info: ValidationInfo) -> str:
        known = WORDS[str(info.field_name)]
        if value not in known:
            raise UnknownName(typed_option(str(info.field_name)).removeprefix("--"), value, known)
        return value

    @field_validator("keep_bytes", mode="before")
    @classmethod
    def _keep_bytes(cls, value: object) -> object:
        return bytes_of(value) if isinstance(value, str) else value

    @field_validator("gpus_per_trial")
    @classmethod
    def _gpus(cls, value: float) -> float:
        if value > 1 and value != int(value):  # Ray's rule: a share of one GPU, or whole ones
            raise ValueError("must be a share of one GPU, or a whole number of them")
        return value

    @field_validator("storage")
    @classmethod
    def _storage(cls, value: str | None) -> str | None:
        return None if value is None else storage_uri(value)

    @field_validator("name")
    @classmethod
    def _name(cls, value: str | None) -> str | None:
        if value is not None and (not value or not all(c.isalnum() or c in "._-" for c in value) or value.startswith(".")):
            raise ValueError("must be letters, digits, '.', '_' and '-', not starting with '.'")
        return value

    @property
    def retention(self) -> Retention:
        """What is kept of finished trials."""
        return Retention(self.keep, self.keep_bytes)

    @property
    def tracking(self) -> str:
        """The tracking URI, by default a database in the home folder."""
        return self.tracking_uri or own_database(self.home)

    @property
    def own_storage(self) -> str | None:
        """URI of this sweep's folder in ``--storage``; None: its checkpoints are in its folder in the home."""
        return None if self.storage is None else f"{self.storage}/{self.sweep_name()}"

    def question(self) -> dict[str, Any]:
        """What decides the results: what makes two calls the same sweep.

        How many trials, where they run and where they are recorded is left out: a sweep may be continued with more of them.
        """
        asked = self.model_dump(mode="json", include=set(QUESTION))
        files = {name: digest for name in (self.method, self.benchmark, self.network) if (digest := file_digest(name))}
        space: dict[str, str] = {}
        if self.space.endswith(".toml"):  # what it holds, not where it lies: a home may be moved
            space = {"space": Path(self.space).name, "space_file": hashlib.sha256(Path(self.space).read_bytes()).hexdigest()[:16]}
        fork = {"fork": self.fork["before"]} if self.fork else {}
        return {**asked, "assign": dict(sorted(self.assign.items())), **({"files": files} if files else {}), **space, **fork}

    def sweep_name(self) -> str:
        """The given name, or one made of method, space (or ``fork``) and a digest of the question."""
        if self.name:
            return self.name
        what = "fork" if self.fork else Path(self.space).stem
        words = (Path(self.method).stem, what, digest(self.question())[:8])
        return "-".join(words)


QUESTION = (
    "method", "space", "benchmark", "network", "scenario", "tasks", "classes_per_task", "larger_first_task", "seeds",
)  # fmt: skip


def validated(values: Mapping[str, Any]) -> Settings:
    """Settings from options that were given.

    Raises:
        BadValue: an option of the wrong type or out of range.
        UnknownName: a word that is not known.
    """
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        option = typed_option(str(first["loc"][0]))
        cause = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{option} = {first['input']!r} is not allowed: {cause[0].lower()}{cause[1:]}.") from None


def typed_words(settings: Settings, names: Sequence[str]) -> list[str]:
    """Those of some options, with one value each, that are not as by default, as they are typed."""
    said = {name: value for name in names if (value := getattr(settings, name)) != Settings.model_fields[name].default}
    return [word for name, value in said.items() for word in (typed_option(name), str(value))]


def digest(value: Any) -> str:
    """16 hexadecimal digits of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()[:16]


def file_digest(name: str) -> str | None:
    """Digest of a user's file, also where an argument follows it (``net.py:64``); None for other names."""
    return source_digest(name.partition(":")[0])


@dataclasses.dataclass(frozen=True)
class Assigned:
    """What ``--set`` said, by what it is about; values typed and checked.

    Attributes:
        hyper: hyperparameters of the method.
        training: training settings.
        surroundings: settings of benchmark and network.
    """

    hyper: dict[str, Any]
    training: dict[str, Any]
    surroundings: dict[str, Any]


def declarations(method: str) -> dict[str, type]:
    """Which declaration each key of ``--set`` belongs to, for a method.

    Raises:
        UnknownName: no such method.
        BadValue: a user's method that reuses the name of a setting.
    """
    owners: dict[str, type] = {}
    for declaration in (Training, Surroundings, METHODS.get(method).Hyper):
        for name in hyper.knobs(declaration):
            if name in owners:
                raise BadValue(f"{method}'s hyperparameter", name, "a name that no setting has")
            owners[name] = declaration
    return owners


def assigned(method: str, values: Mapping[str, Any]) -> Assigned:
    """Sorts and checks what ``--set`` said.

    Raises:
        UnknownName: an unknown key, with the nearest known one.
        BadValue: a value of the wrong type or out of range.
    """
    owners = declarations(method)
    found: dict[type, dict[str, Any]] = {Training: {}, Surroundings: {}, METHODS.get(method).Hyper: {}}
    for key, value in values.items():
        if key not in owners:
            raise UnknownName("hyperparameter or setting", key, owners)
        found[owners[key]][key] = hyper.convert(owners[key], key, value)
    return Assigned(found[METHODS.get(method).Hyper], found[Training], found[Surroundings])


def benchmark_options(settings: Settings, surroundings: Surroundings) -> BenchmarkOptions:
    """How the benchmark's tasks are cut."""
    return BenchmarkOptions(
        tasks=settings.tasks,
        classes_per_task=settings.classes_per_task,
        larger_first_task=settings.larger_first_task,
        scenario=settings.scenario,
        validation=surroundings.validation,
        validation_fraction=surroundings.validation_fraction,
        shuffle_classes=surroundings.shuffle_classes,
        normalise=surroundings.normalise,
    )
