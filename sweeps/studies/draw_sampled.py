"""Pictures of a sampled space: how its configurations are spread, and accuracy against each hyperparameter."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trackers import pictures_kit as kit
from trackers.labels import show
from trackers.pictures_parallel import LOG_FACTOR, is_number

_COLUMNS = 3


def draw_spread(path: Path, accuracies: Sequence[float], usual: float) -> None:
    """Draws which share of the configurations reaches at least an accuracy.

    Args:
        path: PNG or SVG.
        accuracies: of each configuration, percent.
        usual: of the default, percent; NaN is not known.

    Raises:
        OSError: the file cannot be written.
    """
    known = sorted((value for value in accuracies if math.isfinite(value)), reverse=True)
    made, axes = kit.figure(6.4, 3.6)
    axes.step(known, [100 * (i + 1) / len(known) for i in range(len(known))], where="post", color=kit.BLUE, lw=1.8)
    if math.isfinite(usual):
        axes.axvline(usual, color="black", ls="--", lw=1.2, label=f"the default: {usual:.1f} %")
    kit.dress(
        axes, "How good the sampled space is", "average test accuracy (%)", "configurations at least as good (%)", whole=False
    )
    axes.set_ylim(0, 102)
    kit.legend(axes)
    kit.save(made, path)


def draw_slices(path: Path, points: Mapping[str, Sequence[tuple[Any, float]]]) -> None:
    """Draws accuracy against each hyperparameter, a panel each.

    Args:
        path: PNG or SVG.
        points: hyperparameter -> (value, average test accuracy in percent).

    Raises:
        OSError: the file cannot be written.
    """
    rows = -(-len(points) // _COLUMNS)
    columns = min(len(points), _COLUMNS)
    made, _ = kit.figure(1.0 + 3.0 * columns, 0.4 + 2.7 * rows, edges=None)
    made.clear()
    panels = made.subplots(rows, columns, squeeze=False, sharey=True)
    for number, axes in enumerate(panels.flat):
        axes.set_visible(number < len(points))
    for number, (axes, (name, found)) in enumerate(zip(panels.flat, points.items(), strict=False)):
        values, accuracies = [value for value, _ in found], [accuracy for _, accuracy in found]
        if all(map(is_number, values)):
            axes.plot(values, accuracies, ls="", marker="o", ms=4, color=kit.BLUE, alpha=0.7)
            if min(values) > 0 and max(values) / min(values) > LOG_FACTOR:
                axes.set_xscale("log")
        else:
            words = sorted({show(value) for value in values})
            axes.plot([words.index(show(v)) for v in values], accuracies, ls="", marker="o", ms=4, color=kit.BLUE, alpha=0.7)
            axes.set_xticks(range(len(words)), [kit.plain(word, 12) for word in words])
        kit.dress(axes, "", kit.plain(name, 30), "test accuracy (%)" if number % columns == 0 else "", whole=False)
    kit.save(made, path)
