"""Configurations, trials and packs: what is run, what it is called, and what runs together."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from clcore import hyper
from clcore.benchmarks import Benchmark
from clcore.learner import Learner
from clcore.methods import METHODS
from clcore.networks import Network, NetworkOptions
from clcore.quick import TASK_FREE, benchmark_of, make_learner, network_of, preferred
from clcore.streams import StreamRun
from clcore.training import Training
from sweeps.settings import RESULTS_VERSION, Settings, Surroundings, assigned, benchmark_options, digest, file_digest

#: How a pack runs, besides its members.
HOW = ("threads", "device", "data_dir", "compiled")
DROP_RULE = "members leave at the end of the epoch in which their schedule ends or their loss is no number"


@dataclass(frozen=True)
class Configuration:
    """All that decides a result, but the seed.

    Attributes:
        method: name or file.
        hyper: every hyperparameter of the method.
        training: every training setting.
        benchmark: name or file, and ``options``.
        network: ``spec``, and the fields of ``NetworkOptions``.
        fork: where the first tasks are learned with other values: ``before``, a list of ``until`` (the task, from 0, that ends
            them) and ``values`` (those that differ); and what it was forked from: ``run``, ``trial`` and ``at`` (a task, from 1).
    """

    method: str
    hyper: dict[str, Any]
    training: dict[str, Any]
    benchmark: dict[str, Any]
    network: dict[str, Any]
    fork: dict[str, Any] | None = None

    @cached_property
    def identity(self) -> str:
        """8 hexadecimal digits."""
        return digest(self._content())[:8]

    def trial_identity(self, seed: int) -> str:
        """12 hexadecimal digits of the configuration with a seed."""
        return digest({**self._content(), "seed": seed})[:12]

    @cached_property
    def structure(self) -> str:
        """What members of one pack must have in common."""
        packed = hyper.packed_names(METHODS.get(self.method).Hyper)
        shared = {name: value for name, value in self.hyper.items() if name not in packed}
        rest = [{**self.training, "lr": None}, self.benchmark, self.network, self.before]
        return json.dumps([self.method, shared, *rest], sort_keys=True)

    @property
    def before(self) -> list[dict[str, Any]]:
        """How the first tasks are learned where they are learned otherwise."""
        return self.fork["before"] if self.fork else []

    @property
    def names(self) -> tuple[str, str, str]:
        """What may be files of the user's: method, benchmark and network."""
        return self.method, self.benchmark["name"], self.network["spec"]

    @property
    def values(self) -> dict[str, Any]:
        """Hyperparameters and training settings."""
        return {**self.hyper, **self.training}

    @property
    def packable(self) -> bool:
        """Whether trials of it can run as one pack; streams cannot: each meets a new task at a moment of its own."""
        return bool(METHODS.get(self.method).packable) and self.benchmark["options"]["scenario"] != TASK_FREE

    def shown_settings(self) -> dict[str, Any]:
        """Training, benchmark and network settings as one flat dictionary, for the record."""
        options = {name: value for name, value in self.benchmark["options"].items() if value is not None}
        network = {"network": self.network["spec"], **{k: v for k, v in self.network.items() if k != "spec"}}
        return {**self.training, "benchmark": self.benchmark["name"], **options, **network}

    def _content(self) -> dict[str, Any]:
        files = [file for name in self.names if (file := file_digest(name))]
        own = {name: value for name, value in dataclasses.asdict(self).items() if name != "fork"}
        own["method"] = _bare(self.method)  # where a file of the user's lies decides nothing: on a cluster it lies elsewhere
        own["benchmark"] = {**self.benchmark, "name": _bare(self.benchmark["name"])}
        own["network"] = {**self.network, "spec": _bare(self.network["spec"])}
        # What a trial was forked from does not decide what comes out, only how its first tasks are learned.
        return {**own, **({"before": self.before} if self.before else {}), "files": files, "results": RESULTS_VERSION}


@dataclass(frozen=True)
class Trial:
    """A configuration and a seed.

    Attributes:
        configuration: what is run.
        seed: of all its randomness.
        study: number of the configuration in the sampled search's study; None elsewhere.
        role: ``reference``: run only for the forgetting ratio of the others.
    """

    configuration: Configuration
    seed: int
    study: int | None = None
    role: Literal["trial", "reference"] = "trial"

    @cached_property
    def identity(self) -> str:
        """12 hexadecimal digits."""
        return self.configuration.trial_identity(self.seed)

    def entry(self) -> dict[str, Any]:
        """The trial as the journal's ``pack`` event holds it; :meth:`from_entry` reads it back."""
        fork = self.configuration.fork
        parent = {"fork": {name: fork[name] for name in ("run", "trial", "at")}} if fork else {}
        return {
            "trial": self.identity,
            "config": self.configuration.identity,
            "seed": self.seed,
            "method": Path(self.configuration.method).stem,
            "hyperparameters": self.configuration.hyper,
            "settings": self.configuration.shown_settings(),
            "study": self.study,
            "role": self.role,
            **parent,
            "configuration": dataclasses.asdict(self.configuration),
        }

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> "Trial":
        """The trial behind an entry."""
        return cls(Configuration(**entry["configuration"]), entry["seed"], entry["study"], entry["role"])


@dataclass(frozen=True)
class Pack:
    """Trials that run as one program.

    Attributes:
        trials: the members; equal in seed and structure.
        threads: CPU threads.
        device: torch device.
        data_dir: where data files are.
        compiled: whether steps are compiled.
    """

    trials: tuple[Trial, ...]
    threads: int
    device: str
    data_dir: str | None
    compiled: bool = False

    @cached_property
    def identity(self) -> str:
        """8 hexadecimal digits of its members."""
        return digest([trial.identity for trial in self.trials])[:8]

    def plan(self) -> dict[str, Any]:
        """How it runs, for the record."""
        how = {"threads": self.threads, "compiled": self.compiled, "device": self.device}
        return {"members": len(self.trials), "drop": DROP_RULE, **how}

    def to_json(self) -> str:
        """Everything a worker needs."""
        how = {name: getattr(self, name) for name in HOW}
        return json.dumps({"trials": [trial.entry() for trial in self.trials], **how})

    @classmethod
    def from_json(cls, text: str) -> "Pack":
        """The pack behind :meth:`to_json`."""
        facts = json.loads(text)
        trials = tuple(Trial.from_entry(entry) for entry in facts["trials"])
        return cls(trials, facts["threads"], facts["device"], facts["data_dir"], facts["compiled"])

    def recipe(self, trial: Trial) -> dict[str, Any]:
        """What it takes to run one of its trials again, as plain data; :meth:`from_recipe` reads it back.

        The members differ in few values, so each is written down as what it has other than the trial.
        """
        own = trial.configuration.values
        others = [{n: v for n, v in t.configuration.values.items() if own[n] != v} for t in self.trials]
        members = [{"trial": t.identity, "values": values} for t, values in zip(self.trials, others, strict=True)]
        return {**trial.entry(), "pack": {"pack": self.identity, **{name: getattr(self, name) for name in HOW}, "members": members}}

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any]) -> "Pack":
        """The pack behind :meth:`recipe`."""
        trial, pack = Trial.from_entry(recipe), recipe["pack"]
        found = [dataclasses.replace(trial, configuration=with_values(trial.configuration, m["values"])) for m in pack["members"]]
        return cls(tuple(found), *(pack[name] for name in HOW))

    def learner(self) -> Learner | StreamRun:
        """The learner of all members, ready to run."""
        first, seed = self.trials[0].configuration, self.trials[0].seed
        benchmark = build_benchmark(first, seed, self.data_dir).to(self.device)
        network = build_network(first, benchmark, seed).to(self.device)
        members = [{**t.configuration.hyper, "lr": t.configuration.training["lr"]} for t in self.trials]
        before = [(leg["until"], leg["values"]) for leg in first.before]
        return make_learner(first.method, members, benchmark, network, first.training, seed, self.compiled, before)


def base_configuration(settings: Settings, method: str | None = None) -> Configuration:
    """The configuration that ``--set`` and the defaults give.

    Args:
        settings: what was asked.
        method: another method with its defaults in place of the asked one (for references); it is told the tasks of a stream.

    Raises:
        UserError: an unknown name or a bad value.
    """
    said = assigned(settings.method, settings.assign)
    training, surroundings = (
        hyper.build(declaration, {**preferred(settings.method, declaration, settings.scenario), **said_of_it})
        for declaration, said_of_it in ((Training, said.training), (Surroundings, said.surroundings))
    )
    declaration = METHODS.get(method or settings.method).Hyper
    own = hyper.build(declaration, said.hyper if method is None else {})
    options = benchmark_options(settings, surroundings)
    if method is not None and settings.scenario == TASK_FREE:
        options, training = dataclasses.replace(options, scenario="domain-il"), dataclasses.replace(training, transition=0)
    return Configuration(
        method=_absolute(method or settings.method),
        hyper=dataclasses.asdict(own),
        training=dataclasses.asdict(training),
        benchmark={"name": _absolute(settings.benchmark), "options": dataclasses.asdict(options)},
        network={
            "spec": _absolute(settings.network),
            **{field.name: getattr(surroundings, field.name) for field in dataclasses.fields(NetworkOptions)},
        },
        fork=settings.fork if method is None else None,
    )


def with_values(base: Configuration, values: Mapping[str, Any]) -> Configuration:
    """The configuration with other hyperparameters or training settings."""
    training = {name: value for name, value in values.items() if name in base.training}
    own = {name: value for name, value in values.items() if name not in training}
    return dataclasses.replace(base, hyper={**base.hyper, **own}, training={**base.training, **training})


def build_benchmark(configuration: Configuration, seed: int, data_dir: str | None) -> Benchmark:
    """The benchmark of a configuration."""
    return benchmark_of(configuration.benchmark, seed, Path(data_dir) if data_dir else None)


def build_network(configuration: Configuration, benchmark: Benchmark, seed: int) -> Network:
    """The network of a configuration."""
    return network_of(configuration.network, benchmark.input_shape, seed)


def make_packs(trials: Iterable[Trial], size: int, shares: int, make: Pack) -> list[Pack]:
    """Groups trials into packs of equal structure and seed.

    Each group is cut into packs of about the same size, at most ``size``, and into enough for every worker to get one.

    Args:
        trials: what is to run.
        size: most members of a pack.
        shares: packs that there should be at least, over all groups.
        make: a pack that the others run like.
    """
    groups: dict[tuple[str, int], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.configuration.structure, trial.seed), []).append(trial)
    packs: list[Pack] = []
    for group in groups.values():
        limit = size if group[0].configuration.packable else 1
        count = max(-(-len(group) // limit), min(-(-shares // len(groups)), len(group)))
        packs += [dataclasses.replace(make, trials=tuple(part)) for part in _even(group, count)]
    return packs


def _even(items: Sequence[Trial], parts: int) -> list[Sequence[Trial]]:
    edges = [round(i * len(items) / parts) for i in range(parts + 1)]
    return [items[a:b] for a, b in pairwise(edges)]


def _bare(name: str) -> str:
    """A file without its folder."""
    return _of_file(name, lambda path: path.name)


def _absolute(name: str) -> str:
    """A file's absolute path, so that workers started elsewhere find it."""
    return _of_file(name, lambda path: str(path.absolute()))


def _of_file(name: str, told: Callable[[Path], str]) -> str:
    """A file told in another way; other names and what follows a colon as they are."""
    file, colon, argument = name.partition(":")
    return f"{told(Path(file))}{colon}{argument}" if file.endswith(".py") else name
