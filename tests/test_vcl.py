"""VCL against torch.distributions, torch.optim and a plain loop over drawn networks."""

import pytest
import torch
from helpers import SCENARIOS, begin, benchmark, finish, learner, same, up_to
from penalties_kit import PLAIN, SMALL, data, forward, member
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from clcore.methods import At, Batch
from clcore.methods.vcl import FIT, LOG_VARIANCE, VCL, divergence
from clcore.pack import packed
from clcore.randomness import numpy_stream, torch_stream

HYPER = {"samples": 3, "log_variance": -4.0, "prior_variance": 0.5}
#: Not Adam: where a gradient is 0 but for rounding, it makes steps of it, and the two versions round differently.
TRAINING = {**PLAIN, "own": True, "optimizer": "sgd", "lr": 0.05, "tasks": 2}


def normal(mean, log_variance):
    return Normal(mean, torch.as_tensor(log_variance, dtype=torch.float64).exp().sqrt())


def test_the_divergence_is_that_of_torch_distributions():
    torch.manual_seed(0)
    mean, log_variance, prior_mean, prior = torch.randn(4, 3, 5, dtype=torch.float64)
    expected = kl_divergence(normal(mean, log_variance), normal(prior_mean, prior)).sum()
    torch.testing.assert_close(divergence(mean, log_variance, prior_mean, prior), expected)
    scalars = torch.tensor([0.3, -1.2], dtype=torch.float64)
    expected = kl_divergence(normal(mean, log_variance), normal(*scalars)).sum()
    torch.testing.assert_close(divergence(mean, log_variance, *scalars), expected)
    assert float(divergence(mean, log_variance, mean, log_variance)) == 0


# -- whole tasks -------------------------------------------------------------------------------------------------------


def plain_stage(p, task, stage, prior):
    """A stage by torch.optim: ``p`` are leaves; ``prior`` gives mean and log variance of each name, or is None for the fit."""
    names = [n for n in p if not n.startswith(LOG_VARIANCE)]
    optimizer = torch.optim.SGD([p[n] for n in names] if prior is None else p.values(), lr=TRAINING["lr"])
    count = len(benchmark(**dict(SMALL), tasks=2).tasks[task].train)
    for epoch in range(TRAINING["epochs"]):
        order = torch.from_numpy(numpy_stream(0, "batches", task, "train", stage, epoch).permutation(count))
        with torch_stream(0, "noise", task, "train", stage, epoch):
            for positions in order.split(TRAINING["batch_size"]):
                x, y = data(task, positions=positions)
                if prior is None:
                    loss = F.cross_entropy(forward(p, x), y)
                else:
                    q = {n: normal(p[n], 0.0) if n not in names else Normal(p[n], (p[LOG_VARIANCE + n] / 2).exp()) for n in names}
                    loss = sum(kl_divergence(q[n], normal(*prior(n))).sum() for n in names) / count
                    for _ in range(HYPER["samples"]):
                        drawn = {n: q[n].mean + q[n].stddev * torch.randn(q[n].mean.shape, dtype=torch.float64) for n in names}
                        loss = loss + F.cross_entropy(forward(drawn, x), y) / HYPER["samples"]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()


def leaves(made, task):
    return {n: t.clone().requires_grad_() for n, t in member(begin(made, task)[0]).items()}


def check_memory(made, task, p):
    memory = member(made.memory)
    for name, tensor in p.items():
        head = name.startswith("head.")
        kept = memory.get(f"heads.{task}.{name.removeprefix('head.')}" if head else name)
        if name.startswith(LOG_VARIANCE + "head."):
            assert kept is None  # nothing reads it again
        else:
            torch.testing.assert_close(kept, tensor.detach(), rtol=0, atol=1e-9)


def test_two_tasks_are_those_of_a_plain_loop():
    """The first: a fit, then the objective under N(0, prior variance). The second: under the first's posterior."""
    made = learner("vcl", [HYPER], **TRAINING)
    first = torch.tensor(HYPER["prior_variance"], dtype=torch.float64).log()
    nothing = torch.zeros((), dtype=torch.float64)
    p = leaves(made, 0)
    plain_stage(p, 0, FIT, None)
    fitted = {n: t.detach().clone() for n, t in p.items()}
    assert {float(t.max()) for n, t in fitted.items() if n.startswith(LOG_VARIANCE)} == {HYPER["log_variance"]}
    plain_stage(p, 0, "train", lambda n: (nothing, first))
    up_to(made, 1)
    check_memory(made, 0, p)
    before = {n: t.detach().clone() for n, t in p.items()}
    p = leaves(made, 1)
    for name in before:
        if "head." not in name:
            assert torch.allclose(p[name], before[name], atol=1e-9)  # starts from the posterior
    plain_stage(p, 1, "train", lambda n: (nothing, first) if n.startswith("head.") else (before[n], before[LOG_VARIANCE + n]))
    finish(made)
    check_memory(made, 1, p)


# -- parts -------------------------------------------------------------------------------------------------------------


def test_drawn_networks_have_the_posteriors_moments():
    made = learner("vcl", [HYPER], dtype=torch.float64, net="mlp:4-4")
    params, memory, at = begin(made)
    one, hp = member(params), member(made.hp)
    means = made.method.effective_weights(one, member(memory), hp, at)
    torch.manual_seed(0)
    draws = [made.method.drawn(one, means)["layers.0.weight"] for _ in range(4000)]
    mean, var = torch.stack(draws).mean(0), torch.stack(draws).var(0)
    scale = torch.tensor(HYPER["log_variance"], dtype=torch.float64).exp()
    assert float((mean - means["layers.0.weight"]).abs().max()) < 5 * float((scale / 4000).sqrt())
    torch.testing.assert_close(var, torch.full_like(var, float(scale)), rtol=0.15, atol=0)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_with_no_variance_the_loss_is_that_of_the_means_and_the_divergence(scenario):
    made = learner("vcl", [{"log_variance": -30.0, "samples": 2}], dtype=torch.float64, scenario=scenario, options=SMALL)
    params, memory, at = (member(t) if isinstance(t, dict) else t for t in begin(made))
    hp, count = member(made.hp), len(made.benchmark.tasks[0].train)
    x, y = data(0, scenario)
    outputs = 2  # in class-il of the classes so far alone
    used = {n: t[:outputs] if n.startswith("head.") else t for n, t in params.items() if not n.startswith(LOG_VARIANCE)}
    expected = F.cross_entropy(forward(used, x), y)
    expected = expected + sum(kl_divergence(normal(t, -30.0), normal(torch.zeros(()), 0.0)).sum() for t in used.values()) / count
    for phase in ("train", "eval"):
        now = At(0, phase, 1, examples=at.examples)
        found = made.method.loss(params, memory, hp, now, Batch(x, y))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 if phase == "train" else 1e-10)
    assert at.examples == count


def test_validation_and_answers_draw_nothing():
    made = learner("vcl", [HYPER], tasks=2, epochs=1)
    finish(made)
    params, memory, _ = (member(t) if isinstance(t, dict) else t for t in begin(made, 1))
    x, y = data(1)
    before = torch.get_rng_state()
    for where in (At(1, "eval", 2, examples=10), At(1, "eval", 2, stage=FIT)):
        made.method.loss(params, memory, member(made.hp), where, Batch(x.float(), y))
    weights = made.method.effective_weights({}, member(made.memory), {}, At(0, "eval", 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights["layers.0.weight"], made.memory["layers.0.weight"][0])


def test_outputs_of_new_classes_have_the_first_prior():
    """Class-il: until its class comes, an output is as it was drawn; then its prior is that of a new weight."""
    made = learner("vcl", [HYPER], **{**TRAINING, "scenario": "class-il"})
    start = made.memory["head.weight"][0].clone()
    up_to(made, 1)
    memory = member(made.memory)
    name = "head.weight"
    assert torch.equal(memory[name][2:], start[2:])
    assert bool((memory[name][:2] != start[:2]).all())
    assert set(memory[LOG_VARIANCE + name][2:].flatten().tolist()) == {HYPER["log_variance"]}
    prior = made.method.prepare(memory, member(made.hp), At(1, "train", 2))
    mean, log_variance = (prior[f"derived.prior-{part}.{name}"] for part in ("mean", "log-variance"))
    assert torch.equal(mean[:2], memory[name][:2])
    assert torch.equal(log_variance[:2], memory[LOG_VARIANCE + name][:2])
    assert not bool(mean[2:].any())
    torch.testing.assert_close(log_variance[2:].exp(), torch.full_like(log_variance[2:], HYPER["prior_variance"]))
    assert torch.equal(prior["derived.prior-mean.layers.0.weight"], memory["layers.0.weight"])


def test_a_tight_prior_holds_the_weights():
    """With next to no variance in the first posterior, the second task cannot move the body."""
    moved = {}
    for variance in (1e-6, 1.0):
        hypers = [{**HYPER, "prior_variance": variance, "log_variance": -13.8 if variance < 1 else -4.0}]
        made = up_to(learner("vcl", hypers, **{**TRAINING, "optimizer": "adam", "lr": 0.003, "epochs": 5}), 1)
        before = made.memory["layers.0.weight"].clone()
        finish(made)
        moved[variance] = float((made.memory["layers.0.weight"] - before).norm())
    assert moved[1e-6] < 0.2 * moved[1.0]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_deployment_keeps_the_means_alone(scenario):
    sizes = [finish(learner(name, scenario=scenario, epochs=1))[-1].members[0].bytes for name in ("vcl", "finetune")]
    assert sizes[0] == sizes[1]


def test_the_fit_is_that_of_the_first_task_alone():
    made = learner("vcl")
    assert [s.name for s in made.method.stages(At(0, "train", 1))] == [FIT, "train"]
    assert [s.name for s in made.method.stages(At(1, "train", 2))] == ["train"]


@pytest.mark.parametrize("net", ["conv", "residual"])
def test_networks_with_normalisation_are_drawn_too(net):
    """Scales and shifts have a distribution like any weight; running statistics do not."""
    made = learner("vcl", [HYPER, HYPER], net=net, tasks=2, epochs=1, network_settings={"norm": "batch"})
    finish(made)
    assert all(bool(t.isfinite().all()) for t in made.memory.values())
    norms = made.method.network.norm_modules
    assert norms
    assert {f"{LOG_VARIANCE}{n}.weight" for n in norms} <= made.memory.keys()
    assert not any(f"{LOG_VARIANCE}{n}.mean" in made.memory for n in norms)
    first, second = (made.memory_of(place) for place in range(2))
    assert same(first, second)


def test_members_of_a_pack_draw_the_same_noise():
    made = learner("vcl", [HYPER] * 2, dtype=torch.float64)
    params, memory, at = begin(made)
    x, y = data(0)
    torch.manual_seed(3)
    both = packed(lambda p, m, h: made.method.loss(p, m, h, at, Batch(x, y)))(params, memory, made.hp)
    torch.manual_seed(3)
    alone = VCL.loss(made.method, member(params), member(memory), member(made.hp), at, Batch(x, y))
    torch.testing.assert_close(both, alone.expand(2), rtol=0, atol=1e-12)
