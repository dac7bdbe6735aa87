"""RMN's formulas against hand computation, numpy and scipy."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from clcore import bits
from clcore.masks import pack_bits
from clcore.methods.rmn import inference, maps
from clcore.methods.rmn.welch import incomplete_beta, student_p, welch

F64 = torch.float64


# -- R4: the pseudo-round ----------------------------------------------------------------------------------------------


def test_the_pseudo_round_is_symmetric_about_one_half_and_rises():
    x = torch.linspace(0, 1, 101, dtype=F64)
    for beta in (1.0, 10.0, 80.0):
        y = maps.pseudo_round(x, beta)
        assert float(maps.pseudo_round(torch.tensor(0.5), beta)) == 0.5
        assert torch.allclose(maps.pseudo_round(1 - x, beta), 1 - y, atol=1e-14)
        assert bool((y.diff() >= 0).all())
        assert bool((y.diff()[20:80] > 0).all())  # beyond, beta 80 rounds to 1
        assert torch.allclose(y, 1 / (1 + torch.exp(-(beta * (x - 0.5)))), atol=1e-15)


def test_a_tight_pseudo_round_is_rounding():
    x = torch.tensor([0.0, 0.2, 0.499, 0.501, 0.7, 1.0])
    assert torch.equal(maps.pseudo_round(x, 1e6), x.round())
    assert torch.equal(maps.hard_round(x), x.round().bool())
    assert not bool(maps.hard_round(torch.tensor(0.5)))  # as torch rounds it
    assert float(maps.pseudo_round(torch.tensor(1.0), 80.0)) == 1.0


def test_the_derivatives_are_those_of_the_paper():
    """dMP = g W beta M (1 - M), dbeta = sum g W (MP - 1/2) M (1 - M), by hand."""
    weight, values, beta = torch.tensor([2.0, -3.0], dtype=F64), torch.tensor([0.4, 0.9], dtype=F64), torch.tensor(10.0, dtype=F64)
    values.requires_grad_()
    beta.requires_grad_()
    outer = torch.tensor([0.5, 0.25], dtype=F64)
    (outer * weight * maps.pseudo_round(values, beta)).sum().backward()
    mask = [1 / (1 + math.exp(1.0)), 1 / (1 + math.exp(-4.0))]
    slopes = [m * (1 - m) for m in mask]
    assert values.grad.tolist() == pytest.approx([0.5 * 2 * 10 * slopes[0], -0.25 * 3 * 10 * slopes[1]], rel=1e-12)
    assert float(beta.grad) == pytest.approx(0.5 * 2 * -0.1 * slopes[0] - 0.25 * 3 * 0.4 * slopes[1], rel=1e-12)


def test_straight_through_has_hard_values_and_the_soft_derivative():
    values = torch.tensor([0.3, 0.8], dtype=F64, requires_grad=True)
    mask = maps.straight_through(maps.pseudo_round(values, 10.0), maps.hard_round(values))
    assert mask.tolist() == [0.0, 1.0]
    [through] = torch.autograd.grad(mask.sum(), values)
    [soft] = torch.autograd.grad(maps.pseudo_round(values, 10.0).sum(), values)
    assert torch.equal(through, soft)


# -- initial mappings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loc", "scale", "skew"), [(0.5, 0.1, 4.0), (0.4, 0.05, 0.0), (0.6, 0.08, -2.0)])
def test_initial_mappings_have_the_moments_of_the_skewed_normal(loc, scale, skew):
    torch.manual_seed(0)
    like = torch.empty(200, 1000, dtype=F64)
    drawn = maps.skewed_normal(like, *(torch.tensor(v, dtype=F64) for v in (loc, scale, skew)))
    expected = scipy.stats.skewnorm(skew, loc, scale)
    assert drawn.shape == like.shape
    assert float(drawn.mean()) == pytest.approx(expected.mean(), abs=1e-3)
    assert float(drawn.std()) == pytest.approx(expected.std(), rel=0.01)
    assert scipy.stats.skew(drawn.flatten().numpy()) == pytest.approx(float(expected.stats(moments="s")), abs=0.03)


def test_initial_mappings_are_clipped_to_the_unit_interval():
    torch.manual_seed(0)
    drawn = maps.skewed_normal(torch.empty(1000), *map(torch.tensor, (0.5, 2.0, 0.0)))
    assert (float(drawn.min()), float(drawn.max())) == (0.0, 1.0)
    whole = maps.skewed_normal(torch.empty(10), *map(torch.tensor, (1.0, 0.0, 4.0)))
    assert torch.equal(whole, torch.ones(10))


def test_members_of_a_pack_share_the_draw_and_differ_in_its_parameters():
    def draw(loc):
        return maps.skewed_normal(torch.empty(50), loc, torch.tensor(0.01), torch.tensor(4.0))

    torch.manual_seed(3)
    together = torch.func.vmap(draw, randomness="same")(torch.tensor([0.3, 0.6]))
    torch.manual_seed(3)
    assert torch.allclose(together[0], draw(torch.tensor(0.3)), atol=1e-7)
    assert torch.allclose(together[1] - together[0], torch.full((50,), 0.3), atol=1e-6)


# -- R3: pruning, and when ---------------------------------------------------------------------------------------------


def test_what_is_at_most_mu_is_pruned():
    assert maps.below(torch.tensor([0.0, 0.05, 0.051, 0.9]), torch.tensor(0.05)).tolist() == [True, True, False, False]


def settled_at(losses, epochs):
    """First epoch, from 0, after which the detector says yes."""
    kept = torch.full((maps.PATIENCE + 1,), math.inf)
    for epoch, loss in enumerate(losses):
        kept = maps.remember(kept, torch.tensor(loss))
        if bool(maps.converged(kept, epoch, epochs)):
            return epoch
    return None


def test_a_loss_that_falls_is_pruned_after_four_fifths_of_the_epochs():
    assert settled_at([1.0 * 0.9**e for e in range(100)], 100) == 79
    assert settled_at([1.0 * 0.9**e for e in range(5)], 5) == 3


def test_a_loss_that_is_flat_is_pruned_as_soon_as_it_may_be():
    assert settled_at([1.0] * 100, 100) == 19
    assert settled_at([1.0] * 20, 20) == 5  # five epochs back are needed


def test_a_loss_that_settles_is_pruned_five_epochs_later():
    falling = [2.0 - 0.03 * e for e in range(41)]
    assert settled_at(falling + [falling[-1]] * 59, 100) == 45
    slow = [2.0 * (1 - 1.9e-4) ** e for e in range(100)]  # five epochs bring less than one in a thousand
    assert settled_at(slow, 100) == 19
    fast = [2.0 * (1 - 2.1e-4) ** e for e in range(100)]
    assert settled_at(fast, 100) == 79


def test_the_detector_sees_each_member_of_a_pack():
    kept = torch.tensor([[1.0] * 6, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]])
    assert torch.func.vmap(lambda k: maps.converged(k, 50, 100))(kept).tolist() == [True, False]


# -- R7: masks as bits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7, 8, 9, 99_400])
def test_bits_are_the_bytes_of_the_record(count):
    values = torch.rand(count, generator=torch.Generator().manual_seed(count)) > 0.5
    packed = bits.pack(values)
    assert packed.dtype == torch.uint8
    assert len(packed) == -(-count // 8)
    assert bytes(packed.numpy()) == pack_bits(values)
    assert torch.equal(bits.unpack(packed, count), values)


def test_bits_of_a_pack():
    values = torch.rand(3, 21, generator=torch.Generator().manual_seed(0)) > 0.5
    packed = torch.func.vmap(bits.pack)(values)
    assert torch.equal(packed[1], bits.pack(values[1]))
    assert torch.equal(torch.func.vmap(lambda p: bits.unpack(p, 21))(packed), values)


# -- R9 and what tells tasks apart -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shift", "spread", "sizes"), [(0, 1, (128, 128)), (0.3, 3, (64, 17)), (2, 0.1, (1000, 2)), (5, 1, (40, 900))]
)
def test_welchs_test_is_scipys(shift, spread, sizes):
    rng = np.random.default_rng(sizes[1])
    first, second = rng.normal(shift, 1, sizes[0]), rng.normal(0, spread, sizes[1])
    ours, theirs = welch(torch.tensor(first), torch.tensor(second)), scipy.stats.ttest_ind(first, second, equal_var=False)
    assert ours.statistic == pytest.approx(theirs.statistic, rel=1e-10)
    assert ours.dof == pytest.approx(theirs.df, rel=1e-10)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)


@pytest.mark.parametrize("dof", [1.0, 2.5, 30.0, 254.0, 1e4])
def test_students_p_is_scipys_over_the_whole_range(dof):
    for statistic in (0.0, 1e-6, 0.1, 1.0, 2.0, 5.0, 12.0):
        assert student_p(statistic, dof) == pytest.approx(2 * scipy.stats.t.sf(statistic, dof), rel=1e-9)
        assert student_p(-statistic, dof) == student_p(statistic, dof)


def test_the_incomplete_beta_function_is_scipys():
    for a, b, x in [(0.5, 0.5, 0.3), (3, 7, 0.1), (3, 7, 0.9), (50, 0.5, 0.99), (2, 2, 0.5)]:
        assert incomplete_beta(a, b, x, 1 - x) == pytest.approx(scipy.special.betainc(a, b, x), rel=1e-11)
    assert (incomplete_beta(1, 2, 0.0, 1.0), incomplete_beta(1, 2, 1.0, 0.0)) == (0.0, 1.0)


def test_samples_without_spread_are_equal_or_not():
    one, two = torch.ones(4), torch.full((5,), 2.0)
    assert welch(one, one)[::2] == (0.0, 1.0)
    assert welch(one, two)[::2] == (-math.inf, 0.0)


LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0], [30.0, 29.0, 0.0]], dtype=F64)


def test_scores_and_surprise_by_hand():
    p = scipy.special.softmax(LOGITS.numpy(), -1)
    entropy = scipy.stats.entropy(p, axis=-1)
    assert inference.score("max-logit", LOGITS).tolist() == [2.0, 0.0, 30.0]
    assert inference.score("max-probability", LOGITS).exp().tolist() == pytest.approx(p.max(-1).tolist(), rel=1e-12)
    assert inference.score("min-entropy", LOGITS).tolist() == pytest.approx((-entropy).tolist(), abs=1e-12)
    kl = scipy.stats.entropy(p, np.full_like(p, 1 / 3), axis=-1)
    assert inference.surprise(LOGITS).tolist() == pytest.approx(kl.tolist(), abs=1e-12)


def test_familiar_is_confident_and_high():
    assert inference.familiar(LOGITS, 0.7, 1.0).tolist() == [True, False, True]
    assert inference.familiar(LOGITS, 0.8, 1.0).tolist() == [True, False, False]
    assert inference.familiar(LOGITS, 0.7, 3.0).tolist() == [False, False, True]


def test_the_noise_loss_is_the_mean_squared_length_of_the_output():
    assert float(inference.loudness(LOGITS)) == pytest.approx((4 + 1 + 0 + 900 + 841) / 3)
