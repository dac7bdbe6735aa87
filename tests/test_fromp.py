"""FROMP: kernel, selection, Gauss-Newton matrix and penalty, each against loops over examples; B1."""

import numpy as np
import pytest
import torch
from helpers import SCENARIOS, begin, finish, learner, up_to
from penalties_kit import data, loop_fisher, member, single, weights_of
from replay_kit import CLASSES, SHORT, close, gradients, head, ready
from test_penalties_fisher import NETS, examples, made
from torch.func import vmap

from clcore.methods import At
from clcore.methods.penalties.per_sample import PerSample
from clcore.methods.rehearsal.fromp import memorable
from clcore.methods.rehearsal.kernel import kernels, whitening

FEW = {"stored": 9}
#: Heads that answer for task 0 and 1 in task 2, as memory and params call them.
HEADS = {"task-il": ("heads.0", "heads.1"), "domain-il": ("head", "head"), "class-il": ("head", "head")}


def jacobian(network, weights, names, function, xs):
    """One row an example, by autograd alone."""
    rows = [single(network, weights, names, function, x) for x in xs]
    return torch.stack([torch.cat([row[n].flatten() for n in names]) for row in rows])


# -- the kernel --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "options"), NETS)
def test_the_kernel_is_that_of_jacobians_written_out(spec, options):
    net, weights, names = made(spec, options)
    x, _ = examples(5)
    covariance = {n: 0.1 + torch.rand_like(weights[n]) for n in names}
    flat = torch.cat([covariance[n].flatten() for n in names])
    pulls = torch.randn(2, 5, 3, dtype=torch.float64)
    found = kernels(PerSample(net, weights, names), covariance, x, list(pulls))
    for pull, kernel in zip(pulls, found, strict=True):
        rows = [jacobian(net, weights, names, lambda out, v=v: out @ v, xs[None])[0] for xs, v in zip(x, pull, strict=True)]
        wanted = torch.stack(rows) @ torch.diag(flat) @ torch.stack(rows).T
        assert torch.allclose(kernel, wanted, rtol=1e-10)


def test_the_kernel_is_the_same_in_pieces_and_in_a_pack(monkeypatch):
    net, weights, names = made("mlp:5-4", {})
    x, _ = examples(5)
    covariance, pulls = {n: torch.ones_like(weights[n]) for n in names}, [torch.ones(5, 3).double()]
    whole = kernels(PerSample(net, weights, names), covariance, x, pulls)
    monkeypatch.setattr("clcore.methods.rehearsal.kernel.CHUNK", 700)
    assert torch.allclose(kernels(PerSample(net, weights, names), covariance, x, pulls), whole, rtol=1e-12)
    both = {n: torch.stack([t, t]) for n, t in weights.items()}
    packed = vmap(lambda w: kernels(PerSample(net, w, names), covariance, x, pulls), randomness="same")(both)
    assert torch.allclose(packed[1], whole, rtol=1e-12)


def test_whitening_is_a_root_of_the_inverse():
    rows = torch.randn(2, 6, 4, dtype=torch.float64)  # fewer weights than points: singular but for the jitter
    kernel, jitter = rows @ rows.mT, torch.tensor(1e-3, dtype=torch.float64)
    found = whitening(kernel, jitter)
    for own, root in zip(kernel, found, strict=True):
        wanted = np.linalg.inv(own.numpy() + 1e-3 * np.eye(6))
        assert np.allclose((root.T @ root).numpy(), wanted, rtol=1e-9, atol=1e-9)


# -- memorable points --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4, 7, 9, 40])
def test_memorable_points_are_the_highest_of_each_class(count):
    """Sorted by hand; class 2 has two examples, so that others take its places."""
    generator = torch.Generator().manual_seed(count)
    scores = torch.rand(20, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1] * 9 + [2, 2])
    wanted, share = [], count // 3
    for c in range(3):
        own = sorted((i for i in range(20) if labels[i] == c), key=lambda i: -scores[i])
        wanted += own[:share]
    rest = sorted((i for i in range(20) if i not in wanted), key=lambda i: -scores[i])
    wanted += rest[: count - len(wanted)]
    assert memorable(scores, labels, count, 3).tolist() == sorted(wanted)


@pytest.mark.parametrize("select", ["uncertain", "random"])
def test_the_points_of_a_task_are_stored(select):
    first = up_to(learner("fromp", [{"stored": 8, "select": select}], **SHORT), 1)
    points = first.memory["points.0"][0]
    xs, ys = data(0)
    p = head(weights_of(first, 0), xs, "head").softmax(-1)
    doubt = (p * (1 - p)).sum(-1)
    best = torch.cat([torch.nonzero(ys == c)[:, 0][doubt[ys == c].argsort(descending=True)[:4]] for c in (0, 1)]).sort().values
    layout = first.method.layout
    images = (xs - layout.low) * layout.levels / (layout.high - layout.low)
    assert points.dtype == torch.uint8
    same = points.shape == images[best].shape and torch.allclose(points.double(), images[best], atol=1e-6)
    assert same == (select == "uncertain")
    assert all(any(torch.allclose(point.double(), image, atol=1e-6) for image in images) for point in points)


# -- the Gauss-Newton matrix, and the penalty --------------------------------------------------------------------------


def network_of(made_one, memory, task, seen):
    weights = made_one.method.effective_weights({}, memory, member(made_one.hp), At(task, "eval", seen))
    return made_one.method.network, weights, (*made_one.method.body, "head.weight", "head.bias")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_gauss_newton_matrix_is_summed_over_all_examples(scenario):
    ends = [up_to(learner("fromp", [FEW], scenario=scenario, **SHORT), seen) for seen in (1, 2)]
    total = {}
    for task, end in enumerate(ends):
        network, weights, names = network_of(end, member(end.memory), task, task + 1)
        xs, _ = data(task, scenario)
        for name, mean in loop_fisher(network, weights, names, xs).items():
            kept = name.replace("head", HEADS[scenario][task])
            before = total.get(kept, torch.zeros_like(member(end.memory)[kept]))
            before[: len(mean)] += mean * len(xs)
            total[kept] = before
    memory = member(ends[1].memory)
    assert {n for n in memory if n.startswith("fisher.")} == {f"fisher.{n}" for n in total}
    close({n: memory[f"fisher.{n}"] for n in total}, total)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_penalty_and_its_gradient_are_those_written_out(scenario):
    """(tau / 2) sum_t sum_c (m - m*)^T (J S J^T + jitter I)^-1 (m - m*), with J of the probabilities by autograd."""
    hyper = {**FEW, "strength": 70, "prior": 1e-3, "jitter": 1e-4}
    made_one, params, memory, hp, at, batch = ready("fromp", hyper, scenario=scenario, factor=1.3)
    layout = made_one.method.layout
    seen = {"task-il": CLASSES, "domain-il": CLASSES, "class-il": 3 * CLASSES}[scenario]
    parts = []
    for task in (0, 1):
        network, weights, names = network_of(made_one, memory, task, 3)
        xs = memory[f"points.{task}"].double() * ((layout.high - layout.low) / layout.levels) + layout.low
        kept = [n.replace("head", HEADS[scenario][task]) for n in names]
        fisher = torch.cat([memory[f"fisher.{k}"][: len(weights[n])].flatten() for n, k in zip(names, kept, strict=True)])
        before = head(memory, xs, HEADS[scenario][task])[:, :seen].softmax(-1)
        for c in range(seen):
            rows = jacobian(network, weights, names, lambda out, c=c: out.softmax(-1)[c], xs)
            kernel = rows @ torch.diag(1 / (fisher + 1e-3)) @ rows.T + 1e-4 * torch.eye(9, dtype=torch.float64)
            parts.append((task, c, xs, before[:, c], kernel))

    def penalty(p):
        total = torch.zeros((), dtype=torch.float64)
        for task, c, xs, before, kernel in parts:
            change = head(p, xs, HEADS[scenario][task])[:, :seen].softmax(-1)[:, c] - before
            total = total + change @ torch.linalg.solve(kernel, change)
        return 35 * total

    plain = lambda p: made_one.method.loss(p, memory, {**hp, "strength": 0 * hp["strength"]}, at, batch)  # noqa: E731
    loss = made_one.method.loss(params, memory, hp, at, batch)
    assert float(penalty(params)) > 0.01
    assert torch.allclose(loss, plain(params) + penalty(params), rtol=1e-7)
    found = gradients(lambda p: made_one.method.loss(p, memory, hp, at, batch), params)
    close(found, gradients(lambda p: plain(p) + penalty(p), params), atol=1e-6)


def test_before_a_task_nothing_pulls_and_dropout_is_off():
    made_one, params, memory, hp, at, _ = ready("fromp", FEW, factor=1.0, drop=0.4)
    assert at.phase == "train"
    found = gradients(lambda p: made_one.method.distance(p, memory, hp, at), params)
    assert all(float(g.abs().max()) < 1e-9 for g in found.values())


def test_b1_without_strength_it_is_fine_tuning():
    options = {**SHORT, "scenario": "task-il"}
    made_one, plain = learner("fromp", [{"strength": 0, **FEW}], **options), learner("finetune", **options)
    finish(made_one)
    finish(plain)
    for name, tensor in plain.memory.items():
        assert torch.equal(made_one.memory[name], tensor), name


def test_in_the_first_task_it_is_fine_tuning_with_its_own_clipping():
    own, clipped, plain = (up_to(learner(n, lr=3.0, clip=c), 1) for n, c in (("fromp", 0.0), ("finetune", 1.0), ("finetune", 0.0)))
    assert all(torch.equal(own.memory[n], t) for n, t in clipped.memory.items())
    assert any(not torch.equal(own.memory[n], t) for n, t in plain.memory.items())


def test_what_is_prepared_is_for_learning_alone():
    made_one = up_to(learner("fromp", [FEW], **SHORT), 1)
    _, memory, _ = begin(made_one, 1)
    assert {n for n in memory if n.startswith("derived.")} == {"derived.points", "derived.before.0", "derived.whitening.0"}
    assert made_one.method.prepare(member(made_one.memory), member(made_one.hp), At(1, "eval", 2)) == {}


def test_old_tasks_are_kept_better_than_by_fine_tuning():
    options = {"scenario": "domain-il", "optimizer": "adam", "protocol": "fixed", "lr": 3e-3, "batch_size": 16, "tasks": 2}
    kept, lost = (finish(learner(name, **options))[-1].members[0].validation for name in ("fromp", "finetune"))
    assert kept[0] > lost[0] + 0.1
    assert kept[1] > 0.6
