"""How many threads a pack gets: several only where packs are fewer than cores, and where a step gains by them."""

from dataclasses import replace

import pytest

from sweeps import planned as module
from sweeps.asked import ask
from sweeps.pilot import Pilot
from sweeps.settings import validated

CORES = 8
ONE = {"method": "hat", "space": "default"}


@pytest.fixture
def planned(monkeypatch, tmp_path):
    """Plans a sweep on eight cores where so many threads make a step so much faster."""

    def plan(speed, address=None, **given):
        def pilot(home, trial, most, like):
            return Pilot(1, {"1": 0.012 / speed(like.threads)}, 0.01, 10, 1000)

        monkeypatch.setattr(module.os, "cpu_count", lambda: CORES)
        monkeypatch.setattr(module, "pilot", pilot)
        asked = ask(validated({"home": tmp_path, "compiled": "off", **given}))
        asked = replace(asked, settings=asked.settings.model_copy(update={"address": address}))  # there is none to join
        found = module.planned(asked)
        return found.plan.like.threads, found.asked.settings.cpus, found.workers, found.pilot.reason

    return plan


def perfect(threads):
    return threads


def barely(threads):
    return 1 if threads == 1 else 1.1


def test_a_single_trial_takes_all_cores_where_it_gains_by_them(planned):
    threads, cpus, workers, reason = planned(perfect, **ONE)
    assert (threads, cpus, workers) == (8, 8, 1)
    assert reason == "1.50 ms a step and member, 12.00 on one thread"


def test_three_packs_share_eight_cores(planned):
    assert planned(perfect, **ONE, seeds=(0, 1, 2))[:3] == (2, 2, 4)


def test_a_pack_for_each_core_keeps_one_thread(planned):
    assert planned(perfect, **ONE, seeds=tuple(range(8)))[:3] == (1, 1, 8)


def test_threads_that_gain_little_are_not_taken(planned):
    threads, cpus, workers, reason = planned(barely, **ONE)
    assert (threads, cpus, workers, reason) == (1, 1, 8, "12.00 ms a step and member")


def test_one_after_the_other_in_this_process_all_cores_are_one_packs(planned):
    assert planned(perfect, **ONE, seeds=(0, 1, 2), executor="inline")[:3] == (8, 8, 1)


@pytest.mark.parametrize("said", [{"cpus": 1}, {"pack": "1"}, {"workers": 1}, {"address": "auto"}])
def test_what_was_said_is_not_changed(planned, said):
    assert planned(perfect, **ONE, **said)[0] == 1
