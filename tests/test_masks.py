"""Masks against counts made by hand, and their bytes against bits written out."""

import pytest
import torch

from clcore import masks
from clcore.masks import Mask
from clcore.networks.base import Wire

# Two inputs -> three hidden -> two hidden -> head of two outputs.
WIRES = [
    Wire("layers.0.weight", "layers.0.bias", "units0", "units1"),
    Wire("layers.1.weight", "layers.1.bias", "units1", "units2"),
    Wire("head.weight", "head.bias", "units2", None),
]
SHAPES = {"layers.0.weight": (3, 2), "layers.1.weight": (2, 3), "head.weight": (2, 2)}
BODY = {name: shape for name, shape in SHAPES.items() if name != "head.weight"}
FIRST = {"units1": torch.tensor([True, False, True]), "units2": torch.tensor([True, False])}
SECOND = {"units1": torch.tensor([True, True, False]), "units2": torch.tensor([True, True])}


def test_weight_use_by_hand():
    use = masks.weight_use(WIRES, FIRST, SHAPES)
    assert use["layers.0.weight"].tolist() == [[True, True], [False, False], [True, True]]
    assert use["layers.1.weight"].tolist() == [[True, False, True], [False, False, False]]
    assert use["head.weight"].tolist() == [[True, False], [True, False]]


def test_gates_and_ternary_codes_say_the_same_as_bools():
    gates = {"units1": torch.tensor([0.51, 0.5, 1.0]), "units2": torch.tensor([0.9, 0.0])}
    codes = {"units1": torch.tensor([1, 0, 2], dtype=torch.uint8), "units2": torch.tensor([2, 0], dtype=torch.uint8)}
    expected = masks.weight_use(WIRES, FIRST, SHAPES)
    for units in (gates, codes):
        for name, use in masks.weight_use(WIRES, units, SHAPES).items():
            assert torch.equal(use, expected[name])


def test_input_units_count_when_they_are_masked():
    use = masks.weight_use(WIRES, {**FIRST, "units0": torch.tensor([False, True])}, SHAPES)
    assert use["layers.0.weight"].tolist() == [[False, True], [False, False], [False, True]]


def test_a_flattened_channel_covers_consecutive_columns():
    wires = [Wire("fc.weight", None, "units1", "units2", repeat=2)]
    units = {"units1": torch.tensor([False, True]), "units2": torch.tensor([True])}
    assert masks.weight_use(wires, units, {"fc.weight": (1, 4)})["fc.weight"].tolist() == [[False, False, True, True]]


def test_a_mask_of_another_network_is_refused():
    with pytest.raises(ValueError, match=r"layers\.0\.weight"):
        masks.weight_use(WIRES, {"units1": torch.tensor([True])}, SHAPES)


def test_capacity_by_hand():
    shares = masks.capacity(WIRES, FIRST, BODY)
    assert shares == pytest.approx({"layers.0.weight": 4 / 6, "layers.1.weight": 2 / 6, "total": 6 / 12})


def test_capacity_weighs_layers_by_their_weights_kernels_included():
    wires = [Wire("conv.weight", None, "units0", "units1"), Wire("fc.weight", None, "units1", "units2")]
    shapes = {"conv.weight": (2, 1, 3, 3), "fc.weight": (4, 2)}
    units = {"units1": torch.tensor([True, False]), "units2": torch.tensor([True, True, True, False])}
    shares = masks.capacity(wires, units, shapes)
    assert shares == pytest.approx({"conv.weight": 9 / 18, "fc.weight": 3 / 8, "total": 12 / 26})


def test_capacity_of_everything_and_nothing():
    everything = {name: torch.ones(n, dtype=torch.bool) for name, n in (("units1", 3), ("units2", 2))}
    nothing = {name: ~values for name, values in everything.items()}
    assert masks.capacity(WIRES, everything, BODY)["total"] == 1.0
    assert masks.capacity(WIRES, nothing, BODY)["total"] == 0.0


def test_reuse_by_hand_and_not_symmetric():
    # FIRST uses 4 + 2 weights, SECOND 4 + 4; in common row 0 of the first layer (2) and one weight of the second.
    assert masks.reuse(WIRES, FIRST, SECOND, BODY) == pytest.approx(3 / 6)
    assert masks.reuse(WIRES, SECOND, FIRST, BODY) == pytest.approx(3 / 8)
    assert masks.reuse(WIRES, FIRST, FIRST, BODY) == 1.0


def test_reuse_of_a_task_that_uses_nothing():
    nothing = {name: torch.zeros_like(values) for name, values in FIRST.items()}
    assert masks.reuse(WIRES, nothing, FIRST, BODY) == 0.0


def test_compressed_size_by_hand():
    size = masks.compressed_size(WIRES, FIRST, SHAPES)
    assert size.hidden == pytest.approx(6 / 12)
    assert size.with_head == pytest.approx((6 + 2) / (12 + 4))


def test_sparsity_counts_entries_not_layers():
    share = masks.sparsity({"a": torch.tensor([True, False]), "b": torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])})
    assert share == pytest.approx(6 / 8)
    assert masks.sparsity({}) == 0.0


def test_bits_lie_low_to_high():
    values = torch.tensor([1, 0, 0, 0, 0, 0, 0, 0, 0, 1], dtype=torch.bool)
    assert masks.pack_bits(values) == bytes([0b00000001, 0b00000010])


@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (9,), (5, 13), (2, 3, 4, 5), (0,)])
def test_r7_bits_round_trip_in_ceil_of_an_eighth_bytes(shape):
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.4
    data = masks.pack_bits(values)
    assert len(data) == (values.numel() + 7) // 8
    back = masks.unpack_bits(data, shape)
    assert back.dtype == torch.bool
    assert torch.equal(back, values)


def test_ternary_codes_lie_low_to_high():
    codes = torch.tensor([0, 1, 2, 1, 2], dtype=torch.uint8)
    assert masks.pack_ternary(codes) == bytes([0b01_10_01_00, 0b00_00_00_10])


@pytest.mark.parametrize("shape", [(1,), (3,), (4,), (5,), (3, 7), (9344,)])
def test_t6_ternary_round_trip_in_ceil_of_a_quarter_bytes(shape):
    codes = torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    data = masks.pack_ternary(codes)
    assert len(data) == (codes.numel() + 3) // 4
    back = masks.unpack_ternary(data, shape)
    assert back.dtype == torch.uint8
    assert torch.equal(back, codes)


def test_an_unknown_ternary_code_is_refused():
    with pytest.raises(ValueError, match="0, 1, 2, not 3"):
        masks.pack_ternary(torch.tensor([0, 3], dtype=torch.uint8))


@pytest.mark.parametrize(("unpack", "size"), [(masks.unpack_bits, 2), (masks.unpack_ternary, 3)])
def test_a_wrong_number_of_bytes_is_refused(unpack, size):
    for wrong in (size - 1, size + 1):
        with pytest.raises(ValueError, match=f"{wrong} bytes where the shape needs {size}"):
            unpack(bytes(wrong), (9,))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("unit", torch.tensor([True, False, True])),
        ("weight", torch.tensor([[True, False], [False, False], [True, True]])),
        ("ternary", torch.tensor([2, 1, 0, 2, 1], dtype=torch.uint8)),
    ],
)
def test_a_mask_round_trips(kind, values):
    back = Mask.unpack(kind, Mask(kind, values).pack(), values.shape)
    assert back.kind == kind
    assert back.values.dtype == values.dtype
    assert torch.equal(back.values, values)


def test_a_mask_checks_its_type():
    with pytest.raises(ValueError, match="unit mask has values of type"):
        Mask("unit", torch.tensor([1, 0], dtype=torch.uint8))
    with pytest.raises(ValueError, match="ternary"):
        Mask("ternary", torch.tensor([True]))
