"""A study's sweeps run one after another through the ordinary command's code; what the home has already is left alone."""

from collections.abc import Sequence
from functools import partial

from rich.console import Console

from clcore.benchmarks import BENCHMARKS
from clcore.networks import NETWORKS
from clcore.networks import build as build_network
from sweeps import session
from sweeps.asked import ask
from sweeps.planned import planned
from sweeps.progress import duration
from sweeps.settings import validated
from sweeps.studies.answers import Answers, own_record
from sweeps.studies.options import Common
from sweeps.studies.plan import Needed
from sweeps.trials import base_configuration
from trackers.check import check_tracking
from trackers.command import say

#: Exit codes of a sweep after which a study goes on: done, and done but for trials that failed.
GOES_ON = (0, 1)
#: A shape of inputs that every network takes.
_ANY_IMAGE = (3, 32, 32)


def is_open(needed: Needed, answers: Answers) -> bool:
    """Whether a sweep has still something to run.

    What a sampled space draws is known only to its sweep, so that its own journal must say that it has ended. What failed there
    stays so: it was drawn at random, and a rate that is too high is no better the second time.
    """
    if needed.space.search == "grid":
        return bool(answers.missing(needed))
    record = own_record(needed)
    return record is None or record.end is None or (record.sweep["settings"]["trials"] or 0) < (needed.settings.trials or 0)


def check_first(common: Common, method: str) -> None:
    """What would be refused of a method's plainest sweep, before anything at all is written.

    Raises:
        UserError: the first thing that is wrong.
    """
    ask(validated(common.settings(method)))


def check_names(common: Common, method: str) -> None:
    """What would be refused of it where nothing is run: names and values, but no data, device or room on the disk.

    Raises:
        UserError: the first thing that is wrong.
    """
    settings = validated(common.settings(method))
    base_configuration(settings)
    BENCHMARKS.get(settings.benchmark)
    if ".py" in settings.network:  # what it fits, only its benchmark's data would tell
        NETWORKS.get(settings.network.partition(":")[0])
    else:
        build_network(settings.network, _ANY_IMAGE, settings.seeds[0])
    check_tracking(settings.tracking, settings.home)


def check(sweeps: Sequence[Needed]) -> None:
    """Everything that a sweep's own command would refuse, before the first one starts.

    Raises:
        UserError: the first thing that is wrong.
    """
    for needed in sweeps:
        ask(needed.settings)


def run(sweeps: Sequence[Needed], console: Console, command: str) -> int:
    """Runs the sweeps that have something to run.

    Args:
        sweeps: in order.
        console: where their progress is shown.
        command: what was typed, for the record.

    Returns:
        0, or the exit code of the sweep that was interrupted or stopped by its environment.
    """
    answers = None
    for number, needed in enumerate(sweeps, start=1):
        answers = answers or Answers(needed.settings.home)
        head = f"sweep {number} of {len(sweeps)}: {needed.label}"
        if not is_open(needed, answers):
            say(console, f"{head}: all {needed.asked} trials are there")
            continue
        say(console, f"{head}: {needed.settings.sweep_name()}, {_open_words(needed, answers)}")
        code = session.run(ask(needed.settings), console, command)
        answers = None  # read anew: equal trials may be in two sweeps
        if code not in GOES_ON:
            return code
    return 0


def dry_run(sweeps: Sequence[Needed], console: Console) -> None:
    """Says how many trials a study would run and about how long; trains nothing and keeps only the pilots' figures."""
    put, total, left, seconds = partial(say, console), 0, 0, 0.0
    answers = Answers(sweeps[0].settings.home)
    for needed in sweeps:
        count, missing = needed.asked, _missing_count(needed, answers)
        cost = 0.0
        if missing:
            cost = planned(ask(needed.settings)).seconds * missing / count
        put(f"{needed.label:<28} {count} trials, {missing} to run, at most about {duration(cost)}")
        total, left, seconds = total + count, left + missing, seconds + cost
    put(f"{'in all':<28} {total} trials, {left} to run, at most about {duration(seconds)}, references and Ray's starts aside")
    put("nothing was trained")


def _missing_count(needed: Needed, answers: Answers) -> int:
    if needed.space.search == "grid":
        return sum(answers.get(trial) is None for trial in needed.trials())
    record = own_record(needed)
    return needed.asked if record is None else max(needed.asked - record.ledger["done"] - record.ledger["skipped"], 0)


def _open_words(needed: Needed, answers: Answers) -> str:
    missing = _missing_count(needed, answers)
    return f"{missing} of {needed.asked} trials to run"
