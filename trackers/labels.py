"""Short names for trials and configurations: only what differs within a sweep is worth a reader's eye."""

from collections.abc import Iterable, Mapping
from typing import Any

from trackers.record import SweepRecord
from trackers.trial_record import TrialRecord

_ABSENT = object()


def varying(choices: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys that do not have the same value everywhere, in order of first appearance."""
    dicts = list(choices)
    keys = dict.fromkeys(key for choice in dicts for key in choice)
    return [key for key in keys if any(d.get(key, _ABSENT) != dicts[0].get(key, _ABSENT) for d in dicts[1:])]


def chosen(trial: TrialRecord) -> dict[str, Any]:
    """All that was chosen for a trial: its training settings and its hyperparameters, one flat dictionary."""
    return choices_of(trial.hyperparameters, trial.settings)


def choices_of(hyperparameters: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters, and the training settings that are plain values and not among them."""
    rest = {key: value for key, value in settings.items() if is_plain(value) and key not in hyperparameters}
    return {**hyperparameters, **rest}


def varying_in(record: SweepRecord) -> list[str]:
    """What the trials of a sweep (references aside) differ in, seed excepted."""
    return [key for key in varying(chosen(t) for t in record.trials.values() if t.role == "trial") if key != "seed"]


def is_plain(value: Any) -> bool:
    """Whether a value can be shown on its own: a number, a word, a truth value or nothing."""
    return value is None or isinstance(value, str | int | float | bool)


def show(value: Any) -> str:
    """A value as briefly as it can be told from its neighbours."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return "-".join(show(item) for item in value)
    return str(value)


def choices_text(choice: Mapping[str, Any], keys: Iterable[str]) -> str:
    """For instance ``p1=0.4 growth=0.05``; a dotted key shows its last part."""
    return " ".join(f"{key.rsplit('.', 1)[-1]}={show(choice[key])}" for key in keys if key in choice)


def run_name(trial: TrialRecord, keys: Iterable[str]) -> str:
    """The name of a trial's run, for instance ``tfm p1=0.4 growth=0.05 s0 · 3fa2``.

    Args:
        trial: the trial.
        keys: what varies in the sweep.
    """
    parts = [trial.method, choices_text(chosen(trial), keys), f"s{trial.seed}", "·", trial.trial[:4]]
    return " ".join(part for part in parts if part)
