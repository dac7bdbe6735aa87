"""The driver of a sweep whose checkpoints are elsewhere: it keeps their URIs, and fetches what is to be kept."""

import pytest
from fake_packs import TASKS, Rig, die, report
from sweep_kit import events

from sweeps.driver import PACKS
from sweeps.storage import StorageFailed


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path / "home")


class Elsewhere:
    """A sweep's driver, whose packs' checkpoints are put into another place before it hears of them."""

    def __init__(self, sweep, place):
        self.sweep, self.place = sweep, place
        self.heard, sweep.reported = sweep.reported, self.reported

    def reported(self, pack, said, checkpoint):
        target = self.place / checkpoint.relative_to(self.sweep.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.rename(target)
        self.heard(pack, said, target.as_uri())


@pytest.fixture
def elsewhere(rig, tmp_path):
    """A driver that has heard of two tasks of its first pack, and the pack."""
    sweep = rig.sweep()
    Elsewhere(sweep, tmp_path / "shared place")
    pack, _ = sweep.next_pack()
    sweep.started(pack.identity)
    report(sweep, pack, 0)
    report(sweep, pack, 1)
    return sweep, pack


def test_the_journal_has_the_uri_and_the_next_driver_goes_on_from_it(elsewhere, rig, tmp_path):
    sweep, pack = elsewhere
    uri = (tmp_path / "shared place" / PACKS / pack.identity / "seen-001").as_uri()
    assert [event["checkpoint"] for event in events(sweep.folder, "task")][-1] == uri
    die(sweep)
    assert rig.sweep().next_pack()[1] == uri


def test_files_of_finished_trials_are_fetched(elsewhere):
    sweep, pack = elsewhere
    for seen in range(2, TASKS + 1):
        report(sweep, pack, seen)
    for trial in pack.trials:
        kept = sweep.folder / "trials" / trial.identity / "checkpoint.safetensors"
        assert kept.read_text() == trial.identity
    assert sweep.ledger["done"] == len(pack.trials)


def test_checkpoints_that_nobody_goes_on_from_are_taken_away_there(elsewhere, tmp_path):
    sweep, pack = elsewhere
    there = tmp_path / "shared place" / PACKS / pack.identity
    report(sweep, pack, 2)
    assert sorted(path.name for path in there.iterdir()) == ["seen-001", "seen-002"]
    report(sweep, pack, TASKS)
    sweep.ended(pack.identity)
    assert not list(there.iterdir())


def test_a_storage_that_fails_leaves_the_trial_open(elsewhere):
    """The report is in the journal by then; the next driver hears it again, and keeps the files."""
    sweep, pack = elsewhere
    heard = sweep.reported.__self__.heard
    sweep.reported = lambda name, said, checkpoint: heard(name, said, "file:///no/such/place")
    with pytest.raises(StorageFailed):
        report(sweep, pack, TASKS)
    assert sweep.record.trials[pack.trials[0].identity].status == "running"
