"""Each task alone: its accuracy against the bytes of the plain network that a deployment of it needs."""

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from clcore.benchmarks import Benchmark
from clcore.errors import UserError
from clcore.predictor import Predictor
from sweeps.studies.answers import Answers
from sweeps.studies.draw_size import Point, draw_tasks
from sweeps.studies.knobs import evenly
from sweeps.studies.measured import Kind, Row, measured
from sweeps.studies.pareto import front
from sweeps.studies.report import Block, Picture, Section
from sweeps.studies.sized import KB, Cell
from sweeps.studies.tables import Estimate, Rows, Table

#: What is measured.
MEASURED = Kind("sizes", {"task": int, "bytes": int})
_TITLE = "Each task alone"
#: Most tasks that a picture shows.
_SHOWN = 10


def _measure(predictor: Predictor, benchmark: Benchmark) -> list[Row]:
    """Bytes of each task alone; nothing where a method's answers are more than a network's."""
    from clcore.export import is_plain, write_task

    tasks = range(predictor.tasks) if is_plain(predictor) else ()
    with tempfile.TemporaryDirectory() as scratch:
        written = [write_task(predictor, task, Path(scratch) / f"{task}.safetensors") for task in tasks]
    return [{"task": one.task, "bytes": one.kept} for one in written]


def each_task_section(found: Mapping[str, Sequence[Cell]], answers: Answers, data_dir: Path | None) -> Section:
    """What each task takes when it is the only one that a deployment keeps, and how good it is then.

    Args:
        found: method -> its configurations.
        answers: of the home.
        data_dir: where the benchmark's data are.
    """
    points: dict[str, list[list[Point]]] = {}  # method -> configurations -> tasks
    problems: list[str] = []
    for method, cells in found.items():
        for cell in cells:
            try:
                own = _points(cell, answers, data_dir)
            except UserError as error:
                problems.append(f"{method} ({cell.words}): {error}")
                continue
            if own:
                points.setdefault(method, []).append(own)
            else:
                problems.append(f"{method} ({cell.words}): one task is no plain network, its answers need more than weights.")
    return Section(_TITLE, [*(_blocks(points) if points else []), *problems])


def _points(cell: Cell, answers: Answers, data_dir: Path | None) -> list[Point]:
    """Of a configuration, one a task: kilobytes and percent of each seed."""
    sizes, accuracies = [], []
    for trial in cell.trials.values():
        if record := answers.get(trial):
            sizes.append([KB * row["bytes"] for row in measured(trial, MEASURED, answers, data_dir, _measure)])
            accuracies.append([100 * float(value) for value in record.test[record.seen]])
    return [
        Point(cell.words, [seed[task] for seed in sizes], [seed[task] for seed in accuracies])
        for task in range(min(map(len, sizes), default=0))
    ]


def _blocks(points: Mapping[str, Sequence[Sequence[Point]]]) -> list[Block]:
    tasks = max(len(own) for cells in points.values() for own in cells)
    shown = evenly(tasks, min(tasks, _SHOWN))
    panels = {f"task {task + 1}": {method: [own[task] for own in cells] for method, cells in points.items()} for task in shown}
    some = f" Shown are {len(shown)} of {tasks} tasks." if len(shown) < tasks else ""
    caption = (
        "Test accuracy of each task after the last one was learned, against the bytes of its tensors as a plain network without "
        "dead units, as --export writes it: mean over seeds ± half of the 95 % interval (Student's t), which may leave the "
        "picture; dashed: the task's Pareto front."
    )
    picture = Picture("each_task", caption + some, partial(_draw, panels), broad=True)
    return [[picture], _table(points, tasks)]


def _draw(panels: Mapping[str, Mapping[str, Sequence[Point]]], path: Path) -> None:
    labels = ("one task alone (kB)", "test accuracy (%)")
    draw_tasks(path, panels, labels, "Accuracy of each task against the bytes that it takes alone")


def _table(points: Mapping[str, Sequence[Sequence[Point]]], tasks: int) -> Table:
    rows: Rows = []
    for task in range(tasks):
        own = [(method, of_tasks[task]) for method, cells in points.items() for of_tasks in cells]
        ends = [(Estimate.of(point.sizes, 1), Estimate.of(point.accuracies)) for _, point in own]
        best = front([(size.mean, accuracy.mean) for size, accuracy in ends])
        for place, ((method, point), (size, accuracy)) in enumerate(zip(own, ends, strict=True)):
            rows.append([task + 1, method, point.words, size, accuracy, "yes" if place in best else "", len(point.sizes)])
    head = ["task", "method", "values", "one task alone, kB", "accuracy, %", "on the front", "seeds"]
    caption = "Each task alone, of every configuration: mean over seeds ± half of the 95 % interval; kB are 1000 bytes."
    return Table("each_task", caption, head, rows, numbers=3, shown=False)
