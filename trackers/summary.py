"""What a sweep has found so far: its finished trials gathered by configuration, the best on validation data first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from clcore import metrics
from trackers.labels import chosen, varying_in
from trackers.record import SweepRecord
from trackers.trial_record import TrialRecord


@dataclass(frozen=True)
class Final:
    """The end of one finished trial: accuracies in [0, 1], NaN where not known; seconds of training; bytes to keep."""

    trial: str
    seed: int
    validation: float
    test: float
    forgetting: float
    seconds: float
    bytes: float


@dataclass(frozen=True)
class Configuration:
    """One configuration over its finished seeds; ``choices`` are its hyperparameters and training settings."""

    config: str
    method: str
    choices: dict[str, Any]
    finals: list[Final]

    def mean(self, name: str) -> float:
        """Mean of a field of ``Final`` over the seeds; NaN when one of them is not known."""
        return fmean(getattr(final, name) for final in self.finals)

    def spread(self, name: str) -> float:
        """Standard deviation (n - 1) of a field over the seeds; NaN for a single seed."""
        values = [getattr(final, name) for final in self.finals]
        return stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else math.nan

    @property
    def rank_key(self) -> float:
        """Sorts the best mean validation accuracy first and those without one last."""
        validation = self.mean("validation")
        return -validation if math.isfinite(validation) else math.inf


def final(trial: TrialRecord) -> Final:
    """The closing figures of a trial, over the tasks it has learned."""
    seen, missing = trial.seen, math.nan
    has_matrix = seen > 0
    return Final(
        trial=trial.trial,
        seed=trial.seed,
        validation=metrics.average_accuracy(trial.validation, seen) if has_matrix else missing,
        test=metrics.average_accuracy(trial.test, seen) if has_matrix else missing,
        forgetting=metrics.forgetting_vs_diagonal(trial.test, seen) if has_matrix else missing,
        seconds=trial.seconds,
        bytes=missing if trial.bytes is None else float(trial.bytes),
    )


def configurations(record: SweepRecord, finals: dict[str, Final] | None = None) -> list[Configuration]:
    """The configurations with at least one finished trial, the best first; references are left out.

    The order looks at validation accuracies only; without them it is the order of planning.

    Args:
        record: the sweep.
        finals: figures of finished trials from an earlier call, by trial; used again and added to.
    """
    finals = {} if finals is None else finals
    groups: dict[str, list[TrialRecord]] = {}
    for trial in record.trials.values():
        if trial.role == "trial" and trial.status == "done":
            groups.setdefault(trial.config, []).append(trial)
            if trial.trial not in finals:
                finals[trial.trial] = final(trial)
    found = [Configuration(g[0].config, g[0].method, chosen(g[0]), [finals[t.trial] for t in g]) for g in groups.values()]
    return ranked(found)


def ranked(found: Sequence[Configuration]) -> list[Configuration]:
    """The best on validation data first; among equals the order stays."""
    return sorted(found, key=lambda c: c.rank_key)


def leaderboard(record: SweepRecord) -> list[dict[str, Any]]:
    """The closing table, one row a configuration, the best first, for ``artifacts.write_leaderboard``.

    The columns: rank, config, method, what varies in the sweep, seeds (how many), the mean and standard deviation over
    seeds of the final average accuracies, forgetting, bytes, seconds (means), and the trial ids. ``None`` is not known.
    """
    return board(configurations(record), varying_in(record))


def board(found: Sequence[Configuration], keys: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of :func:`leaderboard` for configurations in their order; ``keys`` are what varies between them."""
    return [_row(rank, c, keys) for rank, c in enumerate(found, start=1)]


def _row(rank: int, configuration: Configuration, keys: Sequence[str]) -> dict[str, Any]:
    numbers = {
        "acc_avg_validation": configuration.mean("validation"),
        "acc_avg_validation_std": configuration.spread("validation"),
        "acc_avg": configuration.mean("test"),
        "acc_avg_std": configuration.spread("test"),
        "forgetting": configuration.mean("forgetting"),
        "bytes": configuration.mean("bytes"),
        "seconds": configuration.mean("seconds"),
    }
    return {
        "rank": rank,
        "config": configuration.config,
        "method": configuration.method,
        **{key: configuration.choices.get(key) for key in keys},
        "seeds": len(configuration.finals),
        **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
        "trials": " ".join(final.trial for final in configuration.finals),
    }
