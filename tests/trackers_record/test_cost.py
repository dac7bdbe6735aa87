"""The cost of a sweep, added up by hand from events."""

import pytest

from trackers.cost import Cost, cost, cost_line
from trackers.record import replay

FACTS = {**dict.fromkeys(("command", "method", "benchmark", "network", "data_digest"), "x"), "scenario": "task-il", "tasks": 2}


def told(*events):
    """A record of these events, a second apart."""
    first = {
        "event": "sweep",
        "format": 1,
        "name": "s",
        "settings": {},
        "versions": {},
        "git": None,
        "scenario": "task-il",
        "tasks": 2,
    }
    return replay({"n": n, "time": 100.0 + n, **event} for n, event in enumerate([{**first, **FACTS}, *events]))


def pack(name, *trials, role="trial"):
    facts = {"config": "c", "seed": 0, "method": "hat", "hyperparameters": {}, "settings": {}, "study": None, "role": role}
    return {"event": "pack", "pack": name, "plan": {}, "trials": [{"trial": trial, **facts} for trial in trials]}


def task(name, seen, seconds, *trials, **more):
    row = {"validation": [None] * 2, "test": [None] * 2, "train_loss": None, "epochs": 1, "bytes": 1, "capacity": {}, "reuse": None}
    members = [{"trial": trial, "seconds": seconds, **row, **more} for trial in trials]
    return {"event": "task", "pack": name, "seen": seen, "checkpoint": None, "members": members}


def start(name, attempt=1, **more):
    return {"event": "start", "pack": name, "attempt": attempt, **more}


def done(trial, name):
    return {"event": "done", "trial": trial, "pack": name, "artifacts": f"trials/{trial}", "seconds": 0.0}


def failed(trial, name, **more):
    return {"event": "failed", "trial": trial, "pack": name, "reason": "r", "where": None, "traceback": None, **more}


def test_every_second_is_counted_once():
    record = told(
        pack("r", "joint", role="reference"),
        pack("p", "a", "b"),
        start("r"),
        task("r", 1, 3.0, "joint"),
        task("r", 2, 4.0, "joint"),
        done("joint", "r"),
        start("p", lost=0.0),
        task("p", 1, 10.0, "a", "b", cpu_seconds=9.0, memory=5_000_000),
        start("p", 2, lost=2.5),  # its worker was lost, and with it 2.5 seconds
        {"event": "again", "pack": "p", "seen": 1, "checkpoint": None, "seconds": 20.0},
        task("p", 2, 12.0, "a", cpu_seconds=11.0, memory=7_000_000),
        failed("b", "p", seconds=6.0),
        done("a", "p"),
    )
    found = cost(record)
    assert found == Cost(done=7 + 22, references=7, open=0, failed=10 + 6, repeated=22.5, cpu=29, peak=7_000_000)
    assert found.total == 67.5
    assert found.wasted == pytest.approx(38.5 / 67.5)
    assert (
        cost_line(found) == "67.5 s of training, 57.0 % of it failed or repeated; 29.0 s of processor time; at most 7 MB a worker"
    )


def test_a_failed_trial_that_is_tried_again_costs_both_tries():
    record = told(
        pack("p", "a"),
        start("p"),
        task("p", 1, 10.0, "a"),
        failed("a", "p", seconds=1.0),
        pack("q", "a"),
        start("q"),
        task("q", 1, 10.0, "a"),
        task("q", 2, 10.0, "a"),
        done("a", "q"),
    )
    found = cost(record)
    assert (found.done, found.failed, found.repeated, found.total) == (20, 1, 10, 31)


def test_a_sweep_that_measured_nothing_says_nothing_of_it():
    found = cost(told(pack("p", "a"), start("p"), task("p", 1, 2.0, "a")))
    assert (found.open, found.total, found.wasted, found.cpu, found.peak) == (2, 2, 0, 0, 0)
    assert cost_line(found) == "2.0 s of training"
