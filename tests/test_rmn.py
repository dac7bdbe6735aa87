"""RMN: what is frozen, pruned, stored and said; R1 to R8 of its invariants."""

import math
from dataclasses import replace

import pytest
import torch
from helpers import begin, benchmark, finish, learner, network, same, up_to
from torch.nn import functional as F

from clcore import hyper
from clcore.masks import pack_bits, sparsity
from clcore.methods.base import At, Batch, Layout
from clcore.methods.rmn import RMN, RMNHyper, inference
from clcore.pack import member
from clcore.pool import stage_pool
from clcore.trainer import Trainer

NET = "mlp:16-16"
COUNT = 64 * 16 + 16 * 16 + 16 * 2  # weights of it with two outputs
OWN = {"own": True, "epochs": 4, "lr": 0.02, "batch_size": 32, "net": NET}
#: Masks that are all open and never move: the plain network.
OPEN = {"map_loc": 1.0, "map_scale": 0.0, "learn_beta": False, "beta": 80.0, "map_rate": 0.0, "noise": "off"}


def trained(*hypers, **options):
    made = learner("rmn", hypers or ({"map_rate": 3.0},), **{**OWN, **options})
    return made, finish(made)


def masks_of(made, task, place=0):
    return {name: mask.values for name, mask in made.method.masks(made.memory_of(place), task).items()}


def logits(made, task, seen):
    memory, hp = made.memory_of(0), member(made.hp, 0)
    at = At(task, "eval", seen)
    inputs, _ = benchmark().test(task).batch(torch.arange(50), made.dtype)
    return made.method.logits(made.method.effective_weights({}, memory, hp, at), inputs, at)


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors.values()])


# -- R1, R2: no forgetting ---------------------------------------------------------------------------------------------

HARSH = {"weight_decay": 1e-4}


def frozen_and_free(made):
    """Weights before and after the last task, and which of them the two tasks before it use."""
    first = up_to(made, 2)
    before = {name: t.clone() for name, t in first.memory_of(0).items()}
    used = {n: masks_of(made, 0)[n] | masks_of(made, 1)[n] for n in made.method.mapped}
    finish(made)
    return before, made.memory_of(0), used


@pytest.mark.parametrize("norm", ["batch-plain", "batch-scale", "batch", "none"])
def test_what_an_earlier_task_uses_is_bit_unchanged_with_adam_and_decay(norm):
    made = learner("rmn", [{"map_loc": 0.48}], **OWN, **HARSH, network_settings={"norm": norm, "bias": norm == "batch"})
    before, after, used = frozen_and_free(made)
    assert set(used) == {n for n, _ in made.method.network.named_parameters()}
    for name, on in used.items():
        assert torch.equal(before[name][on], after[name][on]), name
    free = torch.cat([(before[n] != after[n])[~on] for n, on in used.items()])
    assert float(free.double().mean()) > 0.9  # decay alone moves them
    assert 0.05 < float(flat(used).double().mean()) < 0.95


def test_without_the_gradient_mask_they_do_change(monkeypatch):
    monkeypatch.setattr(RMN, "condition", lambda self, grads, *rest: grads)
    made = learner("rmn", [{"map_loc": 0.45}], **OWN)
    before, after, used = frozen_and_free(made)
    assert any(not torch.equal(before[n][on], after[n][on]) for n, on in used.items())


@pytest.mark.parametrize("shared", [{}, {"multi_head": True}, {"learn_beta": False}])
def test_outputs_of_old_tasks_are_bit_identical(shared):
    made = learner("rmn", [{"map_rate": 3.0, **shared}], **OWN, **HARSH, network_settings={"norm": "batch-scale"})
    up_to(made, 1)
    then = logits(made, 0, 1)
    up_to(made, 2)
    assert torch.equal(logits(made, 0, 2), then)
    later = logits(made, 1, 2)
    finish(made)
    assert torch.equal(logits(made, 0, 3), then)
    assert torch.equal(logits(made, 1, 3), later)


def test_accuracies_of_old_tasks_stay_and_later_tasks_are_learned():
    _, reports = trained({"map_rate": 3.0, "map_loc": 0.45}, epochs=15)
    rows = [report.members[0].test for report in reports[1:]]
    assert [rows[1][0], rows[2][0], rows[2][1]] == [rows[0][0], rows[0][0], rows[1][1]]
    assert min(rows[2]) > 0.85


# -- R3: pruning -------------------------------------------------------------------------------------------------------


def one_step(made, params, memory, at, index=0):
    splits = {t.index: t.train for t in made.benchmark.tasks}
    pool = stage_pool(made.method.stages(at)[0], splits, made.dtype)
    trainer = Trainer(made.method, made.training, 0, (0,))
    state, lr = trainer.start(params), torch.full((len(made.members),), 0.02, dtype=made.dtype)
    for batch in pool.batches(32):
        params, state, _ = trainer.packed_step(params, state, memory, made.hp, lr, batch, at)
    return params


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_pruned_entries_stay_zero_for_the_rest_of_the_task(share):
    made = learner("rmn", [{"mu": 0.45, "beta": 10.0, "map_loc": 0.5, "straight_through": share}], **OWN)
    params, memory, at = begin(made)
    at = replace(at, epoch=3, epochs=4)
    own = [member(t, 0) for t in (params, memory, made.hp)]
    after = made.method.end_epoch(*own, at, torch.tensor(1.0))
    pruned = {n: after[f"state.pruned.{n}"] for n in made.method.mapped}
    for name, gone in pruned.items():  # by hand: LR(MP) <= mu at beta 10
        assert torch.equal(gone, 1 / (1 + torch.exp(-10 * (own[0][f"maps.{name}"] - 0.5))) <= 0.45)
    assert 0 < float(flat(pruned).double().mean()) < 0.5
    moved = member(one_step(made, {n: t[None] for n, t in after.items()}, memory, at), 0)
    for phase in ("train", "eval"):
        weights = made.method.effective_weights(moved, own[1], own[2], replace(at, phase=phase))
        assert all(bool((weights[n][gone] == 0).all()) for n, gone in pruned.items())
    pushed = {**moved, **{f"maps.{n}": torch.ones_like(gone, dtype=made.dtype) for n, gone in pruned.items()}}
    for phase in ("train", "eval"):  # whatever Adam's momentum makes of the mapping
        weights = made.method.effective_weights(pushed, own[1], own[2], replace(at, phase=phase))
        assert all(bool((weights[n][gone] == 0).all()) for n, gone in pruned.items())
    once_more = made.method.end_epoch(moved, own[1], own[2], at, torch.tensor(1.0))
    assert all(bool(once_more[f"state.pruned.{n}"][gone].all()) for n, gone in pruned.items())
    kept = made.method.end_task(moved, own[1], own[2], at, [Batch(torch.rand(8, 1, 8, 8), torch.zeros(8))])
    assert not any(bool(m.values[pruned[n]].any()) for n, m in made.method.masks(kept, 0).items())


def test_before_the_loss_has_converged_nothing_is_pruned():
    made = learner("rmn", [{"mu": 0.45}], **OWN)
    params, memory, at = begin(made)
    own = [member(t, 0) for t in (params, memory, made.hp)]
    after = made.method.end_epoch(*own, replace(at, epoch=1, epochs=100), torch.tensor(1.0))
    assert not any(bool(after[f"state.pruned.{n}"].any()) for n in made.method.mapped)
    assert float(after["state.losses"][-1]) == 1.0


def test_mappings_and_beta_stay_in_their_range():
    made = learner("rmn", [{"map_rate": 50.0, "beta": 3.0}, {"map_rate": 50.0, "beta": 150.0}], **OWN)
    params, memory, at = begin(made)
    after = one_step(made, params, memory, at)
    for name in made.method.mapped:
        assert float(after[f"maps.{name}"].min()) == 0.0
        assert float(after[f"maps.{name}"].max()) == 1.0
    betas = after["log_beta"].exp()
    assert betas.shape == (2, 3)
    assert 1 - 1e-6 <= float(betas.min()) <= float(betas.max()) <= 200 * (1 + 1e-6)
    assert not torch.equal(after["log_beta"], params["log_beta"])


# -- R5, R8: masks at their ends ---------------------------------------------------------------------------------------


def test_rounded_masks_are_a_pseudo_round_that_is_very_tight():
    made = learner("rmn", [{"learn_beta": False, "beta": 1e6}], **OWN)
    params, memory, at = begin(made)
    for name in made.method.mapped:  # one that lies within 2e-5 of the middle would not be tight
        near = (params[f"maps.{name}"] - 0.5).abs() < 1e-4
        params[f"maps.{name}"] = params[f"maps.{name}"] + 2e-4 * near
    own = [member(t, 0) for t in (params, memory, made.hp)]
    soft, hard = (made.method.effective_weights(*own, replace(at, phase=phase)) for phase in ("train", "eval"))
    assert same(soft, hard)
    loose = {**own[2], "beta": torch.tensor(10.0)}
    for name in made.method.mapped:  # W where the mapping is above one half, by hand
        rounded = made.method.effective_weights(own[0], own[1], loose, replace(at, phase="eval"))[name]
        assert torch.equal(rounded, own[0][name] * (own[0][f"maps.{name}"] > 0.5))
    assert not same(made.method.effective_weights(own[0], own[1], loose, at), hard)


def test_straight_through_trains_with_rounded_masks_in_the_last_epochs_only():
    made = learner("rmn", [{"straight_through": 0.5}], **OWN)
    params, memory, at = begin(made)
    own = [member(t, 0) for t in (params, memory, made.hp)]
    weights = [made.method.effective_weights(*own, replace(at, epoch=e, epochs=4))["head.weight"] for e in range(4)]
    hard = made.method.effective_weights(*own, replace(at, phase="eval"))["head.weight"]
    assert [torch.allclose(w, hard, atol=1e-6) for w in weights] == [False, False, True, True]


@pytest.mark.parametrize("norm", ["none", "batch-plain", "batch-scale"])
def test_open_masks_that_do_not_move_are_the_plain_network_bit_for_bit(norm):
    options = {**OWN, "scenario": "domain-il", "tasks": 1, "network_settings": {"norm": norm, "bias": False}, "optimizer": "adam"}
    ours, plain = learner("rmn", [OPEN], **options), learner("finetune", **{**options, "protocol": "fixed"})
    finish(ours)
    finish(plain)
    assert all(bool(mask.all()) for mask in masks_of(ours, 0).values())
    for name in ours.method.mapped:
        assert torch.equal(ours.memory_of(0)[name], plain.memory_of(0)[name]), name


# -- R6, R7: what is said and stored -----------------------------------------------------------------------------------


def test_sparsity_is_what_no_task_uses_and_never_rises():
    made, reports = trained({"map_rate": 3.0, "map_loc": 0.4})
    taken, said = {}, []
    for task, report in enumerate(reports[1:]):
        masks, facts = masks_of(made, task), report.members[0]
        taken = {n: on | taken.get(n, torch.zeros_like(on)) for n, on in masks.items()}
        total = sum(on.numel() for on in taken.values())
        assert total == COUNT
        assert facts.capacity["total"] == pytest.approx(sum(int(on.sum()) for on in taken.values()) / total)
        assert facts.capacity["head.weight"] == pytest.approx(float(taken["head.weight"].double().mean()))
        assert facts.use["total"] == pytest.approx(1 - sparsity(masks))
        both = [int((flat(masks) & flat(masks_of(made, past))).sum()) for past in range(task + 1)]
        assert facts.reuse == pytest.approx([count / int(flat(masks).sum()) for count in both])
        said.append(1 - facts.capacity["total"])
    assert said[0] > said[1] > said[2] > 0


@pytest.mark.parametrize(("shared", "head"), [({}, 0), ({"multi_head": True}, 2)])
def test_stored_are_weights_in_use_and_a_bit_a_weight_a_task_and_its_statistics(shared, head):
    made, reports = trained({**shared})
    masked = 64 * 16 + 16 * 16 + (0 if head else 16 * 2)
    taken = torch.zeros(masked, dtype=torch.bool)
    for seen, report in enumerate(reports[1:], start=1):
        taken |= flat(masks_of(made, seen - 1))
        a_task = math.ceil(masked / 8) + 4 * (2 * 32 + head * 16)
        assert 0 < int(taken.sum()) < masked
        assert report.members[0].bytes == 4 * int(taken.sum()) + seen * a_task
    bits = made.memory_of(0)["masks.1"]
    assert bytes(bits.numpy()) == pack_bits(flat(masks_of(made, 1)))
    assert len(bits) == math.ceil(masked / 8)


def test_the_papers_network_has_99400_weights_and_12425_bytes_of_mask():
    net = network("mlp:100-100-100", (1, 28, 28), method="rmn")
    method = RMN(RMNHyper(), net, Layout("domain-il", (10,)))
    assert sum(math.prod(shape) for shape in method.mapped.values()) == 99_400
    assert len(method.start(net.body_weights())["union"]) == 12_425


# -- heads -------------------------------------------------------------------------------------------------------------


def test_of_a_shared_head_a_task_uses_and_freezes_only_its_own_outputs():
    net = network(NET, (1, 8, 8), method="rmn")
    method = RMN(RMNHyper(), net, Layout("class-il", (2, 3)))
    hp = {n: torch.tensor(float(getattr(RMNHyper(), n))) for n in hyper.packed_names(RMNHyper)}
    memory, at = method.start(net.body_weights()), At(0, "train", 1)
    params = method.begin_task(memory, hp, at)
    assert params["head.weight"].shape == (3, 16)
    assert [len(method.effective_weights(params, memory, hp, replace(at, task=t))["head.weight"]) for t in (0, 1)] == [2, 3]
    memory = method.end_task(params, memory, hp, at, [Batch(torch.rand(8, 1, 8, 8), torch.zeros(8))])
    mask = method.masks(memory, 0)["head.weight"].values
    assert bool(mask[:2].any())
    assert not bool(mask[2].any())
    frozen = method.prepare(memory, hp, At(1, "train", 2))
    assert torch.equal(frozen["derived.frozen.head.weight"], mask)
    assert method.label_offset(1) == 0


# -- loss --------------------------------------------------------------------------------------------------------------


def loss_at(hypers, task=1, scenario="task-il"):
    made = learner("rmn", [hypers], **OWN, dtype=torch.float64, scenario=scenario)
    up_to(made, task)
    params, memory, at = begin(made, task)
    own = [member(t, 0) for t in (params, memory, made.hp)]
    inputs, labels = benchmark().tasks[task].train.batch(torch.arange(32), torch.float64)
    torch.manual_seed(7)
    return made.method, own, at, float(made.method.loss(*own, at, Batch(inputs, labels))), inputs, labels


def test_sparsity_and_overlap_enter_the_loss_by_hand():
    _, _, _, plain, *_ = loss_at({})
    method, own, at, full, inputs, labels = loss_at({"lambda_l1": 0.5, "lambda_overlap": 2.0, "beta": 10.0})
    soft = {n: torch.sigmoid(10 * (own[0][f"maps.{n}"] - 0.5)) for n in method.mapped}
    old = {n: mask.values for n, mask in method.masks(own[1], 0).items()}
    penalty = sum(0.5 * float(m.sum()) + 2 * float(m[old[n]].sum()) for n, m in soft.items()) / COUNT
    assert full - penalty > 0
    weights = method.effective_weights(own[0], own[1], own[2], at)
    entropy = F.cross_entropy(method.logits(weights, inputs, at), labels)
    assert full == pytest.approx(float(entropy) + penalty, rel=1e-12)
    assert plain > 0


@pytest.mark.parametrize(("noise", "scenario", "learned"), [
    ("auto", "task-il", False), ("auto", "domain-il", True), ("auto", "class-il", True), ("on", "task-il", True),
    ("off", "class-il", False),
])  # fmt: skip
def test_noise_is_to_be_answered_with_nothing_where_tasks_are_inferred(noise, scenario, learned):
    method, own, at, full, inputs, labels = loss_at({"noise": noise, "noise_weight": 0.3}, scenario=scenario)
    weights = method.effective_weights(*own, at)
    entropy = float(F.cross_entropy(method.logits(weights, inputs, at), labels))
    torch.manual_seed(7)
    answer = method.logits(weights, torch.randn_like(inputs), at)
    expected = entropy + (0.3 * float((answer**2).sum(1).mean()) if learned else 0.0)
    assert full == pytest.approx(expected, rel=1e-12)
    validated = method.loss(*own, replace(at, phase="eval"), Batch(inputs, labels))
    hard = method.effective_weights(*own, replace(at, phase="eval"))
    assert float(validated) == pytest.approx(float(F.cross_entropy(method.logits(hard, inputs, replace(at, phase="eval")), labels)))


# -- normalisation and inference ---------------------------------------------------------------------------------------


def test_an_old_task_is_evaluated_with_its_own_statistics_not_with_the_batchs():
    """One example at a time gives what all give together, also right after training."""
    made, _ = trained(dtype=torch.float64, epochs=1)
    memory, hp, at = made.memory_of(0), member(made.hp, 0), made.learned[1]
    inputs, _ = benchmark().test(1).batch(torch.arange(10), torch.float64)
    weights = made.method.effective_weights({}, memory, hp, at)
    one = torch.cat([made.method.logits(weights, x[None], at) for x in inputs])
    assert torch.allclose(one, made.method.logits(weights, inputs, at), atol=1e-12)


def test_statistics_kept_are_those_of_the_rounded_masks():
    made, _ = trained({"map_rate": 3.0}, dtype=torch.float64)
    for task in (0, 2):
        split = benchmark().tasks[task].train
        inputs, _ = split.batch(torch.arange(len(split)), torch.float64)
        memory = made.memory_of(0)
        if task == 2:  # the weights of the newest task are in memory as they were trained
            hidden = inputs.flatten(1) @ (memory["layers.0.weight"] * masks_of(made, task)["layers.0.weight"]).T
            assert torch.allclose(memory[f"norms.{task}.batch_norms.0.mean"], hidden.mean(0), atol=1e-12)
            assert torch.allclose(memory[f"norms.{task}.batch_norms.0.var"], hidden.var(0), atol=1e-12)
    assert not torch.equal(memory["norms.0.batch_norms.0.mean"], memory["norms.2.batch_norms.0.mean"])


@pytest.mark.parametrize("rule", inference.RULES)
def test_the_task_with_the_best_score_answers(rule):
    made, _ = trained({"inference": rule}, scenario="class-il", epochs=2)
    memory, hp, ats = made.memory_of(0), member(made.hp, 0), [replace(at, seen=3) for at in made.learned]
    inputs, _ = benchmark().test(1).batch(torch.arange(60), made.dtype)
    outputs = torch.stack([made.method.logits(made.method.effective_weights({}, memory, hp, at), inputs, at) for at in ats])
    if rule == "max-logit":
        best = outputs.max(-1).values.argmax(0)
    elif rule == "max-probability":
        best = outputs.softmax(-1).max(-1).values.argmax(0)
    else:
        best = torch.distributions.Categorical(logits=outputs).entropy().argmin(0)
    tasks, classes = made.method.answers(memory, hp, inputs, ats)
    assert torch.equal(tasks, best)
    assert torch.equal(classes, outputs.argmax(-1)[best, torch.arange(60)])
    assert torch.equal(made.method.infer_task(memory, hp, inputs, ats, list(outputs)), best)
    assert len(best.unique()) > 1
