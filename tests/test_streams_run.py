"""A trial without task ids: what it reports, what it is told, and that it goes on where it was stopped."""

import math
from itertools import islice

import pytest
import torch
from helpers import benchmark, facts, finish, network, same

from clcore import checkpoint
from clcore.errors import BadValue
from clcore.learner import Progress
from clcore.methods.base import Batch
from clcore.quick import layout_of, make_learner, preferred
from clcore.report import Report
from clcore.streams import Stream, StreamRun, probe_stream
from clcore.training import Training

RMN = ("rmn", {"noise": "off", "straight_through": 1.0, "switch_grace": 10}, {"lr": 0.005, "epochs": 4, "transition": 6})
SUPSUP = ("supsup", {"mask": "threshold", "period": 20, "images": 64}, {"lr": 0.003, "epochs": 3})
BOTH = pytest.mark.parametrize("asked", [RMN, SUPSUP], ids=["rmn", "supsup"])


def run_of(asked, tasks=3, seed=0, **training):
    method, own, settings = asked
    bench = benchmark("permuted-digits", seed, tasks, "task-free")
    net = network("mlp:32-32", bench.input_shape, seed, method)
    made = make_learner(method, [own], bench, net, {"batch_size": 64, **settings, **training}, seed)
    assert isinstance(made, StreamRun)
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Each method's run once, with its reports, its progress, and a checkpoint at every report."""
    kept = {}

    def once(asked):
        if asked[0] not in kept:
            folder, made = tmp_path_factory.mktemp(asked[0]), run_of(asked)
            said = []
            for one in made.run():
                said.append(one)
                if isinstance(one, Report):
                    made.save(folder / str(one.seen))
            kept[asked[0]] = made, said, folder
        return kept[asked[0]]

    return once


# -- what is said ------------------------------------------------------------------------------------------------------


@BOTH
def test_a_report_when_the_part_of_each_task_has_passed(whole, asked):
    made, said, _ = whole(asked)
    reports = [one for one in said if isinstance(one, Report)]
    assert [report.seen for report in reports] == [0, 1, 2, 3]
    for report in reports:
        (row,) = report.members
        assert [math.isnan(value) for value in row.test] == [report.seen and task > report.seen for task in range(3)]
        assert [math.isnan(value) for value in row.validation] == [task >= report.seen for task in range(3)]
        assert len(row.inferred) == report.seen
        assert all(sum(shares) == pytest.approx(1) for shares in row.inferred)
        assert report.seconds > 0
        assert report.failures == []
        assert row.bytes > 0 or report.seen == 0  # RMN keeps nothing for no task
    assert [row.epochs for report in reports for row in report.members] == [0, *[asked[2]["epochs"]] * 3]
    assert all(math.isfinite(report.members[0].train_loss) for report in reports[1:])
    assert (made.seen, made.alive) == (3, [0])


@BOTH
def test_the_last_row_is_that_of_the_memory_kept(whole, asked):
    made, said, _ = whole(asked)
    last, memory = said[-1].members[0], made.memory_of(0)
    assert len(last.inferred[0]) == made.mappings > 1
    for task in range(3):
        inputs, labels = made.benchmark.test(task).batch(torch.arange(len(made.benchmark.test(task))), torch.float32)
        mappings, classes = made.learner.answers(inputs, {name: tensor[None] for name, tensor in memory.items()})
        assert last.test[task] == pytest.approx(float((classes == labels).double().mean()), abs=1e-12)
        checked = made.benchmark.tasks[task].validation
        inputs, wanted = checked.batch(torch.arange(len(checked)), torch.float32)
        _, found = made.learner.answers(inputs)
        assert last.validation[task] == pytest.approx(float((found == wanted).double().mean()), abs=1e-12)
        taken = torch.bincount(mappings, minlength=made.mappings).double() / len(labels)
        assert last.inferred[task] == pytest.approx(taken.tolist(), abs=1e-12)
    for mapping in range(made.mappings):
        assert made.method.masks(memory, mapping)
    assert len(last.reuse) == made.mappings
    assert 0 < last.capacity["total"] <= 1
    assert last.bytes == made.method.stored_bytes(memory, {})


def test_the_row_of_the_untrained_network_is_chance(whole):
    _, said, _ = whole(RMN)
    assert sum(said[0].members[0].test) / 3 == pytest.approx(0.1, abs=0.06)


def test_progress_is_said_after_each_pass(whole):
    _, said, _ = whole(RMN)
    steps = [(one.task, one.epoch) for one in said if isinstance(one, Progress)]
    assert steps == [(task, epoch) for task in range(3) for epoch in range(3)]  # the report takes the place of the last


def test_between_two_evaluations_only_the_newest_task_is_measured():
    reports = finish(run_of(RMN, evaluate_every=3, epochs=1, transition=0))
    known = [[not math.isnan(value) for value in report.members[0].test] for report in reports]
    assert known == [[True, False, False], [True, True, False], [False, True, True], [True, True, True]]
    assert [len(report.members[0].inferred) for report in reports] == [0, 0, 0, 3]


def test_a_loss_that_is_no_number_ends_the_run():
    made = run_of(RMN)
    for said in made.run():
        if isinstance(said, Progress) and (said.task, said.epoch) == (0, 1):
            made.learner.params[0]["layers.0.weight"].fill_(math.nan)
    assert said.members == []
    assert made.alive == []
    assert [(f.member, f.task, f.epoch, f.step) for f in said.failures] == [(0, 0, 2, 40)]


# -- stopping and going on ---------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("seen", [0, 2, 3])
def test_resumed_is_uninterrupted(whole, asked, seen):
    made, said, folder = whole(asked)
    again = run_of(asked)
    again.load(folder / str(seen))
    assert again.seen == seen
    rest = facts(finish(again))
    reports = [one for one in said if isinstance(one, Report)]
    if seen == 3:
        assert len(rest) == 1
        assert finish(again)[0].members[0].test == reports[-1].members[0].test
    else:
        assert rest == facts(reports[seen + 1 :])
    assert same(again.memory_of(0), made.memory_of(0))
    ended, wanted = again.learner.state(), made.learner.state()
    assert same(ended[0], wanted[0])
    assert ended[1] == wanted[1]


def test_a_state_with_held_batches_goes_on_too():
    made, other = run_of(RMN), run_of(RMN)
    rest = iter(made.stream)
    for batch in rest:
        made.learner.feed(Batch(batch.inputs, batch.labels))
        if made.learner.held:
            break
    assert made.learner.held, "no batch was held: the test would prove nothing"
    other.learner.restore(*made.learner.state())
    for batch in islice(rest, 12):
        one, two = (run.learner.feed(Batch(batch.inputs, batch.labels)) for run in (made, other))
        assert one == two
    assert made.learner.mappings == 2
    assert same(made.learner.state()[0], other.learner.state()[0])
    assert made.learner.state()[1] == other.learner.state()[1]


def test_a_checkpoint_of_another_trial_is_refused(whole):
    _, _, folder = whole(RMN)
    with pytest.raises(checkpoint.DamagedCheckpoint, match="another"):
        run_of(RMN, transition=2).load(folder / "1")


# -- the stream --------------------------------------------------------------------------------------------------------


def test_a_stream_from_the_middle_is_the_tail_of_the_whole():
    stream = Stream(benchmark("permuted-digits", tasks=3, scenario="task-free"), 48, passes=2, transition=7, seed=5)
    whole, tail = list(stream), list(stream.batches(31))
    assert len(tail) == len(whole) - 31
    for one, two in zip(whole[31:], tail, strict=True):
        assert torch.equal(one.inputs, two.inputs)
        assert torch.equal(one.labels, two.labels)


def test_iterations_limit_the_batches_of_a_task():
    made = run_of(RMN, iterations=9)
    assert made.stream.lengths == [9, 9, 9]
    assert made.stream.ends == [9, 18, 27]


def test_the_transition_is_the_settings():
    made = run_of(RMN, transition=4)
    end = made.stream.lengths[0]
    assert [share.get(1, 0) for share in made.stream.shares()[end - 3 : end + 3]] == [0, 8, 24, 40, 56, 64]


# -- what it is made of ------------------------------------------------------------------------------------------------


def test_the_method_is_told_neither_tasks_nor_their_number():
    layouts = [layout_of(benchmark("permuted-digits", tasks=tasks, scenario="task-free")) for tasks in (2, 5)]
    assert layouts[0] == layouts[1]
    assert (layouts[0].scenario, set(layouts[0].outputs)) == ("domain-il", {10})
    assert len(layouts[0].outputs) >= 100


def test_labels_are_shared_as_in_domain_il():
    free, domain = (benchmark(tasks=3, scenario=scenario) for scenario in ("task-free", "domain-il"))
    assert [task.offset for task in free.tasks] == [0, 0, 0]
    assert free.outputs_total == domain.outputs_total == 2
    assert free.digest != domain.digest
    with pytest.raises(BadValue, match="differ in classes"):
        benchmark(tasks=3, scenario="task-free", larger_first_task=4)


def test_a_stream_is_gone_through_once_unless_asked():
    assert preferred("rmn", Training)["epochs"] == 250
    assert preferred("rmn", Training, "task-free")["epochs"] == 1
    assert run_of(RMN, epochs=2).training.epochs == 2


@pytest.mark.parametrize(
    ("method", "members", "training", "message"),
    [
        ("hat", [{}], {}, "rmn, supsup"),
        ("hopsupsup", [{}], {}, "rmn, supsup"),
        ("rmn", [{}, {}], {}, "members = 2"),
        ("rmn", [{}], {"protocol": "plateau"}, "protocol = 'plateau'"),
        ("rmn", [{}], {"lr_schedule": "cosine"}, "lr_schedule = 'cosine'"),
        ("rmn", [{}], {"batch_size": 5000}, "batch_size = 5000"),
        ("rmn", [{}], {"transition": 1000}, "transition = 1000"),
    ],
)
def test_what_cannot_be(method, members, training, message):
    bench = benchmark("permuted-digits", tasks=2, scenario="task-free")
    with pytest.raises(BadValue, match=message):
        make_learner(method, members, bench, network("mlp:8", bench.input_shape, method=method), training)


def test_only_a_stream_has_a_transition():
    bench = benchmark(tasks=2, scenario="domain-il")
    with pytest.raises(BadValue, match="transition = 3"):
        make_learner("rmn", [{}], bench, network("mlp:8", bench.input_shape, method="rmn"), {"transition": 3})


@BOTH
def test_the_probe_measures_a_batch(asked):
    found = probe_stream(run_of(asked), 1, 0.01)
    assert found.step > 0
    assert found.validation > 0
    assert found.steps == 20  # 1222 examples, 64 at a time
    assert found.bytes > 0
