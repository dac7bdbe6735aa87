"""SupSup without task ids (NNs): the beliefs in its masks, new masks, and the way back to old ones."""

from types import SimpleNamespace

import pytest
import torch
from helpers import benchmark, network, same

from clcore import hyper
from clcore.methods.base import Batch, Layout
from clcore.methods.supsup import SupSup, SupSupHyper
from clcore.methods.supsup.nns import LEAST_MASKS, MaskChoice
from clcore.quick import preferred
from clcore.streams import Stream, StreamLearner
from clcore.training import Training

#: Enough for a mask to become sure of its task between two looks.
SETTINGS = {"mask": "threshold", "period": 60, "images": 64, "outputs": 20}


def learner_of(net="lenet-300-100", limit=8, dtype=torch.float32, lr=0.003, norm="none", **settings):
    made = network(net, (1, 8, 8), method="supsup", norm=norm)
    method = SupSup(hyper.build(SupSupHyper, {**SETTINGS, **settings}), made, Layout("domain-il", (10,) * limit))
    training = hyper.build(Training, {**preferred("supsup", Training), "lr": lr})
    return StreamLearner(method, training, method.watch(), seed=0, dtype=dtype)


def batches(task, count, dtype=torch.float32, start=0):
    """Batches of one task of permuted digits."""
    bench = benchmark("permuted-digits", tasks=2, scenario="task-free")
    split = bench.tasks[task].train
    stream = Stream(bench, 64, passes=20, seed=start, dtype=dtype, most=count)
    inputs = [batch for batch in stream if int(batch.tasks[0]) == task]
    assert len(inputs) == count
    assert len(split) > 64
    return [Batch(batch.inputs, batch.labels) for batch in inputs]


# -- what a look sees --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["none", "batch-plain"])
def test_beliefs_are_the_gradient_of_the_entropy_of_a_superposition(norm):
    """By autograd through a superposition written out, filling masks included; statistics are the mean of the masks' own."""
    torch.manual_seed(0)
    learner = learner_of("mlp:12", dtype=torch.float64, norm=norm)
    for batch in batches(0, 5, torch.float64):
        learner.feed(batch)
    inputs = torch.randn(64, 1, 8, 8, dtype=torch.float64)  # pixels would leave sums at the bend of the ReLU
    memory = {name: tensor[0] for name, tensor in learner.memory_now(LEAST_MASKS).items()}
    masks = [learner.method.masks(memory, mask) for mask in range(5)]
    assert torch.equal(masks[0]["layers.0.weight"].values, learner.params[0]["scores.layers.0.weight"][0] >= 0)
    alpha = torch.full((5,), 0.2, dtype=torch.float64, requires_grad=True)

    def mixed(name):
        stacked = torch.stack([mask[name].values.double() for mask in masks])
        return memory[f"fixed.{name}"] * (alpha.reshape(-1, 1, 1) * stacked).sum(0)

    hidden = inputs.flatten(1) @ mixed("layers.0.weight").T
    if norm != "none":
        (name,) = learner.method.network.norms
        mean, var = (sum(memory[f"norms.{mask}.{name}.{part}"] for mask in range(5)) / 5 for part in ("mean", "var"))
        hidden = (hidden - mean) / (var + 1e-5).sqrt()
    logits = torch.relu(hidden) @ mixed("head.weight").T
    p = logits.softmax(-1)
    (wanted,) = torch.autograd.grad(-(p * p.log()).sum(-1).mean(), alpha)
    found = learner.watch.gradient(learner, inputs)
    assert found.shape == (5,)
    assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-12)
    nu = torch.softmax(-found, 0)
    assert 1 <= 5 * float(nu.max()) <= 5


def test_masks_that_fill_up_are_those_that_begin_next():
    learner = learner_of("mlp:12")
    drawn = {name: tensor[0] for name, tensor in learner.memory_now(3).items()}
    for _ in range(2):
        learner._begin()
    begun = {name: tensor[0] for name, tensor in learner.memory_now().items()}
    assert same(drawn, begun)


@pytest.mark.parametrize(
    ("gradient", "verdict"),
    [
        ([-9.0, 0, 0, 0, 0], 0),
        ([0.0, -9, 0, 0, 0], 1),
        ([0.0, 0, 0, -9, 0], "new"),  # sure of a mask that is not trained
        ([0.0, 0, 0, 0, 0], "new"),  # undecided
        ([-0.145, 0, 0, 0, 0], "new"),  # 5 e^.145 / (e^.145 + 4) = 1.121
        ([-0.15, 0, 0, 0, 0], 0),  # 1.126
    ],
)
def test_verdicts(gradient, verdict):
    watch = MaskChoice(lambda *_: torch.tensor(gradient), 0.125, 10)
    learner = SimpleNamespace(mappings=2, limit=8, seen=SimpleNamespace(step=20), hp={}, memory_now=lambda _: {})
    batch = Batch(torch.zeros(4, 1), torch.zeros(4))
    assert watch.verdict(learner, batch) == verdict
    learner.limit = 2
    assert watch.verdict(learner, batch) == (1 if gradient[1] else 0)  # no room: the likeliest of those there are
    for step in (0, 19, 21):
        learner.seen.step = step
        assert watch.verdict(learner, batch) == "known"


# -- what comes of it --------------------------------------------------------------------------------------------------


def test_a_switch_opens_a_mask_and_the_way_back_is_found():
    learner = learner_of()
    for batch in batches(0, 120):
        learner.feed(batch)
    assert (learner.mappings, learner.at.task) == (1, 0)
    old = dict(learner.params[0])
    for batch in batches(1, 120):
        learner.feed(batch)
    assert (learner.seen.starts, learner.at.task) == ([0, 120], 1)
    assert same(old, learner.params[0])  # the old mask stayed as it was
    other = dict(learner.params[1])
    before = {name: tensor[0] for name, tensor in learner.memory_now().items()}
    for batch in batches(0, 60, start=1):
        learner.feed(batch)
    assert (learner.mappings, learner.at.task) == (2, 0)
    assert same(other, learner.params[1])
    assert not same(old, learner.params[0])
    memory = {name: tensor[0] for name, tensor in learner.memory_now().items()}
    for mapping, changed in ((0, True), (1, False)):
        now, then = (learner.method.masks(kept, mapping)["head.weight"].values for kept in (memory, before))
        assert torch.equal(now, learner.params[mapping]["scores.head.weight"][0] >= 0)
        assert torch.equal(now, then) is not changed
    for task in range(2):
        probe = batches(task, 1, start=2)[0]
        mappings, classes = learner.answers(probe.inputs)
        assert mappings.tolist() == [task] * 64
        assert float((classes == probe.labels).double().mean()) > 0.8


def test_a_state_after_going_back_goes_on_bit_for_bit():
    learner, other = learner_of("mlp:16", period=4, eps_nns=0.0), learner_of("mlp:16", period=4, eps_nns=0.0)
    learner._begin()
    learner._train_on(0)
    stream = batches(0, 9)
    for batch in stream[:3]:
        learner.feed(batch)
    other.restore(*learner.state())
    assert other.at == learner.at
    for batch in stream[3:]:
        assert learner.feed(batch) == other.feed(batch)
    assert same(learner.state()[0], other.state()[0])
    assert learner.state()[1] == other.state()[1]


def test_there_are_never_more_masks_than_allowed():
    learner = learner_of("mlp:8", limit=2, period=2, eps_nns=7.0)
    for batch in batches(0, 12):
        learner.feed(batch)
    assert learner.seen.starts == [0, 2]
