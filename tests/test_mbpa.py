"""MbPA on EWC: neighbours against numpy, adapted answers against a loop over test examples, what is stored."""

import numpy as np
import pytest
import torch
from helpers import SCENARIOS, finish, learner, up_to
from penalties_kit import data, member, weights_of
from replay_kit import CLASSES, SHORT, head, hidden
from torch.nn import functional as F

from clcore.methods import At
from clcore.methods.rehearsal.mbpa import neighbours

FEW = {"stored": 15, "neighbours": 4, "steps": 3, "rate": 0.3, "pull": 0.2}


def trained(scenario="task-il", seen=2, **hyper):
    made = up_to(learner("mbpa", [{**FEW, **hyper}], scenario=scenario, **SHORT), seen)
    return made, member(made.memory), member(made.hp)


def inputs_of(made, images):
    layout = made.method.layout
    return images.double() * ((layout.high - layout.low) / layout.levels) + layout.low


@pytest.mark.parametrize("count", [1, 4, 30])
def test_neighbours_are_the_nearest(count):
    torch.manual_seed(0)
    queries, keys = torch.rand(7, 5).double(), torch.rand(12, 5).double()
    places, shares = neighbours(queries, keys, count, torch.tensor(0.01, dtype=torch.float64))
    for query, own, share in zip(queries.numpy(), places.tolist(), shares, strict=True):
        distances = ((keys.numpy() - query) ** 2).sum(1)
        wanted = np.argsort(distances)[:count]
        closeness = 1 / (0.01 + distances[wanted])
        assert own == wanted.tolist()
        assert np.allclose(share.numpy(), closeness / closeness.sum(), rtol=1e-10)


def test_an_example_that_is_stored_finds_itself():
    keys = 255 * torch.rand(9, 20)  # float32: a squared distance of 0 may come out below
    places, shares = neighbours(keys, keys, 3, torch.tensor(1e-3))
    assert places[:, 0].tolist() == list(range(9))
    assert bool((shares > 0).all())
    assert bool((shares <= 1).all())


def by_loop(made, memory, task, scenario, xs, embedding):
    """Logits of each example of ``xs``, one after the other, by autograd alone."""
    tasks = [task] if scenario == "task-il" else [0, 1]
    labels = torch.cat([memory[f"stored.labels.{t}"].long() + (CLASSES * t if scenario == "class-il" else 0) for t in tasks])
    weights = weights_of(made, task, 2)
    if embedding == "inputs":
        keys, queries = torch.cat([inputs_of(made, memory[f"stored.images.{t}"]) for t in tasks]), xs
        said, names = (lambda w, k: head(w, k, "head")), [n for n in weights if n.startswith(("layers", "head"))]
    else:
        keys, queries = torch.cat([memory[f"stored.keys.{t}"] for t in tasks]), hidden(weights, xs)
        said, names = (lambda w, k: F.linear(k, w["head.weight"], w["head.bias"])), ["head.weight", "head.bias"]
    found = []
    for query in queries:
        distances = (keys - query).flatten(1).square().sum(1)
        nearest = distances.argsort()[:4]
        share = 1 / (1e-3 + distances[nearest])
        own = dict(weights)
        for _ in range(3):
            own |= {n: own[n].detach().requires_grad_() for n in names}
            nll = F.cross_entropy(said(own, keys[nearest]), labels[nearest], reduction="none")
            slopes = torch.autograd.grad((share / share.sum() * nll).sum(), [own[n] for n in names])
            own |= {n: own[n] - 0.3 * g - 0.2 * (own[n] - weights[n]) for n, g in zip(names, slopes, strict=True)}
        found.append(said(own, query[None])[0].detach())
    return torch.stack(found)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("embedding", ["inputs", "features"])
def test_each_example_is_answered_by_weights_of_its_own(scenario, embedding, monkeypatch):
    made, memory, hp = trained(scenario, embedding=embedding)
    xs, _ = data(0, scenario, "validation", torch.arange(11))
    weights, at = weights_of(made, 0, 2), At(0, "eval", 2)
    wanted = by_loop(made, memory, 0, scenario, xs, embedding)
    assert wanted.shape == (11, 2 * CLASSES if scenario == "class-il" else CLASSES)
    assert float((wanted - made.method.logits(weights, xs, at)).abs().max()) > 1e-3
    found = made.method.adapted(weights, memory, hp, xs, at)
    assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-10)
    monkeypatch.setattr("clcore.methods.rehearsal.mbpa.CHUNK", 4000)  # a few examples at a time
    assert torch.allclose(made.method.adapted(weights, memory, hp, xs, at), wanted, rtol=1e-9, atol=1e-10)
    assert made.method.entrance == ("layers.0" if embedding == "inputs" else "")
    monkeypatch.setitem(made.method.__dict__, "entrance", "")  # all weights held for each example
    assert torch.allclose(made.method.adapted(weights, memory, hp, xs, at), wanted, rtol=1e-9, atol=1e-10)
    assert made.method.predict(weights, memory, hp, xs, at).tolist() == wanted.argmax(1).tolist()


def test_what_is_learned_is_what_ewc_learns():
    own, ewc = learner("mbpa", [FEW], **SHORT), learner("ewc", **SHORT)
    finish(own)
    finish(ewc)
    for name, tensor in ewc.memory.items():
        assert torch.equal(own.memory[name], tensor), name


def test_without_rate_it_answers_as_ewc():
    rows = [finish(learner(name, [hyper], **SHORT))[-1].members[0] for name, hyper in (("mbpa", {**FEW, "rate": 0}), ("ewc", {}))]
    assert repr(rows[0].test) == repr(rows[1].test)
    assert repr(rows[0].validation) == repr(rows[1].validation)


def test_where_nothing_is_stored_it_answers_as_learned():
    made, memory, hp = trained(seen=1)
    xs, _ = data(1)
    weights, at = weights_of(made, 0), At(1, "eval", 2)
    assert torch.equal(made.method.adapted(weights, memory, hp, xs, at), made.method.logits(weights, xs, at))


@pytest.mark.parametrize("embedding", ["inputs", "features"])
def test_what_is_stored_and_its_bytes(embedding):
    made, memory, hp = trained(embedding=embedding)
    _, own, _ = trained(embedding=embedding, stored=0)
    xs, ys = data(1)
    assert len(own["stored.labels.1"]) == len(ys)
    if embedding == "inputs":
        images, size = inputs_of(made, memory["stored.images.1"]), 64
        places = [next(i for i, x in enumerate(xs) if torch.allclose(x, image)) for image in images]
        assert len(set(places)) == 15
        assert ys[places].tolist() == memory["stored.labels.1"].tolist()
        assert memory["stored.images.1"].dtype == torch.uint8
    else:
        keys, size = memory["stored.keys.1"], 4 * 16
        every = hidden(memory, xs)
        assert keys.shape == (15, 16)
        assert all(any(torch.allclose(key, feature) for feature in every) for key in keys)
        assert not any(name.startswith("stored.images") for name in memory)
    plain = up_to(learner("ewc", **SHORT), 2)
    network = plain.method.stored_bytes(member(plain.memory), member(plain.hp))
    assert made.method.stored_bytes(memory, hp) == network + 2 * 15 * (size + 1)


def test_adapting_brings_back_what_was_forgotten():
    options = {"scenario": "domain-il", "lr": 0.1, "epochs": 10, "batch_size": 16, "tasks": 2}
    hyper = {"strength": 1.0, "rate": 0.1, "steps": 5}
    kept, lost = (finish(learner(name, [h], **options))[-1].members[0] for name, h in (("mbpa", hyper), ("ewc", {"strength": 1.0})))
    assert kept.validation[0] > lost.validation[0] + 0.1
