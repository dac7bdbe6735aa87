"""The sweeps that a study needs, and the trials they are made of: known before anything runs."""

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sweeps.planned import REFERENCES
from sweeps.settings import Settings, digest, typed_words, validated
from sweeps.spaces import Space, find_space
from sweeps.trials import Configuration, Trial, base_configuration, with_values
from trackers.artifacts import write_text
from trackers.repeat import CUT, PROGRAM, plain

#: Folder in a home of everything that studies write there besides their sweeps.
STUDIES = "studies"
SPACES = "spaces"


@dataclass(frozen=True)
class Needed:
    """A sweep that a study needs.

    Attributes:
        label: what its trials are in the study, e.g. a method's name.
        settings: of the sweep, its name among them.
    """

    label: str
    settings: Settings

    @property
    def folder(self) -> Path:
        """The sweep's folder."""
        return self.settings.home / self.settings.sweep_name()

    @cached_property
    def space(self) -> Space:
        """What varies."""
        return find_space(self.settings)

    @cached_property
    def base(self) -> Configuration:
        """The configuration around it."""
        return base_configuration(self.settings)

    @cached_property
    def cells(self) -> list[tuple[dict[str, Any], Configuration]]:
        """Values that vary, and the configuration they give; empty where they are drawn only as the sweep runs."""
        if self.space.search != "grid":
            return []
        return [(cell, with_values(self.base, cell)) for cell in self.space.cells()]

    def trials(self) -> list[Trial]:
        """All trials of its grid."""
        return [Trial(configuration, seed) for _, configuration in self.cells for seed in self.settings.seeds]

    def references(self) -> list[Trial]:
        """The runs that HAT's forgetting ratio compares with, where they are asked for."""
        kinds = [base_configuration(self.settings, name) for name in REFERENCES] if self.settings.references else []
        return [Trial(kind, seed, role="reference") for kind in kinds for seed in self.settings.seeds]

    @property
    def asked(self) -> int:
        """How many trials it is asked for, references aside."""
        return self.space.configurations(self.settings.trials) * len(self.settings.seeds)

    def command(self) -> str:
        """What to type to run it by itself."""
        said = self.settings
        words = [*PROGRAM, "--method", said.method, "--space", said.space, "--home", str(said.home), "--name", said.sweep_name()]
        words += typed_words(said, ("benchmark", "network", *CUT, "trials", "data_dir", "tracking_uri", "pack", "cpus", "compiled"))
        for key, value in said.assign.items():
            words += ["--set", f"{key}={value}"]
        words += ["--seeds", ",".join(map(str, said.seeds)) + ("," if len(said.seeds) == 1 else "")]
        return shlex.join([*words, *(["--references"] if said.references else [])])


@dataclass(frozen=True)
class Study:
    """A question in full.

    Attributes:
        kind: robustness, compression or compare.
        title: the question in a few words.
        home: folder of all sweeps.
        sweeps: those it needs, as far as they are known.
        asked: sweeps as they were asked for, one at least, where others are chosen only on the way; else those it needs.
        facts: what else decides its report, for its name and for its page.
    """

    kind: str
    title: str
    home: Path
    sweeps: Sequence[Needed]
    facts: Mapping[str, Any] = field(default_factory=dict)
    asked: Sequence[Needed] = ()

    @property
    def first(self) -> Settings:
        """Settings of the first sweep: benchmark, network and seeds are those of all."""
        return (self.asked or self.sweeps)[0].settings

    @property
    def name(self) -> str:
        """Kind, benchmark and a digest of the question, but not of its seeds: with more of them it is the same study."""
        asked = [{**needed.settings.question(), "seeds": None} for needed in self.asked or self.sweeps]
        words = (self.kind, *self.facts.get("words", ()), Path(self.first.benchmark).stem)
        return "-".join([*words, digest([asked, dict(self.facts)])[:8]])

    @property
    def folder(self) -> Path:
        """The folder of its report."""
        return self.home / STUDIES / self.name


def needed(kind: str, label: str, values: Mapping[str, Any]) -> Needed:
    """A sweep named after the study and its own question, so that a later call finds it.

    Args:
        kind: of the study.
        label: what its trials are in the study.
        values: settings as :func:`sweeps.settings.validated` takes them.
    """
    settings = validated(values)
    words = (kind, _tame(label), digest(settings.question())[:8])
    return Needed(label, settings.model_copy(update={"name": "-".join(words)}))


def space_file(home: Path, search: str, values: Mapping[str, Any]) -> str:
    """A space as a file in the home, named by what it holds; the same values are the same file.

    Args:
        home: folder of all sweeps.
        search: ``grid``, ``random`` or ``tpe``.
        values: of a grid, key -> list; otherwise key -> list of choices, or a table with low, high and log.
    """
    lines = [f'search = "{search}"', "[values]" if search == "grid" else "[ranges]"]
    lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
    text = "\n".join(lines) + "\n"
    folder = home.absolute() / STUDIES / SPACES
    path = folder / f"{search}-{'-'.join(values)[:40]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.toml"
    if not path.exists():
        write_text(path, text)
    return str(path)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps("none" if value is None else value)  # of plain values, JSON is TOML, which has no null


def assigned_text(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as ``--set`` takes them."""
    return {key: plain(value) for key, value in values.items()}


def _tame(label: str) -> str:
    """A label as part of a name: letters, digits and hyphens."""
    return "-".join("".join(c if c.isalnum() else " " for c in label).split())
