"""HAT against the authors' numbers (golden traces) and its invariants H1-H11 (methods.md, section 9)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import begin, benchmark, finish, learner
from sklearn.datasets import load_digits
from torch.nn import functional as F

from clcore import hyper, networks
from clcore.methods import At, Batch, Layout
from clcore.methods.hat import HAT, HATHyper, gates
from clcore.pack import stack
from clcore.pool import stage_pool
from clcore.trainer import Trainer
from clcore.training import Training

GOLDEN = Path(__file__).parent / "golden"
LAYERS = {"fc1": "layers.0", "fc2": "layers.1"}
BINARY = {"binarize": True, "c": 0.0}  # so that the first task keeps units of every layer


def golden(name):
    described = json.loads((GOLDEN / f"{name}.json").read_text())
    numbers = np.load(GOLDEN / f"{name}.npz")
    return described, {key: torch.from_numpy(np.asarray(numbers[key])) for key in numbers.files}


# -- the authors' numbers ----------------------------------------------------------------------------------------------


def test_compensation_is_the_authors():
    _, trace = golden("hat_compensation")
    smax = torch.tensor(400.0, dtype=torch.float64)
    for s, expected in zip(trace["s"], trace["factor"], strict=True):
        assert torch.allclose(gates.compensation("sigmoid", trace["e"], s, smax), expected, rtol=1e-12, atol=0)


def test_masks_of_the_convolutional_network_are_the_authors():
    _, trace = golden("hat_alexnet32_masks")
    network = networks.build("alexnet32", (3, 32, 32), 0)
    theirs = dict(zip(("layers.0", "layers.1", "layers.2", "layers.3", "layers.4"), ("c1", "c2", "c3", "fc1", "fc2"), strict=True))
    method = HAT(HATHyper(), network, Layout("task-il", (2, 2)))
    memory = {name: tensor.double() for name, tensor in network.body_weights().items()}
    memory["cumulative"] = torch.cat([trace[f"cumulative/{units}"] for units in network.hidden_units])
    derived = method.prepare(memory, {}, At(1, "train", 2))
    assert derived.keys() == {f"derived.protect.{name}" for name in memory if name != "cumulative"}
    for name in network.body_weights():
        layer, _, part = name.rpartition(".")
        shape = trace[f"gradient_mask/{theirs[layer]}.{part}/shape"].tolist()
        assert shape == list(memory[name].shape)
        mask = derived[f"derived.protect.{name}"].expand(shape).reshape(shape[0], -1)
        for sums, found in (("row", mask.sum(1)), ("column", mask.sum(0))):
            expected = trace[f"gradient_mask/{theirs[layer]}.{part}/{sums}_sums"].flatten()
            assert torch.allclose(found, expected, rtol=1e-12, atol=1e-9), name


@pytest.fixture(scope="module")
def trace():
    return golden("hat_mlp_smax400")


def from_trace(numbers, prefix, task):
    """Parameters of the trace under our names, as a pack of one."""
    ours = {f"{LAYERS[n]}.{part}": numbers[f"{prefix}{n}.{part}"] for n in LAYERS for part in ("weight", "bias")}
    ours |= {f"head.{part}": numbers[f"{prefix}last.{task}.{part}"] for part in ("weight", "bias")}
    ours["embedding"] = torch.cat([numbers[f"{prefix}e{n}.weight"][task] for n in LAYERS])
    return {n: t.unsqueeze(0) for n, t in ours.items()}


@pytest.mark.parametrize("members", [1, 3])
def test_two_tasks_are_trained_as_the_authors_train_them(trace, members):
    """Losses, regulariser, parameters, cumulative attention, gradient masks, logits: the whole trace, alone and in a pack."""
    described, numbers = trace
    settings = described["settings"]
    declared = HATHyper(smax=settings["smax"], c=settings["c"])
    method = HAT(declared, networks.build("mlp:24-24", (1, 8, 8), 0), Layout("task-il", (5, 5)))
    trainer = Trainer(method, Training(lr=settings["lr"], batch_size=settings["batch"]), 0, (0,))
    digits = load_digits()
    pixels, target = torch.from_numpy(digits.data) / 16, torch.from_numpy(digits.target)
    hp = {n: torch.full((members,), getattr(declared, n), dtype=torch.float64) for n in hyper.packed_names(HATHyper)}
    one = {n: t[0] for n, t in hp.items()}
    lr = torch.full((members,), settings["lr"], dtype=torch.float64)
    initial = {n: t[0] for n, t in from_trace(numbers, "init/", 0).items() if n.startswith("layers")}
    memory = {**initial, "cumulative": torch.zeros(48, dtype=torch.float64)}
    for task in range(2):
        rows = numbers[f"task{task}/digits_index"]
        inputs, labels = pixels[rows].reshape(-1, 1, 8, 8), target[rows] - 5 * task
        at = At(task, "train", task + 1)
        memory |= method.prepare(memory, one, at)
        params = {n: t[0] for n, t in from_trace(numbers, "init/", task).items()}
        params = method.constrain({**params, **{n: memory[n] for n in params if n in memory}})
        params = stack(params, members)
        packed_memory, count = stack(memory, members), len(rows)
        for epoch in range(settings["epochs"]):
            said = f"task{task}/epoch{epoch}"
            order = numbers[f"{said}/order"]
            for step, first in enumerate(range(0, count, settings["batch"])):
                chosen = order[first : first + settings["batch"]]
                now = At(task, "train", task + 1, progress=float("nan"), consumed=first / count)
                attention = method.attention({n: t[0] for n, t in params.items()}, memory, one, now)
                penalty = gates.regulariser("weighted", attention, memory["cumulative"])
                params, _, losses = trainer.packed_step(
                    params, trainer.start(params), packed_memory, hp, lr, Batch(inputs[chosen], labels[chosen]), now
                )
                assert float(penalty) == pytest.approx(float(numbers[f"{said}/regulariser"][step]), abs=1e-9)
                assert losses.tolist() == pytest.approx([float(numbers[f"{said}/loss"][step])] * members, abs=1e-9)
            for name, expected in from_trace(numbers, f"{said}/after/", task).items():
                assert torch.allclose(params[name], expected, rtol=0, atol=1e-9), (said, name)
        memory = method.end_task({n: t[-1] for n, t in params.items()}, memory, one, at, [])
        memory = {n: t for n, t in memory.items() if not n.startswith("derived.")}
        expected = torch.cat([numbers[f"task{task}/cumulative/units{i}"] for i in (1, 2)])
        assert torch.allclose(memory["cumulative"], expected, rtol=0, atol=1e-9)
        derived = method.prepare(memory, one, At(task + 1, "train", task + 2))
        for theirs, mine in LAYERS.items():
            for part in ("weight", "bias"):
                mask = numbers[f"task{task}/gradient_mask/{theirs}.{part}"]
                assert torch.allclose(derived[f"derived.protect.{mine}.{part}"].expand_as(mask), mask, rtol=0, atol=1e-9)
        for old in range(task + 1):
            shown = pixels[numbers[f"task{old}/digits_index"]].reshape(-1, 1, 8, 8)
            final = At(old, "eval", task + 1)
            logits = method.logits(method.effective_weights({}, memory, one, final), shown, final)
            assert torch.allclose(logits, numbers[f"task{task}/logits_of_task{old}"], rtol=0, atol=1e-9)


# -- H1, H2, H8: nothing is forgotten ----------------------------------------------------------------------------------


def old_logits(made, task=0):
    """Logits of all test images of an old task, from memory."""
    split = made.benchmark.test(task)
    inputs, _ = split.batch(torch.arange(len(split)), made.dtype)
    memory, hp = ({n: t[0] for n, t in tensors.items()} for tensors in (made.memory, made.hp))
    return made.method.logits(made.method.effective_weights({}, memory, hp, made.learned[task]), inputs, made.learned[task])


def logits_before_and_after(made):
    seen = []
    for said in made.run():
        if getattr(said, "seen", 0) == 1:
            seen.append(old_logits(made))
            layers = made.method.masks(made.memory_of(0), 0).values()
            assert all(int(mask.values.sum()) > 0 for mask in layers)  # otherwise the logits are the head's bias
    return seen[0], old_logits(made)


LONG = {"epochs": 8, "lr": 0.3, "batch_size": 32, "patience": 5}


@pytest.mark.parametrize("net", ["mlp:16-16", "conv"])
@pytest.mark.parametrize(
    "shared",
    [
        BINARY,
        {**BINARY, "input_attention": True, "embedding_shift": 1.0},
        {**BINARY, "gate": "clamped-linear"},
        {"schedule": "tan", "c": 0.0},
    ],
)
def test_h1_with_binary_masks_old_logits_stay_bit_for_bit(shared, net):
    before, after = logits_before_and_after(learner("hat", [shared], net=net, drop=0.2, weight_decay=0.01, **LONG))
    assert torch.equal(before, after)


@pytest.mark.parametrize("optimizer", ["momentum", "adam", "rmsprop"])
def test_h1_holds_for_every_optimizer_that_starts_afresh(optimizer):
    before, after = logits_before_and_after(learner("hat", [BINARY], **{**LONG, "lr": 0.01}, optimizer=optimizer))
    assert torch.equal(before, after)


def test_h1_holds_with_embeddings_at_their_limits_and_no_binarisation():
    """methods.md: e = +-6 and smax >= 18 make float32 gates exactly 0 and 1."""
    made = learner("hat", [{"smax": 400.0}], **LONG)
    run = made.run()
    for said in run:
        if getattr(said, "seen", 0) == 1:
            made.memory["embedding.0"] = made.memory["embedding.0"].sign() * 6
            made.memory["cumulative"] = (made.memory["embedding.0"] > 0).float()
            before = old_logits(made)
    assert torch.equal(before, old_logits(made))


def test_h1_soft_masks_do_forget():
    """The negative control: at smax 1 every gate is about one half, so nothing is held entirely."""
    before, after = logits_before_and_after(learner("hat", [{"smax": 1.0}], **LONG))
    assert float((before - after).abs().max()) > 0.01


def second_task(optimizer="sgd"):
    made = learner("hat", [BINARY], epochs=3, tasks=2, lr=0.2, batch_size=32, optimizer=optimizer)
    for said in made.run():
        if getattr(said, "seen", 0) == 1:
            break
    params, memory, at = begin(made, 1)
    pool = stage_pool(made.method.stages(at)[0], {t.index: t.train for t in made.benchmark.tasks}, made.dtype)
    return made, params, memory, at, next(pool.batches(32))


def held(memory, params):
    """Name -> which weights the first task holds entirely."""
    return {n: (memory[f"derived.protect.{n}"] == 0).expand_as(t) for n, t in params.items() if f"derived.protect.{n}" in memory}


def test_h1_adam_with_moments_of_the_old_task_breaks_it():
    """Why the learner starts every task with a fresh optimiser."""
    made, params, memory, at, batch = second_task("adam")
    trainer = Trainer(made.method, made.training, 0, (0,))
    fresh = trainer.start(params)
    stale = {n: torch.full_like(t, 0.01) if n != "steps" else t for n, t in fresh.items()}
    for state, moved in ((fresh, False), (stale, True)):
        after, _, _ = trainer.packed_step(params, state, memory, made.hp, torch.tensor([0.1]), batch, at)
        assert any(bool((after[n] != params[n])[kept].any()) for n, kept in held(memory, params).items()) == moved


def test_h1_decay_after_the_protection_breaks_it_and_before_it_does_not():
    made, params, memory, at, batch = second_task()
    trainer = Trainer(made.method, Training(weight_decay=0.1), 0, (0,))
    after, _, _ = trainer.packed_step(params, trainer.start(params), memory, made.hp, torch.tensor([0.1]), batch, at)
    kept = held(memory, params)
    assert sum(int(k.sum()) for k in kept.values()) > 50
    assert not any(bool((after[n] != params[n])[k].any()) for n, k in kept.items())
    decayed = {n: t - 0.1 * 0.1 * params[n] for n, t in after.items()}
    assert any(bool((decayed[n] != params[n])[k].any()) for n, k in kept.items())


def test_h2_held_weights_stay_bit_for_bit_and_free_ones_have_mask_1():
    made = learner("hat", [BINARY], **LONG, tasks=2)
    for said in made.run():
        if getattr(said, "seen", 0) == 1:
            before = {n: t[0].clone() for n, t in made.memory.items()}
            _, memory, _ = begin(made, 1)
    gate = dict(zip(("units1", "units2"), before["cumulative"].split(16), strict=True))
    for weight, outputs, inputs in (("layers.0.weight", "units1", None), ("layers.1.weight", "units2", "units1")):
        by_hand = torch.empty(16, 64 if inputs is None else 16)
        for i in range(16):
            for j in range(by_hand.shape[1]):
                by_hand[i, j] = 1 - (gate[outputs][i] if inputs is None else min(gate[outputs][i], gate[inputs][j]))
        mask = memory[f"derived.protect.{weight}"][0].expand_as(by_hand)
        assert torch.equal(mask, by_hand)
        assert set(mask.unique().tolist()) == {0.0, 1.0}
        moved = made.memory[weight][0] != before[weight]
        assert not bool(moved[mask == 0].any())
        assert bool(moved[mask == 1].any())
        bias = weight.replace("weight", "bias")
        assert torch.equal(memory[f"derived.protect.{bias}"][0], 1 - gate[outputs])


def test_h8_other_tasks_embeddings_and_heads_are_unchanged():
    made, kept = learner("hat", **LONG), {}
    for said in made.run():
        if getattr(said, "seen", 0):
            for n, t in made.memory.items():
                if n.startswith(("embedding.", "heads.")):
                    assert torch.equal(kept.setdefault(n, t.clone()), t), n
    assert len(kept) == 9


# -- H9-H11 ------------------------------------------------------------------------------------------------------------


def test_h9_without_regulariser_and_with_open_gates_it_is_plain_sgd():
    """Gates at 1 exactly: embeddings start at 6, and the clamp holds them there. Same weights, head, batches and noise."""
    options = {"dtype": torch.float64, "drop": 0.2, "tasks": 1, **LONG}
    made = learner(
        "hat", [{"c": 0.0, "embedding_shift": 100.0, "gate": "clamped-linear", "gate_range": 1e-3, "schedule": "linear"}], **options
    )
    plain = learner("finetune", **options)
    finish(made)
    finish(plain)
    assert torch.equal(made.memory["embedding.0"], torch.full((1, 32), 6.0, dtype=torch.float64))
    for name in plain.memory:
        assert torch.equal(made.memory[name], plain.memory[name]), name


def test_h10_a_free_channel_moves_only_the_columns_of_its_block():
    """The flatten is channel-major: nine consecutive columns of the linear layer belong to one channel."""
    made = learner("hat", net="conv", tasks=2, epochs=1)
    run = made.run()
    for said in run:
        if getattr(said, "seen", 0) == 1:
            break
    cumulative = torch.ones(1, 16)
    cumulative[0, 2] = 0  # channel 2 is free, the other three and all of the linear layer's units are held
    made.memory["cumulative"] = cumulative
    before = made.memory["fc.weight"].clone()
    list(run)
    moved = (made.memory["fc.weight"] != before)[0].any(0)
    assert bool(moved[18:27].any())
    assert not bool(moved[:18].any() | moved[27:].any())


def test_h11_when_all_is_held_only_embedding_and_head_move():
    made = learner("hat", tasks=2, epochs=2)
    run = made.run()
    for said in run:
        if getattr(said, "seen", 0) == 1:
            break
    made.memory["cumulative"] = torch.ones(1, 32)
    start, _, _ = begin(made, 1)
    before = {n: t.clone() for n, t in made.memory.items()}
    list(run)
    assert all(torch.equal(before[n], made.memory[n]) for n in made.method.body)
    assert not torch.equal(made.memory["embedding.1"], start["embedding"])
    assert not torch.equal(made.memory["heads.1.weight"], start["head.weight"])


# -- one whole step, in plain words ------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["paper", "code"])
def test_a_step_of_the_second_task_written_out(schedule):
    """Gates, loss, masked gradient, compensation, SGD, clamp: written down again from the paper without our formulas."""
    made = learner("hat", [{"schedule": schedule, "smax": 40.0}], dtype=torch.float64, epochs=2, tasks=2, lr=0.2)
    for said in made.run():
        if getattr(said, "seen", 0) == 1:
            break
    params, memory, at = begin(made, 1)
    batch = next(stage_pool(made.method.stages(at)[0], {1: benchmark().tasks[1].train}, torch.float64).batches(32))
    now, lr = At(1, "train", 2, progress=0.4, consumed=0.3), torch.tensor([0.2], dtype=torch.float64)
    trainer = Trainer(made.method, made.training, 0, (0,))
    after, _, losses = trainer.packed_step(params, {"steps": torch.zeros(1)}, memory, made.hp, lr, batch, now)
    p = {n: t[0].clone().requires_grad_() for n, t in params.items()}
    s = 1 / 40 + (40 - 1 / 40) * {"paper": 0.4, "code": 0.3}[schedule]
    a = torch.sigmoid(s * p["embedding"])
    c1, c2 = memory["cumulative"][0].split(16)
    h1 = torch.relu(batch.inputs.flatten(1) @ p["layers.0.weight"].T + p["layers.0.bias"]) * a[:16]
    h2 = torch.relu(h1 @ p["layers.1.weight"].T + p["layers.1.bias"]) * a[16:]
    free = 1 - torch.cat([c1, c2])
    loss = F.cross_entropy(h2 @ p["head.weight"].T + p["head.bias"], batch.labels) + 0.75 * (a * free).sum() / free.sum()
    grads = dict(zip(p, torch.autograd.grad(loss, list(p.values())), strict=True))
    grads["layers.0.weight"] = grads["layers.0.weight"] * (1 - c1)[:, None]
    grads["layers.1.weight"] = grads["layers.1.weight"] * (1 - torch.minimum(c2[:, None], c1[None, :]))
    grads["layers.0.bias"], grads["layers.1.bias"] = grads["layers.0.bias"] * (1 - c1), grads["layers.1.bias"] * (1 - c2)
    e = p["embedding"].detach()
    grads["embedding"] = grads["embedding"] * 40 * (torch.cosh((s * e).clamp(-50, 50)) + 1) / (s * (torch.cosh(e) + 1))
    assert float(losses[0]) == pytest.approx(loss.item(), abs=1e-12)
    for n, value in p.items():
        expected = value.detach() - 0.2 * grads[n]
        expected = expected.clamp(-6, 6) if n == "embedding" else expected
        assert torch.allclose(after[n][0], expected, rtol=1e-9, atol=1e-10), n
