"""HopSupSup as a method: what the Hopfield network holds, recovery against torch.optim, answers, what is stored."""

import pytest
import torch
from helpers import begin, finish, learner
from torch import nn

from clcore.methods import At, Batch
from clcore.pack import packed

DOUBLE = {"own": True, "dtype": torch.float64, "net": "mlp:24-24"}


def alone(made, member=0):
    return {n: t[member] for n, t in made.memory.items()}, {n: t[member] for n, t in made.hp.items()}


def given_masks(masks, **options):
    """A learner that holds these masks, shape [tasks, 48]; the same for all members."""
    options = {"hypers": ({},), "scenario": "class-il", "tasks": 5, **DOUBLE, **options}
    made = learner("hopsupsup", **options)
    for task, mask in enumerate(masks):
        params, memory, at = begin(made, task)
        wanted = dict(zip(params, (2 * mask.double() - 1).split(24), strict=True))
        params = {n: wanted[n].expand(t.shape) for n, t in params.items()}
        made.memory = packed(lambda p, m, h, at=at: made.method.end_task(p, m, h, at, ()))(params, memory, made.hp)
        made.learned.append(At(task, "eval", len(masks)))
    return made


def random_masks(count):
    return torch.rand(count, 48, generator=torch.Generator().manual_seed(0)) > 0.5


def storkey(zs):
    """Psi from its definition, entry by entry in exact order of the sums."""
    d = len(zs[0])
    psi = torch.zeros(d, d, dtype=torch.float64)
    for z in zs:
        h = psi @ z
        psi = psi + (z[:, None] * z - z[:, None] * h - h[:, None] * z - torch.eye(d)) / d
    return psi


def test_every_mask_is_in_connections_mean_and_record():
    masks = random_masks(4)
    memory, _ = alone(given_masks(masks))
    zs = 2 * masks.double() - 1
    for units, columns in (("units1", slice(0, 24)), ("units2", slice(24, 48))):
        assert torch.allclose(memory[f"psi.{units}"], storkey(list(zs[:, columns])), atol=1e-12)
    assert torch.allclose(memory["mean"], zs.mean(0), atol=1e-12)
    recorded = given_masks(masks).method.masks(memory, 2)
    assert torch.cat([recorded["units1"].values, recorded["units2"].values]).tolist() == masks[2].tolist()


def test_a_mask_that_a_layer_had_before_is_not_stored_again():
    masks = random_masks(3)
    masks[2, :24] = masks[0, :24]
    memory, _ = alone(given_masks(masks))
    zs = 2 * masks.double() - 1
    assert torch.allclose(memory["psi.units1"], storkey([zs[0, :24], zs[1, :24]]), atol=1e-12)
    assert torch.allclose(memory["psi.units2"], storkey(list(zs[:, 24:])), atol=1e-12)


def test_a_task_begins_with_every_unit_on():
    made = learner("hopsupsup", **DOUBLE)
    params, memory, at = begin(made)
    weights = made.method.effective_weights(*({n: t[0] for n, t in d.items()} for d in (params, memory, made.hp)), at)
    assert bool((weights["units1.gain"] == 1).all())
    assert set(params) == {"scores.units1", "scores.units2"}


class Sign(torch.autograd.Function):
    """1 where the score is at least 0, and a gradient that passes."""

    @staticmethod
    def forward(ctx, scores):
        return (scores >= 0).to(scores)

    @staticmethod
    def backward(ctx, grad):
        return grad


def plain_net(memory, mask, x):
    """The network written down: normalised by the batch, ReLU, masked; no biases."""
    hidden = x.flatten(1)
    for layer, part in zip((0, 1), mask.split(24), strict=True):
        hidden = hidden @ memory[f"fixed.layers.{layer}.weight"].T
        hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
        hidden = hidden.relu() * part
    return hidden @ memory["fixed.head.weight"].T


def plain_recovery(memory, x, use):
    scores = memory["mean"].clone().requires_grad_()
    optimizer = torch.optim.SGD([scores], lr=use["recovery_lr"], momentum=0.9, weight_decay=1e-4)
    batches = x.split(use["recovery_batch"])
    for t, batch in enumerate(batches, start=1):
        mask = Sign.apply(scores)
        p = plain_net(memory, mask, batch).softmax(1)
        entropy = -(p * p.log()).sum(1).mean()
        zs = (2 * mask - 1).split(24)
        energy = sum(-0.5 * z @ memory[f"psi.units{i}"] @ z for i, z in enumerate(zs, start=1))
        optimizer.zero_grad()
        (use["gamma"] * t / len(batches) * energy + (1 - t / len(batches)) * entropy).backward()
        optimizer.step()
    return scores.detach()


def test_recovery_and_answers_are_those_of_torch_optim_for_each_member():
    values = [{"recovery_batch": 20, "gamma": g, "recovery_lr": lr} for g, lr in ((1.5e-3, 500.0), (0.1, 2.0))]
    made = given_masks(random_masks(3), hypers=values)
    made.memory = {n: t.clone() for n, t in made.memory.items()}
    x = made.benchmark.test(1).batch(torch.arange(70), torch.float64)[0]
    x = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    tasks, classes = packed(lambda m, h, i: made.method.answers(m, h, i, made.learned), shared=1)(made.memory, made.hp, x)
    for member, use in enumerate(values):
        memory, hp = alone(made, member)
        wanted = plain_recovery(memory, x, use)
        found = made.method.recovered(memory, hp, x)
        assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-9)
        decided = plain_net(memory, (wanted >= 0).double(), x)[:, :6].argmax(1)
        assert (tasks[member] * 2 + classes[member]).tolist() == decided.tolist()
        assert int(classes.max()) == 1
        assert int(tasks.max()) <= 2
    assert len(set(tasks.flatten().tolist())) > 1


def test_without_classes_of_their_own_the_task_is_that_of_the_most_similar_mask():
    masks = random_masks(3)
    made = given_masks(masks, scenario="domain-il")
    memory, hp = alone(made)
    x = made.benchmark.test(1).batch(torch.arange(70), torch.float64)[0]
    tasks, classes = made.method.answers(memory, hp, x, made.learned)
    found = made.method.recovered(memory, hp, x) >= 0
    assert set(tasks.tolist()) == {int((masks == found).sum(1).argmax())}
    assert set(classes.tolist()) <= {0, 1}


def test_a_batch_is_normalised_by_itself_at_test_too():
    made = given_masks(random_masks(2))
    memory, hp = alone(made)
    x = made.benchmark.test(0).batch(torch.arange(40), torch.float64)[0]
    weights = made.method.effective_weights({}, memory, hp, made.learned[1])
    wanted = plain_net(memory, random_masks(2)[1].double(), x)
    assert torch.allclose(made.method.logits(weights, x, made.learned[1]), wanted, atol=1e-12)


def test_only_the_rounding_of_a_gradient_is_dropped():
    made = learner("hopsupsup", **DOUBLE)
    grads = {"scores.units1": torch.tensor([1.0, -1e-3, 1e-17, -1e-17], dtype=torch.float64)}
    found = made.method.condition(grads, {}, {}, {}, At(0, "train", 1), lambda raw: raw)
    assert found["scores.units1"].tolist() == [1.0, -1e-3, 0.0, 0.0]


@pytest.mark.parametrize("scenario", ["task-il", "domain-il", "class-il"])
def test_what_is_stored_grows_only_where_tasks_are_given(scenario):
    made = learner("hopsupsup", scenario=scenario, **DOUBLE)
    sizes = [report.members[0].bytes for report in finish(made)]
    network = 8 + 4 * (24 * 24 + 24 * 24 + 48)
    assert sizes == ([8 + 6 * k for k in range(4)] if scenario == "task-il" else [network] * 4)


def test_weights_are_signed_constants_and_never_change():
    made = learner("hopsupsup", scenario="class-il", **DOUBLE)
    before = {n: t.clone() for n, t in made.memory.items() if n.startswith("fixed.")}
    finish(made)
    for name, tensor in before.items():
        assert torch.equal(tensor, made.memory[name])
        assert tensor.abs().unique().tolist() == pytest.approx([(2 / tensor.shape[2]) ** 0.5])
    assert len(before["fixed.head.weight"][0]) == 6


@pytest.mark.parametrize(("scenario", "first"), [("task-il", 0), ("domain-il", 0), ("class-il", 2)])
def test_a_task_is_learned_under_all_outputs(scenario, first):
    made = learner("hopsupsup", scenario=scenario, **DOUBLE)
    params, memory, hp = ({n: t[0] for n, t in d.items()} for d in (*begin(made, 1)[:2], made.hp))
    x, labels = made.benchmark.tasks[1].train.batch(torch.arange(30), torch.float64)
    wanted = nn.functional.cross_entropy(plain_net(memory, torch.ones(48, dtype=torch.float64), x), labels + first)
    found = made.method.loss(params, memory, hp, At(1, "train", 2), Batch(x, labels))
    assert float(found) == pytest.approx(float(wanted), abs=1e-9)


def test_the_network_is_normalised_by_default():
    made = learner("hopsupsup", **DOUBLE)
    assert all(isinstance(norm, nn.Module) and norm.by_batch for norm in made.method.network.norm_modules.values())
    assert len(made.method.network.norm_modules) == 2
