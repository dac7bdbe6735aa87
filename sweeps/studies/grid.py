"""A grid of knobs over seeds, and what it says: effects of the knobs, how much of it is good, what tuning is worth."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sweeps.studies.answers import Figures
from trackers.interval import mean_and_half

if TYPE_CHECKING:
    import numpy as np

Cell = tuple[int, ...]


@dataclass(frozen=True)
class Grid:
    """Figures by cell and seed.

    Attributes:
        knobs: name -> its levels.
        seeds: all that were asked for.
        found: (place on each knob's levels) -> seed -> figures of what has finished.
        default: the cell of the default values.
    """

    knobs: dict[str, tuple[Any, ...]]
    seeds: tuple[int, ...]
    found: dict[Cell, dict[int, Figures]]
    default: Cell

    @property
    def shape(self) -> Cell:
        """Levels of each knob."""
        return tuple(map(len, self.knobs.values()))

    @property
    def size(self) -> int:
        """Cells."""
        return math.prod(self.shape)

    def values(self, cell: Cell, name: str) -> list[float]:
        """A figure of a cell, one a finished seed."""
        return [getattr(figures, name) for figures in self.found.get(cell, {}).values()]

    def mean(self, cell: Cell, name: str) -> float:
        """Its mean over the finished seeds; NaN where there is none or one is not known."""
        values = self.values(cell, name)
        return fmean(values) if values else math.nan

    def words(self, cell: Cell) -> dict[str, Any]:
        """The values of a cell."""
        return {name: levels[place] for (name, levels), place in zip(self.knobs.items(), cell, strict=True)}

    def array(self, name: str) -> "np.ndarray":
        """A figure of all cells, shape [*levels, seeds], NaN where it is not there."""
        import numpy as np

        full = np.full((*self.shape, len(self.seeds)), np.nan)
        for cell, by_seed in self.found.items():
            for seed, figures in by_seed.items():
                full[(*cell, self.seeds.index(seed))] = getattr(figures, name)
        return full


@dataclass(frozen=True)
class Effect:
    """A level of a knob, averaged over the other knobs: mean over seeds, and half of its 95 % interval (NaN: one seed)."""

    level: Any
    mean: float
    half: float
    n: int


def main_effects(grid: Grid, knob: str, name: str) -> list[Effect]:
    """What each level of a knob comes to, averaged over the others.

    A seed counts at a level once all its cells there have finished, so that levels are compared over the same others; the
    interval is over seeds (Student's t), which are what is independent.
    """
    import numpy as np

    full = np.moveaxis(grid.array(name), [*grid.knobs].index(knob), 0)
    flat = full.reshape(full.shape[0], -1, full.shape[-1]).mean(1)  # [levels, seeds]; a gap makes it NaN
    effects = []
    for level, values in zip(grid.knobs[knob], flat, strict=True):
        known = [float(value) for value in values if math.isfinite(value)]
        effects.append(Effect(level, *mean_and_half(known), len(known)))
    return effects


def within(grid: Grid, points: float, name: str = "accuracy") -> float:
    """The share of finished cells whose mean is at most so many points below the best cell's; NaN where there is none."""
    means = [value for cell in grid.found if math.isfinite(value := grid.mean(cell, name))]
    return sum(value >= max(means) - points for value in means) / len(means) if means else math.nan


def best(grid: Grid, name: str = "validation") -> Cell | None:
    """The cell of the highest mean, by default on validation data; None where it is not known. Ties: the first."""
    known = [cell for cell in sorted(grid.found) if math.isfinite(grid.mean(cell, name))]
    return max(known, key=lambda cell: grid.mean(cell, name)) if known else None


def start(grid: Grid) -> Cell | None:
    """Where a newcomer should start: of each knob the level that does best on validation data whatever the other knobs are.

    Unlike the best cell, which may sit beside a cliff and is in part the luck of its seeds, this asks of a value that it does well
    on average over the others. None where a level has no seed with all its cells.
    """
    places = []
    for knob in grid.knobs:
        means = [effect.mean for effect in main_effects(grid, knob, "validation")]
        if not all(map(math.isfinite, means)):
            return None
        places.append(max(range(len(means)), key=means.__getitem__))
    return tuple(places)


def paired(grid: Grid, better: Cell, than: Cell, name: str = "accuracy") -> tuple[float, float, int]:
    """The mean difference of two cells over the seeds that both have, half its 95 % interval, and how many these are."""
    one, other = grid.found.get(better, {}), grid.found.get(than, {})
    differences = [getattr(one[seed], name) - getattr(other[seed], name) for seed in one if seed in other]
    return (*mean_and_half(differences), len(differences))


def grid_of(
    knobs: dict[str, tuple[Any, ...]], seeds: Sequence[int], default: Cell, find: Callable[[dict[str, Any], int], Figures | None]
) -> Grid:
    """The grid, filled from what ``find`` knows of values and a seed."""
    found: dict[Cell, dict[int, Figures]] = {}
    for cell in product(*(range(len(levels)) for levels in knobs.values())):
        values = {name: levels[place] for (name, levels), place in zip(knobs.items(), cell, strict=True)}
        by_seed = {seed: figures for seed in seeds if (figures := find(values, seed)) is not None}
        if by_seed:
            found[cell] = by_seed
    return Grid(knobs, tuple(seeds), found, default)
