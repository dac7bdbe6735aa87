"""TFM's invariants T1-T8 (methods.md, section 9), and its widths. No public code exists to compare with."""

import math
from itertools import pairwise

import pytest
import torch
from helpers import begin, benchmark, finish, learner, same, up_to
from penalties_kit import SMALL
from torch.nn import functional as F

from clcore.masks import Mask
from clcore.methods import At, Batch
from clcore.pool import stage_pool
from clcore.trainer import Trainer

FAST = {"lr": 0.3, "batch_size": 32, "epochs": 3}
#: The same on few examples, for the many combinations.
BRIEF = {**FAST, "lr": 0.02, "options": SMALL}
WIDE = {"p1": 0.5, "growth": 0.25}  # of 16: 8, 12, 16


def logits(made, task, member=0):
    """Logits of all test images of a task, from memory, in the shapes the task was learned in."""
    split = made.benchmark.test(task)
    inputs, _ = split.batch(torch.arange(len(split)), made.dtype)
    memory, hp = ({n: t[member] for n, t in d.items()} for d in (made.memory, made.hp))
    return made.method.logits(made.method.effective_weights({}, memory, hp, made.learned[task]), inputs, made.learned[task])


def after_each(made):
    for said in made.run():
        if getattr(said, "seen", 0):
            yield said


# -- T1, T2, T3: nothing old is touched --------------------------------------------------------------------------------

MEMBERS = {
    "one": [WIDE],
    "pack of different widths": [WIDE, {"p1": 0.25, "growth": 0.05}, {"p1": 1.0, "growth": 0.0}, {**WIDE, "fn": False}],
    "post": [{**WIDE, "fn_position": "post"}],
    "weights": [{"p1": 0.3, "growth": 0.3, "growth_unit": "weights"}],
    "zero": [{**WIDE, "new_columns": "zero"}],
    "searched": [{"search_growth": True}],
}


@pytest.mark.parametrize("members", MEMBERS)
@pytest.mark.parametrize("net", ["mlp:16-16", "conv"])
def test_t1_old_tasks_compute_the_same_bit_for_bit(members, net):
    hypers = MEMBERS[members]
    made, kept = learner("tfm", hypers, net=net, drop=0.2, optimizer="adam", weight_decay=0.01, **BRIEF), {}
    for said in after_each(made):
        for task in range(said.seen):
            for member in range(len(hypers)):
                now = logits(made, task, member)
                assert torch.equal(kept.setdefault((task, member), now), now)
        for member in said.members:
            for u, accuracy in enumerate(member.test[: said.seen]):
                assert kept.setdefault(("accuracy", member.member, u), accuracy) == accuracy


def test_t1_after_a_reload_too(tmp_path):
    made = up_to(learner("tfm", MEMBERS["pack of different widths"], **FAST), 2)
    before = [logits(made, task, member) for task in range(2) for member in range(4)]
    made.save(tmp_path)
    again = learner("tfm", MEMBERS["pack of different widths"], **FAST)
    again.load(tmp_path)
    finish(again)
    assert all(
        torch.equal(b, logits(again, t, m)) for b, (t, m) in zip(before, ((t, m) for t in range(2) for m in range(4)), strict=True)
    )


def test_the_control_for_t1_wrong_widths_do_change_the_output():
    made = learner("tfm", [WIDE], **FAST)
    finish(made)
    before = logits(made, 0)
    made.memory["fraction.0"] = made.memory["fraction.1"]
    made.learned[0] = made.learned[1].__class__(0, "eval", 1, sizes=made.learned[1].sizes)
    made.memory["heads.0.weight"] = F.pad(made.memory["heads.0.weight"], (0, 4), value=1.0)
    assert float((logits(made, 0) - before).abs().max()) > 1e-3


def test_t2_old_weights_biases_heads_and_fn_are_bit_unchanged():
    made, before = learner("tfm", [WIDE], weight_decay=0.01, **FAST), {}
    old = 0
    for _ in after_each(made):
        for n, t in made.memory.items():
            if n in before and not n.startswith("layers"):
                assert torch.equal(before[n], t), n
        for layer, inputs in (("layers.0", 64), ("layers.1", old)):
            if old:
                w, b = f"{layer}.weight", f"{layer}.bias"
                assert torch.equal(made.memory[w][0, :old, :inputs], before[w][0, :old, :inputs])
                assert torch.equal(made.memory[b][0, :old], before[b][0, :old])
                assert not torch.equal(made.memory[w][0], before[w][0])
        before = {n: t.clone() for n, t in made.memory.items()}
        old = {0: 8, 8: 12, 12: 16}[old]


def test_t3_what_moves_is_what_equation_5_allows_and_t7_that_is_equation_6():
    made = up_to(learner("tfm", [WIDE], **FAST), 1)
    params, memory, at = begin(made, 1)
    batch = next(stage_pool(made.method.stages(at)[0], {1: benchmark().tasks[1].train}, torch.float32).batches(32))
    made.method.network.train()
    trainer = Trainer(made.method, made.training, 0, (0,))
    moved = {n: torch.zeros_like(t[0], dtype=torch.bool) for n, t in params.items()}
    now, state = params, trainer.start(params)
    for _ in range(30):
        after, state, _ = trainer.packed_step(now, state, memory, made.hp, torch.tensor([0.5]), batch, at)
        for n in moved:
            moved[n] |= (after[n] != now[n])[0]
        now = after
    n_now, n_before = torch.arange(12) < 12, torch.arange(12) < 8
    m = n_now & ~n_before
    ones = torch.ones(64, dtype=torch.bool)
    five = {
        "layers.0.weight": (n_now[:, None] & ones) & ~(n_before[:, None] & ones),
        "layers.1.weight": (n_now[:, None] & n_now) & ~(n_before[:, None] & n_before),
    }
    six = {"layers.0.weight": m[:, None] | (0 * ones).bool(), "layers.1.weight": m[:, None] | m}
    for n, allowed in five.items():
        assert torch.equal(allowed, six[n] & n_now[:, None])
        assert torch.equal(memory[f"derived.new.{n}"][0], allowed)
        assert not bool((moved[n] & ~allowed).any())
        assert float((moved[n] & allowed).sum() / allowed.sum()) > 0.3  # dead units and black pixels do not move
        assert torch.equal(memory[f"derived.new.{n.replace('weight', 'bias')}"][0], m)
    assert bool(moved["head.weight"].any())
    assert bool(moved["fn.units1.gamma"][:8].any())  # old features are adapted by FN alone


def test_t4_without_growth_only_normalisation_and_head_learn():
    made = up_to(learner("tfm", [{"p1": 0.5, "growth": 0.0}], **FAST), 1)
    before = {n: t.clone() for n, t in made.memory.items()}
    run = made.run()
    [second, _] = [said for said in run if getattr(said, "seen", 0)]
    assert all(torch.equal(before[n], made.memory[n]) for n in before if not n.startswith("fraction"))
    assert float((made.memory["fn.1.units1.gamma"] - 1).abs().max()) > 0
    assert float(made.memory["fn.1.units2.beta"].abs().max()) > 0
    assert second.members[0].use["total"] == pytest.approx((64 * 8 + 8 * 8) / (64 * 16 + 16 * 16))


# -- feature normalisation ---------------------------------------------------------------------------------------------


def by_hand(memory, task, widths, inputs, fn=True, post=False):
    """y = head(drop(relu(FN(W x + b)))) over the slice of a task, written out (methods.md 2.2)."""
    h, old = inputs.flatten(1), 64
    for layer, width in enumerate(widths):
        w, b = memory[f"layers.{layer}.weight"][:width, :old], memory[f"layers.{layer}.bias"][:width]
        gamma, beta = torch.ones(width, dtype=w.dtype), torch.zeros(width, dtype=w.dtype)
        if fn and task:
            gamma, beta = (memory[f"fn.{task}.units{layer + 1}.{part}"][:width] for part in ("gamma", "beta"))
        x = h @ w.T + b
        h, old = (torch.relu(x) * gamma + beta if post else torch.relu(gamma * x + beta)), width
    return h @ memory[f"heads.{task}.weight"][:, :old].T + memory[f"heads.{task}.bias"]


@pytest.mark.parametrize("post", [False, True])
@pytest.mark.parametrize("fn", [False, True])
def test_outputs_of_every_task_are_those_of_the_formula(fn, post):
    position = "post" if post else "pre"
    hypers = [{**WIDE, "fn": fn, "fn_position": position}, {"p1": 0.25, "growth": 0.1, "fn": fn, "fn_position": position}]
    made = learner("tfm", hypers, dtype=torch.float64, **FAST)
    finish(made)
    for member, widths in enumerate([(8, 12, 16), (4, 6, 8)]):  # .25, .35, .45 of 16 are 4, 5.6, 7.2
        memory = made.memory_of(member)
        for task, width in enumerate(widths):
            split = benchmark().test(task)
            inputs, _ = split.batch(torch.arange(len(split)), torch.float64)
            expected = by_hand(memory, task, (width, width), inputs, fn, post)
            assert torch.allclose(logits(made, task, member), expected, rtol=0, atol=1e-12)


def test_t5_gamma_1_and_beta_0_are_no_normalisation():
    with_fn, without = (up_to(learner("tfm", [{**WIDE, "fn": fn}], dtype=torch.float64, **FAST), 1) for fn in (True, False))
    assert same(with_fn.memory, without.memory)  # the first task has none
    assert not any(n.startswith("fn.") for n in with_fn.memory)
    made, outputs = (with_fn, without), []
    for one in made:
        params, memory, at = begin(one, 1)
        assert torch.equal(params["fn.units1.gamma"], torch.ones(1, 12).double())
        assert not bool(params["fn.units1.beta"].any())
        x, _ = benchmark().test(1).batch(torch.arange(20), torch.float64)
        at = At(1, "eval", 2, sizes=at.sizes)
        own = [{n: t[0] for n, t in d.items()} for d in (params, memory, one.hp)]
        outputs.append(one.method.logits(one.method.effective_weights(*own, at), x, at))
    assert torch.equal(*outputs)


def test_normalisation_that_is_off_stays_off_in_training():
    made = learner("tfm", [{**WIDE, "fn": False}, WIDE], **FAST)
    finish(made)
    for task in (1, 2):
        for units in ("units1", "units2"):
            width = made.learned[task].sizes[units]
            assert torch.equal(made.memory[f"fn.{task}.{units}.gamma"][0], torch.ones(width))
            assert not bool(made.memory[f"fn.{task}.{units}.beta"][0].any())
            assert not torch.equal(made.memory[f"fn.{task}.{units}.gamma"][1], torch.ones(width))


# -- new rows and columns ----------------------------------------------------------------------------------------------


def test_zero_new_columns_start_at_the_old_function():
    """Old features then compute for the new task what they computed for the old one."""
    made = up_to(learner("tfm", [{**WIDE, "new_columns": "zero"}], dtype=torch.float64, **FAST), 1)
    params, _, _ = begin(made, 1)
    assert not bool(params["layers.1.weight"][0, :8, 8:].any())
    assert bool((params["layers.1.weight"][0, 8:] != 0).all())
    default = begin(up_to(learner("tfm", [WIDE], dtype=torch.float64, **FAST), 1), 1)[0]
    assert bool((default["layers.1.weight"][0, :8, 8:] != 0).all())


def test_what_is_new_is_drawn_by_torchs_default_for_the_present_fan_in():
    made = up_to(learner("tfm", [{"p1": 0.5, "growth": 0.25}], net="mlp:200-200", epochs=1), 1)
    first = made.memory["layers.1.weight"][0, :100, :100]
    params, _, _ = begin(made, 1)
    for block, fan_in in (
        (params["layers.0.weight"][0, 100:], 64),
        (params["layers.1.weight"][0, 100:], 150),
        (params["layers.1.weight"][0, :100, 100:], 150),
        (params["head.weight"][0], 150),
        (params["layers.1.bias"][0, 100:], 150),
    ):
        scaled = block * math.sqrt(fan_in)
        assert 0.9 < float(scaled.abs().max()) <= 1.0 + 1e-6
        assert float(scaled.double().pow(2).mean()) == pytest.approx(1 / 3, abs=0.08)
    assert torch.equal(params["layers.1.weight"][0, :100, :100], first)


def test_the_first_layer_of_a_first_task_is_drawn_not_zero():
    params, _, _ = begin(learner("tfm", [WIDE]))
    assert params["layers.0.weight"].shape == (1, 8, 64)
    assert bool((params["layers.0.weight"] != 0).all())


# -- widths ------------------------------------------------------------------------------------------------------------


def widths(values, full=100, tasks=3):
    made = learner("tfm", [values], net=f"mlp:{full}", epochs=1, tasks=tasks)
    finish(made)
    return [at.sizes["units1"] for at in made.learned]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"p1": 0.55, "growth": 0.05}, [55, 60, 65]),  # not 56: .55 * 100 is 55.000004 in float32
        ({"p1": 0.4, "growth": 0.07}, [40, 47, 54]),
        ({"p1": 0.401, "growth": 0.0}, [41, 41, 41]),  # rounded up
        ({"p1": 0.8, "growth": 0.15}, [80, 95, 100]),  # never beyond the full network
        ({"p1": 0.5, "growth": 0.2, "cap": 0.6}, [50, 60, 60]),
        ({"p1": 0.9, "growth": 0.2, "cap": 0.6}, [60, 60, 60]),
        ({"p1": 0.25, "growth": 0.11, "growth_unit": "weights"}, [50, 60, 69]),  # sqrt: .5, .6, .6856
        ({"p1": 0.64, "growth": 0.36, "growth_unit": "weights"}, [80, 100, 100]),
    ],
)
def test_widths(values, expected):
    assert widths(values) == expected


def test_growing_by_weights_uses_that_share_of_the_weights():
    """TFM 4.3: 55 % of the weights, 5 % more a task."""
    made = learner("tfm", [{"growth_unit": "weights"}], net="mlp:100-100-100", epochs=1)
    reports = finish(made)
    for report, share in zip(reports[1:], (0.55, 0.60, 0.65), strict=True):
        assert report.members[0].capacity["layers.1.weight"] == pytest.approx(share, abs=0.02)


def test_a_layer_of_one_unit_keeps_it():
    assert widths({"p1": 0.01, "growth": 0.0}, full=1) == [1, 1, 1]


def test_t6_masks_are_ternary_nested_and_survive_packing():
    made = learner("tfm", [WIDE], epochs=1)
    finish(made)
    for task, (before, now) in enumerate(pairwise((0, 8, 12, 16))):
        for mask in made.method.masks(made.memory_of(0), task).values():
            assert mask.kind == "ternary"
            assert mask.values.tolist() == [1] * before + [2] * (now - before) + [0] * (16 - now)
            assert len(mask.pack()) == 4
            assert torch.equal(Mask.unpack("ternary", mask.pack(), (16,)).values, mask.values)
            assert int(mask.values.bool().sum()) == now


def test_a_step_of_the_second_task_written_out():
    """Slices, normalisation, frozen blocks, SGD: once more in plain words."""
    made = up_to(learner("tfm", [WIDE], dtype=torch.float64, **FAST), 1)
    params, memory, at = begin(made, 1)
    inputs, labels = benchmark().tasks[1].train.batch(torch.arange(40), torch.float64)
    trainer, lr = Trainer(made.method, made.training, 0, (0,)), torch.tensor([0.3], dtype=torch.float64)
    after, _, losses = trainer.packed_step(params, trainer.start(params), memory, made.hp, lr, Batch(inputs, labels), at)
    p = {n: t[0].clone().requires_grad_() for n, t in params.items()}
    h = inputs.flatten(1)
    for layer in (0, 1):
        x = h @ p[f"layers.{layer}.weight"].T + p[f"layers.{layer}.bias"]
        h = torch.relu(p[f"fn.units{layer + 1}.gamma"] * x + p[f"fn.units{layer + 1}.beta"])
    loss = F.cross_entropy(h @ p["head.weight"].T + p["head.bias"], labels)
    grads = dict(zip(p, torch.autograd.grad(loss, list(p.values())), strict=True))
    grads["layers.0.weight"][:8] = 0
    grads["layers.1.weight"][:8, :8] = 0
    grads["layers.0.bias"][:8] = 0
    grads["layers.1.bias"][:8] = 0
    assert losses.item() == pytest.approx(loss.item(), abs=1e-12)
    for n, value in p.items():
        assert torch.allclose(after[n][0], value.detach() - 0.3 * grads[n], rtol=0, atol=1e-12), n
