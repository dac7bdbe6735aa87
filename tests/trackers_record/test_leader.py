"""What is kept up as a journal is read: leader, counts and cost, beside a look at all trials; and how much work it is."""

import random
import sys
from fractions import Fraction
from math import isfinite

import pytest
from fake_sweep import FakeSweep, item

from trackers.cost import cost
from trackers.journal import read
from trackers.leader import Leader
from trackers.mlflow_tracker import Publisher
from trackers.record import JOURNAL, SweepRecord
from trackers.summary import configurations

TASKS = 2


def told(folder, trials, seed, validation=True):
    """Events of a sweep whose packs end in any order: some trials fail, and some of these are tried again after a resume."""
    draw, sweep = random.Random(seed), FakeSweep(folder, TASKS)
    sweep.sweep()
    items = [item(n // 2, n % 2, "reference" if n % 7 == 6 else "trial") for n in range(trials)]
    packs = {f"p{first}": items[first : first + 3] for first in range(0, trials, 3)}
    for name, members in packs.items():
        sweep.pack(name, members)
    failed = []
    for name in draw.sample([*packs], len(packs)):
        sweep.start(name)
        ends = [(one["trial"], draw.random() < 0.3) for one in packs[name]]
        for seen in range(TASKS + 1):
            sweep.task(name, seen, [row(sweep, one, seen, draw, validation) for one, _ in ends])
        for one, fails in draw.sample(ends, len(ends)):
            sweep.failed(one, name) if fails else sweep.done(one, name)
            failed += [one] if fails else []
    sweep.sweep()
    again = [one for one in items if one["trial"] in failed[::2]]
    sweep.pack("again", again)
    sweep.start("again")
    for one in again:
        sweep.done(one["trial"], "again")
    sweep.end(asked=trials, done=trials)
    sweep.journal.close()
    return read(folder / JOURNAL)[0]


def row(sweep, name, seen, draw, validation):
    own = {"validation": [round(draw.random(), 1)] * TASKS if validation else None}  # rounded: there are ties
    return sweep.member(name, seen, **own, seconds=draw.random(), cpu_seconds=draw.random(), memory=draw.randrange(10**9))


@pytest.mark.parametrize("validation", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_it_is_what_a_look_at_all_trials_says(tmp_path, seed, validation):
    record, leader = SweepRecord(), Leader()
    for event in told(tmp_path, 31, seed, validation):
        record.apply(event)
        if event["event"] == "done":
            leader.add(record.trials[event["trial"]])
        found, best = configurations(record), leader.best
        assert repr(best) == repr(found[0] if found else None)  # a text, since NaN is not NaN
        assert best is None or isfinite(best.rank_key) == validation
        trials = [*record.trials.values()]
        for role in ("trial", "reference"):
            statuses = [trial.status for trial in trials if trial.role == role]
            assert +record.totals.counts[role] == {status: statuses.count(status) for status in {*statuses}}
        rows = [(trial, one) for trial in trials for one in trial.rows.values()]
        sums = cost(record)
        assert sums.done == exact(one.seconds for trial, one in rows if trial.status == "done")
        assert sums.references == exact(one.seconds for trial, one in rows if (trial.status, trial.role) == ("done", "reference"))
        assert sums.open == exact(one.seconds for trial, one in rows if trial.status in ("open", "running"))
        assert sums.failed == exact(one.seconds for trial, one in rows if trial.status == "failed")
        assert sums.cpu == exact(one.cpu_seconds for _, one in rows)
        assert sums.peak == max((one.memory for _, one in rows), default=0)


def exact(values):
    return float(sum(map(Fraction, values)))


def calls_of(folder, trials):
    """Functions called, and steps of generators, while a sweep's events become what is to be sent."""
    publisher = Publisher(folder / str(trials), "sqlite:///none", folder)
    publisher._events.extend(told(publisher.folder, trials, 1))
    count = 0

    def counted(_frame, event, _argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        publisher._take_events(-1)
    finally:
        sys.setprofile(None)
    assert len(publisher._points) > trials
    return count


def test_the_work_grows_as_the_number_of_trials(tmp_path):
    few, twice, many = (calls_of(tmp_path, trials) for trials in (60, 120, 240))
    assert many - twice == pytest.approx(2 * (twice - few), rel=0.05)
