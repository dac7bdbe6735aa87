"""HAT's formulas and every variant of its Appendix D against plain restatements; H3-H7; what is kept and counted."""

import math

import pytest
import torch
from helpers import begin, benchmark, finish, learner
from torch.nn import functional as F

from clcore.errors import BadValue
from clcore.methods import At, Batch
from clcore.methods.hat import gates
from clcore.pool import stage_pool
from clcore.trainer import Trainer
from clcore.training import Plateau

E = torch.linspace(-6, 6, 49, dtype=torch.float64)


def num(value):
    return torch.tensor(value, dtype=torch.float64)


# -- H4: annealing -----------------------------------------------------------------------------------------------------

PLAIN_SCHEDULES = {  # of b and B as the paper counts them: b = 1 .. B
    "paper": lambda b, total, smax, beta: 1 / smax + (smax - 1 / smax) * (b - 1) / (total - 1),
    "linear": lambda b, total, smax, beta: max(smax * (b - 1) / (total - 1), 1 / smax),
    "tan": lambda b, total, smax, beta: math.tan(math.pi / 4 * (1 + (b - 1) / (total - 1))),
    "tan-beta": lambda b, total, smax, beta: 1 + beta * math.tan(math.pi / 2 * (b - 1) / (total - 1)),
}


@pytest.mark.parametrize("schedule", PLAIN_SCHEDULES)
@pytest.mark.parametrize("smax", [1.0, 25.0, 800.0])
def test_h4_schedules_are_the_papers_formulas(schedule, smax):
    total, found = 11, []
    for b in range(1, total + 1):
        s = float(gates.anneal(schedule, num(smax), num(0.5), (b - 1) / (total - 1), float("nan")))
        if b < total or not schedule.startswith("tan"):
            assert s == pytest.approx(PLAIN_SCHEDULES[schedule](b, total, smax, 0.5), rel=1e-12)
        found.append(s)
    assert found == sorted(found)
    assert all(math.isfinite(s) and s > 0 for s in found)  # compensation divides by s
    if schedule in ("paper", "linear"):
        assert (found[0], found[-1]) == pytest.approx((1 / smax, smax))
    else:  # infinite in the paper; what comes nearest in float32 and float64
        assert found[-1] > 1000
        assert found[0] == pytest.approx(1.0)


@pytest.mark.parametrize(("samples", "batch"), [(51000, 64), (160, 32), (10, 64)])
def test_h4_the_codes_schedule_counts_samples_and_never_reaches_smax(samples, batch):
    found = [float(gates.anneal("code", num(400.0), num(0.5), math.nan, i / samples)) for i in range(0, samples, batch)]
    assert found[0] == 1 / 400
    assert found == pytest.approx([(400 - 1 / 400) * i / samples + 1 / 400 for i in range(0, samples, batch)], rel=1e-12)
    assert max(found) < 400
    if samples == 51000:
        assert found[-1] == pytest.approx(399.56, abs=0.06)  # methods.md 1.3


def test_h4_every_epoch_begins_again_and_one_batch_is_no_division_by_zero(monkeypatch):
    seen, true = [], gates.anneal

    def spy(schedule, smax, beta, progress, consumed):
        seen.append((float(progress), float(consumed)))
        return true(schedule, smax, beta, progress, consumed)

    monkeypatch.setattr(gates, "anneal", spy)
    made = learner("hat", [{"schedule": "paper"}], epochs=2, tasks=1, batch_size=100, protocol="fixed")
    count = len(benchmark().tasks[0].train)
    assert 200 < count < 300
    finish(made)
    progress, consumed = ([p[i] for p in dict.fromkeys(seen)] for i in (0, 1))
    assert progress == [0.0, 0.5, 1.0]
    assert consumed == pytest.approx([0.0, 100 / count, 200 / count])
    assert len(seen) % 6 == 0  # three batches, twice
    seen.clear()
    finish(learner("hat", [{"schedule": "paper"}], epochs=1, tasks=1, batch_size=1000, protocol="fixed"))
    assert set(seen) == {(0.0, 0.0)}


# -- gates, compensation, accumulation, regularisers -------------------------------------------------------------------


@pytest.mark.parametrize("s", [1 / 400, 1.0, 30.0])
def test_gates_are_the_papers_formulas(s):
    for e, a, b in zip(
        E.tolist(), gates.gate("sigmoid", E, num(s), num(6.0)), gates.gate("clamped-linear", E, num(s), num(4.0)), strict=True
    ):
        assert float(a) == pytest.approx(1 / (1 + math.exp(-s * e)), rel=1e-12)
        assert float(b) == pytest.approx(max(0.0, min(1.0, s * e / 4 + 0.5)), abs=1e-14)


def test_h3_compensation_turns_the_gates_derivative_into_that_of_smax_times_the_sigmoid():
    smax = num(400.0)
    for s in (1 / 400, 0.5, 1.0, 7.0, 100.0):
        e = E[(E * s).abs() < 8].clone().requires_grad_()
        (raw,) = torch.autograd.grad(gates.gate("sigmoid", e, num(s), num(6.0)).sum(), e)
        sigma = torch.sigmoid(e.detach())
        wanted = smax * sigma * (1 - sigma)
        compensated = raw * gates.compensation("sigmoid", e.detach(), num(s), smax)
        assert torch.allclose(compensated, wanted, rtol=1e-9)
        (analytic,) = torch.autograd.grad(
            gates.with_analytic_gradient(gates.gate("sigmoid", e, num(s), num(6.0)), e, smax).sum(), e
        )
        assert torch.allclose(analytic, wanted, rtol=1e-12)
    assert float(gates.compensation("sigmoid", num(0.0), num(1.0), smax)) == 400.0


def test_the_analytic_gradient_leaves_the_gate_as_it_is():
    a = gates.gate("sigmoid", E, num(30.0), num(6.0))
    assert torch.allclose(gates.with_analytic_gradient(a, E, num(400.0)), a, rtol=0, atol=1e-12)


def test_compensation_of_the_clamped_linear_gate_is_the_ratio_of_slopes():
    """D.3: its derivative is s / r inside the range, so smax / s makes it smax / r."""
    e = E.clone().requires_grad_()
    (raw,) = torch.autograd.grad(gates.gate("clamped-linear", e, num(2.0), num(6.0)).sum(), e)
    inside = (2.0 * E / 6).abs() < 0.5
    found = raw * gates.compensation("clamped-linear", E, num(2.0), num(50.0))
    assert torch.allclose(found[inside], num(50.0 / 6), rtol=1e-12)
    assert not bool(found[(2.0 * E / 6).abs() > 0.5].any())


def test_accumulation_is_the_papers_and_h6_monotone_idempotent_and_free_of_order():
    a, b, kappa = torch.rand(50).double(), torch.rand(50).double(), num(0.9)
    for x, y, highest, product, decayed in zip(
        a.tolist(), b.tolist(), *(gates.accumulate(rule, a, b, kappa) for rule in ("max", "product", "decayed")), strict=True
    ):
        assert float(highest) == max(x, y)
        assert float(product) == pytest.approx(1 - (1 - x) * (1 - y), abs=1e-15)
        assert float(decayed) == pytest.approx(max(x, 0.9 * y), abs=1e-15)
    once = gates.accumulate("max", a, b, kappa)
    assert bool((once >= b).all())
    assert torch.equal(gates.accumulate("max", a, once, kappa), once)
    assert torch.equal(gates.accumulate("max", b, a, kappa), once)


def test_h6_cumulative_attention_only_grows_over_tasks():
    made, before = learner("hat", epochs=3), torch.zeros(1, 32)
    for said in made.run():
        if getattr(said, "seen", 0):
            assert bool((made.memory["cumulative"] >= before).all())
            gate = torch.sigmoid(400.0 * made.memory[f"embedding.{said.seen - 1}"])
            assert torch.allclose(made.memory["cumulative"], torch.maximum(gate, before), atol=1e-6)
            before = made.memory["cumulative"].clone()


@pytest.mark.parametrize(("rule", "kappa"), [("product", 0.99), ("decayed", 0.9)])
def test_other_accumulations_reach_the_memory(rule, kappa):
    made, before = learner("hat", [{"cumulative": rule, "kappa": kappa, "smax": 5.0}], epochs=2), torch.zeros(1, 32)
    for said in made.run():
        if getattr(said, "seen", 0):
            a = torch.sigmoid(5.0 * made.memory[f"embedding.{said.seen - 1}"])
            before = 1 - (1 - a) * (1 - before) if rule == "product" else torch.maximum(a, kappa * before)
            assert torch.allclose(made.memory["cumulative"], before, atol=1e-6)


def test_h5_the_regulariser():
    a, before = torch.rand(40).double(), torch.rand(40).double()
    by_hand = sum(x * (1 - y) for x, y in zip(a.tolist(), before.tolist(), strict=True)) / sum(1 - y for y in before.tolist())
    assert float(gates.regulariser("weighted", a, before)) == pytest.approx(by_hand, rel=1e-12)
    assert float(gates.regulariser("l1", a, before)) == pytest.approx(sum(a.tolist()) / 40)
    assert float(gates.regulariser("l2", a, before)) == pytest.approx(sum(x * x for x in a.tolist()) / 40)
    zeros, ones = torch.zeros(40).double(), torch.ones(40).double()
    assert float(gates.regulariser("weighted", a, zeros)) == pytest.approx(float(a.mean()))  # R of the first task
    assert float(gates.regulariser("weighted", zeros, before)) == 0
    assert float(gates.regulariser("weighted", ones, before)) == pytest.approx(1.0)
    half = torch.cat([torch.ones(20), torch.zeros(20)]).double()
    assert float(gates.regulariser("weighted", half, half)) == 0  # all free units are off


def test_h5_units_that_are_taken_do_not_count_at_all():
    before = torch.cat([torch.ones(10), torch.rand(30)]).double()
    a = torch.rand(40).double().requires_grad_()
    (grad,) = torch.autograd.grad(gates.regulariser("weighted", a, before), a)
    assert not bool(grad[:10].any())
    assert bool((grad[10:] > 0).all())
    (grad,) = torch.autograd.grad(gates.regulariser("weighted", a, torch.ones(40).double()), a)
    assert gates.regulariser("weighted", a, torch.ones(40).double()).item() == 0  # no unit is free: nothing to divide by
    assert not bool(grad.any())


# -- variants, in training ---------------------------------------------------------------------------------------------


def first_step(values, **options):
    """Parameters before, after one step by hand, and after ours - for the first task, at progress .5."""
    made = learner("hat", [values], dtype=torch.float64, tasks=1, lr=0.1, **options)
    params, memory, at = begin(made)
    batch = next(stage_pool(made.method.stages(at)[0], {0: benchmark().tasks[0].train}, torch.float64).batches(32))
    now = At(0, "train", 1, progress=0.5, consumed=0.25)
    trainer = Trainer(made.method, made.training, 0, (0,))
    lr = torch.tensor([0.1], dtype=torch.float64)
    after, _, losses = trainer.packed_step(params, trainer.start(params), memory, made.hp, lr, batch, now)
    return made, {n: t[0] for n, t in params.items()}, batch, {n: t[0] for n, t in after.items()}, losses.item()


def by_hand(p, batch, gate, penalty, c):
    """Loss of 64-16-16-2 with gates, and its gradients."""
    p = {n: t.clone().requires_grad_() for n, t in p.items()}
    a = gate(p["embedding"])
    x, (a1, a2) = batch.inputs.flatten(1), a.split(16)[-2:]
    if len(a) > 32:
        x, (a1, a2) = x * a[:64], a[64:].split(16)
    h = torch.relu(x @ p["layers.0.weight"].T + p["layers.0.bias"]) * a1
    h = torch.relu(h @ p["layers.1.weight"].T + p["layers.1.bias"]) * a2
    loss = F.cross_entropy(h @ p["head.weight"].T + p["head.bias"], batch.labels) + c * penalty(a)
    return loss.item(), dict(zip(p, torch.autograd.grad(loss, list(p.values())), strict=True))


S = 1 / 20 + (20 - 1 / 20) * 0.5  # paper's schedule at smax 20, progress .5
BASE = {"smax": 20.0, "schedule": "paper", "c": 2.0}
COSH = lambda e: 20 / S * (torch.cosh(S * e) + 1) / (torch.cosh(e) + 1)  # noqa: E731
COSH_10 = lambda e: 2 * (torch.cosh(10 * e) + 1) / (torch.cosh(e) + 1)  # noqa: E731
SIGMOID = lambda e: torch.sigmoid(S * e)  # noqa: E731
LINEAR = lambda e: (S * e / 60 + 0.5).clamp(0, 1)  # noqa: E731
MEAN = lambda a: a.mean()  # noqa: E731
VARIANTS = {
    "paper": ({}, SIGMOID, MEAN, COSH),
    "no compensation, faster embeddings": ({"compensation": "none", "embedding_lr": 30.0}, SIGMOID, MEAN, lambda e: 30.0),
    "faster embeddings on top": ({"embedding_lr": 3.0}, SIGMOID, MEAN, lambda e: 3.0 * COSH(e)),
    "clamped-linear": ({"gate": "clamped-linear", "gate_range": 60.0}, LINEAR, MEAN, lambda e: 20 / S),
    "clamped-linear, analytic": (
        {"gate": "clamped-linear", "gate_range": 60.0, "compensation": "analytic"}, LINEAR, MEAN, lambda e: 20 / S,
    ),
    "l1": ({"regulariser": "l1"}, SIGMOID, MEAN, COSH),
    "l2": ({"regulariser": "l2"}, SIGMOID, lambda a: a.square().mean(), COSH),
    "input attention": ({"input_attention": True}, SIGMOID, MEAN, COSH),
    "linear annealing": ({"schedule": "linear"}, lambda e: torch.sigmoid(10 * e), MEAN, COSH_10),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_step_of_every_variant_by_hand(variant):
    values, gate, penalty, factor = VARIANTS[variant]
    _, params, batch, after, loss = first_step({**BASE, **values})
    expected_loss, grads = by_hand(params, batch, gate, penalty, 2.0)
    assert loss == pytest.approx(expected_loss, abs=1e-12)
    grads["embedding"] = grads["embedding"] * factor(params["embedding"])
    for name, value in params.items():
        wanted = value - 0.1 * grads[name]
        wanted = wanted.clamp(-6, 6) if name == "embedding" else wanted
        assert torch.allclose(after[name], wanted, rtol=1e-8, atol=1e-9), name
        assert not torch.equal(after[name], value)


def test_the_analytic_compensation_is_the_reference_where_float64_can_hold_it():
    """|s e| stays below 10.0 * 3, where 1 - sigmoid still has digits."""
    ends = [first_step({**BASE, "smax": 8.0, "compensation": kind})[3] for kind in ("reference", "analytic")]
    for name, value in ends[0].items():
        assert torch.allclose(value, ends[1][name], rtol=1e-6, atol=1e-9), name


def test_initial_embeddings():
    def drawn(**values):
        return begin(learner("hat", [values], net="mlp:2000-2000", tasks=1))[0]["embedding"][0]

    normal, shifted, uniform = drawn(), drawn(embedding_shift=2.0), drawn(embedding_init="uniform", embedding_width=3.0)
    assert (float(normal.mean()), float(normal.std())) == pytest.approx((0, 1), abs=0.05)
    assert torch.allclose(shifted, (normal + 2).clamp(-6, 6), atol=1e-6)
    assert 0 <= float(uniform.min()) < 0.01
    assert 2.99 < float(uniform.max()) <= 3
    assert float(uniform.mean()) == pytest.approx(1.5, abs=0.05)
    assert float(drawn(embedding_shift=9.0).max()) == 6.0  # H7 from the start


@pytest.mark.parametrize("lr", [0.05, 50.0])
def test_h7_embeddings_stay_within_six_after_every_step(lr):
    made = learner("hat", [{"c": 4.0}], tasks=1, lr=lr)
    params, memory, at = begin(made)
    trainer, state = Trainer(made.method, made.training, 0, (0,)), None
    pool = stage_pool(made.method.stages(at)[0], {0: benchmark().tasks[0].train}, torch.float32)
    touched = False
    for index, batch in enumerate(pool.batches(16)):
        now = At(0, "train", 1, progress=index / 15, consumed=index / 16)
        params, state, _ = trainer.packed_step(
            params, state or trainer.start(params), memory, made.hp, torch.tensor([lr]), batch, now
        )
        assert float(params["embedding"].abs().max()) <= 6
        touched |= float(params["embedding"].abs().max()) == 6
    assert touched == (lr == 50.0)


# -- at test -----------------------------------------------------------------------------------------------------------


def gains(values):
    made = learner("hat", [values], tasks=1, epochs=1)
    finish(made)
    memory, hp = ({n: t[0] for n, t in d.items()} for d in (made.memory, made.hp))
    weights = made.method.effective_weights({}, memory, hp, made.learned[0])
    return memory["embedding.0"], torch.cat([weights[f"units{i}.gain"] for i in (1, 2)])


@pytest.mark.parametrize(
    "values", [{"binarize": True}, {"schedule": "tan"}, {"schedule": "tan-beta"}, {"smax": 5.0, "binarize": True}]
)
def test_gates_at_test_are_steps_where_they_should_be(values):
    embedding, gain = gains(values)
    assert torch.equal(gain, (embedding > 0).float())


@pytest.mark.parametrize(("smax", "factor"), [(5.0, 1.0), (5.0, 3.0), (400.0, 1e4)])
def test_gates_at_test_have_the_largest_slope(smax, factor):
    """``s_eval_factor`` is 1e4 in the compression experiments of HAT's code."""
    embedding, gain = gains({"smax": smax, "s_eval_factor": factor})
    assert torch.allclose(gain, torch.sigmoid(smax * factor * embedding))
    if factor == 1e4:
        assert set(gain.unique().tolist()) <= {0.0, 1.0}


def test_the_compression_experiment():
    """c 1.5, U(0, 2), the first task alone: units die, the size says so, and the size is that of a count."""
    made = learner("hat", [{"c": 1.5, "embedding_init": "uniform", "s_eval_factor": 1e4}], net="mlp:40-40", tasks=1, epochs=40,
                   lr=0.1, batch_size=32, patience=40)  # fmt: skip
    [_, report] = finish(made)
    [member] = report.members
    used = [made.method.masks(made.memory_of(0), 0)[f"units{i}"].values.sum().item() for i in (1, 2)]
    assert member.compressed["hidden"] == pytest.approx((64 * used[0] + used[0] * used[1]) / (64 * 40 + 40 * 40))
    assert member.compressed["with_head"] == pytest.approx(
        (64 * used[0] + used[0] * used[1] + 2 * used[1]) / (64 * 40 + 40 * 40 + 80)
    )
    assert 0 < member.compressed["hidden"] < 0.8  # it starts at 1: all embeddings are drawn above 0
    assert member.validation[0] > 0.9


def test_bytes_of_embeddings_and_of_their_bits():
    """Units that a task uses, a bit a unit to say which, and of these a float a task, or a bit where gates are steps.

    A gate of at most 2^-24 is none: sigmoid(x) is that at x = -log(2^24 - 1), about -16.6.
    """
    for own, limit in (({}, -math.log(2**24 - 1) / 400), ({"binarize": True}, 0.0), ({"schedule": "tan"}, 0.0)):
        made = learner("hat", [own], net="mlp:20-13", epochs=1, tasks=2)
        report = finish(made)[-1]
        on = torch.stack([made.memory_of(0)[f"embedding.{task}"] > limit for task in range(2)])
        first, second = int(on[:, :20].any(0).sum()), int(on[:, 20:].any(0).sum())
        assert 0 < first + second < 33
        body = 64 * first + first + first * second + second
        heads = sum(2 * int(task[20:].sum()) + 2 for task in on)
        each = -(-(first + second) // 8) if own else 4 * (first + second)
        assert report.members[0].bytes == 4 * (body + heads) + 5 + 2 * each  # 33 bits are 5 bytes


def test_masks_of_the_record_are_those_above_one_half():
    made = learner("hat", tasks=2, epochs=2)
    finish(made)
    for task in range(2):
        masks = made.method.masks(made.memory_of(0), task)
        gate = torch.sigmoid(400.0 * made.memory[f"embedding.{task}"][0])
        assert torch.equal(torch.cat([masks["units1"].values, masks["units2"].values]), gate > 0.5)


def test_the_criterion_of_the_schedule_is_cross_entropy_and_regulariser_at_smax(monkeypatch):
    """With a rate that moves nothing, so that the parameters at the end of the epoch are known."""
    seen, true = [], Plateau.update
    monkeypatch.setattr(Plateau, "update", lambda self, members, losses: seen.extend(losses) or true(self, members, losses))
    made = learner("hat", [{"smax": 12.0, "c": 3.0}], dtype=torch.float64, tasks=1, epochs=1, lr=1e-30)
    params = {n: t[0] for n, t in begin(made)[0].items()}
    split = benchmark().tasks[0].validation
    batch = Batch(*split.batch(torch.arange(len(split)), torch.float64))
    finish(made)
    expected, _ = by_hand(params, batch, lambda e: torch.sigmoid(12.0 * e), MEAN, 3.0)
    assert seen == pytest.approx([expected], abs=1e-12)


def test_without_validation_the_plateau_is_refused():
    with pytest.raises(BadValue, match="something is chosen on it"):
        learner("hat", options=(("validation", "none"),))
    finish(learner("hat", options=(("validation", "none"),), protocol="fixed", epochs=1, tasks=1))
