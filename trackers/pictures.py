"""The accuracy matrix of a trial, tasks inferred, curves fitted, samples; and of a sweep, average accuracy against tasks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clcore import metrics
from trackers import pictures_kit as kit
from trackers.labels import choices_text, chosen, varying_in
from trackers.record import SweepRecord
from trackers.trial_record import TrialRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 10  # configurations in colour; more cannot be told apart


@dataclass(frozen=True)
class Curve:
    """One configuration: mean over seeds of the average accuracy (test) after 1..T tasks, in percent, NaN where not known."""

    label: str
    seeds: int
    values: list[float]
    low: list[float]
    high: list[float]
    rank_key: float


def draw_matrix(path: Path, matrix: Tensor, title: str) -> None:
    """Draws an accuracy matrix as a heat map with its numbers in percent.

    Args:
        path: the PNG file.
        matrix: accuracies in [0, 1], shape [T + 1, T]: row 0 is the untrained network, NaN stays blank.
        title: what it shows, e.g. the trial's name.

    Raises:
        OSError: the file cannot be written.
    """
    tasks, lowest = matrix.shape[1], _floor(matrix)
    figure, axes = kit.heat_map(matrix, lowest, "test accuracy (%)", title)
    axes.set_xlabel("accuracy on task")
    axes.set_ylabel("after learning task")
    every = kit.stride(tasks)
    axes.set_yticks(range(0, tasks + 1, every), ["untrained", *(str(task) for task in range(every, tasks + 1, every))])
    _draw_staircase(axes, tasks)
    kit.save(figure, path)


def draw_inference(path: Path, inferred: Tensor, title: str, taken_for: str = "task") -> None:
    """Draws what a task's examples were taken for (RMN, Fig. 2), in percent.

    Args:
        path: the PNG file.
        inferred: shares in [0, 1], shape [tasks, columns]: row u is task u.
        title: what it shows.
        taken_for: what a column is: a task, or (task-free) a mapping.

    Raises:
        OSError: the file cannot be written.
    """
    tasks = len(inferred)
    figure, axes = kit.heat_map(inferred, 0.0, "share of the task's test examples (%)", title)
    axes.set_xlabel(f"taken for {taken_for}")
    axes.set_ylabel("examples of task")
    every = kit.stride(tasks)
    axes.set_yticks(range(0, tasks, every), [str(task) for task in range(1, tasks + 1, every)])
    kit.save(figure, path)


def draw_fit(path: Path, fitted: Sequence[Sequence[Sequence[float]]], title: str) -> None:
    """Draws the curves that were to be learned, dashed, and what the network makes of them (HNET, Fig. 2).

    Args:
        path: the PNG file.
        fitted: inputs, values and outputs of each task's test data, [tasks, 3, examples]; inputs ascending.
        title: what it shows.

    Raises:
        OSError: the file cannot be written.
    """
    figure, axes = kit.figure(6.4, 4.0)
    for task, (inputs, values, outputs) in enumerate(fitted):
        axes.plot(inputs, values, color="black", ls="--", lw=1.2, label="to be learned" if task == 0 else None)
        colour = kit.COLOURS[task % len(kit.COLOURS)]
        axes.plot(inputs, outputs, color=colour, lw=2.2, alpha=0.8, label=f"network of task {task + 1}")
    kit.dress(axes, title, "input", "value", whole=False)
    kit.legend(axes)
    kit.save(figure, path)


def draw_samples(path: Path, samples: Tensor) -> None:
    """Draws images that a replay model made, a row a task (HNET, Fig. A8).

    Args:
        path: the PNG file.
        samples: in [0, 1], shape [tasks, images, channels, height, width].

    Raises:
        OSError: the file cannot be written.
    """
    tasks, count = samples.shape[:2]
    figure, _ = kit.figure(0.5 * count + 0.8, 0.5 * tasks + 0.6, edges=None)
    figure.clear()
    grid = figure.subplots(tasks, count, squeeze=False)
    for task in range(tasks):
        grid[task, 0].set_ylabel(f"task {task + 1}", rotation=0, ha="right", va="center", fontsize=8)
        for axes, image in zip(grid[task], samples[task], strict=True):
            shown = image.mean(0) if len(image) != len("RGB") else image.permute(1, 2, 0)
            axes.imshow(shown.clamp(0, 1).cpu().numpy(), cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    kit.save(figure, path)


def draw_curves(path: Path, record: SweepRecord) -> None:
    """Draws average test accuracy against tasks seen, one line a configuration, mean over its finished seeds.

    The best on validation data are in colour (the first with the range over its seeds), the rest in grey. The legend
    shows only what varies between the configurations.

    Args:
        path: the PNG file.
        record: the sweep.

    Raises:
        OSError: the file cannot be written.
    """
    curves = _curves(record)
    best, rest = curves[:SHOWN], curves[SHOWN:]
    letters = max([len(_legend_title(curves)), *(len(kit.plain(curve.label)) for curve in best)]) if best else 0
    legend = max(1.9, 0.7 + kit.LETTER * letters)
    left, below, _, above = kit.EDGES
    figure, axes = kit.figure(6.2 + legend, 4.6, (left, below, legend, above))
    if rest:  # as one line with gaps: a thousand of their own take seconds
        xs = [x for curve in rest for x in (*_steps(curve), math.nan)]
        ys = [y for curve in rest for y in (*curve.values, math.nan)]
        axes.plot(xs, ys, color=kit.GREY, lw=0.9, zorder=1, label=f"{len(rest)} more")
    for number, curve in reversed(list(enumerate(best))):  # the best on top
        _draw_best(axes, curve, number)
    _dress(axes, record, len(curves))
    if best:
        handles, labels = axes.get_legend_handles_labels()
        order = [*range(len(handles) - 1, len(handles) - 1 - len(best), -1), *range(len(handles) - len(best))]
        place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "frameon": False, "alignment": "left"}
        picked = ([handles[i] for i in order], [labels[i] for i in order])
        axes.legend(*picked, title=_legend_title(curves), fontsize=8, title_fontsize=8, **place)
    kit.save(figure, path)


def _draw_staircase(axes: "Axes", tasks: int) -> None:
    """Marks where each task is learned: left of and below the line are tasks that were already seen."""
    corners = [(0.5 + step - 1, 0.5 + step - d) for step in range(tasks + 1) for d in (1, 0)][1:]
    axes.plot([x for x, _ in corners], [y for _, y in corners], color="white", lw=1.6)
    axes.set_xlim(-0.5, tasks - 0.5)
    axes.set_ylim(tasks + 0.5, -0.5)


def _floor(matrix: Tensor) -> float:
    """Where the colours begin: the round ten below the lowest accuracy (percent), so that small losses can be seen."""
    known = matrix[torch.isfinite(matrix)]
    return min(90.0, 10 * math.floor(10 * float(known.min()))) if len(known) else 0.0


def _draw_best(axes: "Axes", curve: Curve, number: int) -> None:
    colour, style = kit.COLOURS[number % len(kit.COLOURS)], "-" if number < len(kit.COLOURS) else (0, (4, 1.5))
    if number == 0:  # ten bands over one another show nothing
        axes.fill_between(_steps(curve), curve.low, curve.high, color=colour, alpha=0.15, lw=0, zorder=2)
    width = 2.4 if number == 0 else 1.5
    look: dict[str, Any] = {"ls": style, "lw": width, "marker": kit.MARKERS[number % len(kit.MARKERS)], "ms": 3.5}
    axes.plot(_steps(curve), curve.values, color=colour, zorder=3, label=kit.plain(curve.label), **look)


def _dress(axes: "Axes", record: SweepRecord, count: int) -> None:
    sweep = record.sweep
    title = f"{sweep['method']} on {sweep['benchmark']}, {sweep['scenario']}"
    best = ": the best on validation data in colour" if count > SHOWN else ""
    kit.dress(axes, title + best, "tasks learned", "average test accuracy on them (%)")
    if not axes.lines:
        axes.text(0.5, 0.5, "no trial has finished", ha="center", va="center", transform=axes.transAxes)


def _legend_title(curves: Sequence[Curve]) -> str:
    seeds = sorted({curve.seeds for curve in curves})
    over = f"mean of {seeds[0]} seeds" if len(seeds) == 1 else f"mean of {seeds[0]} to {seeds[-1]} seeds"
    parts = ["best on validation first"] if len(curves) > 1 else []
    return ", ".join(parts if seeds == [1] else [*parts, over])


def _steps(curve: Curve) -> range:
    return range(1, len(curve.values) + 1)


def _curves(record: SweepRecord) -> list[Curve]:
    groups: dict[str, list[TrialRecord]] = {}
    for trial in record.trials.values():
        if trial.role == "trial" and trial.status == "done" and trial.seen > 0:
            groups.setdefault(trial.config, []).append(trial)
    keys = varying_in(record)
    return sorted((_curve(group, keys) for group in groups.values()), key=lambda curve: curve.rank_key)


def _curve(trials: Sequence[TrialRecord], keys: Sequence[str]) -> Curve:
    steps = range(1, trials[0].seen + 1)
    seeds = 100 * torch.tensor([[metrics.average_accuracy(t.test, step) for step in steps] for t in trials])  # [seeds, T]
    validation = [metrics.average_accuracy(t.validation, t.seen) for t in trials]
    mean = sum(validation) / len(validation)
    return Curve(
        label=choices_text(chosen(trials[0]), keys) or trials[0].method,
        seeds=len(trials),
        values=seeds.mean(0).tolist(),
        low=seeds.amin(0).tolist(),
        high=seeds.amax(0).tolist(),
        rank_key=-mean if math.isfinite(mean) else math.inf,
    )
