"""What the other sweeps of a home have finished: a trial is trained once, whoever asks for it."""

import logging
from functools import cache
from pathlib import Path

from clcore.errors import UserError
from trackers.record import JOURNAL, load
from trackers.trial_record import TrialRecord

log = logging.getLogger(__name__)


def finished_elsewhere(folder: Path) -> dict[str, tuple[str, TrialRecord]]:
    """Trial -> (sweep, record) of what the other sweeps of the same home have finished."""
    found: dict[str, tuple[str, TrialRecord]] = {}
    for journal in sorted(folder.parent.glob(f"*/{JOURNAL}")):
        if journal.parent == folder:
            continue
        try:
            record = load(journal.parent)
        except UserError as error:  # what another sweep lost is no reason not to run this one
            _warn(journal, str(error))
            continue
        found |= {t.trial: (record.name, t) for t in record.trials.values() if t.status == "done"}
    return found


@cache  # a study looks through its home before and after each of its sweeps
def _warn(journal: Path, why: str) -> None:
    """Says once in a process that a sweep is not used."""
    log.warning("nothing of %s is used: %s", journal.parent.name, why)
