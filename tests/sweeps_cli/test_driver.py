"""The driver with packs that only pretend to train: planning, the ledger, references, retries, and what a study hears."""

import errno
import json
import math
import os
from statistics import fmean

import pytest
import torch
from fake_packs import SIX, TASKS, Rig, accuracy, die, play, report
from optuna.trial import TrialState
from sweep_kit import events, matrices, rows_are_unique, stored

from sweeps.driver import HEARTBEATS, PACKS, score
from sweeps.search import Grid, Study
from sweeps.spaces import Range, Space
from trackers.journal import Journal, read
from trackers.record import load


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path / "home")


def ledger(asked, done, skipped, failed):
    return {"asked": asked, "done": done, "skipped": skipped, "failed": failed}


def study(rig, trials=4, ranges=None, name="mine", seed=0):
    made = Study(Space("random", ranges=ranges or {"c": Range(0.1, 4.0)}), rig.home / name / "study.log", seed, trials)
    if (rig.home / name / "journal.jsonl").exists():
        packs = events(rig.home / name, "pack")
        made.continue_from([t["study"] for e in packs for t in e["trials"] if t["study"] is not None])
    return made


# -- the ledger --------------------------------------------------------------------------------------------------------


def test_a_grid_from_start_to_end(rig):
    sweep = rig.sweep()
    assert sweep.ledger == ledger(6, 0, 0, 0)
    played = play(sweep)
    assert [len(pack.trials) for pack, _ in played] == [3, 3]
    assert sweep.ledger == ledger(6, 6, 0, 0)
    assert sweep.next_pack() == (None, None)
    assert {t.status for t in load(sweep.folder).trials.values()} == {"done"}
    assert rows_are_unique(sweep.folder)


def test_the_plan_is_in_the_journal_before_anything_starts(rig):
    sweep = rig.sweep()
    assert [len(e["trials"]) for e in events(sweep.folder, "pack")] == [3, 3]
    assert not events(sweep.folder, "start")
    assert events(sweep.folder, "pack")[0]["plan"]["members"] == 3


def states(sweep):
    """Pack and task of each checkpoint that is there to go on from."""
    return sorted((path.parent.name, path.name) for path in (sweep.folder / PACKS).glob("*/*"))


def test_only_states_that_somebody_may_go_on_from_are_kept(rig):
    """The newest, the one before it (which is all that an executor knows if a worker dies now), and none of a pack that ended."""
    sweep = rig.sweep()
    (pack, _) = play(sweep, packs=1, last=2)[0]
    assert states(sweep) == [(pack.identity, "seen-001"), (pack.identity, "seen-002")]
    report(sweep, pack, 2)  # again, by a worker that began with the first
    assert states(sweep) == [(pack.identity, "seen-001"), (pack.identity, "seen-002")]
    die(sweep)
    sweep = rig.sweep()
    ((_, resume),) = play(sweep, packs=1)
    assert resume.name == "seen-002"
    assert states(sweep) == [(pack.identity, "seen-001")]  # the earlier driver's; it goes at the end


def test_states_of_a_sweep_that_is_stopped_stay(rig):
    sweep = rig.sweep()
    ((pack, _),) = play(sweep, packs=1, last=2)
    sweep.stopping = "SIGINT"
    sweep.ended(pack.identity)
    assert states(sweep) == [(pack.identity, "seen-001"), (pack.identity, "seen-002")]


def test_a_finished_trials_files(rig):
    sweep = rig.sweep()
    ((pack, _), _) = play(sweep)
    first = pack.trials[0]
    folder = sweep.folder / "trials" / first.identity
    assert (folder / "checkpoint.safetensors").read_text() == first.identity
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("data") == {"seed": 0, "digest": "d"}
    assert config.pop("kept") == {"weights": True, "masks": True, "boundaries": [], "dropped": {}}
    assert config.pop("pack")["members"][0] == {"trial": first.identity, "values": {}}
    assert config == json.loads(json.dumps(first.entry()))
    found = matrices(sweep.folder)[first.identity]
    expected = [[accuracy(first.identity, "test", seen, u) for u in range(TASKS)] for seen in range(TASKS + 1)]
    assert torch.equal(found["test"], torch.tensor(expected, dtype=torch.float64))
    assert found["validation"][2].isnan().tolist() == [False, False, True]


def test_the_same_call_again_skips_everything(rig):
    die_after = rig.sweep()
    play(die_after)
    die(die_after)
    again = rig.sweep()
    assert again.next_pack() == (None, None)
    assert again.ledger == ledger(6, 0, 6, 0)
    assert len(events(again.folder, "pack")) == 2


def test_a_member_fails_and_its_neighbours_do_not(rig):
    sweep = rig.sweep()
    bad = next(iter(sweep.record.trials))
    play(sweep, failing={bad})
    assert sweep.ledger == ledger(6, 5, 0, 1)
    assert sweep.record.trials[bad].where == {"task": 0, "epoch": 1, "step": 7}
    assert "task 0, epoch 1, step 7" in sweep.record.trials[bad].reason


def test_failed_trials_are_tried_again_by_the_next_call(rig):
    sweep = rig.sweep()
    bad = next(iter(sweep.record.trials))
    play(sweep, failing={bad})
    die(sweep)
    again = rig.sweep()
    assert again.ledger == ledger(6, 0, 5, 0)  # one is open
    played = play(again)
    assert [[t.identity for t in pack.trials] for pack, _ in played] == [[bad]]
    assert again.ledger == ledger(6, 1, 5, 0)


def test_a_pack_that_breaks_fails_its_members_alone(rig):
    sweep = rig.sweep()
    first, _ = sweep.next_pack()
    sweep.started(first.identity)
    report(sweep, first, 0)
    sweep.reported(first.identity, {"seen": -1, "error": "ValueError: no", "traceback": "Traceback ...\nValueError: no"}, None)
    sweep.ended(first.identity)
    assert sweep.ledger == ledger(6, 0, 0, 3)
    assert {sweep.record.trials[t.identity].reason for t in first.trials} == {"ValueError: no"}
    assert "Traceback" in sweep.record.trials[first.trials[0].identity].traceback
    play(sweep)
    assert sweep.ledger == ledger(6, 3, 0, 3)


def test_a_pack_whose_worker_is_lost_for_good_fails(rig):
    sweep = rig.sweep()
    first, _ = sweep.next_pack()
    sweep.started(first.identity)
    sweep.ended(first.identity, "Traceback\nthe worker died")
    assert sweep.ledger == ledger(6, 0, 0, 3)
    assert sweep.record.trials[first.trials[0].identity].reason == "the worker died"


def test_trials_of_another_sweep_are_linked_not_run(rig):
    one = rig.sweep("one", Grid(Space("grid", values={"c": (0.1, 0.2), "smax": (10.0,)})))
    play(one, failing={list(one.record.trials)[1]})
    die(one)
    two = rig.sweep("two")
    played = play(two)
    assert sum(len(pack.trials) for pack, _ in played) == 5  # the one that failed over there is run here
    assert two.ledger == ledger(6, 5, 1, 0)
    (linked,) = events(two.folder, "linked")
    assert (linked["trial"], linked["sweep"]) == (next(iter(one.record.trials)), "one")
    die(two)
    again = rig.sweep("two")
    assert play(again) == []
    assert again.ledger == ledger(6, 0, 6, 0)
    assert len(events(again.folder, "linked")) == 1


def test_a_damaged_neighbour_is_left_alone(rig):
    play(rig.sweep("one"))
    path = rig.home / "one" / "journal.jsonl"
    path.write_bytes(b"{broken\n" + path.read_bytes())
    assert rig.sweep("two").ledger == ledger(6, 0, 0, 0)


# -- interruption ------------------------------------------------------------------------------------------------------


def test_unfinished_packs_go_on_from_their_checkpoint(rig):
    sweep = rig.sweep()
    play(sweep, last=1)
    die(sweep)
    again = rig.sweep()
    assert len(events(again.folder, "pack")) == 2  # planned once
    (first, resume), (second, fresh) = play(again)
    assert resume == again.folder / "packs" / first.identity / "seen-001"
    assert fresh is None
    assert second.identity != first.identity
    assert again.ledger == ledger(6, 6, 0, 0)
    assert events(again.folder, "start")[1]["attempt"] == 2
    assert rows_are_unique(again.folder)
    assert all(record.seen == TASKS for record in again.record.trials.values())


def test_a_driver_that_died_between_the_last_report_and_done(rig):
    sweep = rig.sweep()
    pack, _ = sweep.next_pack()
    sweep.started(pack.identity)
    sweep.journal.append("task", pack=pack.identity, seen=0, checkpoint="packs/x/seen-000", members=[], sync=True)
    die(sweep)
    again = rig.sweep()
    play(again)
    assert again.ledger == ledger(6, 6, 0, 0)


def test_the_retry_of_a_failed_member_is_not_failed_by_its_old_pack(rig):
    sweep = rig.sweep()
    bad = next(iter(sweep.record.trials))
    play(sweep, failing={bad}, last=1)  # the pack had two tasks to go
    die(sweep)
    again = rig.sweep()
    orders = [[t.identity for t in pack.trials] for pack, _ in [*again.queue]]
    assert [bad] in orders
    assert len(orders[0]) == 3
    pack, _ = again.next_pack()
    again.started(pack.identity)
    for seen in (2, 3):
        report(again, pack, seen, failing={bad})
    again.ended(pack.identity)
    assert again.record.trials[bad].status == "open"
    play(again)
    assert again.ledger == ledger(6, 6, 0, 0)


def test_an_interrupted_pack_stays_open(rig):
    sweep = rig.sweep()
    pack, _ = sweep.next_pack()
    sweep.started(pack.identity)
    report(sweep, pack, 0)
    sweep.stopping = "interrupted"
    sweep.ended(pack.identity)
    assert sweep.next_pack() == (None, None)
    assert sweep.ledger == ledger(6, 0, 0, 0)
    assert sweep.record.trials[pack.trials[0].identity].status == "running"


def test_a_fault_of_the_environment_stops_the_sweep(rig):
    sweep = rig.sweep()
    pack, _ = sweep.next_pack()
    sweep.started(pack.identity)
    sweep.reported(pack.identity, {"seen": -1, "environment": "OSError: disk full", "traceback": ""}, None)
    sweep.ended(pack.identity)
    assert sweep.environment == "OSError: disk full"
    assert sweep.next_pack() == (None, None)
    assert sweep.ledger == ledger(6, 0, 0, 0)
    die(sweep)
    again = rig.sweep()
    play(again)
    assert again.ledger == ledger(6, 6, 0, 0)


def test_a_journal_that_cannot_be_written_says_so(rig, monkeypatch):
    sweep = rig.sweep()
    pack, _ = sweep.next_pack()

    def full(self, line, sync):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Journal, "_write", full)
    with pytest.raises(OSError, match="No space"):
        sweep.started(pack.identity)
    assert sweep.record.packs[pack.identity].attempt == 0  # what is not in the journal did not happen


def test_the_time_budget(rig):
    sweep = rig.sweep(budget=1e-9)
    assert sweep.next_pack() == (None, None)
    assert sweep.stopping == "time budget"
    assert rig.sweep("other", budget=60).next_pack()[0] is not None


def test_a_time_budget_that_ends_after_the_last_trial_stops_nothing(rig):
    play(rig.sweep())
    again = rig.sweep(budget=1e-9)
    assert again.next_pack() == (None, None)
    assert again.stopping is None


# -- references and rho ------------------------------------------------------------------------------------------------


def hand_rho(own, joint, random, seen):
    """HAT, section 4.1, digit by digit."""
    ratios = []
    for u in range(seen):
        r = accuracy(random, "test", u + 1, u)
        ratios.append((accuracy(own, "test", seen, u) - r) / (accuracy(joint, "test", seen, u) - r) - 1)
    return sum(ratios) / len(ratios)


def test_references_run_once_a_seed_and_give_rho(rig):
    sweep = rig.sweep(references=True, seeds=(0, 1))
    play(sweep)
    references = [t for t in sweep.record.trials.values() if t.role == "reference"]
    assert sorted((t.method, t.seed) for t in references) == [("joint", 0), ("joint", 1), ("random", 0), ("random", 1)]
    assert sweep.ledger == ledger(12, 12, 0, 0)  # references are not counted
    by = {(t.method, t.seed): t.trial for t in references}
    trials = [t for t in sweep.record.trials.values() if t.role == "trial"]
    assert len(trials) == 12
    for trial in trials:
        joint, random = by["joint", trial.seed], by["random", trial.seed]
        assert (trial.joint, trial.random) == (joint, random)
        assert trial.rho == pytest.approx([hand_rho(trial.trial, joint, random, seen) for seen in (1, 2, 3)], abs=1e-12)
    assert all(t.rho is None for t in references)
    assert len(events(sweep.folder, "rho")) == 12


def test_references_are_found_in_the_home(rig):
    play(rig.sweep("one", Grid(Space("grid", values={"c": (3.0,)})), references=True))
    two = rig.sweep("two", references=True)
    played = play(two)
    assert {t.role for pack, _ in played for t in pack.trials} == {"trial"}
    assert not events(two.folder, "linked")  # a reference is no trial of the question
    assert all(t.rho is not None for t in two.record.trials.values())


def test_a_failed_reference_costs_only_rho(rig):
    sweep = rig.sweep(references=True)
    joint = next(t.trial for t in sweep.record.trials.values() if t.method == "joint")
    play(sweep, failing={joint})
    assert sweep.ledger == ledger(6, 6, 0, 0)
    assert all(t.rho is None for t in sweep.record.trials.values())
    die(sweep)
    again = rig.sweep(references=True)
    play(again)
    assert len(events(again.folder, "rho")) == 6


# -- what a study hears ------------------------------------------------------------------------------------------------


def expected_score(trial):
    """Mean validation accuracy after the last task."""
    return fmean(accuracy(trial, "validation", TASKS, u) for u in range(TASKS))


def test_the_mean_over_seeds_is_told(rig):
    sweep = rig.sweep(search=study(rig), seeds=(0, 1, 2), batch=2)
    play(sweep)
    assert sweep.ledger == ledger(12, 12, 0, 0)
    groups = {}
    for trial in sweep.record.trials.values():
        groups.setdefault(trial.study, []).append(trial)
    found = stored(rig.home / "mine" / "study.log")
    assert len(found) == 4
    for trial in found:
        assert trial.state == TrialState.COMPLETE
        assert {t.seed for t in groups[trial.number]} == {0, 1, 2}
        assert {t.hyperparameters["c"] for t in groups[trial.number]} == {trial.params["c"]}
        assert trial.value == pytest.approx(fmean(expected_score(t.trial) for t in groups[trial.number]), abs=1e-12)


def test_one_failed_seed_fails_the_configuration(rig):
    sweep = rig.sweep(search=study(rig), seeds=(0, 1))
    bad = next(t.trial for t in sweep.record.trials.values() if t.study == 1 and t.seed == 1)
    play(sweep, failing={bad})
    states = [trial.state for trial in stored(rig.home / "mine" / "study.log")]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert sweep.ledger == ledger(8, 7, 0, 1)


def test_an_interrupted_study_goes_on_with_the_same_points(rig, tmp_path):
    other = Rig(tmp_path / "undisturbed")
    play(other.sweep(search=study(other), seeds=(0, 1), batch=2, size=1))
    sweep = rig.sweep(search=study(rig), seeds=(0, 1), batch=2, size=1)
    play(sweep, packs=3)
    play(sweep, packs=1, last=1)
    die(sweep)
    again = rig.sweep(search=study(rig), seeds=(0, 1), batch=2, size=1)
    play(again)
    assert again.ledger == ledger(8, 5, 3, 0)
    points = [trial.params["c"] for trial in stored(rig.home / "mine" / "study.log")]
    assert points[:2] == [trial.params["c"] for trial in stored(other.home / "mine" / "study.log")][:2]
    assert len(set(points)) == len(points) == 4
    assert all(trial.state == TrialState.COMPLETE for trial in stored(rig.home / "mine" / "study.log"))


def test_a_score_the_study_never_heard_is_told_on_resume(rig, monkeypatch):
    search = study(rig)
    monkeypatch.setattr(search, "tell", lambda *_: None)  # the driver dies between the journal and the study
    sweep = rig.sweep(search=search, batch=4)
    play(sweep)
    die(sweep)
    assert {trial.state for trial in stored(rig.home / "mine" / "study.log")} == {TrialState.RUNNING}
    again = rig.sweep(search=study(rig))
    assert play(again) == []
    found = stored(rig.home / "mine" / "study.log")
    assert {trial.state for trial in found} == {TrialState.COMPLETE}
    assert found[0].value == pytest.approx(expected_score(next(t.trial for t in again.record.trials.values() if t.study == 0)))


def test_a_seed_whose_pack_was_never_planned_is_planned_on_resume(rig):
    sweep = rig.sweep(search=study(rig, trials=2), seeds=(0, 1), size=9)
    die(sweep)
    path = sweep.folder / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["event"] for line in lines] == ["sweep", "pack", "pack"]
    path.write_bytes(b"".join(lines[:2]))  # the driver died between the two seeds' packs
    again = rig.sweep(search=study(rig, trials=2), seeds=(0, 1), size=9)
    play(again)
    assert again.ledger == ledger(4, 4, 0, 0)
    assert {trial.state for trial in stored(path.parent / "study.log")} == {TrialState.COMPLETE}


def test_proposals_that_are_the_same_run_once_and_are_all_told(rig):
    switch = {"c": Range(choices=(0.1, 0.2))}
    sweep = rig.sweep(search=study(rig, trials=6, ranges=switch), batch=3)
    play(sweep)
    assert sweep.ledger == ledger(2, 2, 0, 0)
    found = stored(rig.home / "mine" / "study.log")
    assert len(found) == 6
    by = {t.hyperparameters["c"]: expected_score(t.trial) for t in sweep.record.trials.values()}
    assert [trial.value for trial in found] == pytest.approx([by[trial.params["c"]] for trial in found])
    die(sweep)
    again = rig.sweep(search=study(rig, trials=6, ranges=switch), batch=3)
    assert play(again) == []
    assert again.ledger == ledger(2, 0, 2, 0)
    assert len(stored(rig.home / "mine" / "study.log")) == 6  # the same call asks for nothing new


def test_a_study_whose_trials_another_sweep_has(rig):
    play(rig.sweep("one", study(rig, name="one"), seeds=(0,)))
    two = rig.sweep("two", study(rig, name="two"), seeds=(0, 1))  # the same points, with one more seed
    played = play(two)
    assert {t.seed for pack, _ in played for t in pack.trials} == {1}
    assert two.ledger == ledger(8, 4, 4, 0)
    for trial in stored(rig.home / "two" / "study.log"):
        seeds = [t for t in [*two.record.trials.values(), *two.linked.values()] if t.hyperparameters["c"] == trial.params["c"]]
        assert trial.value == pytest.approx(fmean(expected_score(t.trial) for t in seeds))
    die(two)
    again = rig.sweep("two", study(rig, name="two"), seeds=(0, 1))
    assert play(again) == []
    assert again.ledger == ledger(8, 0, 8, 0)
    assert len(stored(rig.home / "two" / "study.log")) == 4


def test_a_study_whose_trials_another_sweep_has_all(rig):
    play(rig.sweep("one", study(rig, name="one")))
    for _ in range(2):
        two = rig.sweep("two", study(rig, name="two"))
        assert play(two) == []
        assert two.ledger == ledger(4, 0, 4, 0)
        die(two)
    assert len(stored(rig.home / "two" / "study.log")) == 4


@pytest.mark.parametrize("poison", [math.nan, 0.0, 1.0, 1e9])
def test_test_accuracies_change_no_choice(rig, poison):
    """The poison test of the design: other test rows, the same proposals, scores and order."""

    def poisoned(trial, split, seen, task):
        return poison if split == "test" else accuracy(trial, split, seen, task)

    heard = {}
    for name, values in (("clean", accuracy), ("poisoned", poisoned)):
        tpe = Study(Space("tpe", ranges={"c": Range(0.1, 4.0)}), rig.home / name / "study.log", 0, 14)
        sweep = rig.sweep(name, tpe, batch=2)
        # linked trials would hide the poison: each sweep has a home of its own
        sweep.elsewhere.clear()
        play(sweep, values=values)
        heard[name] = [(trial.params, trial.value, trial.state) for trial in stored(rig.home / name / "study.log")]
        assert len(heard[name]) == 14
    assert heard["clean"] == heard["poisoned"]


def test_validation_accuracies_do_change_choices(rig):
    """The other half of the poison test: what may be seen is looked at."""
    heard = {}
    for name, factor in (("clean", 1.0), ("changed", -1.0)):
        tpe = Study(Space("tpe", ranges={"c": Range(0.1, 4.0)}), rig.home / name / "study.log", 0, 14)
        sweep = rig.sweep(name, tpe, batch=2)
        sweep.elsewhere.clear()
        play(sweep, values=lambda trial, split, seen, task, f=factor: f * accuracy(trial, split, seen, task))
        heard[name] = [trial.params for trial in stored(rig.home / name / "study.log")]
    assert heard["clean"] != heard["changed"]


def test_the_score_reads_validation_after_the_last_task(rig):
    sweep = rig.sweep()
    play(sweep)
    for trial in sweep.record.trials.values():
        assert score(trial) == pytest.approx(expected_score(trial.trial), abs=1e-12)
    assert len(SIX.cells()) == len(sweep.record.trials)


def test_a_task_that_is_reported_again_is_no_second_row(rig):
    """A worker is lost after its report, before its checkpoint was safe; its successor learns the task once more."""
    sweep = rig.sweep()
    pack, _ = sweep.next_pack()
    sweep.started(pack.identity)
    report(sweep, pack, 0)
    report(sweep, pack, 1)
    sign = sweep.folder / HEARTBEATS / f"{pack.identity}.json"
    sign.parent.mkdir()
    sign.touch()
    heard = sweep.record.packs[pack.identity].heard
    os.utime(sign, (heard + 7, heard + 7))  # its last sign of life
    sweep.started(pack.identity)
    for seen in (1, 2, 3):
        report(sweep, pack, seen)
    sweep.ended(pack.identity)
    events = read(sweep.journal.path)[0]
    assert [(e["event"], e["seen"]) for e in events if "seen" in e] == [
        ("task", 0), ("task", 1), ("again", 1), ("task", 2), ("task", 3),
    ]  # fmt: skip
    assert [e["lost"] for e in events if e["event"] == "start"] == [0, pytest.approx(7, abs=1e-3)]
    assert sweep.record.repeated == pytest.approx(7 + len(pack.trials), abs=1e-3)
    assert all(sweep.record.trials[t.identity].status == "done" for t in pack.trials)
