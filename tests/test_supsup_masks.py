"""SupSup's masks, scores and bits against the authors' numbers and plain restatements (methods.md 9: S2, S3, S10, S11)."""

import math

import numpy as np
import pytest
import torch
from supsup_kit import golden
from torch.nn import functional as F

from clcore import bits
from clcore import masks as records
from clcore.methods.supsup import masks, scores
from clcore.pack import packed

TENSORS = ("linear", "conv", "linear_ties", "conv_ties")
SHARES = ("005", "030", "050")


def signed(trace, name):
    """Scores as they were: the file's zeros have lost nothing but are listed for their sign."""
    values = trace[f"{name}_scores"].double()
    return torch.where(trace[f"{name}_negzero"].bool(), torch.tensor(-0.0, dtype=torch.float64), values)


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def gradient(function, values, upstream):
    leaf = values.clone().requires_grad_()
    (function(leaf) * upstream).sum().backward()
    return leaf.grad


@pytest.fixture(scope="module")
def trace():
    return golden("supsup_masks")[1]


@pytest.mark.parametrize("name", TENSORS[:2])
@pytest.mark.parametrize("share", SHARES)
def test_topk_masks_and_their_gradients_are_the_authors(trace, name, share):
    values, upstream = signed(trace, name), trace[f"{name}_upstream"]
    count = masks.kept(values.numel(), number(int(share) / 100))
    assert int(count) == int(trace[f"{name}_topk{share}_nkept"])
    assert torch.equal(masks.topk(values, count), trace[f"{name}_topk{share}_mask"].double())
    found = gradient(lambda s: masks.topk(s, count), values, upstream)
    assert torch.allclose(found, trace[f"{name}_topk{share}_grad"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", TENSORS[2:])
@pytest.mark.parametrize("share", SHARES)
def test_topk_masks_with_ties_are_those_of_a_stable_sort(trace, name, share):
    """The authors' choice among equals is not portable; the number kept is."""
    values = signed(trace, name)
    found = masks.topk(values, masks.kept(values.numel(), number(int(share) / 100)))
    assert int(found.sum()) == int(trace[f"{name}_topk{share}_nkept"])
    assert torch.equal(found, trace[f"{name}_topk{share}_stablesort_mask"].double())


@pytest.mark.parametrize("name", TENSORS)
def test_threshold_masks_and_their_gradients_are_the_authors(trace, name):
    values, upstream = signed(trace, name), trace[f"{name}_upstream"]
    assert torch.equal(masks.threshold(values), trace[f"{name}_thr_mask"].double())
    assert torch.equal(gradient(masks.threshold, values, upstream), trace[f"{name}_thr_grad"])


def test_s2_the_number_kept_is_the_authors_for_every_share(trace):
    for n, k, wanted in zip(trace["round_n"], trace["round_k"], trace["round_nkept"], strict=True):
        assert int(masks.kept(int(n), k.double())) == int(wanted)


@pytest.mark.parametrize("kind", ["lin", "conv"])
@pytest.mark.parametrize("mask", ["topk", "fast"])
def test_s10_score_gradients_of_a_layer_are_the_authors(trace, kind, mask):
    x, weight, values, y, upstream, wanted = (
        trace[f"layer_{mask}_{kind}_{part}"].double() for part in ("x", "weight", "scores", "y", "upstream", "score_grad")
    )
    count = masks.kept(values.numel(), number(0.3))
    leaf = values.clone().requires_grad_()
    mask_of = masks.topk(leaf, count) if mask == "topk" else masks.threshold(leaf)
    found = F.conv2d(x, weight * mask_of, padding=weight.shape[-1] // 2)
    assert torch.allclose(found, y, rtol=0, atol=1e-12)
    (found * upstream).sum().backward()
    assert torch.allclose(leaf.grad, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 2, 7, 1000, masks.MANY + 3])
def test_topk_is_a_full_sort_for_any_numbers(dtype, size):
    """Values over the whole range of the type, denormals, zeros, infinity and many equals among them."""
    draw = torch.Generator().manual_seed(size)
    wide = 10.0 ** (torch.rand(size, generator=draw, dtype=torch.float64) * 80 - 45)
    rounded = (torch.randn(size, generator=draw, dtype=torch.float64) * 2).round()
    for values in (wide.to(dtype), -wide.to(dtype), rounded.to(dtype), torch.zeros(size, dtype=dtype)):
        for count in {1, size // 3 + 1, size}:
            order = np.argsort(values.abs().numpy(), kind="stable")
            wanted = np.zeros(size)
            wanted[order[size - count :]] = 1
            assert np.array_equal(masks.topk(values, torch.tensor(count)).numpy(), wanted)


def test_members_of_a_pack_keep_their_own_number():
    values = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))
    counts = torch.tensor([1, 12, 30])
    together = packed(masks.topk)(values, counts)
    for member in range(3):
        assert torch.equal(together[member], masks.topk(values[member], counts[member]))
    assert together.sum((1, 2)).tolist() == [1, 12, 30]


def test_the_density_budget_is_the_authors():
    _, trace = golden("supsup_er")
    for prefix in ("", "gem_"):
        for row, multiplier in enumerate(trace["multipliers"]):
            for layer, shape in enumerate(trace[f"{prefix}shapes"]):
                share = masks.kept_share(shape.tolist(), multiplier)
                assert float(share) == pytest.approx(float(trace[f"{prefix}sparsity"][row, layer]), abs=1e-12)
                wanted = int(trace[f"{prefix}kept_m{int(multiplier)}"][layer])
                assert int(masks.kept(math.prod(shape.tolist()), share)) == wanted


def test_a_linear_layers_budget_has_no_kernel():
    assert float(masks.kept_share((30, 20), number(2.0))) == pytest.approx(2 * 50 / 600)


def test_the_budget_is_the_same_in_both_precisions():
    for density in (1.0, 4.0, 32.0):
        half, full = (masks.kept(235_200, masks.kept_share((300, 784), torch.tensor(density, dtype=d))) for d in DTYPES)
        assert int(half) == int(full)


DTYPES = (torch.float32, torch.float64)


# -- weights and scores ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["fast_lin20", "fast_conv36", "topk_lin20", "topk_conv36"])
def test_s3_weights_are_the_authors_signed_constants(layer):
    _, trace = golden("supsup_init")
    found = masks.signed_constant(trace[f"{layer}_weight_raw"])
    assert torch.allclose(found, trace[f"{layer}_weight"], rtol=0, atol=1e-12)
    assert found.abs().unique().tolist() == pytest.approx([math.sqrt(2 / float(trace[f"{layer}_fan_in"]))])


def test_signed_constants_of_a_draw_of_zero_are_not_zero():
    assert masks.signed_constant(torch.tensor([[0.0, -1.0]])).tolist() == [[1.0, -1.0]]


@pytest.mark.parametrize("layer", ["fast_lin20", "topk_conv36"])
def test_fresh_scores_fill_the_authors_range(layer):
    _, trace = golden("supsup_init")
    shape, bound = trace[f"{layer}_weight"].shape, float(trace[f"{layer}_score_bound"])
    torch.manual_seed(0)
    drawn = scores.fresh((2000, *shape[1:]), torch.zeros((), dtype=torch.float64))
    assert drawn.abs().max() <= bound
    assert drawn.abs().max() == pytest.approx(bound, rel=1e-3)
    assert drawn.std() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_scores_from_masks_have_the_norm_of_fresh_ones_and_the_order_of_the_mean():
    drawn = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    mean = torch.tensor([[0.25, 0.5], [1.0, 0.0]])
    plain, centred = (scores.from_masks(mean, drawn, flag) for flag in (False, True))
    assert float(plain.norm()) == pytest.approx(5.0)
    assert float(centred.norm()) == pytest.approx(5.0)
    assert torch.allclose(plain, mean * 5 / mean.norm())
    assert (centred >= 0).tolist() == [[False, True], [True, False]]
    assert float(plain[1, 1]) > 0  # or its gradient would be nothing for ever


def test_a_threshold_mask_starts_with_what_half_of_the_tasks_use():
    mean = torch.tensor([[0.49, 0.5], [0.51, 0.0]])
    assert (scores.from_masks(mean, torch.ones(2, 2), centred=True) >= 0).tolist() == [[False, True], [True, False]]


def test_scores_from_masks_that_say_nothing_are_numbers():
    assert scores.from_masks(torch.full((2, 2), 0.5), torch.ones(2, 2), centred=True).isfinite().all()
    assert scores.from_masks(torch.zeros(2, 2), torch.ones(2, 2), centred=False).isfinite().all()


# -- bits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7, 8, 9, 333])
def test_s11_bits_come_back_and_are_those_of_the_record(count):
    mask = (torch.rand(count, generator=torch.Generator().manual_seed(count)) > 0.5).float()
    stored = bits.pack(mask)
    assert stored.shape == (math.ceil(count / 8),)
    assert bytes(stored.tolist()) == records.pack_bits(mask.bool())
    assert torch.equal(bits.unpack(stored, count, mask.dtype), mask)


def test_bits_of_a_pack_are_those_of_its_members():
    mask = (torch.rand(3, 21, generator=torch.Generator().manual_seed(1)) > 0.5).double()
    stored = packed(bits.pack)(mask)
    assert torch.equal(packed(lambda b: bits.unpack(b, 21, mask.dtype))(stored), mask)


@pytest.mark.parametrize("chunk", [1, 50, 10**6])
def test_products_and_mixtures_are_those_of_the_unpacked_masks(chunk, monkeypatch):
    monkeypatch.setattr(bits, "CHUNK", chunk)
    draw = torch.Generator().manual_seed(2)
    mask = (torch.rand(5, 19, generator=draw) > 0.5).double()
    vectors, shares = (torch.randn(3, n, generator=draw, dtype=torch.float64) for n in (19, 5))
    stored = torch.stack([bits.pack(m) for m in mask])
    assert torch.allclose(bits.products(vectors, stored), vectors @ mask.T, atol=1e-12)
    assert torch.allclose(bits.mixtures(shares, stored, 19), shares @ mask, atol=1e-12)
