"""From a source and options to a benchmark: classes split, pixels permuted, images rotated."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from clcore.benchmarks.base import Benchmark, Scenario, Split, Task
from clcore.benchmarks.options import BenchmarkOptions
from clcore.benchmarks.sources import Source, digits, fashion, mnist
from clcore.benchmarks.splits import stratified
from clcore.errors import BadValue
from clcore.randomness import numpy_stream

DEFAULT_TASKS = 10  # HAT's and HNET's permuted MNIST
DEFAULT_CLASSES = 2  # split MNIST of all five papers: 0/1, 2/3, ...
DEGREES = 10  # SupSup's RotatedMNIST: task i is turned by i * (360 // 36) degrees


@dataclass(frozen=True, eq=False)
class View:
    """How one task shows its images: the classes it keeps and how it rearranges pixels.

    Attributes:
        name: what is special about it, e.g. ``"0/1"``.
        classes: class ids in label order.
        pixels: as in ``Split``; None leaves images as they are.
        blank: as in ``Split``.
    """

    name: str
    classes: tuple[int, ...]
    pixels: Tensor | None = None
    blank: Tensor | None = None


Arrange = Callable[[Source, BenchmarkOptions, int], list[View]]


@dataclass(frozen=True)
class Recipe:
    """A registered benchmark: call it with options, a seed and a data folder.

    Attributes:
        name: as users type it.
        description: one line.
        load: reads the source.
        arrange: makes the tasks' views of it.
    """

    name: str
    description: str
    load: Callable[[Path | None], Source]
    arrange: Arrange

    def __call__(self, options: BenchmarkOptions, seed: int, data_dir: Path | None = None) -> Benchmark:
        """Builds the benchmark.

        Args:
            options: checked by themselves when they were made, here against the source.
            seed: of the trial; decides validation rows, permutations and (when asked) the order of classes.
            data_dir: where files are or go; the user's cache folder when None.

        Raises:
            BadValue: options that the source cannot satisfy.
            MissingData: the source is not there.
        """
        source = self.load(data_dir)
        return assemble(self.name, source, self.arrange(source, options, seed), options, seed)


def split(source: Source, options: BenchmarkOptions, seed: int) -> list[View]:
    """Every task has classes of its own, the next ones in order."""
    sizes = _sizes(source.classes, options)
    order = _class_order(source, options, seed)
    groups = [tuple(order[a:b]) for a, b in pairwise(accumulate(sizes, initial=0))]
    return [View("/".join(map(str, classes)), classes) for classes in groups]


def permuted(source: Source, options: BenchmarkOptions, seed: int) -> list[View]:
    """Every task has all classes and its own fixed permutation of the pixels, the first task too (HAT, SupSup).

    A permutation has a stream of its own named by the task, so task 3 is the same whatever the number of tasks.
    """
    classes = _shared_classes(source, options, seed)
    size = int(np.prod(source.shape))
    draws = [numpy_stream(seed, "permutation", task).permutation(size) for task in range(options.tasks or DEFAULT_TASKS)]
    return [View(f"permutation {task + 1}", classes, torch.from_numpy(draw)) for task, draw in enumerate(draws)]


def rotated(source: Source, options: BenchmarkOptions, seed: int) -> list[View]:
    """Every task has all classes, turned by 10 degrees more than the one before; 36 tasks are SupSup's whole circle."""
    if options.tasks is not None and options.tasks > 360 // DEGREES:
        raise BadValue("tasks", options.tasks, f"at most {360 // DEGREES}: each task turns by {DEGREES} degrees more")
    classes = _shared_classes(source, options, seed)
    angles = [task * DEGREES for task in range(options.tasks or DEFAULT_TASKS)]
    return [View(f"rotated {angle} degrees", classes, *rotation(source.shape, angle)) for angle in angles]


def rotation(shape: tuple[int, int, int], angle: float) -> tuple[Tensor, Tensor]:
    """A rotation as a rearrangement of pixels: nearest neighbour, black corners, counter-clockwise, as PIL does it.

    With the nearest neighbour every pixel is another pixel or black, whatever the image. So PIL turns an image of pixel
    numbers once, instead of 70000 images a task, and the result is the same byte for byte.

    Args:
        shape: (C, H, W).
        angle: in degrees.

    Returns:
        Source of each flattened pixel, int64, and which have none (their source reads 0), bool; both shape [C*H*W].
    """
    from PIL import Image

    channels, height, width = shape
    numbers = np.arange(1, height * width + 1, dtype=np.int32).reshape(height, width)
    turned = Image.fromarray(numbers).rotate(angle, resample=Image.Resampling.NEAREST, fillcolor=0)
    plane = torch.from_numpy(np.array(turned)).long().flatten() - 1
    pixels = torch.cat([plane.clamp(min=0) + channel * height * width for channel in range(channels)])
    return pixels, (plane < 0).repeat(channels)


def assemble(name: str, source: Source, views: list[View], options: BenchmarkOptions, seed: int) -> Benchmark:
    """The benchmark of some views of a source; also for benchmarks of a user's own.

    Args:
        name: of the benchmark.
        source: the images.
        views: one a task, in order.
        options: scenario, validation and normalisation are read here.
        seed: decides the validation rows, which are the same in all tasks that show the same images.

    Raises:
        BadValue: shared labels over tasks with different numbers of classes.
    """
    counts = [len(view.classes) for view in views]
    if options.shares_labels and len(set(counts)) > 1:
        raise BadValue("scenario", options.scenario, f"task-il or class-il when tasks differ in classes ({counts})")
    if options.scenario != "class-il" and min(counts) < 2:
        raise BadValue("classes_per_task", 1, "at least 2 (1 only makes sense in class-il)")
    offsets = [0] * len(views) if options.shares_labels else [*accumulate(counts, initial=0)][:-1]
    source = source if options.normalise else replace(source, mean=0.0, std=1.0)
    train, held_out = _hold_out(source, options, seed)
    cut = Cutter(source)
    tasks = []
    for index, view in enumerate(views):
        learned = cut(view, train)
        checked = None if held_out is None else cut(view, held_out)
        if options.validation == "train-copy":
            checked = learned
        tasks.append(Task(index, f"{source.name} {view.name}", view.classes, offsets[index], learned, checked))
    tests = tuple(cut(view, None) for view in views)
    return Benchmark(name, cast(Scenario, options.scenario), tuple(tasks), tests, source.shape)


class Cutter:
    """Cuts views out of a source; tasks that show the same classes of the same rows share those tensors."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._chosen: dict[tuple[int | None, tuple[int, ...]], tuple[Tensor, Tensor]] = {}

    def __call__(self, view: View, rows: Tensor | None) -> Split:
        """The examples of a view.

        Args:
            view: classes and pixels.
            rows: training rows to choose from, shape [n]; None for the test set.
        """
        source = self.source
        key = (None if rows is None else id(rows), view.classes)
        if key not in self._chosen:
            self._chosen[key] = self._choose(view.classes, rows)
        chosen, labels = self._chosen[key]
        images = source.test_images if rows is None else source.images
        return Split(images, labels, chosen, view.pixels, source.scale, source.mean, source.std, view.blank)

    def _choose(self, classes: tuple[int, ...], rows: Tensor | None) -> tuple[Tensor, Tensor]:
        every = self.source.test_labels if rows is None else self.source.labels
        rows = torch.arange(len(every)) if rows is None else rows
        place = torch.full((self.source.classes,), -1)
        place[list(classes)] = torch.arange(len(classes))
        labels = place[every[rows]]
        return rows[labels >= 0], labels[labels >= 0]


def _hold_out(source: Source, options: BenchmarkOptions, seed: int) -> tuple[Tensor, Tensor | None]:
    if options.validation != "split":
        return torch.arange(len(source.labels)), None
    return stratified(source.labels, options.validation_fraction, seed, "validation")


def _class_order(source: Source, options: BenchmarkOptions, seed: int) -> list[int]:
    if not options.shuffle_classes:
        return list(range(source.classes))
    order: list[int] = numpy_stream(seed, "classes").permutation(source.classes).tolist()
    return order


def _shared_classes(source: Source, options: BenchmarkOptions, seed: int) -> tuple[int, ...]:
    if options.larger_first_task is not None:
        raise BadValue("larger_first_task", options.larger_first_task, "left out: only split benchmarks have it")
    count = _checked_classes("classes_per_task", options.classes_per_task or source.classes, source.classes)
    return tuple(_class_order(source, options, seed)[:count])


def _sizes(classes: int, options: BenchmarkOptions) -> list[int]:
    """Classes of each task; all tasks that fit unless fewer are asked for."""
    each = _checked_classes("classes_per_task", options.classes_per_task or DEFAULT_CLASSES, classes)
    first = _checked_classes("larger_first_task", options.larger_first_task or each, classes)
    most = 1 + (classes - first) // each
    if options.tasks is not None and options.tasks > most:
        raise BadValue("tasks", options.tasks, f"at most {most}: {first} classes first and {each} after, of {classes}")
    return [first] + [each] * ((options.tasks or most) - 1)


def _checked_classes(key: str, count: int, classes: int) -> int:
    if count > classes:
        raise BadValue(key, count, f"at most {classes}, the number of classes")
    return count


SPLIT_DIGITS = Recipe("split-digits", "5 tasks of 2 digits each, 8x8 pixels, ships with scikit-learn", digits, split)
PERMUTED_DIGITS = Recipe("permuted-digits", "10 tasks, each with its own permutation of 8x8 digits", digits, permuted)
ROTATED_DIGITS = Recipe("rotated-digits", "10 tasks, 8x8 digits turned by 10 degrees more each", digits, rotated)
SPLIT_MNIST = Recipe("split-mnist", "5 tasks of 2 digits each, 28x28 pixels", mnist, split)
PERMUTED_MNIST = Recipe("permuted-mnist", "10 tasks, each with its own permutation of MNIST's pixels", mnist, permuted)
ROTATED_MNIST = Recipe("rotated-mnist", "10 tasks, MNIST turned by 10 degrees more each (tasks=36: SupSup)", mnist, rotated)
SPLIT_FASHION = Recipe("split-fashion", "5 tasks of 2 kinds of clothing each, 28x28 pixels", fashion, split)
PERMUTED_FASHION = Recipe("permuted-fashion", "10 tasks, each with its own permutation of Fashion-MNIST", fashion, permuted)
ROTATED_FASHION = Recipe("rotated-fashion", "10 tasks, Fashion-MNIST turned by 10 degrees more each", fashion, rotated)
