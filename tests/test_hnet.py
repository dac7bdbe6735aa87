"""HNET as a method: what is generated, held, kept and inferred (N1, N3, N6-N8, N10, N11)."""

import math

import pytest
import torch
from helpers import begin, benchmark, distance, facts, finish, learner, same, up_to
from penalties_kit import SMALL
from torch.nn import functional as F

from clcore import networks
from clcore.errors import BadValue
from clcore.methods import METHODS, At, Batch, Layout, Method
from clcore.methods.hnet import HNET, HNETHyper
from clcore.pack import member
from clcore.pool import stage_pool
from clcore.quick import network_options
from clcore.trainer import Trainer

OWN = {"own": True, "epochs": 2, "batch_size": 32, "options": SMALL}


def made(scenario="task-il", net="mlp:16-16", outputs=(2, 2, 2), shape=(1, 8, 8), settings=None, **hyper):
    network = networks.build(net, shape, 0, network_options("hnet", **(settings or {})))
    return HNET(HNETHyper(**hyper), network, Layout(scenario, outputs))


def single(learner, place=0):
    """One member's params and memory at the start of the next task, and the position."""
    params, memory, at = begin(learner, learner.seen)
    return member(params, place), member(memory, place), member(learner.hp, place), at


def batch_of(learner, task=0, size=32):
    return Batch(*learner.benchmark.tasks[task].train.batch(torch.arange(size), learner.dtype))


def leaves(params):
    return {n: t.detach().clone().requires_grad_() for n, t in params.items()}


def gradients(loss, params):
    found = torch.autograd.grad(loss, list(params.values()), materialize_grads=True)
    return dict(zip(params, found, strict=True))


# -- what is generated -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scenario", "outputs"), [("task-il", 6), ("class-il", 6), ("domain-il", 2)])
def test_the_flat_vector_holds_the_body_and_a_head_for_all_classes(scenario, outputs):
    target = made(scenario).target
    assert list(target.shapes) == [
        "layers.0.weight",
        "layers.0.bias",
        "layers.1.weight",
        "layers.1.bias",
        "head.weight",
        "head.bias",
    ]
    assert target.shapes["head.weight"] == (outputs, 16)
    assert target.size == 64 * 16 + 16 + 16 * 16 + 16 + outputs * 17


def test_scales_and_shifts_are_generated_and_statistics_are_not():
    target = made(settings={"norm": "batch", "bias": False}).target
    norms = {f"batch_norms.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")}
    assert set(target.shapes) == {"layers.0.weight", "layers.1.weight", "head.weight", *norms}


def test_the_defaults_store_no_more_than_the_network_has():
    method = made(net="mlp:100-100", outputs=(2,) * 5)
    stored = method.generator.size + 5 * method.generator.embedding
    assert 0.97 < stored / method.target.size <= 1
    assert method.target.size == 64 * 100 + 100 + 100 * 101 + 10 * 101


@pytest.mark.parametrize("scenario", ["task-il", "class-il", "domain-il"])
def test_a_task_has_its_own_rows_of_the_head(scenario):
    method = made(scenario, outputs=(2, 3, 2) if scenario != "domain-il" else (2, 2, 2))
    torch.manual_seed(0)
    memory = method.start({"any": torch.zeros(1)})
    params = method.begin_task(memory, {}, At(1, "train", 2))
    weights = method.effective_weights(params, memory, {}, At(1, "train", 2))
    flat = method.generator.generate(params, params["embedding"])
    rows = slice(0, 2) if scenario == "domain-il" else slice(2, 5)
    outputs = method.target.shapes["head.bias"][0]
    assert torch.equal(weights["head.bias"], flat[-outputs:][rows])
    assert torch.equal(weights["head.weight"], flat[-17 * outputs : -outputs].reshape(-1, 16)[rows])
    assert torch.equal(weights["layers.0.weight"], flat[: 64 * 16].reshape(16, 64))


def test_n10_other_heads_get_no_gradient():
    """The loss of task 1 does not look at rows 0, 1, 4 and 5; its gradient reaches theta through the generated weights alone."""
    one = learner("hnet", dtype=torch.float64, **OWN)
    params, memory, hp, _ = single(one)
    params, at, batch = leaves(params), At(1, "eval", 2), batch_of(one, 1)
    flat = one.method.generator.generate(params, params["embedding"])
    own = {n: t[2:4] if n.startswith("head.") else t for n, t in one.method.target.split(flat).items()}
    loss = F.cross_entropy(one.method.logits(own, batch.inputs, at), batch.labels)
    (inner,) = torch.autograd.grad(loss, flat, retain_graph=True)
    assert inner[[-6, -5, -2, -1]].tolist() == [0.0] * 4
    assert distance(gradients(one.method.loss(params, memory, hp, at, batch), params), gradients(loss, params)) < 1e-12


def test_wrong_layers_are_refused():
    with pytest.raises(BadValue, match="layers"):
        made(layers="25,25")


# -- what is held ------------------------------------------------------------------------------------------------------


def plain_regulariser(method, theta, memory, tasks, kept=None):
    """HNET, eq. 2 with every task's weights generated in full; ``kept``: the positions held for each task."""
    total = 0
    for task in tasks:
        e = memory[f"embedding.{task}"]
        change = method.generator.generate(theta, e) - method.generator.generate(memory, e)
        total = total + change[slice(None) if kept is None else kept[task]].square().sum()
    return total / len(tasks)


def own_positions(method, task):
    """The body and rows 2t, 2t+1 of a head of six outputs with 16 features."""
    body = method.target.size - 6 * 17
    weights = list(range(body + 32 * task, body + 32 * (task + 1)))
    return torch.tensor([*range(body), *weights, method.target.size - 6 + 2 * task, method.target.size - 5 + 2 * task])


@pytest.mark.parametrize("form", ["direct", "delta-gram"])
@pytest.mark.parametrize("lookahead", [True, False])
@pytest.mark.parametrize("heads", ["all", "own"])
def test_n6_n7_the_gradient_is_the_tasks_plus_betas_regulariser(form, lookahead, heads):
    hyper = {"regulariser": form, "lookahead": lookahead, "reg_heads": heads, "beta_output": 0.7}
    one = up_to(learner("hnet", [hyper], dtype=torch.float64, **OWN), 2)
    params, memory, hp, at = single(one)
    params = {n: t + 0.01 * torch.linspace(-1, 1, t.numel(), dtype=t.dtype).reshape(t.shape) for n, t in params.items()}
    grads = {n: torch.full_like(t, 0.3) for n, t in params.items()}
    step = {n: torch.full_like(t, -0.02) for n, t in params.items()}
    found = one.method.condition(grads, params, memory, hp, at, lambda g: {n: step[n] for n in g})
    assert torch.equal(found["embedding"], grads["embedding"])
    theta = leaves({n: t + (step[n] if lookahead else 0) for n, t in params.items() if n.startswith("theta.")})
    kept = [own_positions(one.method, t) for t in (0, 1)] if heads == "own" else None
    extra = gradients(0.7 * plain_regulariser(one.method, theta, memory, (0, 1), kept), theta)
    assert max(float(t.abs().max()) for t in extra.values()) > 1e-3
    assert distance({n: grads[n] + extra[n] for n in extra}, {n: found[n] for n in extra}) < 1e-11


def test_the_first_task_has_nothing_to_hold():
    one = learner("hnet", **OWN)
    params, memory, hp, at = single(one)
    grads = {n: torch.ones_like(t) for n, t in params.items()}
    assert same(one.method.condition(grads, params, memory, hp, at, None), grads)


@pytest.mark.parametrize("size", [2, 5])
def test_n8_a_subset_of_all_tasks_is_all_tasks(size):
    full, part = (learner("hnet", [{"reg_batch": n}], dtype=torch.float64, **OWN) for n in (0, size))
    assert facts(finish(full)) == facts(finish(part))
    assert same(full.memory, part.memory)


def test_a_subset_is_drawn_anew_and_stands_for_its_own_number():
    one = up_to(learner("hnet", [{"reg_batch": 1, "beta_output": 1.0, "lookahead": False}], dtype=torch.float64, **OWN), 2)
    params, memory, hp, at = single(one)
    params = {n: t * 1.01 for n, t in params.items()}
    zero = {n: torch.zeros_like(t) for n, t in params.items()}
    theta = leaves({n: t for n, t in params.items() if n.startswith("theta.")})
    wanted = [gradients(plain_regulariser(one.method, theta, memory, (task,)), theta) for task in (0, 1)]
    drawn = set()
    for seed in range(8):
        torch.manual_seed(seed)
        found = one.method.condition(zero, params, memory, hp, at, None)
        near = [distance(each, {n: found[n] for n in each}) < 1e-11 for each in wanted]
        assert sum(near) == 1
        drawn.add(near.index(True))
    assert drawn == {0, 1}


def test_n1_without_beta_it_is_fine_tuning_of_the_hypernetwork(monkeypatch):
    held = learner("hnet", [{"beta_output": 0.0}], drop=0.2, **OWN)
    reports = facts(finish(held))
    monkeypatch.setattr(HNET, "condition", Method.condition)
    free = learner("hnet", drop=0.2, **OWN)
    assert facts(finish(free)) == reports
    assert same(held.memory, free.memory)


def test_n3_the_lookahead_is_the_step_that_would_be_taken(monkeypatch):
    """What the method is given as ``preview``, against what the trainer then does with the same gradients."""
    one = up_to(learner("hnet", [{"embedding_rate": 0.5}], dtype=torch.float64, **OWN), 1)
    params, memory, at = begin(one, 1)
    seen, steps = {}, []

    def spy(self, grads, params, memory, hp, at, preview):
        seen.update(preview(grads))
        return grads

    monkeypatch.setattr(HNET, "condition", spy)
    trainer, pool = (
        Trainer(one.method, one.training, 0, (0,)),
        stage_pool(one.method.stages(at)[0], {1: one.benchmark.tasks[1].train}, one.dtype),
    )
    state, lr = trainer.start(params), torch.tensor([1e-3], dtype=one.dtype)
    for batch in pool.batches(32):
        before = {n: t.clone() for n, t in state.items()}
        after, changed, _ = trainer.packed_step(params, state, memory, one.hp, lr, batch, at)
        assert same(before, state)
        assert distance({n: t[0] - params[n][0] for n, t in after.items()}, seen) < 1e-15
        steps.append([float(seen[name].abs().max()) for name in ("embedding", "theta.output.weight")])
        params, state = after, changed
    assert steps[0] == pytest.approx([0.5e-3, 1e-3], rel=1e-3)  # Adam's first step is its rate, and here half of it


@pytest.mark.parametrize("scenario", ["task-il", "domain-il"])
def test_n6_old_embeddings_are_never_touched(scenario):
    one, kept = learner("hnet", scenario=scenario, **OWN), {}
    for report in one.run():
        if hasattr(report, "seen") and report.seen:
            assert same({n: one.memory[n] for n in kept}, kept)
            kept[f"embedding.{report.seen - 1}"] = one.memory[f"embedding.{report.seen - 1}"].clone()
    assert len(kept) == 3


def drift(beta, **hyper):
    """How far the weights of task 0 have moved, relative to their size, once two more tasks are learned."""
    one = learner("hnet", [{"beta_output": beta, **hyper}], own=True, epochs=3, batch_size=32, lr=5e-3)
    reports = one.run()
    flats = []
    for report in reports:
        if getattr(report, "seen", 0):
            memory = one.memory_of(0)
            flats.append(one.method.generator.generate(memory, memory["embedding.0"]))
    return float((flats[-1] - flats[0]).norm() / flats[0].norm())


def test_what_is_held_moves_less():
    assert drift(1.0) < drift(0.01) < drift(0.0)
    assert drift(1.0) < 0.1 * drift(0.0)
    assert drift(0.1, continue_embeddings=True) < 0.5 * drift(0.0)


def test_embeddings_that_move_on_are_held_at_what_they_were():
    one = up_to(learner("hnet", [{"continue_embeddings": True, "beta_output": 0.7}], dtype=torch.float64, **OWN), 2)
    params, memory, hp, at = single(one)
    assert {"embedding", "embedding.0", "embedding.1"} <= params.keys()
    params = {n: t * 1.01 for n, t in params.items()}
    grads, step = {n: torch.zeros_like(t) for n, t in params.items()}, {n: 0.01 * t for n, t in params.items()}
    found = one.method.condition(grads, params, memory, hp, at, lambda g: {n: step[n] for n in g})
    moved = leaves({n: t + step[n] for n, t in params.items() if n != "embedding"})
    total = 0
    for task in (0, 1):
        now = one.method.generator.generate(moved, moved[f"embedding.{task}"])
        total = total + (now - one.method.generator.generate(memory, memory[f"embedding.{task}"])).square().sum()
    assert distance(gradients(0.7 * total / 2, moved), {n: found[n] for n in moved}) < 1e-11
    before = one.memory["embedding.0"].clone()
    finish(one)
    assert not torch.equal(one.memory["embedding.0"], before)


def test_both_forms_train_alike():
    ends = [learner("hnet", [{"regulariser": form}], dtype=torch.float64, **OWN) for form in ("direct", "delta-gram")]
    for one in ends:
        finish(one)
    assert distance(ends[0].memory_of(0), ends[1].memory_of(0)) < 1e-9


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_bytes_are_theta_and_an_embedding_a_task():
    one = learner("hnet", [{"chunk": 100, "layers": "10-10", "embedding_size": 6, "chunk_embedding_size": 4}], **OWN)
    reports = finish(one)
    weights = 64 * 16 + 16 + 16 * 17 + 6 * 17
    theta = math.ceil(weights / 100) * 4 + 10 * (10 + 1) + 10 * 11 + 100 * 11
    assert [r.members[0].bytes for r in reports] == [4 * (theta + tasks * 6) for tasks in range(4)]
    ratios = [{"stored": pytest.approx((theta + tasks * 6) / weights)} if tasks else {} for tasks in range(4)]
    assert [r.members[0].compressed for r in reports] == ratios
    assert set(one.memory) == {*one.method.generator.shapes, "embedding.0", "embedding.1", "embedding.2"}


def test_statistics_belong_to_tasks():
    one = learner("hnet", network_settings={"norm": "batch"}, **OWN)
    reports = finish(one)
    floats = one.method.generator.size + 3 * 24 + 3 * 2 * 32
    assert reports[-1].members[0].bytes == 4 * floats
    means = [one.memory[f"norms.{task}.batch_norms.0.mean"] for task in range(3)]
    assert not torch.equal(means[0], means[1])


def test_a_full_hypernetwork_learns_too():
    one = learner("hnet", [{"chunk": 0, "layers": "none", "embedding_size": 4}], own=True, epochs=20, batch_size=16, tasks=2)
    assert "theta.chunks" not in one.memory
    assert min(finish(one)[-1].members[0].validation) > 0.9


# -- the task of an input ----------------------------------------------------------------------------------------------


def test_n11_a_batch_is_its_examples_and_the_least_entropy_wins():
    one = learner("hnet", [{"temperature": 2.0}], scenario="class-il", dtype=torch.float64, **OWN)
    finish(one)
    memory, hp = one.memory_of(0), member(one.hp, 0)
    inputs = torch.cat([batch_of(one, task, 8).inputs for task in range(3)])
    tasks, classes = one.method.answers(memory, hp, inputs, one.learned)
    for i in range(len(inputs)):
        least = []
        for at in one.learned:
            flat = one.method.generator.generate(memory, memory[f"embedding.{at.task}"])
            tensors = one.method.target.split(flat)
            hidden = inputs[i].flatten()
            for layer in (0, 1):
                hidden = torch.relu(tensors[f"layers.{layer}.weight"] @ hidden + tensors[f"layers.{layer}.bias"])
            logits = (tensors["head.weight"] @ hidden + tensors["head.bias"])[2 * at.task : 2 * at.task + 2]
            p = torch.softmax(logits / 2, 0)
            least.append((-float((p * p.log()).sum()), at.task, int(logits.argmax())))
        assert (int(tasks[i]), int(classes[i])) == min(least)[1:]
    assert torch.equal(one.method.answers(memory, hp, inputs, one.learned)[0], tasks)


def test_n11_the_temperature_decides_where_there_are_more_than_two_classes():
    method = made("class-il", outputs=(4, 4, 4))
    torch.manual_seed(0)
    memory = method.start({"any": torch.zeros(1, dtype=torch.float64)})
    memory |= {f"embedding.{task}": torch.randn(24, dtype=torch.float64) for task in range(3)}
    ats, inputs = [At(task, "eval", 3) for task in range(3)], torch.randn(200, 1, 8, 8, dtype=torch.float64)
    logits = [method.logits(method.effective_weights({}, memory, {}, at), inputs, at) for at in ats]
    found = []
    for temperature in (0.2, 20.0):
        p = [torch.softmax(one / temperature, 1).clamp(min=1e-300) for one in logits]
        least, wanted = torch.stack([-(one * one.log()).sum(1) for one in p]).min(0)
        assert float(least.min()) > 1e-280  # smaller ones would be lost in the softmax here
        found.append(method.answers(memory, {"temperature": torch.tensor(temperature)}, inputs, ats)[0])
        assert torch.equal(found[-1], wanted)
    assert int((found[0] != found[1]).sum()) > 20


def test_it_learns_the_digits():
    hypers = {"beta_output": 0.01}
    [*_, last] = finish(learner("hnet", [hypers], own=True, epochs=20, net="mlp:32-32"))
    assert min(last.members[0].test) > 0.85
    assert benchmark().tasks[0].validation is not None
    assert METHODS.get("hnet") is HNET
