"""FRCL against torch.distributions, scipy, autograd and loops that follow the paper's formulas."""

import numpy as np
import pytest
import torch
from helpers import SCENARIOS, begin, finish, learner, up_to
from penalties_kit import data, member
from replay_kit import SHORT, close, gradients, hidden, ready
from scipy.integrate import quad
from scipy.stats import norm
from torch.distributions import MultivariateNormal, kl_divergence
from torch.func import vmap
from torch.nn import functional as F

from clcore.methods import At, Batch
from clcore.methods.frcl.gaussian import at_points, kernel, point_divergence, posterior_head, weight_divergence
from clcore.methods.frcl.likelihood import hermite, robustmax_loss, softmax_loss
from clcore.methods.frcl.search import searched, turns

FEW = {"inducing": 7, "swaps": 40, "prior_variance": 0.6, "jitter": 0.01, "samples": 3}


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def weights(features, outputs=3, seed=0):
    """Means, and lower triangular roots of covariances."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(outputs, features, generator=generator, dtype=torch.float64)
    root = torch.randn(outputs, features, features, generator=generator, dtype=torch.float64).tril()
    return mean, root


def points(count, features, seed=1):
    return torch.randn(count, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(phi, variance, jitter):
    """K_ZZ, in numpy."""
    phi = np.asarray(phi)
    return variance * phi @ phi.T + jitter * np.eye(len(phi))


# -- the Gaussian process ----------------------------------------------------------------------------------------------


def test_the_divergence_of_the_weights_is_that_of_torch_distributions():
    mean, root = weights(5)
    prior = MultivariateNormal(torch.zeros(5, dtype=torch.float64), 0.7 * torch.eye(5, dtype=torch.float64))
    wanted = sum(kl_divergence(MultivariateNormal(m, covariance_matrix=r @ r.T), prior) for m, r in zip(mean, root, strict=True))
    torch.testing.assert_close(weight_divergence(mean, root, number(0.7)), wanted)


@pytest.mark.parametrize("count", [3, 9])
def test_the_divergence_at_points_is_that_of_torch_distributions(count):
    """With fewer points than features, and with more; and its gradient by the features is that by finite differences."""
    (mean, root), then, now = weights(5), points(count, 5), points(count, 5, 2)
    posterior = at_points(then, mean, root, number(0.02))
    prior = MultivariateNormal(torch.zeros(count, dtype=torch.float64), torch.from_numpy(covariance(now, 0.7, 0.02)))
    wanted = 0
    for m, r in zip(mean, root, strict=True):
        spread = then @ r @ r.T @ then.T + 0.02 * torch.eye(count, dtype=torch.float64)
        wanted = wanted + kl_divergence(MultivariateNormal(then @ m, spread), prior)

    def found(phi):
        return point_divergence(posterior, kernel(phi, number(0.7), number(0.02)))

    torch.testing.assert_close(found(now), wanted)
    assert torch.autograd.gradcheck(found, now.clone().requires_grad_())


def test_the_posterior_is_nearest_to_the_prior_it_came_from():
    """q(w) the prior and the features as they were: u has one distribution under both."""
    phi, eye = points(6, 4), torch.eye(4, dtype=torch.float64).expand(2, 4, 4) * 0.7**0.5
    posterior = at_points(phi, torch.zeros(2, 4, dtype=torch.float64), eye, number(0.02))
    assert abs(float(point_divergence(posterior, kernel(phi, number(0.7), number(0.02))))) < 1e-9
    assert float(point_divergence(posterior, kernel(phi * 1.1, number(0.7), number(0.02)))) > 1e-3


def test_the_head_of_points_is_the_posterior_mean():
    phi, x, means = points(6, 4), points(8, 4, 2), torch.randn(3, 6, dtype=torch.float64)
    wanted = 0.7 * x.numpy() @ phi.numpy().T @ np.linalg.solve(covariance(phi, 0.7, 0.02), means.numpy().T)
    found = x @ posterior_head(phi, means, number(0.7), number(0.02)).T
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-12)


def test_many_points_and_little_noise_give_the_means_back():
    (mean, root), phi = weights(5), points(40, 5)
    posterior = at_points(phi, mean, root, number(1e-9))
    torch.testing.assert_close(posterior_head(phi, posterior.means, number(1.0), number(1e-9)), mean, rtol=0, atol=1e-6)


# -- likelihoods -------------------------------------------------------------------------------------------------------


def test_robustmax_is_the_integral():
    mean, variance = torch.randn(4, 3, dtype=torch.float64), torch.rand(4, 3, dtype=torch.float64) + 0.3
    labels = torch.tensor([0, 1, 2, 1])
    losses = []
    for m, v, y in zip(mean.tolist(), variance.tolist(), labels.tolist(), strict=True):
        others = [c for c in range(3) if c != y]

        def density(f, m=m, v=v, y=y, others=others):
            return norm.pdf(f, m[y], v[y] ** 0.5) * np.prod([norm.cdf(f, m[c], v[c] ** 0.5) for c in others])

        largest = quad(density, m[y] - 12, m[y] + 12)[0]
        losses.append(-largest * np.log(1 - 1e-3) - (1 - largest) * np.log(1e-3 / 2))
    found = robustmax_loss(mean, variance, labels, hermite(mean))
    assert float(found) == pytest.approx(np.mean(losses), abs=3e-3)  # gpflow keeps probabilities 1e-4 off 0 and 1


def test_softmax_is_the_integral_and_without_variance_the_cross_entropy():
    mean, labels = torch.tensor([[0.4, -0.3]], dtype=torch.float64), torch.tensor([1])
    variance = torch.tensor([[0.5, 0.8]], dtype=torch.float64)
    torch.manual_seed(0)
    wanted = quad(lambda d: norm.pdf(d, 0.7, 1.3**0.5) * np.log1p(np.exp(d)), -12, 12)[0]
    assert float(softmax_loss(mean, variance, labels, 200_000)) == pytest.approx(wanted, abs=0.01)
    many, classes = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 2, 0])
    found = softmax_loss(many, torch.zeros_like(many), classes, 3)
    torch.testing.assert_close(found, F.cross_entropy(many, classes), rtol=0, atol=1e-4)


# -- the search --------------------------------------------------------------------------------------------------------


def undetermined(x, phi, variance, jitter):
    """The trace of FRCL, eq. 6, example by example."""
    inverse, total = np.linalg.inv(covariance(phi, variance, jitter)), 0.0
    for row in x:
        k = variance * phi @ row
        total += variance * row @ row - k @ inverse @ k
    return total


def by_hand(phi, count, x, variance, jitter):
    """FRCL's code: candidate after candidate in the place of point after point, kept where the trace falls."""
    chosen = list(range(count))
    for turn, candidate in enumerate(range(count, len(phi))):
        tried = chosen.copy()
        tried[turn % count] = candidate
        if undetermined(x, phi[tried], variance, jitter) < undetermined(x, phi[chosen], variance, jitter):
            chosen = tried
    return chosen


@pytest.mark.parametrize(("count", "features"), [(4, 6), (9, 5), (1, 3)])
def test_the_search_is_that_by_hand(count, features):
    phi, x = points(count + 25, features, count), points(30, features, 5)
    found = searched(phi, count, x.T @ x, number(0.01 / 0.7)).tolist()
    wanted = by_hand(phi.numpy(), count, x.numpy(), 0.7, 0.01)
    assert found == wanted
    assert found != list(range(count))
    assert undetermined(x.numpy(), phi.numpy()[found], 0.7, 0.01) < undetermined(x.numpy(), phi.numpy()[:count], 0.7, 0.01)


def test_members_of_a_pack_search_for_themselves():
    phi, x = torch.stack([points(20, 4, 3), points(20, 4, 4)]), points(30, 4, 5)
    found = vmap(lambda p: searched(p, 5, x.T @ x, number(0.01)))(phi)
    assert [row.tolist() for row in found] == [searched(p, 5, x.T @ x, number(0.01)).tolist() for p in phi]
    assert found[0].tolist() != found[1].tolist()


def test_where_all_examples_are_alike_none_is_swapped():
    phi = torch.ones(12, 3, dtype=torch.float64) * 0.3
    assert searched(phi, 4, phi.T @ phi, number(0.01)).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("candidates", "rounds"), [(0, 1), (4, 1), (10, 1), (23, 3)])
def test_examples_take_turns_in_random_order(candidates, rounds):
    found = turns(10, 6, candidates, torch.device("cpu"))
    assert len(found) == 6 + candidates
    assert len(set(found[:6].tolist())) == 6
    for first in range(6, 6 + candidates, 10):
        part = found[first : first + 10].tolist()
        assert len(set(part)) == len(part)
    if candidates == 4:  # the points come last in the first order
        assert sorted(found.tolist()) == list(range(10))


# -- whole tasks -------------------------------------------------------------------------------------------------------


def features(tensors, images):
    phi = hidden(tensors, images)
    return torch.cat([phi, torch.ones(len(phi), 1, dtype=phi.dtype)], 1)


def matrix(tensors, name):
    return torch.cat([tensors[f"{name}.weight"], tensors[f"{name}.bias"][:, None]], 1)


def images(made, memory, task):
    layout = made.method.layout
    return memory[f"points.{task}"].double() * ((layout.high - layout.low) / layout.levels) + layout.low


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_objective_and_its_gradient_are_those_written_out(scenario):
    """FRCL, eq. 4, over the examples of the task, with torch.distributions, and K^-1 as it stands."""
    made, params, memory, hp, at, batch = ready("frcl", FEW, scenario=scenario, factor=1.1)
    torch.manual_seed(4)
    noise = torch.randn(3, 10, 2, dtype=torch.float64)

    def objective(p, phase):
        phi, mean, root = features(p, batch.inputs), matrix(p, "head"), p["root"].tril()
        f = phi @ mean.T
        if phase == "train":
            variance = torch.stack([torch.diagonal(phi @ r @ r.T @ phi.T) for r in root], -1)
            f = f + variance.sqrt() * noise
        flat = f.reshape(-1, 2)
        total = F.cross_entropy(flat, batch.labels.repeat(len(flat) // 10)) * at.examples
        prior = MultivariateNormal(torch.zeros(17, dtype=torch.float64), 0.6 * torch.eye(17, dtype=torch.float64))
        for m, r in zip(mean, root, strict=True):
            total = total + kl_divergence(MultivariateNormal(m, r @ r.T), prior)
        for task in (0, 1):
            phi = features(p, images(made, memory, task))
            k = 0.6 * phi @ phi.T + 0.01 * torch.eye(7, dtype=torch.float64)
            m, r = (memory[f"posterior.{part}.{task}"] for part in ("means", "root"))
            second = r @ r.T + m.T @ m
            logs = 2 * torch.logdet(k) - memory[f"posterior.log-determinant.{task}"]
            total = total + (torch.trace(torch.linalg.inv(k) @ second) - 14 + logs) / 2
        return total / at.examples

    def found(p, phase):
        torch.manual_seed(4)
        return made.method.loss(p, memory, hp, At(2, phase, 3, examples=at.examples), batch)

    for phase in ("train", "eval"):
        torch.testing.assert_close(found(params, phase), objective(params, phase), rtol=1e-9, atol=0)
        mine, wanted = (gradients(lambda p, f=function, now=phase: f(p, now), params) for function in (found, objective))
        close(mine, wanted, 1e-9)
    assert at.examples == len(made.benchmark.tasks[2].train)


@pytest.mark.parametrize("likelihood", ["softmax", "robustmax"])
def test_the_gradient_is_that_of_finite_differences(likelihood):
    made, params, memory, hp, at, batch = ready("frcl", {**FEW, "likelihood": likelihood}, task=1)

    def loss(p):
        torch.manual_seed(1)
        return made.method.loss(p, memory, hp, at, batch)

    found = gradients(loss, params)
    way = {n: torch.randn_like(t) for n, t in params.items()}
    ends = [loss({n: t + step * way[n] for n, t in params.items()}) for step in (1e-6, -1e-6)]
    wanted = float(ends[0] - ends[1]) / 2e-6
    assert sum(float((found[n] * way[n]).sum()) for n in params) == pytest.approx(wanted, rel=1e-5)


def test_a_task_leaves_its_points_and_their_posterior():
    made = learner("frcl", [FEW], **SHORT)
    params, memory, at = begin(made)
    params, memory, hp = ({n: t[0] for n, t in each.items()} for each in (params, memory, made.hp))
    params["root"] = params["root"] + 0.1 * torch.randn_like(params["root"])  # above the diagonal too: that is no part of it
    pool = made.benchmark.tasks[0].train.batch(torch.arange(len(made.benchmark.tasks[0].train)), torch.float64)
    kept = made.method.end_task(params, memory, hp, at, [Batch(pool[0][:20], pool[1][:20]), Batch(pool[0][20:], pool[1][20:])])
    found = images(made, kept, 0)
    assert kept["points.0"].dtype == torch.uint8
    where = [next(i for i, image in enumerate(pool[0]) if torch.allclose(image, point, atol=1e-9)) for point in found]
    assert len(set(where)) == 7
    phi, mean, root = features(params, found), matrix(params, "head"), params["root"].tril()
    spread = [phi @ r @ r.T @ phi.T + 0.01 * torch.eye(7, dtype=torch.float64) for r in root]
    torch.testing.assert_close(kept["posterior.means.0"], mean @ phi.T)
    torch.testing.assert_close(kept["posterior.root.0"] @ kept["posterior.root.0"].T, sum(spread))
    torch.testing.assert_close(kept["posterior.log-determinant.0"], sum(torch.logdet(s) for s in spread))


def test_the_search_lowers_the_trace_and_random_points_are_as_they_come():
    traces = {}
    for select in ("trace", "random"):
        made = up_to(learner("frcl", [{**FEW, "swaps": 150, "select": select}], **SHORT), 1)
        memory = member(made.memory)
        phi, x = features(memory, images(made, memory, 0)), features(memory, data(0)[0])
        traces[select] = undetermined(x.numpy(), phi.numpy(), 0.6, 0.01)
    assert traces["trace"] < 0.85 * traces["random"]


def test_few_examples_are_all_kept():
    made = up_to(learner("frcl", [{"inducing": 10_000}], **SHORT), 1)
    kept, wanted = images(made, member(made.memory), 0), data(0)[0]
    assert len(kept) == len(wanted)
    for image in wanted:
        assert any(torch.allclose(image, point, atol=1e-9) for point in kept)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_tasks_are_answered_by_what_their_points_say_now(scenario):
    """k_xZ K_ZZ^-1 E[u], with the features of the last network."""
    made = up_to(learner("frcl", [FEW], scenario=scenario, **SHORT), 2)
    memory, x = member(made.memory), data(1)[0]
    for task in (0, 1):
        phi, means = features(memory, images(made, memory, task)).numpy(), memory[f"posterior.means.{task}"].numpy()
        wanted = 0.6 * features(memory, x).numpy() @ phi.T @ np.linalg.solve(covariance(phi, 0.6, 0.01), means.T)
        at = At(task, "eval", 2)
        found = made.method.logits(made.method.effective_weights({}, memory, member(made.hp), at), x, at)
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-9)


def test_before_a_task_nothing_pulls_at_the_first_one():
    """The divergence of the first task is least in the features it was learned with, but for the size of their values."""
    made = up_to(learner("frcl", [{**FEW, "inducing": 40}], **SHORT), 1)
    params, memory, at = begin(made, 1)
    params, memory, hp = ({n: t[0] for n, t in each.items()} for each in (params, memory, made.hp))

    def held(step):
        torch.manual_seed(0)
        moved = {n: t + step * torch.randn_like(t) if n in made.method.body else t for n, t in params.items()}
        return float(made.method.divergence(made.method.effective_weights(moved, memory, hp, at), memory, hp, at))

    assert 0 < held(0.0) < held(0.03) < held(0.1)


def test_dropout_does_not_reach_the_points():
    made, params, memory, hp, at, _ = ready("frcl", FEW, drop=0.4)
    weights = made.method.effective_weights(params, memory, hp, at)
    assert at.phase == "train"
    assert torch.equal(*(made.method.divergence(weights, memory, hp, at) for _ in range(2)))


@pytest.mark.parametrize("net", ["conv", "residual"])
def test_points_are_seen_with_the_statistics_of_their_task(net):
    made = up_to(learner("frcl", [FEW], net=net, network_settings={"norm": "batch"}, **SHORT), 2)
    memory, hp, method = member(made.memory), member(made.hp), made.method
    assert method.network.statistics
    inputs, at = [images(made, memory, task) for task in (0, 1)], At(1, "eval", 2)
    weights = method.effective_weights({}, memory, hp, at)
    for task, found in enumerate(method.features_of_tasks(weights, memory, inputs, at)):
        own = method.effective_weights({}, memory, hp, At(task, "eval", 2))
        torch.testing.assert_close(found, method.features(own, inputs[task], at), rtol=0, atol=1e-12)
        said = method.logits(own, inputs[task], at)
        torch.testing.assert_close(found @ method.as_weight(own).T, said)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_deployment_keeps_network_and_heads(scenario):
    made, plain = learner("frcl", [FEW], scenario=scenario, epochs=1), learner("finetune", scenario=scenario, epochs=1)
    kept, lost = (finish(each)[-1].members[0].bytes for each in (made, plain))
    assert kept == lost + (2 * 4 * 2 * 17 if scenario == "domain-il" else 0)  # where fine-tuning has one head for all
    learning = 3 * (7 * 64 + 4 * (2 * 7 + 7 * 7 + 1))  # images, a byte a pixel; means, root, logarithm
    assert made.method.learning_bytes(member(made.memory)) == kept + learning


def test_old_tasks_are_kept_better_than_by_fine_tuning():
    options = {"own": True, "net": "mlp:32-32", "optimizer": "adam", "protocol": "fixed", "lr": 3e-3, "batch_size": 16}
    options |= {"tasks": 2, "epochs": 15}
    kept, lost = (finish(learner(name, **options))[-1].members[0].validation for name in ("frcl", "finetune"))
    assert kept[0] > lost[0] + 0.1
    assert kept[1] > 0.8
