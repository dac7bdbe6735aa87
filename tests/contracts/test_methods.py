"""What every registered method must keep, in every scenario: reports, memory, weights, bytes, seeds."""

import math
from itertools import pairwise

import pytest
import torch
from helpers import SCENARIOS, begin, benchmark, facts, finish, learner, same, spread
from penalties_kit import SMALL

from clcore import hyper
from clcore.learner import Progress
from clcore.masks import Mask
from clcore.methods import METHODS, At
from clcore.report import Report

NAMES = METHODS.names()
EACH = pytest.mark.parametrize("name", NAMES)
IN_EACH = pytest.mark.parametrize("scenario", SCENARIOS)
TASKS = 3
FAST = {"lr": 0.3, "batch_size": 32}
UNTRAINED = {"random"}  # methods that learn without a single step
SLOW = {"batche", "freeze", "separate-heads"}  # methods of which little moves, and that need more steps for it


@pytest.fixture(scope="module")
def run():
    """Each method is run once a scenario, and all tests look at the same run."""
    kept = {}

    def once(name, scenario):
        if (name, scenario) not in kept:
            made = learner(name, spread(METHODS.get(name).Hyper, 2), scenario=scenario, epochs=2, options=SMALL, **FAST)
            kept[name, scenario] = (made, finish(made))
        return kept[name, scenario]

    return once


@EACH
def test_a_method_is_declared_in_full(name):
    method = METHODS.get(name)
    defaults = hyper.defaults(method.Hyper)
    assert set(hyper.knobs(method.Hyper)) == set(defaults)
    assert hyper.build(method.Hyper, defaults) == method.Hyper()
    for field, knob in hyper.knobs(method.Hyper).items():
        assert knob.help
        assert knob.source
        tried = [*knob.grid, *knob.levels, *(knob.search or ())]
        assert [hyper.convert(method.Hyper, field, value) for value in tried] == tried
        assert not knob.levels or (defaults[field] in knob.levels and not knob.grid and not knob.search)
    for field in hyper.packed_names(method.Hyper):
        assert hyper.field_type(method.Hyper, field)[0] in (float, int, bool)


@EACH
@IN_EACH
def test_a_report_after_every_task_and_before_the_first(run, name, scenario):
    _, reports = run(name, scenario)
    assert [report.seen for report in reports] == [0, 1, 2, 3]
    for report in reports:
        assert [m.member for m in report.members] == [0, 1]
        assert report.failures == []
        assert report.seconds > 0
        assert 0 < report.share <= 1
        for member in report.members:
            assert len(member.test) == len(member.validation) == TASKS


@EACH
@IN_EACH
def test_accuracies_are_shares_and_the_upper_triangle_is_nan(run, name, scenario):
    _, reports = run(name, scenario)
    tested = {(report.seen, u) for report in reports for u in range(TASKS) if u <= report.seen or report.seen == 0}
    checked = {(report.seen, u) for report in reports for u in range(TASKS) if u < report.seen}
    bench = benchmark(scenario=scenario)
    for report in reports:
        for member in report.members:
            for u in range(TASKS):
                assert math.isnan(member.test[u]) == ((report.seen, u) not in tested)
                assert math.isnan(member.validation[u]) == ((report.seen, u) not in checked)
                if (report.seen, u) in tested:
                    right = member.test[u] * len(bench.test(u))
                    assert right == pytest.approx(round(right), abs=1e-9)  # a count over the number of examples
                    assert 0 <= member.test[u] <= 1
                if (report.seen, u) in checked:
                    assert 0 <= member.validation[u] <= 1


@EACH
@IN_EACH
def test_a_report_says_what_training_did(run, name, scenario):
    _, reports = run(name, scenario)
    for report in reports[1:]:
        for member in report.members:
            assert (member.epochs == 0) == (name in UNTRAINED)
            assert math.isfinite(member.train_loss) == (name not in UNTRAINED)
    for member in reports[0].members:
        assert member.epochs == 0
        assert member.capacity == {}


@EACH
def test_what_is_learned_is_better_than_chance(name):
    """A floor only: the right numbers are in docs/results.md."""
    if name in UNTRAINED:
        return
    hypers = [{"c": 0.1}] if name == "hat" else [{}]  # the default is for networks with room
    own = name.startswith(("hnet", "ags"))  # high rates do not train a hypernetwork, and let group sparsity kill all nodes
    training = {"own": True} if own else {"lr": 0.3, "patience": 5}
    training |= {"epochs": 15 if name in SLOW else 8, "batch_size": 32}
    [_, first, second] = finish(learner(name, hypers, **training, net="mlp:32-32", tasks=2))
    assert first.members[0].validation[0] > 0.9
    assert second.members[0].validation[1] > 0.6


@EACH
@IN_EACH
def test_memory_is_flat_and_finite(run, name, scenario):
    made, _ = run(name, scenario)
    for key, tensor in made.memory.items():
        assert isinstance(key, str)
        assert isinstance(tensor, torch.Tensor)
        assert len(tensor) == 2
        assert not key.startswith("derived.")
        assert not tensor.requires_grad
        assert bool(tensor.isfinite().all())


@EACH
@IN_EACH
def test_weights_are_the_networks_own_with_the_tasks_head(run, name, scenario):
    made, _ = run(name, scenario)
    own = {n for n, _ in made.method.network.named_parameters()} | set(made.method.network.statistics)
    gains = {f"{units}.{part}" for units in made.method.network.units for part in ("gain", "shift")}
    for at in made.learned:
        for member in range(2):
            memory = {n: t[member] for n, t in made.memory.items()}
            hp = {n: t[member] for n, t in made.hp.items()}
            weights = made.method.effective_weights({}, memory, hp, at)
            assert own <= set(weights) <= own | gains
            private = scenario == "task-il" or made.method.task_specific
            outputs = {"domain-il": 2, "task-il": 2, "class-il": 2 if private else 2 * at.seen}[scenario]
            if (name, scenario) == ("hopsupsup", "class-il"):  # its masks are learned under an output layer with all classes
                outputs = 2 * TASKS
            assert {len(weights[f"head.{part}"]) for part in made.method.network.head_parts} == {outputs}


def deployed(name, learner, member, widths):
    """Bytes a deployment must keep, counted from the description of the method and not from its memory."""
    outputs, body = [2] * TASKS, (64, *widths)
    layers = sum((i + 1) * o for i, o in pairwise(body))
    private = learner.method.layout.scenario == "task-il" or learner.method.task_specific
    total = 2 if learner.method.layout.scenario == "domain-il" else sum(outputs)
    heads = (widths[-1] + 1) * (sum(outputs) if private else total)
    if name == "random":
        return 4 * (sum(outputs) if private else total)
    return 4 * (layers + heads)


@EACH
@IN_EACH
def test_stored_bytes_are_those_of_an_independent_count(run, name, scenario):
    made, reports = run(name, scenario)
    before = [m.bytes for m in reports[1].members]
    for index, member in enumerate(reports[-1].members):
        assert member.bytes >= before[index] > 0
        if name in ("finetune", "freeze", "joint", "random"):  # others are counted in files of their own
            assert member.bytes == deployed(name, made, index, (16, 16))


@EACH
def test_stored_bytes_do_not_depend_on_the_precision(name):
    made = learner(name, dtype=torch.float64, epochs=1, options=SMALL)
    [said] = finish(made)[-1].members
    memory, hp = ({n: t[0].float() if t.dtype == torch.float64 else t[0] for n, t in d.items()} for d in (made.memory, made.hp))
    assert made.method.stored_bytes(memory, hp) == said.bytes


@EACH
def test_masks_and_what_is_said_of_them(run, name):
    made, reports = run(name, "task-il")
    layers = ["layers.0.weight", "layers.1.weight"]
    shapes = {n: p.shape for n, p in made.method.network.named_parameters()} | {"head.weight": torch.Size([2, 16])}
    for member in range(2):
        report, memory = reports[-1].members[member], made.memory_of(member)
        masks = [made.method.masks(memory, task) for task in range(TASKS)]
        assert bool(masks[0]) == bool(report.capacity) == bool(report.use) == bool(report.reuse)
        for task in masks:
            assert all(isinstance(mask, Mask) for mask in task.values())
            if {mask.kind for mask in task.values()} == {"weight"}:
                assert {n: m.values.shape for n, m in task.items()}.items() <= shapes.items()
                assert task.keys() >= {*layers}
            else:
                assert {n: len(m.values) for n, m in task.items()} == (made.method.network.hidden_units if task else {})
        if masks[0]:
            assert len(report.reuse) == TASKS
            assert report.reuse[-1] == 1.0 or report.use["total"] == 0.0
            assert report.use["total"] <= report.capacity["total"] <= 1
            of_weights = "units1" not in masks[0]
            assert set(report.capacity) == {*(masks[0] if of_weights else layers), "total"}
            used = masks[-1]["layers.0.weight" if of_weights else "units1"].values.bool().double().mean()
            assert report.use["layers.0.weight"] == pytest.approx(float(used))


@EACH
def test_old_tasks_are_in_memory_alone(run, name):
    """Nothing but memory is asked when an old task is evaluated: a fresh method object gives the same weights."""
    made, _ = run(name, "task-il")
    fresh = type(made.method)(made.method.hyper, made.method.network, made.method.layout)
    for at in made.learned:
        member = [{n: t[1] for n, t in tensors.items()} for tensors in (made.memory, made.hp)]
        assert same(fresh.effective_weights({}, *member, at), made.method.effective_weights({}, *member, at))


@EACH
def test_the_same_seed_twice_is_identical_and_another_differs(name):
    """Identical with the noise of dropout, different without it."""
    ends = []
    for seed, drop in ((0, 0.3), (0, 0.3), (0, 0.0), (1, 0.0)):
        made = learner(name, seed=seed, drop=drop, epochs=2, tasks=2, options=SMALL, **FAST)
        ends.append((facts(finish(made)), made.memory))
    assert ends[0][0] == ends[1][0]
    assert same(ends[0][1], ends[1][1])
    assert ends[2][0] != ends[3][0]


@EACH
def test_torchs_own_generator_is_left_as_it_was(name):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    finish(learner(name, epochs=1, tasks=2, drop=0.2))
    assert torch.equal(torch.get_rng_state(), before)


@EACH
def test_an_epoch_is_said_as_it_ends(name):
    made = learner(name, epochs=2, tasks=2)
    said = list(made.run())
    epochs = [(s.task, s.epoch) for s in said if isinstance(s, Progress)]
    assert epochs == [(t, e) for t in (0, 1) for _ in made.method.stages(At(t, "train", t + 1)) for e in (0, 1)]
    assert isinstance(said[0], Report)
    assert isinstance(said[-1], Report)


@EACH
def test_untrained_row_is_that_of_the_weights_training_starts_from(name):
    made = learner(name, dtype=torch.float64)
    [row] = [next(iter(made.run())).members[0].test]
    params, memory, at = begin(made)
    at = At(0, "eval", 1, sizes=at.sizes)
    split = benchmark().test(0)
    weights = made.method.effective_weights(*({n: t[0] for n, t in d.items()} for d in (params, memory, made.hp)), at)
    inputs, labels = split.batch(torch.arange(len(split)), torch.float64)
    if name not in UNTRAINED:  # which draw their answers
        guess = made.method.logits(weights, inputs, at).argmax(-1)
        assert row[0] == pytest.approx(float((guess == labels).double().mean()), abs=1e-12)
