"""SupSup's task inference against the authors' numbers, autograd and hand computation (methods.md 9: S5-S9, S13)."""

import math

import pytest
import torch
from supsup_kit import golden

from clcore import bits
from clcore.methods.supsup import inference

REAL = 5  # neurons that stand for classes in the traces
KS = {"k8": 8, "k5": 5, "k3": 3}


class Superposed:
    """The traces' net of linear layers: a flat mixture of masks -> logits."""

    def __init__(self, trace, prefix=""):
        self.weights = [trace[f"{prefix}W{i}"].double() for i in range(3)]
        self.masks = torch.cat([trace[f"{prefix}masks{i}"].double().flatten(1) for i in range(3)], dim=1)

    def logits(self, mixture, x):
        sizes = [w.numel() for w in self.weights]
        for i, (weight, mask) in enumerate(zip(self.weights, mixture.split(sizes), strict=True)):
            x = x @ (weight * mask.reshape(weight.shape)).T
            x = torch.relu(x) if i < 2 else x
        return x

    def packed(self, k):
        return torch.stack([bits.pack(mask) for mask in self.masks[:k]])

    def gradient(self, x, objective, alpha):
        """dH/dalpha, shape [k], by our formula."""
        k = len(alpha)
        return inference.belief_gradient(
            lambda mixtures: torch.stack([objective(self.logits(m, x)) for m in mixtures]),
            (alpha @ self.masks[:k])[None],
            self.packed(k),
        )[0]


OBJECTIVES = {"H": inference.entropy, "G": lambda logits: inference.superfluous(logits, REAL)}


def rows_of(trace, case):
    """Inputs of a case: what its objective looks at (the rows used are the first ones)."""
    if case < 6:
        return trace["x"].double().roll(-case, 0)[:1]
    if case == 6:
        return trace["x"].double()
    return trace["batches"][{7: 0, 8: 1}.get(case, 2)].double()[: int(trace["case_rows"][case])]


@pytest.fixture(scope="module")
def trace():
    return golden("supsup_infer")[1]


@pytest.mark.parametrize("which", OBJECTIVES)
@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("case", range(11))
def test_one_shot_is_the_authors(trace, k, which, case):
    net, x, alpha = Superposed(trace), rows_of(trace, case), torch.full((KS[k],), 1 / KS[k], dtype=torch.float64)
    logits = net.logits(alpha @ net.masks[: KS[k]], x)
    assert torch.allclose(logits, trace[f"{k}_case{case}_logits"][: len(x)], rtol=0, atol=1e-9)
    assert float(OBJECTIVES[which](logits)) == pytest.approx(float(trace[f"{k}_{which}_value"][case]), abs=1e-9)
    found = net.gradient(x, OBJECTIVES[which], alpha)
    assert torch.allclose(found, trace[f"{k}_{which}_grad"][case], rtol=0, atol=1e-9)
    assert int(inference.one_shot(found)) == int(trace[f"{k}_{which}_oneshot_pred"][case])


@pytest.mark.parametrize("which", OBJECTIVES)
@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("case", range(11))
def test_binary_is_the_authors_round_by_round(trace, k, which, case):
    net, x, count = Superposed(trace), rows_of(trace, case), KS[k]
    alive = torch.ones(count, dtype=torch.bool)
    for step, wanted in enumerate(trace[f"{k}_{which}_binary_survivors"][case]):
        alpha = alive.double() / count
        assert torch.allclose(alpha, trace[f"{k}_{which}_binary_alpha"][case, step], rtol=0, atol=1e-12)
        found = net.gradient(x, OBJECTIVES[which], alpha)
        wanted_gradient = trace[f"{k}_{which}_binary_grad"][case, step]
        assert torch.allclose(found[alive], wanted_gradient[alive], rtol=0, atol=1e-9)
        count = inference.next_count(count, "code", 2)
        alive = inference.survivors(found, alive, count)
        assert alive.tolist() == wanted.bool().tolist()
    assert count == 1
    assert int(alive.double().argmax()) == int(trace[f"{k}_{which}_binary_pred"][case])


def test_s6_the_gradient_by_the_beliefs_is_autograds(trace):
    net, x = Superposed(trace), rows_of(trace, 7)
    alpha = torch.rand(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    for objective in OBJECTIVES.values():
        (wanted,) = torch.autograd.grad(objective(net.logits(alpha @ net.masks, x)), alpha)
        assert torch.allclose(net.gradient(x, objective, alpha.detach()), wanted, rtol=1e-9, atol=1e-12)


def test_s5_a_belief_of_one_is_the_single_mask(trace):
    net, x = Superposed(trace), rows_of(trace, 7)
    for task in range(3):
        one = torch.eye(3, dtype=torch.float64)[task : task + 1]
        assert torch.equal(net.logits(bits.mixtures(one, net.packed(3), net.masks.shape[1])[0], x), net.logits(net.masks[task], x))


def test_s8_entropy_is_logsumexp_without_the_expected_logit():
    y = torch.randn(7, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = (y.logsumexp(1) - (y.softmax(1) * y).sum(1)).mean()
    assert float(inference.entropy(y)) == pytest.approx(float(wanted), abs=1e-12)
    assert float(inference.entropy(torch.zeros(2, 8))) == pytest.approx(math.log(8))


def test_s9_the_gradient_of_g_is_the_softmax_of_superfluous_neurons_and_nothing_of_real_ones():
    y = torch.randn(1, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    value = inference.superfluous(y, REAL)
    assert torch.allclose(value, y.logsumexp(1)[0], atol=1e-12)
    (found,) = torch.autograd.grad(value, y)
    assert torch.equal(found[:, :REAL], torch.zeros(1, REAL, dtype=torch.float64))
    assert torch.allclose(found[:, REAL:], y.softmax(1)[:, REAL:], atol=1e-12)


# -- halving -----------------------------------------------------------------------------------------------------------


def sequence(k, halving, base=2):
    found = [k]
    while found[-1] > 1:
        found.append(inference.next_count(found[-1], halving, base))
    return found


def test_s7_paper_and_code_halve_even_numbers_alike_and_odd_ones_apart():
    assert sequence(16, "code") == sequence(16, "paper") == [16, 8, 4, 2, 1]
    assert sequence(5, "code") == [5, 3, 2, 1]
    assert sequence(5, "paper") == [5, 2, 1]
    assert sequence(3, "code") == [3, 2, 1]
    assert sequence(3, "paper") == [3, 1]
    for k in range(2, 60, 2):
        assert inference.next_count(k, "code", 2) == inference.next_count(k, "paper", 2) == k // 2


def test_s7_two_tasks_and_a_base_of_all_tasks_are_one_shot():
    for halving in inference.HALVINGS:
        assert sequence(2, halving) == [2, 1]
        for k in range(2, 60):
            assert sequence(k, halving, base=k) == [k, 1]
            assert sequence(k, halving, base=k + 5) == [k, 1]


def test_survivors_of_the_paper_are_those_strictly_above_the_median():
    gradient = torch.randn(9, generator=torch.Generator().manual_seed(3))
    alive = torch.ones(9, dtype=torch.bool)
    gain = -gradient
    found = inference.survivors(gradient, alive, inference.next_count(9, "paper", 2))
    assert found.tolist() == (gain > gain.median()).tolist()
    found = inference.survivors(gradient, alive, inference.next_count(9, "code", 2))
    assert found.tolist() == (gain >= gain.median()).tolist()


def test_equals_go_to_the_lowest_index_and_the_dead_stay_dead():
    gradient = torch.zeros(200)
    assert int(inference.one_shot(gradient)) == 0
    assert inference.survivors(gradient, torch.ones(200, dtype=torch.bool), 100).nonzero().flatten().tolist() == list(range(100))
    alive = torch.tensor([False, True, False, True, True])
    assert inference.survivors(torch.tensor([-9.0, 2, -8, 1, 1]), alive, 2).tolist() == [False, False, False, True, True]
    assert inference.survivors(torch.tensor([-9.0, 1, -8, 1, 1]), alive, 2).tolist() == [False, True, False, True, False]


# -- NNs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", "ABCDEF")
def test_when_a_mask_is_allocated_is_the_authors_decision(example):
    _, numbers = golden("supsup_nns")
    net, k = Superposed(numbers, f"{example}_"), int(numbers[f"{example}_k"])
    alpha = torch.full((k,), 1 / k, dtype=torch.float64)
    x = numbers[f"{example}_x"].double()
    found = net.gradient(x, inference.entropy, alpha)
    assert torch.allclose(-found, numbers[f"{example}_neg_grad"], rtol=0, atol=1e-9)
    assert bool(inference.opens_new_mask(found, 0.125)) == bool(numbers[f"{example}_allocated"])
    assert int(inference.one_shot(found)) == int(numbers[f"{example}_argmax"])


def test_s13_only_what_is_undecided_opens_a_mask():
    """k max nu is 1 where all gradients are equal and k where one stands out."""
    draw = torch.randn(50, 7, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert not inference.opens_new_mask(draw, 0.0).any()
    assert inference.opens_new_mask(draw, 6.0).all()
    assert inference.opens_new_mask(torch.zeros(7), 1e-6)
    decided = torch.tensor([0.0, 0, -100, 0, 0, 0, 0])
    assert not inference.opens_new_mask(decided, 5.9)
