"""Streams without task ids: the sampler, RMN's watch, and the learner (RMN, algorithm 2)."""

import math
from types import SimpleNamespace

import pytest
import torch
from helpers import benchmark, network

from clcore import hyper
from clcore.errors import BadValue
from clcore.methods.base import Batch, Layout
from clcore.methods.rmn import RMN, RMNHyper
from clcore.methods.rmn.switch import TaskSwitch
from clcore.quick import preferred
from clcore.streams import Stream, StreamLearner
from clcore.streams.sampler import confusion
from clcore.training import Training


def digits(tasks=3):
    return benchmark(tasks=tasks, scenario="domain-il")


# -- the sampler -------------------------------------------------------------------------------------------------------


def test_without_a_transition_tasks_follow_each_other():
    stream = Stream(digits(), 32, passes=2)
    shares = stream.shares()
    assert stream.lengths == [2 * len(task.train) // 32 for task in digits().tasks]
    assert shares == [{task: 32} for task, length in enumerate(stream.lengths) for _ in range(length)]
    assert len(list(stream)) == len(stream) == len(shares)


def test_in_a_transition_the_share_of_the_next_task_grows_linearly():
    stream = Stream(digits(), 40, passes=4, transition=10)
    shares, end = stream.shares(), stream.lengths[0]
    grown = [share.get(1, 0) for share in shares[end - 5 : end + 5]]
    assert grown == [2, 6, 10, 14, 18, 22, 26, 30, 34, 38]
    assert [share for share in shares[: end - 5] if share != {0: 40}] == []
    assert shares[end + 5] == {1: 40}
    assert all(sum(share.values()) == 40 for share in shares)
    for task, length in enumerate(stream.lengths):
        assert sum(share.get(task, 0) for share in shares) == length * 40


def test_batches_hold_what_their_shares_say_and_every_example_once_a_pass():
    bench = digits()
    stream = Stream(bench, 16, passes=1, transition=4, seed=3)
    for share, batch in zip(stream.shares(), stream, strict=True):
        assert {t: int((batch.tasks == t).sum()) for t in batch.tasks.unique().tolist()} == share
        assert batch.inputs.shape == (16, 1, 8, 8)
    first = torch.cat([batch.inputs[batch.tasks == 0] for batch in stream])
    known, _ = bench.tasks[0].train.batch(torch.arange(len(bench.tasks[0].train)), torch.float32)
    rows = {tuple(row) for row in known.flatten(1).tolist()}
    assert all(tuple(row) in rows for row in first.flatten(1).tolist())
    assert len(first.flatten(1).unique(dim=0)) >= len(first) - 4  # two digits may be equal, none is drawn twice


def test_a_stream_is_the_same_twice_and_another_with_another_seed():
    def draw(seed):
        return torch.cat([batch.labels for batch in Stream(digits(), 32, seed=seed)])

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


def test_what_a_stream_cannot_be():
    with pytest.raises(BadValue, match="domain-il"):
        Stream(benchmark(scenario="class-il"), 32)
    with pytest.raises(BadValue, match="transition"):
        Stream(digits(), 32, transition=1000)


def test_confusion_by_hand():
    table = confusion(torch.tensor([0, 0, 0, 2]), torch.tensor([1, 1, 0, 3]), 3, 4)
    assert table[0].tolist() == pytest.approx([1 / 3, 2 / 3, 0, 0])
    assert table[1].isnan().all()
    assert table[2].tolist() == [0, 0, 0, 1]


# -- the watch ---------------------------------------------------------------------------------------------------------


def watched(confidences, **settings):
    """Verdicts on batches under a mapping whose margin between two classes is drawn around each of ``confidences``."""
    generator = torch.Generator().manual_seed(0)
    watch, learner = TaskSwitch(grace=0, **settings), SimpleNamespace(mappings=1, seen=SimpleNamespace(step=0, starts=[0]))
    watch.begun(learner)
    verdicts = []
    for margin in confidences:
        margins = margin + 0.3 * torch.randn(64, generator=generator)
        learner.logits = lambda _, __, m=margins: torch.stack([m, torch.zeros_like(m)], 1)
        verdicts.append(watch.verdict(learner, Batch(torch.zeros(64, 1), torch.zeros(64))))
        learner.seen.step += 1
    return verdicts, watch


def test_a_sudden_loss_of_confidence_is_a_new_task():
    verdicts, _ = watched([2.0] * 10 + [0.5] * 2, lag=1)
    assert verdicts == ["known"] * 10 + ["wait", "new"]
    assert watched([2.0] * 10 + [0.5] * 2, lag=1, in_a_row=1)[0][10] == "new"


def test_one_strange_batch_or_rising_confidence_is_not():
    assert watched([2.0] * 10 + [0.5] + [2.0] * 3, lag=1)[0] == ["known"] * 10 + ["wait"] + ["known"] * 3
    assert set(watched([0.3 * i for i in range(10)], lag=1)[0]) == {"known"}


def test_a_significant_but_small_loss_is_not():
    sure = [6.0] * 10 + [5.2] * 3  # nearly log 2 both
    assert set(watched(sure, lag=1)[0]) == {"known"}
    assert "new" in watched(sure, lag=1, drop=0.0)[0]


def test_a_slow_loss_is_seen_against_an_older_batch():
    slow = [2.0] * 12 + [2.0 - 0.1 * i for i in range(1, 10)]
    assert "new" not in watched(slow, lag=1, p=1e-6)[0]
    assert "new" in watched(slow, lag=10, p=1e-6)[0]


def test_a_young_mapping_is_not_asked():
    watch = TaskSwitch(lag=1, grace=5)
    learner = SimpleNamespace(mappings=1, seen=SimpleNamespace(step=0, starts=[0]))
    watch.begun(learner)
    for step, margin in enumerate([2.0, 0.1, 2.0, 0.1]):
        learner.seen.step = step
        spread = margin + torch.linspace(-0.1, 0.1, 64)
        learner.logits = lambda _, __, m=spread: torch.stack([m, torch.zeros_like(m)], 1)
        assert watch.verdict(learner, Batch(torch.zeros(64, 1), torch.zeros(64))) == "known"


def test_what_an_earlier_mapping_knows_is_no_news():
    watch = TaskSwitch(probability=0.9)
    outputs = {0: torch.tensor([[5.0, 0.0], [1.0, 0.0], [2.9, 0.0]]), 1: torch.tensor([[9.0, 0.0]] * 3)}
    learner = SimpleNamespace(mappings=2, logits=lambda mapping, _: outputs[mapping])
    watch.levels = [3.0, 0.0]
    batch = Batch(torch.zeros(3, 1), torch.zeros(3))
    assert watch.news(learner, batch).tolist() == [False, True, True]  # the third is confident (.95) but not high
    watch.levels = [2.0, 0.0]
    assert watch.news(learner, batch).tolist() == [False, True, False]


# -- the learner -------------------------------------------------------------------------------------------------------


def permuted():
    return benchmark("permuted-digits", tasks=3, scenario="domain-il")


def learner_of(limit=6, **watch):
    net = network("mlp:32-32", (1, 8, 8), method="rmn")
    method = RMN(hyper.build(RMNHyper, {"straight_through": 1.0, "noise": "off"}), net, Layout("domain-il", (10,) * limit))
    training = hyper.build(Training, {**preferred("rmn", Training), "lr": 0.005})
    return StreamLearner(method, training, TaskSwitch(grace=10, **watch), seed=0)


@pytest.mark.parametrize("transition", [0, 8])
def test_tasks_are_found_learned_and_told_apart(transition):
    bench = permuted()
    stream, learner = Stream(bench, 64, passes=4, transition=transition), learner_of()
    starts = [0, stream.lengths[0], sum(stream.lengths[:2])]
    old = None
    for batch in stream:
        assert all(math.isfinite(loss) for loss in learner.feed(Batch(batch.inputs, batch.labels)))
        if learner.mappings == 2 and old is None:
            probe = batch.inputs
            old = learner.logits(0, probe)
    assert learner.mappings == 3
    assert all(abs(found - true) <= 2 + transition / 2 for found, true in zip(learner.seen.starts, starts, strict=True))
    assert torch.equal(learner.logits(0, probe), old)
    rights, table = learner.measure([bench.test(task) for task in range(3)])
    assert table.shape == (3, 3)
    assert torch.allclose(table.sum(1), torch.ones(3, dtype=torch.float64))
    assert table.argmax(1).tolist() == [0, 1, 2]
    inputs, labels = bench.test(1).batch(torch.arange(100), torch.float32)
    mappings, classes = learner.answers(inputs)
    assert torch.equal(mappings, torch.stack([learner.logits(k, inputs).amax(-1) for k in range(3)]).argmax(0))
    assert float((learner.logits(1, inputs).argmax(-1) == labels).double().mean()) > 0.75
    assert rights[1] == pytest.approx(float((classes == labels).double().mean()), abs=0.1)
    assert min(rights) > 0.4


def test_there_are_never_more_mappings_than_allowed():
    learner = learner_of(limit=2)
    for batch in Stream(permuted(), 64, passes=2):
        learner.feed(Batch(batch.inputs, batch.labels))
    assert learner.mappings == 2


def test_the_same_stream_twice_is_learned_alike():
    ends = []
    for _ in range(2):
        learner = learner_of()
        for batch in Stream(permuted(), 64, passes=1):
            learner.feed(Batch(batch.inputs, batch.labels))
        ends.append(learner.params[learner.at.task]["layers.0.weight"])
    assert torch.equal(ends[0], ends[1])
