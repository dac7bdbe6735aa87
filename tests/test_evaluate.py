"""Accuracy where the task is not given: entropies, inferred tasks and right answers counted by hand."""

import math

import pytest
import torch
from helpers import benchmark, finish, learner, spread

from clcore.methods import METHODS

SPECIFIC = [name for name in METHODS.names() if METHODS.get(name).task_specific]


def outputs(made, member, inputs):
    """Class probabilities of every learned task, [tasks, batch, classes]."""
    memory, hp = ({n: t[member] for n, t in d.items()} for d in (made.memory, made.hp))
    ats = made.learned
    every = [made.method.logits(made.method.effective_weights({}, memory, hp, at), inputs, at) for at in ats]
    return torch.stack(every).softmax(-1)


@pytest.mark.parametrize("name", SPECIFIC)
@pytest.mark.parametrize("scenario", ["task-il", "domain-il", "class-il"])
def test_the_task_is_the_one_of_lowest_entropy_and_in_class_il_it_must_be_right(name, scenario):
    hypers = spread(METHODS.get(name).Hyper, 2)
    made = learner(name, hypers, scenario=scenario, dtype=torch.float64, lr=0.3, batch_size=32, epochs=4, patience=5)
    reports = finish(made)[-1].members
    mistaken = 0
    for member in range(2):
        for task in range(3):
            split = benchmark(scenario=scenario).test(task)
            inputs, labels = split.batch(torch.arange(len(split)), torch.float64)
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


@pytest.mark.parametrize("name", SPECIFIC)
def test_the_inferred_task_of_a_single_image_is_that_of_the_batch(name):
    made = learner(name, scenario="class-il", dtype=torch.float64, epochs=3, lr=0.3)
    finish(made)
    memory, hp = ({n: t[0] for n, t in d.items()} for d in (made.memory, made.hp))
    inputs, _ = benchmark().test(1).batch(torch.arange(12), torch.float64)
    together = made.method.infer_task(memory, hp, inputs, made.learned)
    alone = [made.method.infer_task(memory, hp, inputs[i : i + 1], made.learned).item() for i in range(12)]
    assert together.tolist() == alone


def test_a_test_set_larger_than_a_batch_is_counted_whole(monkeypatch):
    rows = []
    for size in (1024, 50, 7):
        monkeypatch.setattr("clcore.evaluate.EVAL_BATCH", size)
        rows.append(finish(learner("hat", scenario="domain-il", dtype=torch.float64, epochs=1, lr=0.3))[-1].members[0].test)
    assert rows[0] == rows[1] == rows[2]
