"""The story of a sweep: the best so far, what a trial cost, and which hyperparameters mattered."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from clcore import metrics
from trackers import pictures_kit as kit
from trackers.labels import choices_text
from trackers.record import SweepRecord
from trackers.summary import Configuration
from trackers.trial_record import TrialRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH = 6.4
_MOST_BARS = 15  # hyperparameters whose importance is shown
_MOST_ROWS = 20  # configurations of the leaderboard
_COSTS = 2.4  # inches beside it, for numbers


def draw_leaderboard(path: Path, found: Sequence[Configuration], keys: Sequence[str]) -> None:
    """Draws the best configurations, one a row: mean accuracies over seeds, their standard deviations, and what they cost.

    Args:
        path: the PNG file.
        found: the configurations, the best first; at least one.
        keys: what varies between them.

    Raises:
        OSError: the file cannot be written.
    """
    shown = found[:_MOST_ROWS]
    words = [kit.plain(f"{rank}. {choices_text(c.choices, keys) or c.method}", 60) for rank, c in enumerate(shown, start=1)]
    _, below, _, above = kit.EDGES
    left = 0.3 + 1.1 * kit.LETTER * max(map(len, words))
    made, axes = kit.figure(left + 4.4 + _COSTS, 1.3 + 0.32 * len(shown), (left, below, _COSTS, above + 0.25))
    for name, marker, colour, shift in (("validation", "o", kit.BLUE, -0.12), ("test", "s", kit.VERMILION, 0.12)):
        rows = [(place + shift, c) for place, c in enumerate(shown) if math.isfinite(c.mean(name))]
        means, spreads = [100 * c.mean(name) for _, c in rows], [100 * c.spread(name) for _, c in rows]
        bars = [spread if math.isfinite(spread) else 0.0 for spread in spreads]
        axes.errorbar(means, [place for place, _ in rows], xerr=bars, fmt=marker, ms=5, lw=1.3, color=colour, label=name)
    axes.set_yticks(range(len(shown)), words)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    more = f": the best {len(shown)} of {len(found)} configurations" if len(found) > len(shown) else ""
    kit.dress(axes, f"Leaderboard, ranked on validation data{more}", "average accuracy after the last task (%)", "", whole=False)
    axes.set_title(axes.get_title(loc="left"), fontsize=9.5, loc="left", pad=26)
    axes.grid(visible=True, axis="both", color=kit.PALE, lw=0.8)
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=8, frameon=False, borderaxespad=0.1)
    _draw_costs(axes, shown)
    kit.save(made, path)


def _draw_costs(axes: "Axes", shown: Sequence[Configuration]) -> None:
    """What cannot be drawn on the same scale, as columns of numbers beside the axes."""
    width = axes.bbox.width / axes.figure.dpi
    columns = {
        "forgotten\n(%)": [f"{100 * c.mean('forgetting'):z.1f}" for c in shown],
        "kB": [f"{c.mean('bytes') / 1000:,.1f}" for c in shown],
        "s": [f"{c.mean('seconds'):,.1f}" for c in shown],
        "seeds": [str(len(c.finals)) for c in shown],
    }
    for number, (name, cells) in enumerate(columns.items(), start=1):
        x = 1 + number * _COSTS / (len(columns) + 0.2) / width
        axes.text(x, 1.02, name, ha="right", va="bottom", fontsize=8, transform=axes.transAxes)
        for place, cell in enumerate(cells):
            text = cell if cell != "nan" else "-"
            axes.text(x, place, text, ha="right", va="center", fontsize=8, transform=axes.get_yaxis_transform())


def draw_best_so_far(path: Path, record: SweepRecord) -> None:
    """Draws validation accuracy of each trial in the order in which they ended, and the best until then.

    Args:
        path: the PNG file.
        record: the sweep; trials that other sweeps had finished before are left out.

    Raises:
        OSError: the file cannot be written.
    """
    ended = _ended(record)
    values = [_validation(trial) for trial in ended]
    scored = [(number, value) for number, value in enumerate(values, start=1) if math.isfinite(value)]
    made, axes = kit.figure(_WIDTH, 3.6)
    if scored:
        numbers, points = zip(*scored, strict=True)
        axes.plot(numbers, points, ls="", marker="o", ms=_size(ended), color=kit.BLUE, alpha=0.6, label="a trial")
        best = [*accumulate(points, max)]
        axes.step([*numbers, len(ended)], [*best, best[-1]], where="post", color="black", lw=1.8, label="the best so far")
    failed = [number for number, trial in enumerate(ended, start=1) if trial.status == "failed"]
    if failed:  # at the foot, whatever the scale
        foot = axes.get_xaxis_transform()
        axes.plot(failed, [0.03] * len(failed), ls="", marker="x", ms=6, color=kit.VERMILION, label="failed", transform=foot)
    kit.dress(axes, "Validation accuracy, trial by trial", "trials ended", "average validation accuracy (%)")
    axes.set_xlim(0.3, max(len(ended), 1) + 0.7)
    kit.legend(axes)
    kit.save(made, path)


def draw_cost(path: Path, record: SweepRecord) -> None:
    """Draws the training seconds of each trial in the order in which they ended.

    Args:
        path: the PNG file.
        record: the sweep; of a failed trial only the tasks that it finished are known.

    Raises:
        OSError: the file cannot be written.
    """
    ended = _ended(record)
    made, axes = kit.figure(_WIDTH, 3.2)
    kinds = (("done", "o", kit.BLUE, "done"), ("failed", "x", kit.VERMILION, "failed (finished tasks only)"))
    for status, marker, colour, label in kinds:
        points = [(number, trial.seconds) for number, trial in enumerate(ended, start=1) if trial.status == status]
        if points:
            axes.plot(*zip(*points, strict=True), ls="", marker=marker, ms=_size(ended) + 1, color=colour, alpha=0.8, label=label)
    total, wasted = (sum(t.seconds for t in ended if t.status in kind) for kind in (("done", "failed"), ("failed",)))
    title = f"Cost: {total:,.1f} s of training in all" + (f", {wasted:,.1f} s of it in trials that failed" if wasted else "")
    kit.dress(axes, title, "trials ended", "training time of a trial (s)")
    axes.set_xlim(0.3, max(len(ended), 1) + 0.7)
    axes.set_ylim(0, 1.2 * max((trial.seconds for trial in ended), default=0.0) or 1)
    kit.legend(axes)
    kit.save(made, path)


def draw_importance(path: Path, shares: Mapping[str, float] | str) -> None:
    """Draws how much each hyperparameter had to do with being among the best (PED-ANOVA), or says why that is not known.

    Args:
        path: the PNG file.
        shares: key -> share in [0, 1], the largest first, or the reason.

    Raises:
        OSError: the file cannot be written.
    """
    title = "Importance of hyperparameters for being in the best quarter (PED-ANOVA)"
    if isinstance(shares, str):
        kit.say(path, title, shares)
        return
    shown = list(shares.items())[:_MOST_BARS]
    words = [kit.plain(key, 40) for key, _ in shown]
    _, below, right, above = kit.EDGES
    left = 0.3 + 1.3 * kit.LETTER * max(map(len, words))
    made, axes = kit.figure(left + 5.5, 1.1 + 0.32 * len(shown), (left, below, right, above))
    axes.barh(range(len(shown)), [100 * share for _, share in shown], color=kit.BLUE, height=0.65)
    axes.set_yticks(range(len(shown)), words)
    axes.invert_yaxis()
    for place, (_, share) in enumerate(shown):
        axes.text(100 * share + 1, place, f"{100 * share:.0f}", va="center", fontsize=8)
    kit.dress(axes, title, "share (%)", "", whole=False)
    axes.set_xlim(0, max(105 * shown[0][1], 10) + 3)
    axes.grid(visible=False)
    axes.tick_params(axis="y", length=0)
    kit.save(made, path)


def _ended(record: SweepRecord) -> list[TrialRecord]:
    """This sweep's own trials that are done or failed, in the order in which they ended."""
    own = (t for t in record.trials.values() if t.role == "trial" and t.trial not in record.linked)
    return sorted((t for t in own if t.status in ("done", "failed")), key=lambda trial: trial.since)


def _validation(trial: TrialRecord) -> float:
    """Percent; NaN where it is not known or the trial failed."""
    if trial.status != "done" or trial.seen < 1:
        return math.nan
    return 100 * metrics.average_accuracy(trial.validation, trial.seen)


def _size(trials: Sequence[TrialRecord]) -> float:
    """Smaller dots where there are many."""
    return 5.0 if len(trials) <= 100 else 2.5
