"""What is shown while a sweep runs: how much of it is done."""

from fake_packs import TASKS, Rig, play

from sweeps.progress import completed
from sweeps.search import Study
from sweeps.spaces import Range, Space


def test_what_is_asked_and_not_proposed_yet_is_work_too(tmp_path):
    """Eight configurations, two at a time: those of the first round are a quarter of the work, not all of it."""
    rig = Rig(tmp_path / "home")
    search = Study(Space("random", ranges={"c": Range(0.1, 4.0)}), rig.home / "mine" / "study.log", 0, 8)
    sweep = rig.sweep(search=search, size=1, batch=2)
    assert completed(sweep) == 0
    play(sweep, packs=1)
    assert completed(sweep) == 1 / 8
    play(sweep, packs=1, last=1)
    assert completed(sweep) == (1 + 1 / TASKS) / 8


def test_trials_found_before_are_no_work(tmp_path):
    rig = Rig(tmp_path / "home")
    sweep = rig.sweep(size=1)
    play(sweep, packs=2)
    sweep.journal.close()
    again = rig.sweep(size=1)
    assert completed(again) == 0
    play(again, packs=1)
    assert completed(again) == 1 / 4
