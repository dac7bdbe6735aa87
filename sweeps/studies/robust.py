"""The question of a robustness study: how much a method's results hang on its knobs."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from clcore.errors import BadValue, UnknownName, UserError
from sweeps.studies.answers import Answers, Figures
from sweeps.studies.grid import Cell, Grid, grid_of
from sweeps.studies.knobs import cells_of, levels, named_knobs, starting_value
from sweeps.studies.options import Common
from sweeps.studies.plan import Needed, Study, needed, space_file
from sweeps.studies.report import Report
from sweeps.trials import Trial, with_values

KIND = "robustness"
GRID, SAMPLED = "grid", ("random", "tpe")
#: What a sampled space is called beside the configuration that nobody tuned.
UNTUNED = "untuned"
#: Methods whose paper measures robustness by rho, which needs reference runs.
_BY_RHO = ("hat",)


@dataclass(frozen=True)
class Robustness:
    """A method and the knobs that are turned.

    Attributes:
        method: name or file.
        common: what its sweeps share.
        knobs: name -> levels in ascending order; empty where the space is sampled.
        search: ``grid``, ``random`` or ``tpe``.
        trials: configurations of a sampled space.
        references: whether joint training and guessing are run, for rho.
        corruptions: whether stored weights are tried on corrupted images.
    """

    method: str
    common: Common
    knobs: dict[str, tuple[Any, ...]]
    search: str = GRID
    trials: int | None = None
    references: bool = False
    corruptions: bool = True

    @property
    def name(self) -> str:
        """The method's, without a path."""
        return Path(self.method).stem

    @property
    def default(self) -> dict[str, Any]:
        """Values of the knobs where the user says nothing."""
        return {name: starting_value(self.method, name, self.common.own(self.method)) for name in self.knobs}

    @property
    def cell(self) -> Cell:
        """Their place in the grid."""
        return tuple(self.knobs[name].index(value) for name, value in self.default.items())

    def first(self) -> list[Needed]:
        """Nothing has to be known before."""
        return []

    def sweeps(self, answers: Answers) -> list[Needed]:
        """The grid, or what is sampled and the configuration that nobody tuned."""
        said = self.common.settings(self.method, references=self.references)
        if self.search == GRID:
            space = space_file(self.common.home, GRID, {name: list(values) for name, values in self.knobs.items()})
            return [needed(KIND, self.name, {**said, "space": space})]
        drawn = needed(KIND, f"{self.name}, {self.search}", {**said, "space": self.search, "trials": self.trials})
        return [drawn, needed(KIND, f"{self.name}, {UNTUNED}", {**said, "space": "default"})]

    def study(self, sweeps: Sequence[Needed]) -> Study:
        """The question with its sweeps."""
        benchmark = Path(sweeps[0].settings.benchmark).stem
        what = " and ".join(self.knobs) if self.knobs else "its hyperparameters"
        facts = {"words": [self.name], "method": self.name, "knobs": list(self.knobs), "search": self.search}
        return Study(KIND, f"Is {self.name} robust to {what}? On {benchmark}", self.common.home, sweeps, facts)

    def grid(self, sweep: Needed, answers: Answers) -> Grid:
        """The grid's figures, as far as they are there."""
        pairs = {s: answers.pair([t for t in sweep.references() if t.seed == s]) for s in self.common.seeds}

        def find(values: dict[str, Any], seed: int) -> Figures | None:
            return answers.figures(self.trial(sweep, values, seed), pairs[seed])

        return grid_of(self.knobs, self.common.seeds, self.cell, find)

    def trial(self, sweep: Needed, values: dict[str, Any], seed: int) -> Trial:
        """A trial of the grid."""
        return Trial(with_values(sweep.base, values), seed)

    def report(self, answers: Answers, command: str) -> Report:
        """What came out."""
        from sweeps.studies import robust_grid, robust_sampled

        made = robust_grid.report if self.search == GRID else robust_sampled.report
        return made(self, answers, command)


@dataclass(frozen=True)
class Turned:
    """What the user said about knobs: their names, how many levels, or a sampled space and how many configurations of it."""

    knobs: str | None
    cells: str
    space: str
    trials: int | None


def robustness(method: str, common: Common, turned: Turned, references: bool | None, corruptions: bool) -> Robustness:
    """The question, checked.

    Raises:
        UserError: something about it cannot be; one line says what.
    """
    if turned.space not in (GRID, *SAMPLED):
        raise UnknownName("space", turned.space, (GRID, *SAMPLED))
    wanted = Path(method).stem in _BY_RHO if references is None else references
    if turned.space in SAMPLED:
        if turned.knobs is not None:
            raise UserError(f"--knobs goes with --space grid: {turned.space} draws all that {method} declares ranges for.")
        return Robustness(method, common, {}, turned.space, turned.trials, wanted, corruptions)
    if turned.trials is not None:
        raise UserError(f"--trials {turned.trials} goes with --space random and tpe; a grid has --cells.")
    asked = None if turned.knobs is None else [name.strip() for name in turned.knobs.split(",") if name.strip()]
    names, own = named_knobs(method, asked), common.own(method)
    if not 1 <= len(names) <= 2:
        raise BadValue("--knobs", turned.knobs, "one or two knobs; --space random looks at all of them at once")
    for name in names:
        if name in own:
            raise BadValue(f"--set {name}", own[name], f"left out, since the grid varies {name}")
    counts = cells_of(turned.cells, names)
    if prod(counts) < 2:
        raise BadValue("--cells", turned.cells, f"at least 2 for one of {', '.join(names)}: one cell compares nothing")
    found = {name: levels(method, name, count, own) for name, count in zip(names, counts, strict=True)}
    return Robustness(method, common, found, GRID, None, wanted, corruptions)
