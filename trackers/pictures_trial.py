"""The story of one trial: accuracy and forgetting after each task, room used in the network, and what tasks share."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clcore import metrics
from trackers import pictures_kit as kit
from trackers.trial_record import TaskRow, TrialRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TASK_LINES = 20  # tasks up to which each has its own line
LAYERS = 5  # layers in colour; more cannot be told apart


def draw_progress(path: Path, trial: TrialRecord, title: str) -> None:
    """Draws average accuracy, each task's accuracy, and forgetting, against tasks learned.

    Args:
        path: the PNG file.
        trial: a trial that has learned at least one task.
        title: what it shows.

    Raises:
        OSError: the file cannot be written.
    """
    made, upper = kit.figure(6.4, 4.8, (0.95, 2.0, 0.15, 0.45))
    left, _, width, _ = upper.get_position().bounds
    lower = made.add_axes((left, 0.12, width, 0.24), sharex=upper)
    steps = range(1, trial.seen + 1)
    _draw_tasks(upper, trial.test, trial.seen)
    averages = (("test", trial.test, kit.BLUE, "o", "-"), ("validation", trial.validation, kit.VERMILION, "s", "--"))
    for name, matrix, colour, marker, style in averages:
        values = [100 * metrics.average_accuracy(matrix, step) for step in steps]
        if any(map(math.isfinite, values)):
            upper.plot(steps, values, color=colour, ls=style, marker=marker, ms=4, lw=2, label=f"average, {name}")
    kit.dress(upper, title, "", "accuracy (%)")
    upper.tick_params(labelbottom=False)
    kit.legend(upper)
    lost = [100 * metrics.forgetting_vs_diagonal(trial.test, step) for step in steps]
    lower.axhline(0, color=kit.GREY, lw=1)
    lower.plot(steps, lost, color="black", marker="o", ms=3.5, lw=1.5)
    kit.dress(lower, "", "tasks learned", "forgetting\n(% points)")
    low, high = lower.get_ylim()
    lower.set_ylim(min(low, -1), max(high, 1))  # nothing lost should not look like much
    kit.save(made, path)


def draw_capacity(path: Path, rows: Mapping[int, TaskRow], title: str) -> None:
    """Draws which share of each layer's weights the tasks have taken together, and each task alone (HAT, Figs. 5 and 8).

    Args:
        path: the PNG file.
        rows: reports by tasks learned; at least one of them has a capacity.
        title: what it shows.

    Raises:
        OSError: the file cannot be written.
    """
    made, axes = kit.figure(6.4, 3.8)
    told = [row for seen, row in sorted(rows.items()) if seen > 0 and row.capacity]
    alone = {row.seen: 100 * share for row in told if (share := row.use.get("total")) is not None}
    if alone:
        axes.bar(list(alone), list(alone.values()), color=kit.GREY, width=0.6, label="this task alone", zorder=1)
    layers = [name for name in told[-1].capacity if name != "total"]
    for number, layer in enumerate(layers):
        look = {"lw": 1.4, "marker": kit.MARKERS[number % LAYERS], "ms": 4} if len(layers) <= LAYERS else {"lw": 0.8}
        colour = kit.COLOURS[number] if len(layers) <= LAYERS else kit.BLUE
        name = kit.plain(layer, 30) if len(layers) <= LAYERS else f"{len(layers)} layers" if number == 0 else "_"
        axes.plot(*_shares(told, layer), color=colour, label=name, zorder=2, **look)
    if any(row.capacity.get("total") is not None for row in told):
        axes.plot(*_shares(told, "total"), color="black", lw=2.4, label="all layers", zorder=3)
    axes.set_ylim(0, 102)
    kit.dress(axes, title, "after learning task", "weights in use so far (%)")
    kit.legend(axes)
    kit.save(made, path)


def draw_overlap(path: Path, shares: Tensor, title: str, of: str = "task") -> None:
    """Draws which share of a task's mask other tasks' masks have in common with it (HAT, Fig. 6), in percent.

    Args:
        path: the PNG file.
        shares: what ``overlap`` gives, shape [tasks, tasks]; the diagonal, which is always 100 %, is left blank.
        title: what it shows.
        of: what has a mask: a task, or (task-free) a mapping.

    Raises:
        OSError: the file cannot be written.
    """
    shown = shares.clone().fill_diagonal_(torch.nan)
    made, axes = kit.heat_map(shown, 0.0, "shared (%)", title)
    axes.set_xlabel(f"is also used by {of}")
    axes.set_ylabel(f"of what {of} uses")
    every = kit.stride(len(shares))
    axes.set_yticks(range(0, len(shares), every), [str(task) for task in range(1, len(shares) + 1, every)])
    kit.save(made, path)


def _draw_tasks(axes: "Axes", matrix: Tensor, seen: int) -> None:
    """Each task from when it is learned on."""
    if seen > TASK_LINES:
        return
    for task in range(seen):
        label = "each task, test" if task == 0 else "_"
        values = (100 * matrix[task + 1 : seen + 1, task]).tolist()
        axes.plot(range(task + 1, seen + 1), values, color=kit.GREY, lw=1, marker=".", ms=4, zorder=1, label=label)


def _shares(rows: Sequence[TaskRow], layer: str) -> tuple[list[int], list[float]]:
    found = [(row.seen, row.capacity.get(layer)) for row in rows]
    return [seen for seen, _ in found], [math.nan if value is None else 100 * value for _, value in found]
