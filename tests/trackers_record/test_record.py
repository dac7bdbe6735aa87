import math

import pytest
import torch
from fake_sweep import TASKS, FakeSweep, item

from clcore.errors import UserError
from trackers.journal import read
from trackers.labels import run_name, show, varying_in
from trackers.record import JOURNAL, load, replay
from trackers.summary import configurations, leaderboard


def test_a_whole_pack(sweep):
    names = sweep.whole_pack("p0", [item(0), item(1)])
    record = load(sweep.folder)
    trial = record.trials[names[0]]
    assert (trial.status, trial.seen, trial.pack, trial.bytes) == ("done", TASKS, "p0", 4096 + TASKS)
    assert trial.seconds == pytest.approx(1.5 * (TASKS + 1))
    assert trial.test.shape == (TASKS + 1, TASKS)
    assert trial.test.dtype == torch.float64
    assert trial.test.isfinite().all()
    assert trial.artifacts == f"trials/{names[0]}"
    assert record.unfinished == []
    assert record.ledger == {"asked": 2, "done": 2, "skipped": 0, "failed": 0}


def test_unknown_numbers_are_nan(sweep):
    one = item(0)
    sweep.pack("p0", [one])
    test = [0.9, math.nan, None, 0.5, 0.5]
    sweep.task("p0", 1, [sweep.member(one["trial"], 1, validation=None, test=test, train_loss=math.inf)])
    trial = load(sweep.folder).trials[one["trial"]]
    assert trial.validation.isnan().all()
    assert trial.test[1].isnan().tolist() == [False, True, True, False, False]
    assert trial.test[0].isnan().all()
    assert trial.latest.train_loss is None


def test_of_two_rows_the_first_counts(sweep):
    one = item(0)
    sweep.pack("p0", [one])
    sweep.run_tasks("p0", [one["trial"]], [0, 1])
    before = load(sweep.folder).trials[one["trial"]]
    sweep.task("p0", 1, [sweep.member(one["trial"], 1, test=[0.1] * TASKS, seconds=99.0)])
    after = load(sweep.folder).trials[one["trial"]]
    assert torch.equal(before.test.nan_to_num(-1), after.test.nan_to_num(-1))
    assert after.rows == before.rows


def test_unfinished_pack_has_its_last_checkpoint(sweep):
    a, b = item(0), item(1)
    sweep.whole_pack("p0", [a])
    sweep.pack("p1", [b])
    sweep.pack("p2", [item(2)])
    sweep.start("p1")
    sweep.run_tasks("p1", [b["trial"]], [0, 1, 2])
    first, second = load(sweep.folder).unfinished
    assert (first.pack, first.checkpoint, first.checkpoint_seen) == ("p1", "checkpoints/p1/2", 2)
    assert (second.pack, second.checkpoint, second.attempt) == ("p2", None, 0)


def test_a_resume_opens_what_was_running(sweep):
    one = item(0)
    sweep.pack("p0", [one])
    sweep.start("p0")
    assert load(sweep.folder).trials[one["trial"]].status == "running"
    sweep.journal.append("stop", reason="interrupted", detail="SIGINT")
    assert load(sweep.folder).stop["reason"] == "interrupted"
    sweep.sweep(command="clsweep --resume x")
    record = load(sweep.folder)
    assert record.trials[one["trial"]].status == "open"
    assert record.stop is None
    assert record.sweep["command"] == "clsweep --resume x"
    assert record.first["command"].startswith("python")


def test_failed_trial_is_open_again_in_a_later_pack(sweep):
    a, b = item(0), item(1)
    sweep.pack("p0", [a, b])
    sweep.start("p0")
    sweep.failed(a["trial"], "p0")
    sweep.run_tasks("p0", [b["trial"]])
    sweep.done(b["trial"], "p0")
    record = load(sweep.folder)
    assert record.ledger == {"asked": 2, "done": 1, "skipped": 0, "failed": 1}
    assert record.unfinished == []
    assert record.trials[a["trial"]].where == {"task": 2, "epoch": 0, "step": 17}
    sweep.pack("p1", [a, b])
    record = load(sweep.folder)
    assert [pack.pack for pack in record.unfinished] == ["p1"]
    assert (record.trials[a["trial"]].status, record.trials[a["trial"]].reason) == ("open", None)
    assert record.trials[b["trial"]].status == "done"


def test_links_references_and_the_ledger(sweep):
    sweep.whole_pack("p0", [item(0), item(9, role="reference")])
    sweep.journal.append("linked", trial="x1", config="c9", seed=0, sweep="older", method="tfm", hyperparameters={"growth": 0.1})
    record = load(sweep.folder)
    assert record.ledger == {"asked": 2, "done": 1, "skipped": 1, "failed": 0}
    assert record.linked["x1"].sweep == "older"
    sweep.end(asked=3, done=1, skipped=2)
    assert load(sweep.folder).ledger["skipped"] == 2


def test_rho_first_counts(sweep):
    one = item(0)
    sweep.pack("p0", [one])
    for value in (-0.1, -0.5):
        sweep.journal.append("rho", trial=one["trial"], values=[value] * TASKS, joint="j", random="r")
    assert load(sweep.folder).trials[one["trial"]].rho == [-0.1] * TASKS


def test_replay_in_parts_is_replay_at_once(sweep):
    sweep.whole_pack("p0", [item(0), item(1)])
    sweep.end()
    events, _ = read(sweep.folder / JOURNAL)
    parts = replay(events[:5])
    for event in events[5:]:
        parts.apply(event)
    whole = replay(events)
    assert [t.status for t in parts.trials.values()] == [t.status for t in whole.trials.values()]
    assert parts.seconds == whole.seconds
    assert parts.closings == whole.closings == 2


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("party", {}, "unknown kind 'party'"),
        ("start", {"pack": "nowhere", "attempt": 1}, "'nowhere'"),
        ("start", {}, "'pack'"),
        ("sweep", {"format": 2}, "format 2"),
    ],
)
def test_events_that_make_no_sense(sweep, kind, fields, message):
    sweep.journal.append(kind, **fields)
    with pytest.raises(UserError, match=message):
        load(sweep.folder)


def test_a_journal_begins_with_its_sweep(tmp_path):
    fake = FakeSweep(tmp_path)
    fake.start("p0")
    with pytest.raises(UserError, match="does not begin"):
        load(tmp_path)


def test_a_row_of_the_wrong_length(sweep):
    one = item(0)
    sweep.pack("p0", [one])
    sweep.task("p0", 1, [sweep.member(one["trial"], 1, test=[0.5])])
    with pytest.raises(UserError, match="does not fit"):
        load(sweep.folder)


def test_names_show_only_what_varies(sweep):
    sweep.whole_pack("p0", [item(0), item(1), item(9, role="reference", other=1)])
    record = load(sweep.folder)
    assert varying_in(record) == ["growth", "norm"]
    trial = next(iter(record.trials.values()))
    assert run_name(trial, varying_in(record)) == f"tfm growth=0.02 norm=on s0 · {trial.trial[:4]}"
    assert run_name(trial, []) == f"tfm s0 · {trial.trial[:4]}"
    assert [show(v) for v in (0.1 + 0.2, 1e-5, True, [100, 100], None)] == ["0.3", "1e-05", "on", "100-100", "None"]


def test_the_best_are_chosen_on_validation_data_only(sweep):
    good, lucky = item(0), item(1)
    sweep.pack("p0", [good, lucky])
    for seen in range(TASKS + 1):
        sweep.task(
            "p0",
            seen,
            [
                sweep.member(good["trial"], seen, validation=[0.9] * TASKS, test=[math.nan] * TASKS),
                sweep.member(lucky["trial"], seen, validation=[0.8] * TASKS, test=[1.0] * TASKS),
            ],
        )
    sweep.done(good["trial"], "p0")
    sweep.done(lucky["trial"], "p0")
    assert [c.config for c in configurations(load(sweep.folder))] == [good["config"], lucky["config"]]


def test_leaderboard_over_seeds(sweep):
    sweep.whole_pack("p0", [item(0), item(1)])
    sweep.whole_pack("p1", [item(0, seed=1), item(1, seed=1)])
    rows = leaderboard(load(sweep.folder))
    assert [row["rank"] for row in rows] == [1, 2]
    assert rows[0]["seeds"] == 2
    assert rows[0]["acc_avg_validation"] >= rows[1]["acc_avg_validation"]
    assert {"growth", "norm", "acc_avg_std", "trials"} <= rows[0].keys()
