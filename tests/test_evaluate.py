"""Accuracy where the task is not given: entropies, inferred tasks and right answers counted by hand."""

import math

import pytest
import torch
from helpers import benchmark, finish, learner, spread
from penalties_kit import SMALL

from clcore.methods import METHODS

SPECIFIC = [name for name in METHODS.names() if METHODS.get(name).task_specific]
#: Methods that take the task whose output has the lowest entropy; the others have rules of their own, with tests of their own.
BY_ENTROPY = ("hat", "tfm", "hnet")
#: Methods that infer one task for a group of examples.
IN_GROUPS = ("supsup", "hopsupsup")


def outputs(made, member, inputs):
    """Class probabilities of every learned task, [tasks, batch, classes]."""
    memory, hp = ({n: t[member] for n, t in d.items()} for d in (made.memory, made.hp))
    ats = made.learned
    every = [made.method.logits(made.method.effective_weights({}, memory, hp, at), inputs, at) for at in ats]
    return torch.stack(every).softmax(-1)


def evaluated(name, scenario):
    hypers = spread(METHODS.get(name).Hyper, 2)
    made = learner(name, hypers, scenario=scenario, dtype=torch.float64, lr=0.3, batch_size=32, epochs=3, patience=5, options=SMALL)
    return made, finish(made)[-1].members


def of_task(task, scenario):
    split = benchmark(scenario=scenario).test(task)
    return split.batch(torch.arange(len(split)), torch.float64)


@pytest.mark.parametrize("name", BY_ENTROPY)
@pytest.mark.parametrize("scenario", ["task-il", "domain-il", "class-il"])
def test_the_task_is_the_one_of_lowest_entropy_and_in_class_il_it_must_be_right(name, scenario):
    made, reports = evaluated(name, scenario)
    mistaken = 0
    for member in range(2):
        for task in range(3):
            inputs, labels = of_task(task, scenario)
            p = outputs(made, member, inputs)
            right, taken = 0, [0.0] * 3
            for i, label in enumerate(labels.tolist()):
                entropies = [-sum(q * math.log(q) for q in row if q > 0) for row in p[:, i].tolist()]
                chosen = task if scenario == "task-il" else entropies.index(min(entropies))
                mistaken += chosen != task
                taken[chosen] += 1 / len(labels)
                correct = int(p[chosen, i].argmax()) == label
                right += correct and (scenario != "class-il" or chosen == task)
            assert reports[member].test[task] == pytest.approx(right / len(labels), abs=1e-12)
            if scenario != "task-il":
                assert reports[member].inferred[task] == pytest.approx(taken, abs=1e-12)
        assert bool(reports[member].inferred) == (scenario != "task-il")
    assert (mistaken > 0) == (scenario != "task-il")  # otherwise nothing was inferred here


@pytest.mark.parametrize("name", sorted(set(SPECIFIC) - set(BY_ENTROPY)))
@pytest.mark.parametrize("scenario", ["domain-il", "class-il"])
def test_what_a_method_answers_in_its_own_way_is_counted_alike(name, scenario):
    made, reports = evaluated(name, scenario)
    for member in range(2):
        memory, hp = ({n: t[member] for n, t in d.items()} for d in (made.memory, made.hp))
        for task in range(3):
            inputs, labels = of_task(task, scenario)
            tasks, classes = made.method.answers(memory, hp, inputs, made.learned)
            pairs = list(zip(tasks.tolist(), classes.tolist(), labels.tolist(), strict=True))
            right = sum(c == label and (scenario == "domain-il" or t == task) for t, c, label in pairs)
            taken = [sum(t == other for t, _, _ in pairs) / len(labels) for other in range(3)]
            assert reports[member].test[task] == pytest.approx(right / len(labels), abs=1e-12)
            assert reports[member].inferred[task] == pytest.approx(taken, abs=1e-12)


@pytest.mark.parametrize("name", [name for name in SPECIFIC if name not in IN_GROUPS])
def test_the_inferred_task_of_a_single_image_is_that_of_the_batch(name):
    made = learner(name, scenario="class-il", dtype=torch.float64, epochs=2, lr=0.3, options=SMALL)
    finish(made)
    memory, hp = ({n: t[0] for n, t in d.items()} for d in (made.memory, made.hp))
    inputs, _ = benchmark().test(1).batch(torch.arange(12), torch.float64)
    together = made.method.answers(memory, hp, inputs, made.learned)[0]
    alone = [made.method.answers(memory, hp, inputs[i : i + 1], made.learned)[0].item() for i in range(12)]
    assert together.tolist() == alone


def test_a_test_set_larger_than_a_batch_is_counted_whole(monkeypatch):
    rows = []
    for size in (1024, 50, 7):
        monkeypatch.setattr("clcore.evaluate.EVAL_BATCH", size)
        rows.append(finish(learner("hat", scenario="domain-il", dtype=torch.float64, epochs=1, lr=0.3))[-1].members[0].test)
    assert rows[0] == rows[1] == rows[2]
