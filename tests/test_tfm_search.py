"""TFM's searched growth (T8) and its bytes."""

import math

import pytest
import torch
from helpers import finish, learner, up_to

from clcore import hyper, networks
from clcore.methods import At, Layout
from clcore.methods.tfm import FIRST_WIDTHS, GROWTHS, TFM, TFMHyper

FAST = {"lr": 0.3, "batch_size": 32, "epochs": 3}


# -- search ------------------------------------------------------------------------------------------------------------


def method(**values):
    return TFM(
        hyper.build(TFMHyper, {"search_growth": True, **values}), networks.build("mlp:8", (1, 8, 8), 0), Layout("task-il", (2, 2))
    )


@pytest.mark.parametrize(
    ("task", "accuracy", "margin", "value"),
    [
        (1, [0.80, 0.88, 0.89, 0.90, 0.90, 0.90, 0.90], 0.015, 0.02),
        (1, [0.80, 0.88, 0.89, 0.90, 0.90, 0.90, 0.90], 0.02, 0.01),
        (1, [0.80, 0.88, 0.89, 0.90, 0.90, 0.90, 0.91], 0.0, 0.20),
        (1, [0.91, 0.88, 0.89, 0.90, 0.90, 0.90, 0.90], 0.0, 0.0),
        (1, [-math.inf, 0.5, -math.inf, 0.9, -math.inf, -math.inf, -math.inf], 0.015, 0.05),
        (0, [0.90, 0.91, 0.92, 0.93], 0.015, 0.55),
        (0, [0.95, 0.91, 0.92, 0.93], 0.015, 0.25),
    ],
)
def test_the_search_takes_the_smallest_within_the_margin(task, accuracy, margin, value):
    candidates = FIRST_WIDTHS if task == 0 else GROWTHS
    assert candidates[method(margin=margin).choose(accuracy, At(task, "train", task + 1))] == value


def test_t8_the_choice_does_not_depend_on_the_order_of_candidates(monkeypatch):
    generator, at = torch.Generator().manual_seed(0), At(1, "train", 2)
    for _ in range(20):
        accuracy = (torch.randint(80, 95, (7,), generator=generator) / 100).tolist()
        by_hand = min(g for g, a in zip(GROWTHS, accuracy, strict=True) if a >= max(accuracy) - 0.015)
        order = torch.randperm(7, generator=generator).tolist()
        with monkeypatch.context() as patch:
            patch.setattr("clcore.methods.tfm.GROWTHS", tuple(GROWTHS[i] for i in order))
            chosen = method().choose([accuracy[i] for i in order], at)
        assert GROWTHS[order[chosen]] == by_hand


@pytest.mark.parametrize("retrain", [False, True])
def test_the_search_is_that_of_candidates_trained_one_by_one(retrain):
    """Every candidate is trained alone from the same state; validation decides; test data play no part."""
    made = learner("tfm", [{"search_growth": True, "margin": 0.02, "retrain": retrain}], dtype=torch.float64, tasks=2, **FAST)
    chosen, first = [], {}
    for task, (knob, values) in enumerate((("p1", FIRST_WIDTHS), ("growth", GROWTHS))):
        accuracy = []
        for value in values:
            fixed = {"p1": chosen[0]} if chosen else {}
            alone = learner("tfm", [{**fixed, knob: value}], dtype=torch.float64, tasks=2, **FAST)
            if task == 1 and retrain:  # its first task was learned with other noise; start from what was kept
                up_to(alone, 1)
                alone.memory = {n: t.clone() for n, t in first.items()}
                [report] = [said for said in alone.run() if getattr(said, "seen", 0)]
            else:
                report = up_to(alone, task + 1) and alone._report(None)
            accuracy.append(report.members[0].validation[task])
        chosen.append(min(v for v, a in zip(values, accuracy, strict=True) if a >= max(accuracy) - 0.02))
        if task == 0:
            first = {n: t.clone() for n, t in up_to(made, 1).memory.items()}
    finish(made)
    assert float(made.memory["fraction.0"]) == chosen[0]
    assert float(made.memory["fraction.1"]) == pytest.approx(min(sum(chosen), 1.0))


def test_a_search_keeps_the_trained_candidate():
    """Without retraining the result is that of a fixed growth with the same values, bit for bit but for the pack."""
    made = learner("tfm", [{"search_growth": True}], dtype=torch.float64, tasks=2, **FAST)
    finish(made)
    p1 = float(made.memory["fraction.0"])
    growth = min(GROWTHS, key=lambda g: abs(min(p1 + g, 1.0) - float(made.memory["fraction.1"])))
    alone = learner("tfm", [{"p1": p1, "growth": growth}], dtype=torch.float64, tasks=2, **FAST)
    finish(alone)
    for name in alone.method.body:
        assert torch.allclose(made.memory[name], alone.memory[name], rtol=0, atol=1e-9)


# -- bytes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fn", [True, False])
def test_bytes_of_64_100_100_by_an_independent_count(fn):
    """Widths 55, 60, 65: growing weights once, 2 bits a feature and task, two floats a feature from task 2 on, heads."""
    reports = finish(learner("tfm", [{"fn": fn}], net="mlp:100-100", epochs=1))
    for seen, (report, expected) in enumerate(
        zip(
            reports[1:],
            [
                4 * (64 * 55 + 55 + 55 * 55 + 55) + 50 + 4 * 2 * 56,
                4 * (64 * 60 + 60 + 60 * 60 + 60) + 100 + 4 * 2 * (56 + 61) + fn * 4 * 2 * 120,
                4 * (64 * 65 + 65 + 65 * 65 + 65) + 150 + 4 * 2 * (56 + 61 + 66) + fn * 4 * 2 * (120 + 130),
            ],
            strict=True,
        ),
        start=1,
    ):
        assert report.members[0].bytes == expected, seen
    assert reports[0].members[0].bytes == 0


def test_bytes_of_a_narrow_member_do_not_grow_with_its_neighbours():
    narrow = {"p1": 0.25, "growth": 0.02}
    alone = finish(learner("tfm", [narrow], net="mlp:50-50", epochs=1))
    packed = finish(learner("tfm", [{"p1": 1.0}, narrow], net="mlp:50-50", epochs=1))
    assert [r.members[0].bytes for r in alone] == [r.members[1].bytes for r in packed]
