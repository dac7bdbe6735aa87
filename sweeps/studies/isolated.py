"""HAT on single tasks: how far its regulariser shrinks a network that has nothing else to remember (HAT, section 4.4)."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sweeps.studies.answers import Answers
from sweeps.studies.draw_size import Point, draw_sizes
from sweeps.studies.plan import Needed
from sweeps.studies.report import Block, Picture, Section
from sweeps.studies.tables import Estimate, Rows, Table
from sweeps.trials import Trial
from trackers.labels import show
from trackers.trial_record import TrialRecord

_TITLE = "Isolated tasks"


def isolated_section(sweeps: Sequence[Needed], answers: Answers) -> Section:
    """Raw accuracy, accuracy of the compressed network, and its size, for each weight of the regulariser.

    Args:
        sweeps: HAT's over c on one task, and plain training's on the same.
        answers: of the home.
    """
    hat, raw = sweeps
    plain = [figures.accuracy for trial in raw.trials() if (figures := answers.figures(trial))]
    found = {}
    for values, configuration in hat.cells:
        records = [record for seed in hat.settings.seeds if (record := answers.get(Trial(configuration, seed)))]
        if records:
            found[values["c"]] = records
    if not found:
        return Section(_TITLE, ["No trial on a single task has finished."])
    return Section(_TITLE, [_words(), *_blocks(found, plain)])


def _words() -> str:
    return (
        "Each seed learns one task alone, another one each (classes or permutations drawn by the seed), by plain training (raw) "
        "and by HAT with embeddings from U(0, 2) and gates that are 0 or 1 at test. Size: weights whose two units are on, as a "
        "share of the network's; what is off can be cut out without changing an answer."
    )


def _blocks(found: dict[Any, list[TrialRecord]], plain: Sequence[float]) -> list[Block]:
    rows: Rows = []
    points = []
    for c, records in found.items():
        accuracies = [100 * float(record.test[1, 0]) for record in records]
        hidden, with_head = (_shares(records, name) for name in ("hidden", "with_head"))
        kilobytes = [1e-3 * record.bytes if record.bytes is not None else math.nan for record in records]
        sizes = (Estimate.of(values, 1) for values in (hidden, with_head, kilobytes))
        rows.append([f"c = {show(c)}", Estimate.of(plain), Estimate.of(accuracies), *sizes, len(records)])
        points.append(Point(f"c={show(c)}", hidden, accuracies))
    head = [
        "",
        "raw accuracy, %",
        "compressed accuracy, %",
        "size, hidden layers, %",
        "size with the head, %",
        "stored, kB",
        "seeds",
    ]
    caption = (
        "Test accuracy on the single task and size of what is left: mean over seeds ± half of the 95 % interval (Student's t)."
    )
    picture = Picture("isolated", f"{caption} Numbers: c, the weight of the regulariser.", partial(_draw, points, plain))
    return [[picture], Table("isolated", caption, head, rows)]


def _draw(points: Sequence[Point], plain: Sequence[float], path: Path) -> None:
    groups = {"HAT, compressed": points, "plain training, raw": [Point("raw", [100.0] * len(plain), plain)]}
    title = "HAT on single tasks: accuracy against size"
    draw_sizes(
        path, {k: v for k, v in groups.items() if v and v[0].sizes}, ("weights left, hidden layers (%)", "test accuracy (%)"), title
    )


def _shares(records: Sequence[TrialRecord], name: str) -> list[float]:
    """Percent, one a seed; NaN where not known."""
    shares = [record.latest.compressed.get(name) if record.latest else None for record in records]
    return [math.nan if share is None else 100 * share for share in shares]
