"""PackNet against a plain torch loop with the authors' pruning, and B4: old tasks stay as they are, each weight has one owner."""

import pytest
import torch
from helpers import begin, benchmark, finish, learner, up_to
from torch.nn import functional as F

from clcore.methods.packnet import survivors
from clcore.randomness import numpy_stream

NAMES = ("layers.0.weight", "layers.1.weight")
SHARE = 0.6


def authors_mask(weights, mask, current, share):
    """``pruning_mask`` of the authors' code: the owners after pruning, 0 where a weight is given back."""
    mine = weights[mask == current].abs()
    cutoff = mine.flatten().kthvalue(round(share * mine.numel())).values
    mask = mask.clone()
    mask[(weights.abs() <= cutoff) & (mask == current)] = 0
    return mask


@pytest.mark.parametrize("share", [0.5, 0.75, 0.9])
def test_survivors_are_those_of_the_authors_code(share):
    torch.manual_seed(0)
    weights, mask = torch.randn(13, 7), torch.randint(1, 4, (13, 7))
    ours = survivors(weights, mask == 2, torch.tensor(share))
    assert torch.equal(ours, authors_mask(weights, mask, 2, share) == 2)


def test_ties_fall_together_and_a_share_of_nothing_leaves_all():
    weights = torch.tensor([0.0, 0.0, 0.0, 2.0, -1.0])
    free = torch.tensor([True, True, True, True, False])
    assert survivors(weights, free, torch.tensor(0.25)).tolist() == [False, False, False, True, False]
    assert survivors(weights, free, torch.tensor(0.0)).tolist() == free.tolist()
    assert not survivors(weights, torch.zeros(5, dtype=torch.bool), torch.tensor(0.5)).any()


def forward(p, x):
    for layer in ("layers.0", "layers.1"):
        x = torch.relu(F.linear(x.flatten(1), p[f"{layer}.weight"], p[f"{layer}.bias"]))
    return F.linear(x, p["head.weight"], p["head.bias"])


def train(p, owners, task, stage, epochs):
    """One run with momentum and weight decay in which only weights of owner ``task + 1`` move, as the authors' code does it."""
    split = benchmark().tasks[task].train
    optimizer = torch.optim.SGD(p.values(), lr=0.1, momentum=0.9)
    for epoch in range(epochs):
        order = numpy_stream(0, "batches", task, "train", stage, epoch).permutation(len(split))
        for positions in torch.from_numpy(order).split(32):
            x, y = split.batch(positions, torch.float64)
            optimizer.zero_grad()
            F.cross_entropy(forward(p, x), y).backward()
            for name in p:
                if not name.startswith("head"):
                    p[name].grad += 0.01 * p[name].detach()
                    still = owners[name] != task + 1 if name in NAMES else torch.full_like(p[name], task > 0, dtype=torch.bool)
                    p[name].grad[still] = 0
                else:
                    p[name].grad += 0.01 * p[name].detach()
            optimizer.step()


def test_three_tasks_are_those_of_a_plain_loop():
    training = {"protocol": "fixed", "optimizer": "momentum", "epochs": 2, "lr": 0.1, "weight_decay": 0.01, "batch_size": 32}
    made = learner("packnet", [{"prune": SHARE}], dtype=torch.float64, **training)
    run = made.run()
    next(run)
    owners = {name: torch.zeros(made.memory[name].shape[1:], dtype=torch.long) for name in NAMES}
    for task in range(3):
        drawn = {n: t for n, t in begin(made, task)[0].items() if not n.startswith("state.")}
        p = {n: t[0].clone().requires_grad_() for n, t in drawn.items()}
        owners = {name: torch.where(owner == 0, task + 1, owner) for name, owner in owners.items()}
        train(p, owners, task, "train", 2)
        owners = {name: authors_mask(p[name].detach(), owners[name], task + 1, SHARE) for name in NAMES}
        with torch.no_grad():
            for name in NAMES:
                p[name][owners[name] == 0] = 0
        train(p, owners, task, "retrain", 2)
        next(said for said in run if getattr(said, "seen", 0))
        found = made.method.owners(made.memory_of(0))
        for name in NAMES:
            assert torch.equal(found[name].long(), owners[name])
        for name, value in p.items():
            kept = made.memory[name.replace("head", f"heads.{task}")][0]
            assert torch.allclose(kept, value.detach(), rtol=0, atol=1e-10), (task, name)


def logits(made, task):
    at, memory = made.learned[task], made.memory_of(0)
    split = benchmark().test(task)
    inputs, _ = split.batch(torch.arange(len(split)))
    return made.method.logits(made.method.effective_weights({}, memory, {}, at), inputs, at)


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_b4_old_tasks_answer_bit_for_bit_as_they_did(norm, optimizer):
    options = {"lr": 0.01, "weight_decay": 0.1, "optimizer": optimizer, "network_settings": {"norm": norm}, "drop": 0.2}
    made, before = learner("packnet", **options), {}
    for said in made.run():
        if getattr(said, "seen", 0):
            before[said.seen - 1] = logits(made, said.seen - 1)
    for task, was in before.items():
        assert torch.equal(logits(made, task), was)
    loose = up_to(learner("finetune", **options), 1)
    was = logits(loose, 0)
    finish(loose)
    assert not torch.equal(logits(loose, 0), was)


def test_b4_each_weight_has_one_owner_for_good():
    made, counts, before = learner("packnet", [{"prune": 0.5}], lr=0.3), {n: 0 for n in NAMES}, None
    for said in made.run():
        if not (task := getattr(said, "seen", 0)):
            continue
        owners, memory = made.method.owners(made.memory_of(0)), made.memory_of(0)
        masks = [made.method.masks(memory, t) for t in range(task)]
        for name, owner in owners.items():
            left = owner.numel() - counts[name]
            own = int((owner == task).sum())
            assert own == left - round(0.5 * left) or (own < left / 2 and task > 1)  # ties at 0 fall together
            counts[name] += own
            assert bool((memory[name][owner == 0] == 0).all())
            assert torch.equal(masks[-1][name].values, (owner > 0) & (owner <= task))
            if before is not None:
                assert torch.equal(before[0][name] * (before[0][name] > 0), owner * (before[0][name] > 0))
                assert torch.equal(memory[name][before[0][name] > 0], before[1][name][before[0][name] > 0])
        before = owners, memory
        weights, bits = 64 * 16 + 16 * 16, task.bit_length()
        assert 0 < sum(counts.values()) < weights
        assert said.members[0].bytes == 4 * (sum(counts.values()) + 32 + task * 17 * 2) + bits * weights // 8


def test_the_best_epoch_brings_its_own_choice():
    """After the first stage of the plateau the mask is that of the weights that were kept."""
    made = learner("packnet", [{"prune": 0.5}], lr=3.0, tasks=1, epochs=6, patience=3)
    kept = {}

    class Watched(type(made.method)):
        def condition(self, grads, params, memory, hp, at, preview):
            if at.stage == "retrain" and not kept:
                kept.update({name: t.clone() for name, t in params.items()})
            return super().condition(grads, params, memory, hp, at, preview)

    made.method.__class__ = Watched
    finish(made)
    for name in NAMES:
        mask = authors_mask(kept[name], torch.ones_like(kept[name]), 1, 0.5) == 1
        assert torch.equal(kept[f"state.kept.{name}"], mask)
