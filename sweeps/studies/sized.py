"""Configurations of different sizes, with what has finished of each."""

from dataclasses import dataclass
from typing import Any

from sweeps.studies.answers import Answers, Figures
from sweeps.studies.draw_size import Point
from sweeps.studies.plan import Needed
from sweeps.studies.robust_sampled import drawn
from sweeps.studies.tables import Estimate
from sweeps.trials import Trial
from trackers.labels import choices_text

#: A kilobyte a byte.
KB = 1e-3


@dataclass(frozen=True)
class Cell:
    """A configuration with what has finished of it."""

    method: str
    values: dict[str, Any]
    trials: dict[int, Trial]
    figures: dict[int, Figures]

    @property
    def words(self) -> str:
        """Its values in words."""
        return choices_text(self.values, self.values) or "default"

    def estimate(self, name: str, digits: int = 2, scale: float = 1.0) -> Estimate:
        """A figure over its seeds."""
        return Estimate.of([scale * getattr(figures, name) for figures in self.figures.values()], digits)

    def point(self, scale: float) -> Point:
        """Bytes times ``scale`` and test accuracy of each seed."""
        figures = self.figures.values()
        return Point(self.words, [scale * figure.bytes for figure in figures], [figure.accuracy for figure in figures])

    @property
    def place(self) -> tuple[float, float]:
        """Mean bytes and mean test accuracy."""
        return self.estimate("bytes").mean, self.estimate("accuracy").mean


def cells(sweep: Needed, answers: Answers) -> list[Cell]:
    """The configurations of a sweep that have a finished seed."""
    found = []
    for values, configuration in sweep.cells or drawn(sweep, answers):
        trials = {seed: Trial(configuration, seed) for seed in sweep.settings.seeds}
        figures = {seed: figure for seed, trial in trials.items() if (figure := answers.figures(trial)) is not None}
        if figures:
            found.append(Cell(sweep.label, values, {seed: trials[seed] for seed in figures}, figures))
    return found
