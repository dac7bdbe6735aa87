"""How stored networks do on corrupted test images: nothing is trained again, and what was measured once is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean

from clcore.benchmarks import Benchmark
from clcore.errors import UserError
from clcore.predictor import Predictor
from sweeps.studies.answers import Answers
from sweeps.studies.draw_lines import draw_panels
from sweeps.studies.measured import Kind, Row, measured
from sweeps.studies.report import Block, Picture, Section
from sweeps.studies.tables import Estimate, Rows, Table
from sweeps.trials import Trial

#: What is measured.
MEASURED = Kind("corruptions", {"task": int, "corruption": str, "severity": int, "accuracy": float})
_TITLE = "Robustness of the learned networks"
#: Severity 0, no corruption.
_NONE = "none"
#: Picture -> what its panels' axes count, and its title.
_PICTURES = {
    "corruptions": ("severity of {}", "Accuracy after the last task on corrupted test images, mean over all tasks"),
    "corruptions_by_task": (
        "task, under {}",
        "Accuracy of each task after the last one on corrupted test images, mean over the five severities",
    ),
}
_OVER = "mean over seeds ± half of the 95 % interval"


#: Task, corruption and severity -> accuracy of one trial in [0, 1].
Measured = Mapping[tuple[int, str, int], float]
#: Name -> seeds -> percent at each place of an axis.
Curves = Mapping[str, Sequence[Sequence[float]]]


@dataclass(frozen=True)
class Found:
    """What was measured.

    Attributes:
        what: what its names are of, e.g. method.
        trials: name -> one a seed.
    """

    what: str
    trials: Mapping[str, Sequence[Measured]]

    @property
    def _keys(self) -> list[tuple[int, str, int]]:
        return [key for seeds in self.trials.values() for measured in seeds for key in measured]

    @cached_property
    def tasks(self) -> list[int]:
        """From 0."""
        return sorted({task for task, _, _ in self._keys})

    @cached_property
    def kinds(self) -> list[str]:
        """The corruptions, as they were measured."""
        return list(dict.fromkeys(kind for _, kind, severity in self._keys if severity))

    @cached_property
    def severities(self) -> list[int]:
        """From 0, which is none."""
        return sorted({severity for _, _, severity in self._keys})

    def curves(self, kind: str, points: Sequence[tuple[Sequence[int], Sequence[int]]]) -> dict[str, list[list[float]]]:
        """Name -> seeds -> accuracy in percent at each point, the mean over its tasks and its severities."""
        return {name: [[_percent(m, kind, *point) for point in points] for m in seeds] for name, seeds in self.trials.items()}


def corruption_section(what: str, groups: Mapping[str, Sequence[Trial]], answers: Answers, data_dir: Path | None) -> Section:
    """Accuracy on test images with noise, blur, brightness and rotation at five severities, from stored weights.

    Args:
        what: what the groups' names are of, e.g. method.
        groups: name -> trials of one configuration, one a seed.
        answers: of the home.
        data_dir: where the benchmark's data are.
    """
    found: dict[str, list[Measured]] = {}
    problems: list[str] = []
    for name, trials in groups.items():
        for trial in trials:
            try:
                rows = measured(trial, MEASURED, answers, data_dir, _measure)
            except UserError as error:
                problems.append(f"{name}, seed {trial.seed}: {error}")
            else:
                own = {(row["task"], row["corruption"], row["severity"]): row["accuracy"] for row in rows}
                found.setdefault(name, []).append(own)
    if not found:
        return Section(_TITLE, problems or ["No finished trial has stored weights."])
    return Section(_TITLE, [*_blocks(Found(what, found)), *problems])


def _measure(predictor: Predictor, benchmark: Benchmark) -> Sequence[Row]:
    from clcore.corruptions import robustness

    return robustness(predictor, benchmark)


def _blocks(found: Found) -> list[Block]:
    worse = [severity for severity in found.severities if severity]
    by_severity = {kind: found.curves(kind, [(found.tasks, [s]) for s in found.severities]) for kind in found.kinds}
    by_task = {kind: found.curves(kind, [([task], worse) for task in found.tasks]) for kind in found.kinds}
    caption = f"Average test accuracy over all tasks on corrupted images, {_OVER}; severity 0 is none."
    each = f"Each task after the last one was learned: mean over the five severities, {_OVER}."
    pictures = [
        _picture("corruptions", caption, by_severity, found.severities),
        _picture("corruptions_by_task", each, by_task, [task + 1 for task in found.tasks]),
    ]
    head = [found.what, "corruption", *(f"severity {s}, %" for s in found.severities), "seeds"]
    rows: Rows = [
        [name, kind, *(_at(by_severity[kind][name], place) for place, _ in enumerate(found.severities)), len(seeds)]
        for name, seeds in found.trials.items()
        for kind in found.kinds
    ]
    return [pictures, Table("corruptions", caption, head, rows, numbers=2), _by_task(found, each, by_task), _in_full(found)]


def _picture(name: str, caption: str, curves: Mapping[str, Curves], places: Sequence[int]) -> Picture:
    stored = "Stored weights, nothing trained again; of more than eight curves the mean alone."
    words, title = _PICTURES[name]
    panels = {words.format(kind): lines for kind, lines in curves.items()}
    return Picture(name, f"{caption} {stored}", partial(_draw, panels, places, title), broad=True)


def _draw(panels: Mapping[str, Curves], places: Sequence[int], title: str, path: Path) -> None:
    draw_panels(path, panels, places, title)


def _by_task(found: Found, caption: str, curves: Mapping[str, Curves]) -> Table:
    columns = [found.curves(_NONE, [([task], [0]) for task in found.tasks]), *curves.values()]
    rows: Rows = [
        [name, task + 1, *(_at(lines[name], place) for lines in columns), len(seeds)]
        for name, seeds in found.trials.items()
        for place, task in enumerate(found.tasks)
    ]
    head = [found.what, "task", "none, %", *(f"{kind}, %" for kind in found.kinds), "seeds"]
    return Table("corruptions_by_task", caption, head, rows, numbers=1)


def _in_full(found: Found) -> Table:
    """Every task at every severity: for programs, since it is long."""
    rows: Rows = []
    for task in found.tasks:
        for kind in found.kinds:
            lines = found.curves(kind, [([task], [s]) for s in found.severities])
            for name, seeds in lines.items():
                rows.append([name, task + 1, kind, *(_at(seeds, i) for i, _ in enumerate(found.severities)), len(seeds)])
    head = [found.what, "task", "corruption", *(f"severity {s}, %" for s in found.severities), "seeds"]
    return Table("corruptions_in_full", "Each task, corruption and severity.", head, rows, numbers=3, shown=False)


def _at(seeds: Sequence[Sequence[float]], place: int) -> Estimate:
    """Of one point of a curve, over the seeds."""
    return Estimate.of([values[place] for values in seeds], 1)


def _percent(measured: Measured, kind: str, tasks: Sequence[int], severities: Sequence[int]) -> float:
    """Tasks and severities count alike; severity 0 is that of all kinds."""
    return 100 * fmean(measured[task, kind if severity else _NONE, severity] for task in tasks for severity in severities)
