"""The two laws, for every registered method: a pack ends where its members end alone; resumed is uninterrupted.

And what follows from the first: a member that fails does not touch its neighbours.
"""

import math

import pytest
import torch
from helpers import SCENARIOS, begin, distance, facts, finish, learner, same, spread

from clcore import trainer
from clcore.checkpoint import DamagedCheckpoint
from clcore.methods import METHODS, At
from clcore.pack import Member, select
from clcore.pool import stage_pool
from clcore.randomness import torch_stream
from clcore.recorded import Recorder
from clcore.trainer import Trainer

NAMES = METHODS.names()
EACH = pytest.mark.parametrize("name", NAMES)
#: What members of a pack share can change how a method computes; each such way is held to the laws too.
WAYS = [(name, {}) for name in NAMES] + [
    ("hat", {"binarize": True}),
    ("hat", {"compensation": "analytic", "schedule": "tan", "input_attention": True}),
    ("hat", {"gate": "clamped-linear", "cumulative": "decayed", "embedding_init": "uniform", "schedule": "tan-beta"}),
    ("tfm", {"search_growth": True}),
    ("tfm", {"search_growth": True, "retrain": True}),
    ("tfm", {"fn_position": "post", "growth_unit": "weights", "new_columns": "zero"}),
    ("hnet", {"regulariser": "direct", "reg_heads": "own", "reg_batch": 1, "lookahead": False, "layers": "none"}),
    ("hnet", {"continue_embeddings": True, "chunk": 0, "layers": "7", "embedding_size": 3, "activation": "sigmoid"}),
    ("supsup", {"mask": "threshold", "score_init": "mask-mean", "outputs": 7}),
    ("supsup", {"score_init": "score-mean"}),
]
#: Methods whose parameters only say which fixed weights or units are on: whatever their size, the network stays finite.
ONLY_SCORES = {"supsup", "hopsupsup"}
#: Methods that invert matrices of nearly equal rows, which makes more of rounding, by the processor.
INVERTING = {"fromp", "frcl"}
#: Ways that differ only where the task is not given.
WITHOUT_IDS = [(name, {}) for name in NAMES] + [("hnet", {"inference": "classifier"})]
IN_EACH_WAY = pytest.mark.parametrize(("name", "shared"), WAYS, ids=lambda v: v if isinstance(v, str) else "-".join(v) or "plain")
#: High rates, so that validation losses rise now and then: members lose patience, and some leave the pack early.
LRS = [0.3, 3.5, 1.2]
SMALL = (("validation_fraction", 0.6),)
TRAINING = {"batch_size": 64, "epochs": 5, "tasks": 2, "lr_min": 1.0, "options": SMALL}


def pack(name, shared, places=(0, 1, 2), **options):
    hypers = spread(METHODS.get(name).Hyper, 3, shared)
    lrs = options.pop("lrs", LRS)
    return learner(name, [hypers[p] for p in places], lrs=[lrs[p] for p in places], **{**TRAINING, **options})


def check_pack_is_solo(name, shared, places=(0,), **options):
    """Everything the members at ``places`` report and keep, alone and in the whole pack; memory to rounding.

    The first member of a growing method is the narrowest: it is the one that its neighbours' widths could disturb.
    """
    together, near = pack(name, shared, dtype=torch.float64, **options), 1e-6 if name in INVERTING else 1e-9
    reports = finish(together)
    for place in places:
        alone = pack(name, shared, (place,), dtype=torch.float64, **options)
        own = finish(alone)
        for mine, ours in zip(own, reports, strict=True):
            (a,), b = mine.members, ours.members[place]
            assert repr((a.test, a.validation, a.epochs, a.bytes)) == repr((b.test, b.validation, b.epochs, b.bytes))
            assert (a.capacity, a.use, a.reuse, a.compressed) == (b.capacity, b.use, b.reuse, b.compressed)
            assert a.train_loss == pytest.approx(b.train_loss, abs=near, nan_ok=True)
        assert distance(alone.memory_of(0), together.memory_of(place)) < near
    return reports


@IN_EACH_WAY
def test_a_pack_ends_where_its_members_end_alone(name, shared):
    """With a member that cannot improve, so that in every task somebody leaves the pack before its end."""
    reports = check_pack_is_solo(name, shared, (0, 2), tasks=3, epochs=4, lrs=[0.3, 0.0, 1.2])
    if name != "random":
        idle = [report.members[1].epochs for report in reports[1:]]
        tracks = METHODS.get(name).defaults.get("norm", "none") != "none"  # running statistics move where nothing is learned
        stages = [len(pack(name, shared, tasks=3).method.stages(At(task, "train", task + 1))) for task in range(3)]
        assert idle == [2 * count for count in stages] or (tracks and min(idle) == 2)
        assert max(report.members[0].epochs for report in reports[1:]) > 2


@pytest.mark.parametrize(("name", "shared"), WITHOUT_IDS)
@pytest.mark.parametrize("scenario", SCENARIOS[1:])
def test_a_pack_ends_where_its_members_end_alone_without_task_ids(name, shared, scenario):
    check_pack_is_solo(name, shared, scenario=scenario, epochs=2)


@EACH
def test_the_noise_of_dropout_does_something(name):
    with_noise, without = (pack(name, {}, drop=drop, epochs=1, tasks=1) for drop in (0.4, 0.0))
    assert (facts(finish(with_noise)) != facts(finish(without))) == (name != "random")


@EACH
def test_a_pack_ends_where_its_members_end_alone_with_adam_decay_and_clipping(name):
    """A fixed protocol: its members all train to the end. Rates are low: Adam divides by what may be rounding."""
    optimiser = {"optimizer": "adam", "weight_decay": 0.05, "clip": 0.05}
    check_pack_is_solo(name, {}, protocol="fixed", epochs=2, lrs=[0.01, 0.003, 0.02], **optimiser)


@EACH
def test_a_convolution_and_the_noise_of_dropout_in_a_pack(name):
    check_pack_is_solo(name, {}, net="conv", epochs=2, drop=0.4, input_drop=0.2)


@EACH
def test_in_float32_a_packed_step_is_the_solo_step(name):
    """From the same state each time: over many steps the rounding of float32 grows."""
    made = pack(name, {})
    made.method.network.train()
    params, memory, at = begin(made)
    stages = made.method.stages(at)
    if not stages:
        return
    splits = {t.index: t.train for t in made.benchmark.tasks}
    pool = stage_pool(stages[0], splits, torch.float32)
    trainer = Trainer(made.method, made.training, 0, (0,))
    state, lr = trainer.start(params), torch.tensor([member.lr for member in made.members])
    for index, batch in enumerate(pool.batches(32)):
        with torch_stream(0, index):  # for methods that draw in a step
            after = trainer.packed_step(params, state, memory, made.hp, lr, batch, at)
        for place in range(3):
            own = [select(t, [place]) for t in (params, state, memory, made.hp)]
            with torch_stream(0, index):
                solo = trainer.packed_step(*own, lr[place : place + 1], batch, at)
            for part, (one, many) in enumerate(zip(solo[:2], after[:2], strict=True)):
                for n, value in one.items():
                    assert torch.allclose(value[0], many[n][place], rtol=1e-6, atol=1e-6), (part, n, index)
            assert torch.allclose(solo[2][0], after[2][place], rtol=1e-6, atol=1e-6)
        params, state, _ = after


@IN_EACH_WAY
def test_recorded_steps_are_the_steps_bit_for_bit(name, shared, monkeypatch):
    """Those of whole packs: with copies in the place of members that have left, products of many matrices may round otherwise."""
    made = []

    class Kept(Recorder):
        def __init__(self):
            super().__init__(patience)
            made.append(self)

        def width(self, device, members):
            return members

    monkeypatch.setattr(trainer, "Recorder", Kept)
    found = []
    for patience in (0, 10**9):
        own = pack(name, shared, (0, 1), epochs=3, drop=0.2, batch_size=200)  # all of a task, so that one step is recorded
        found.append((facts(finish(own)), own.memory))
        assert {recorder.failed for recorder in made} <= {""}
        assert any(recorder._known for recorder in made) == (patience == 0 and name != "random")
        made.clear()
    assert found[0][0] == found[1][0]
    assert same(found[0][1], found[1][1])


@EACH
def test_the_order_of_members_does_not_matter(name):
    forth, back = pack(name, {}, dtype=torch.float64, epochs=2), pack(name, {}, (2, 1, 0), dtype=torch.float64, epochs=2)
    finish(forth)
    finish(back)
    for place in range(3):
        assert distance(forth.memory_of(place), back.memory_of(2 - place)) < 1e-9


# -- resumed = uninterrupted -------------------------------------------------------------------------------------------


@IN_EACH_WAY
def test_resumed_after_any_task_ends_bit_for_bit_where_the_uninterrupted_ends(name, shared, tmp_path):
    """With dropout, and with momentum, whose state starts afresh at every task."""
    options = {"tasks": 3, "epochs": 2, "drop": 0.3, "optimizer": "momentum", "lrs": [0.03, 0.4, 0.1], "lr_min": 0.05}
    whole, reports = pack(name, shared, **options), []
    for report in whole.run():
        if type(report).__name__ == "Report":
            reports.append(report)
            if report.seen:
                whole.save(tmp_path / str(report.seen))
    for seen in (1, 2):
        resumed = pack(name, shared, **options)
        resumed.load(tmp_path / str(seen))
        assert resumed.seen == seen
        assert facts(finish(resumed)) == facts(reports)[seen + 1 :]
        assert same(resumed.memory, whole.memory)


@EACH
def test_loaded_after_the_last_task_it_says_the_last_report_again(name, tmp_path):
    made = pack(name, {}, tasks=2, epochs=2)
    last = finish(made)[-1]
    made.save(tmp_path)
    again = pack(name, {}, tasks=2, epochs=2)
    again.load(tmp_path)
    [said] = finish(again)
    assert said.seen == 2
    for before, after in zip(last.members, said.members, strict=True):
        assert (before.test, before.validation, before.bytes) == (after.test, after.validation, after.bytes)
        assert (before.capacity, before.reuse) == (after.capacity, after.reuse)


@EACH
def test_a_pack_that_lost_a_member_is_resumed_without_it(name, tmp_path):
    if name == "random":
        return
    options = {"lrs": [0.3, math.nan, 0.6], "tasks": 3, "epochs": 2}
    made = pack(name, {}, **options)
    reports = []
    for said in made.run():
        if type(said).__name__ == "Report":
            reports.append(said)
            if said.seen == 1:
                made.save(tmp_path)
    resumed = pack(name, {}, **options)
    resumed.load(tmp_path)
    assert resumed.alive == [0, 2]
    assert facts(finish(resumed)) == facts(reports)[2:]
    assert same(resumed.memory, made.memory)


@pytest.mark.parametrize(
    "other",
    [
        {"places": (0, 1)},
        {"places": (0, 2, 1)},
        {"seed": 1},
        {"scenario": "class-il"},
        {"dtype": torch.float64},
        {"shared": {"c": 2.0}},
        {"name": "finetune"},
    ],
)
def test_a_checkpoint_of_another_pack_is_refused(other, tmp_path):
    made = pack("hat", {}, tasks=2, epochs=1)
    finish(made)
    made.save(tmp_path)
    name, shared = other.pop("name", "hat"), other.pop("shared", {})
    with pytest.raises(DamagedCheckpoint, match="another pack"):
        pack(name, shared, **{"tasks": 2, "epochs": 1, **other}).load(tmp_path)


# -- failures ----------------------------------------------------------------------------------------------------------


@IN_EACH_WAY
def test_a_member_that_fails_does_not_touch_its_neighbours(name, shared):
    if name == "random":
        return
    options = {"dtype": torch.float64, "epochs": 3, "lrs": [0.3, math.nan, 0.2]}
    broken = pack(name, shared, **options)
    reports = finish(broken)
    assert [[(f.member, f.task, f.epoch, f.step) for f in r.failures] for r in reports] == [[], [(1, 0, 0, 1)], []]
    assert [[m.member for m in r.members] for r in reports] == [[0, 1, 2], [0, 2], [0, 2]]
    sound = pack(name, shared, (0, 2), **options)
    expected = finish(sound)[-1].members
    for place, own in enumerate(reports[-1].members):
        assert repr((own.test, own.validation)) == repr((expected[place].test, expected[place].validation))
        assert distance(sound.memory_of(place), broken.memory_of(own.member)) < 1e-9


@EACH
def test_an_absurd_learning_rate_fails_within_the_first_steps(name):
    """In float32: 1e30 times a gradient is finite, what the network makes of such weights is not."""
    if name == "random":
        return
    made = pack(name, {}, lrs=[0.3, 1e30, 0.2], epochs=2, tasks=1, batch_size=32)
    [_, report] = finish(made)
    if name in ONLY_SCORES:
        assert report.failures == []
        return
    [failure] = report.failures
    assert (failure.member, failure.task, failure.epoch) == (1, 0, 0)
    assert failure.step in ((1, 2, 3) if made.method.network.norms else (1, 2))  # normalised, one step more is finite
    assert all(bool(t.isfinite().all()) for t in made.memory.values())


@EACH
def test_a_failed_member_leaves_no_trace_in_float32_either(name):
    """The members of the broken pack and of a pack in which the second is well start alike and stay alike, bit for bit, for
    as long as the two packs have as many members: one epoch."""
    ends = []
    for lr in (0.05, math.nan):
        made = pack(name, {}, lrs=[0.3, lr, 0.2], epochs=1, tasks=1)
        finish(made)
        ends.append(made)
    for index in (0, 2):
        assert same(ends[0].memory_of(index), ends[1].memory_of(index))


@IN_EACH_WAY
def test_when_all_members_fail_the_run_ends(name, shared, tmp_path):
    if name == "random":
        return
    made = pack(name, shared, (0, 1), lrs=[math.nan] * 2)
    reports = finish(made)
    assert [r.seen for r in reports] == [0, 1]
    assert [(f.member, f.task, f.epoch, f.step) for f in reports[-1].failures] == [(0, 0, 0, 1), (1, 0, 0, 1)]
    assert reports[-1].members == []
    assert made.alive == []
    made.save(tmp_path)
    resumed = pack(name, shared, (0, 1), lrs=[math.nan] * 2)
    resumed.load(tmp_path)
    assert finish(resumed) == []


@EACH
def test_a_failure_in_a_later_task_says_where(name):
    if name == "random":
        return
    made = pack(name, {}, (0, 1), tasks=3, epochs=2)
    reports = []
    for said in made.run():
        if type(said).__name__ == "Report":
            reports.append(said)
            if said.seen == 1:
                made.members[0] = Member(made.members[0].hyper, math.nan)
    assert [(f.member, f.task, f.epoch, f.step) for r in reports for f in r.failures] == [(0, 1, 0, 1)]
    assert [[m.member for m in r.members] for r in reports] == [[0, 1], [0, 1], [1], [1]]
