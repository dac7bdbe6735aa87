"""The question of a compression study: how small a method's network can be, and what that costs in accuracy."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from pathlib import Path
from typing import Any

from clcore import hyper
from clcore.errors import BadValue, UnknownName, UserError
from clcore.methods import METHODS
from sweeps.spaces import DEFAULT_TRIALS
from sweeps.studies.answers import Answers
from sweeps.studies.knobs import MOST_LEVELS, SHRINKING, levels, ordered, starting_value, tuning_ranges
from sweeps.studies.options import Common
from sweeps.studies.plan import Needed, Study, needed, space_file
from sweeps.studies.report import Report

KIND = "compression"
GRID, SEVERAL = "grid", "nsga2"
#: What the labels of sweeps of isolated tasks end with (HAT, section 4.4).
ISOLATED = ", isolated tasks"
RAW = "finetune"
#: Of HAT's compression: embeddings from U(0, 2), and gates at test that are 0 or 1.
_HARD = {"embedding_init": "uniform", "embedding_width": "2.0", "s_eval_factor": "10000.0"}
#: The weight of its regulariser there.
_WEIGHT = 1.5


@dataclass(frozen=True)
class Compression:
    """Methods and the knobs that make them small.

    Attributes:
        methods: names or files; those without such knobs are run once a seed.
        common: what their sweeps share.
        count: values of a knob.
        trials: configurations of each method that NSGA-II proposes in place of a grid; None: a grid.
        isolated: whether HAT is also tried on single tasks, beside a plain network.
        export: folder for the best of each method as files; None: nowhere.
    """

    methods: tuple[str, ...]
    common: Common
    count: int
    trials: int | None
    isolated: bool
    export: Path | None = None

    @cached_property
    def grids(self) -> Mapping[str, dict[str, tuple[Any, ...]]]:
        """Method -> knob -> its values."""
        return {method: self._grid(method) for method in self.methods}

    def _grid(self, method: str) -> dict[str, tuple[Any, ...]]:
        if self.trials is not None:
            return {}
        own = self.common.own(method)
        names = [name for name in SHRINKING.get(method, ()) if name not in own]
        count = self.count if len(names) < 2 else max(2, round(sqrt(self.count)) + 1)
        return {name: levels(method, name, count, own) for name in names}

    def default(self, method: str) -> dict[str, Any]:
        """The values of a method's knobs where the user says nothing."""
        return {name: starting_value(method, name, self.common.own(method)) for name in self.grids[method]}

    def first(self) -> list[Needed]:
        """Nothing has to be known before."""
        return []

    def sweeps(self, answers: Answers) -> list[Needed]:
        """A grid a method, and HAT's isolated tasks beside a plain network's."""
        found = [self._sweep(method, Path(method).stem, self.grids[method], {}) for method in self.methods]
        return [*found, *(self._alone() if self.isolated else [])]

    def _sweep(self, method: str, label: str, grid: Mapping[str, tuple[Any, ...]], others: Mapping[str, Any]) -> Needed:
        values = self.common.settings(method, **others)
        if self.trials is not None and not label.endswith(ISOLATED) and (ranges := self._ranges(method)):
            values |= {"space": space_file(self.common.home, SEVERAL, ranges), "trials": self.trials}
        if grid:
            values["space"] = space_file(self.common.home, "grid", {name: list(found) for name, found in grid.items()})
        return needed(KIND, label, values)

    def _ranges(self, method: str) -> dict[str, Any]:
        """What NSGA-II varies: all that the method declares ranges for, its rate, and what makes it small."""
        own = self.common.own(method)
        declared = hyper.knobs(METHODS.get(method).Hyper)
        listed = {name: [*found] for name in SHRINKING.get(method, ()) if (found := declared[name].levels)}
        return {name: value for name, value in {**tuning_ranges(method, own), **listed}.items() if name not in own}

    def _alone(self) -> list[Needed]:
        """One task, another one each seed: classes are shuffled, permutations are drawn, by the seed."""
        own = {**self.common.own("hat"), **_HARD, "shuffle_classes": "true"}
        own.pop("c", None)
        weights = ordered(dict.fromkeys([*levels("hat", "c", self.count, {}), _WEIGHT]))
        plain = {**self.common.own(RAW), "shuffle_classes": "true"}
        return [
            self._sweep("hat", f"hat{ISOLATED}", {"c": weights}, {"tasks": 1, "assign": own}),
            self._sweep(RAW, f"{RAW}{ISOLATED}", {}, {"tasks": 1, "assign": plain}),
        ]

    def study(self, sweeps: list[Needed]) -> Study:
        """The question with its sweeps."""
        names = [Path(method).stem for method in self.methods]
        facts = {"words": names[:3], "methods": names, **({"trials": self.trials} if self.trials else {})}
        title = f"How small do {', '.join(names)} get on {Path(sweeps[0].settings.benchmark).stem}, and what does it cost?"
        return Study(KIND, title, self.common.home, sweeps, facts)

    def report(self, answers: Answers, command: str) -> Report:
        """What came out."""
        from sweeps.studies import compression

        return compression.report(self, answers, command)


@dataclass(frozen=True)
class Varied:
    """What the user said about the space: ``grid`` with so many values of a knob, or ``nsga2`` with so many configurations."""

    space: str
    count: int
    trials: int | None


def compression(methods: list[str], common: Common, varied: Varied, isolated: bool | None, export: Path | None) -> Compression:
    """The question, checked.

    Raises:
        UnknownName: another space.
        UserError: a number of configurations for a grid, or isolated tasks without HAT, whose they are.
        BadValue: fewer than two or too many values of a knob, or an export to something that is no folder.
    """
    if varied.space not in (GRID, SEVERAL):
        raise UnknownName("space", varied.space, (GRID, SEVERAL))
    if varied.trials is not None and varied.space == GRID:
        raise UserError(f"--trials {varied.trials} goes with --space {SEVERAL}; a grid has --cells.")
    if not 2 <= varied.count <= MOST_LEVELS:
        raise BadValue("--cells", varied.count, f"from 2 to {MOST_LEVELS} values of a knob")
    if export is not None and export.exists() and not export.is_dir():
        raise BadValue("--export", str(export), "a folder, or one that can be made")
    if isolated and "hat" not in methods:
        raise UserError(f"--isolated tries HAT on single tasks: name hat among --methods {','.join(methods)}.")
    trials = None if varied.space == GRID else varied.trials or DEFAULT_TRIALS
    alone = "hat" in methods if isolated is None else isolated
    return Compression(tuple(methods), common, varied.count, trials, alone, export)
