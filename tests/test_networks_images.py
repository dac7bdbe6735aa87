"""The networks of the papers: their numbers of parameters, what they compute written out, the sizes they need."""

import pytest
import torch
from torch.func import functional_call, vmap
from torch.nn import functional as F

from clcore import networks
from clcore.errors import BadValue
from clcore.networks import NetworkOptions
from clcore.networks.images import map_dropout
from clcore.networks.residual import padded

CIFAR, GREY = (3, 32, 32), (1, 28, 28)
NO_BIAS = NetworkOptions(bias=False)


def count(network, *heads, norms=True):
    """Parameters of the body, with or without those of normalisations, and of heads of the given outputs."""
    body = sum(t.numel() for n, t in network.body_weights().items() if norms or n not in network.affine)
    return body + sum(n * (network.features + ("bias" in network.head_parts)) for n in heads)


# -- numbers of parameters ---------------------------------------------------------------------------------------------


def test_alexnet32_has_hats_numbers():
    """HAT, section 4 and table 6: 7.1 M with the heads of the mixture; 6.7 M with those of incremental CIFAR."""
    network = networks.build("alexnet32", CIFAR, 0)
    assert count(network) == 6_503_872
    assert count(network, 10, 100, 10, 10, 10, 43, 100, 10) == 7_104_229
    assert count(network, *[2] * 5, *[20] * 5) == 6_729_262
    assert sum(network.hidden_units.values()) == 64 + 128 + 256 + 2048 + 2048
    assert [wire.repeat for wire in network.wires] == [1, 1, 1, 4, 1, 1]


@pytest.mark.parametrize(
    ("spec", "shape", "outputs", "expected"),
    [
        ("omniglot", GREY, 60, 1_704_750),  # RMN
        ("cnn6", CIFAR, 10, 813_408),
        ("mlp:100-100-100", GREY, 10, 99_400),
        ("resnet18:20", CIFAR, 5, 1_090_940),  # SupSup: GEM's narrow ResNet-18
        ("lenet-300-100", GREY, 100, 275_200),
        ("lenet-300-100", GREY, 500, 315_200),
        ("fc-1024", GREY, 100, 1_953_792),
        ("fc-1024", GREY, 500, 2_363_392),
    ],
)
def test_networks_without_biases_have_the_papers_numbers_of_weights(spec, shape, outputs, expected):
    network = networks.build(spec, shape, 0, NO_BIAS)
    assert count(network, outputs, norms=False) == expected
    assert all(wire.bias is None for wire in network.wires)


def test_hnets_networks_have_the_papers_numbers():
    resnet = networks.build("resnet32", CIFAR, 0)
    assert count(resnet, 60) == 468_540
    assert count(resnet, 60, norms=False) == 466_268
    assert sum(resnet.get_parameter(name).numel() for name in resnet.affine) == 2_272
    assert len(resnet.wires) == 32
    assert count(networks.build("zenkenet", CIFAR, 0), 60) == 1_276_508


def test_resnet18_is_the_one_known_for_cifar():
    """11,173,962 with ten outputs: no biases but the head's, scales and shifts. Its features are normalised in 20 places."""
    assert count(networks.build("resnet18", CIFAR, 0), 10) == 11_173_962
    narrow = networks.build("resnet18:20", CIFAR, 0)
    assert sum(narrow.units[units] for units in narrow.norms.values()) == 1500  # what SupSup counts a task
    assert len(narrow.norms) == 20


def test_units_of_residual_networks():
    """One name a stream, whoever writes to it; one for the inside of each block."""
    network = networks.build("resnet18:20", CIFAR, 0)
    assert {u: w for u, w in network.units.items() if u.startswith("streams")} == {f"streams.{i}": 20 * 2**i for i in range(4)}
    assert sum(u.endswith(".units") for u in network.units) == 8
    writers = [wire.weight for wire in network.wires if wire.outputs == "streams.1"]
    assert writers == ["blocks.2.shortcut.weight", "blocks.2.conv2.weight", "blocks.3.conv2.weight"]
    readers = [wire.weight for wire in network.wires if wire.inputs == "streams.3"]
    assert readers == ["blocks.7.conv1.weight", "head.weight"]


def test_which_layers_have_biases():
    def biased(spec, shape=CIFAR, **options):
        return {wire.weight for wire in networks.build(spec, shape, 0, NetworkOptions(**options)).wires if wire.bias}

    everything = {wire.weight for wire in networks.build("resnet18:2", CIFAR, 0).wires}
    assert biased("resnet18:2") == {"head.weight"}  # the others' would be taken away by the normalisation
    assert biased("resnet18:2", norm="none") == everything
    assert biased("resnet18:2", norm="none", bias=False) == set()
    assert len(biased("resnet32:2")) == 32  # HNET's code
    assert len(biased("alexnet32")) == 6


def test_the_normalisation_networks_have_by_themselves():
    normed = {s: networks.build(s, CIFAR, 0) for s in ("alexnet32", "cnn6", "omniglot", "zenkenet", "resnet18:2", "resnet32:2")}
    assert {s: len(n.norms) for s, n in normed.items() if n.norms} == {"omniglot": 4, "resnet18:2": 20, "resnet32:2": 31}
    assert set(normed["omniglot"].affine) == {f"batch_norms.{i}.weight" for i in range(4)}
    assert len(normed["resnet32:2"].affine) == 62


# -- what they compute -------------------------------------------------------------------------------------------------


def prepared(spec, shape, **options):
    """A network in float64, its tensors (gates, statistics, all drawn), and two images."""
    torch.manual_seed(0)
    network = networks.build(spec, shape, 0, NetworkOptions(**options)).double().eval()
    w = {**network.body_weights(), **{n: torch.rand_like(network.get_parameter(n)) + 0.5 for n in network.affine}}
    for name, units in network.norms.items():
        w |= {f"{name}.mean": torch.rand(network.units[units]) - 0.7, f"{name}.var": torch.rand(network.units[units]) + 0.5}
    w |= {f"{units}.gain": torch.rand(width) + 0.5 for units, width in network.units.items()}
    w |= {"head.weight": torch.randn(3, network.features), "head.bias": torch.randn(3)}
    w = {name: tensor.detach().double() for name, tensor in w.items()}
    return network, w, torch.rand(2, *shape, dtype=torch.float64)


def maps(tensor, w, units):
    return tensor * w[f"{units}.gain"][None, :, None, None]


def test_alexnet32_written_out():
    """HAT's order: convolution, ReLU, pooling, gate; channel-major flatten; linear, ReLU, gate."""
    network, w, x = prepared("alexnet32", CIFAR)
    h = maps(x, w, "units0")
    for i in range(3):
        h = F.max_pool2d(torch.relu(F.conv2d(h, w[f"layers.{i}.weight"], w[f"layers.{i}.bias"])), 2)
        h = maps(h, w, f"units{i + 1}")
    assert h.shape == (2, 256, 2, 2)
    h = torch.stack([h[:, c, i, j] for c in range(256) for i in range(2) for j in range(2)], dim=1)
    for i in (3, 4):
        h = torch.relu(h @ w[f"layers.{i}.weight"].T + w[f"layers.{i}.bias"]) * w[f"units{i + 1}.gain"]
    assert torch.allclose(functional_call(network, w, (x,)), h @ w["head.weight"].T + w["head.bias"], atol=1e-12)


def test_cnn6_written_out():
    network, w, x = prepared("cnn6", CIFAR)
    h = maps(x, w, "units0")
    for i in range(6):
        h = torch.relu(F.conv2d(h, w[f"layers.{i}.weight"], w[f"layers.{i}.bias"], padding=1))
        h = maps(F.max_pool2d(h, 2) if i % 2 else h, w, f"units{i + 1}")
    assert h.shape == (2, 128, 4, 4)
    h = torch.relu(h.reshape(2, 2048) @ w["layers.6.weight"].T + w["layers.6.bias"]) * w["units7.gain"]
    assert torch.allclose(functional_call(network, w, (x,)), h @ w["head.weight"].T + w["head.bias"], atol=1e-12)


def test_zenkenet_written_out():
    network, w, x = prepared("zenkenet", CIFAR)
    h = maps(x, w, "units0")
    for i, (padding, pool) in enumerate([(1, False), (0, True), (1, False), (0, True)]):
        h = torch.relu(F.conv2d(h, w[f"layers.{i}.weight"], w[f"layers.{i}.bias"], padding=padding))
        h = maps(F.max_pool2d(h, 2) if pool else h, w, f"units{i + 1}")
    assert h.shape == (2, 64, 6, 6)
    h = torch.relu(h.reshape(2, 2304) @ w["layers.4.weight"].T + w["layers.4.bias"]) * w["units5.gain"]
    assert torch.allclose(functional_call(network, w, (x,)), h @ w["head.weight"].T + w["head.bias"], atol=1e-12)


@pytest.mark.parametrize("training", [False, True])
def test_omniglot_written_out(training):
    network, w, x = prepared("omniglot", GREY, bias=False)
    del w["head.bias"]
    h = maps(x, w, "units0")
    for i in range(4):
        h, n = F.conv2d(h, w[f"layers.{i}.weight"], padding=1), f"batch_norms.{i}"
        mean, var = (h.mean((0, 2, 3)), h.var((0, 2, 3), correction=0)) if training else (w[f"{n}.mean"], w[f"{n}.var"])
        h = (h - mean[:, None, None]) / (var + 1e-5).sqrt()[:, None, None] * w[f"{n}.weight"][:, None, None]
        h = maps(F.max_pool2d(torch.relu(h), 2), w, f"units{i + 1}")
    assert h.shape == (2, 250, 1, 1)
    expected = h.flatten(1) @ w["head.weight"].T
    assert torch.allclose(functional_call(network.train(training), w, (x,)), expected, atol=1e-10)


def normed(h, w, name):
    return F.batch_norm(h, w[f"{name}.mean"], w[f"{name}.var"], w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-5)


def test_resnet18_written_out():
    network, w, x = prepared("resnet18:2", CIFAR)
    h = F.conv2d(maps(x, w, "units0"), w["stem.weight"], padding=1)
    h = maps(torch.relu(normed(h, w, "stem_norm")), w, "streams.0")
    for block in range(8):
        n, stage = f"blocks.{block}", block // 2
        stride = 2 if block in (2, 4, 6) else 1
        inner = torch.relu(normed(F.conv2d(h, w[f"{n}.conv1.weight"], stride=stride, padding=1), w, f"{n}.norm1"))
        inner = maps(inner, w, f"{n}.units")
        change = normed(F.conv2d(inner, w[f"{n}.conv2.weight"], padding=1), w, f"{n}.norm2")
        if stride == 2:
            h = normed(F.conv2d(h, w[f"{n}.shortcut.weight"], stride=2), w, f"{n}.shortcut_norm")
        h = maps(torch.relu(change + h), w, f"streams.{stage}")
    assert h.shape == (2, 16, 4, 4)
    expected = F.avg_pool2d(h, 4).flatten(1) @ w["head.weight"].T + w["head.bias"]
    assert torch.allclose(functional_call(network, w, (x,)), expected, atol=1e-11)


def test_resnet32_written_out():
    """Option A as in HNET's code: every second position, a quarter of the new channels put on both sides."""
    network, w, x = prepared("resnet32:4", CIFAR)
    h = F.conv2d(maps(x, w, "units0"), w["stem.weight"], w["stem.bias"], padding=1)
    h = maps(torch.relu(normed(h, w, "stem_norm")), w, "streams.0")
    for block in range(15):
        n, stage = f"blocks.{block}", block // 5
        stride, carried = 1, h
        if block in (5, 10):
            stride, quarter = 2, 4 * 2**stage // 4
            rows = h[:, :, ::2, ::2]
            zeros = torch.zeros(2, quarter, *rows.shape[2:], dtype=h.dtype)
            carried = torch.cat([zeros, rows, zeros], 1)
        inner = F.conv2d(h, w[f"{n}.conv1.weight"], w[f"{n}.conv1.bias"], stride=stride, padding=1)
        inner = maps(torch.relu(normed(inner, w, f"{n}.norm1")), w, f"{n}.units")
        change = normed(F.conv2d(inner, w[f"{n}.conv2.weight"], w[f"{n}.conv2.bias"], padding=1), w, f"{n}.norm2")
        h = maps(torch.relu(change + carried), w, f"streams.{stage}")
    assert h.shape == (2, 16, 8, 8)
    expected = h.mean((2, 3)) @ w["head.weight"].T + w["head.bias"]
    assert torch.allclose(functional_call(network, w, (x,)), expected, atol=1e-10)


@pytest.mark.parametrize(("spec", "widths"), [("lenet-300-100", "mlp:300-100"), ("fc-1024", "mlp:1024-1024")])
def test_networks_that_are_perceptrons_by_another_name(spec, widths):
    one, other = (networks.build(s, GREY, 3).body_weights() for s in (spec, widths))
    assert all(torch.equal(t, other[n]) for n, t in one.items())
    assert one.keys() == other.keys()


def test_a_shortcut_without_weights_puts_channels_at_the_same_place_however_many_are_in_use():
    """A method that grows cuts the stream before and after it."""
    full = torch.rand(2, 6, 5, 4)
    whole = padded(full, 2, 3, 12)
    assert whole.shape == (2, 12, 3, 2)
    assert torch.equal(whole[:, 3:9], full[:, :, ::2, ::2])
    assert not bool(whole[:, :3].any() | whole[:, 9:].any())
    for before in range(1, 7):
        cut = full.clone()
        cut[:, before:] = 0
        for width in range(1, 13):
            assert torch.equal(padded(full[:, :before], 2, 3, width), padded(cut, 2, 3, 12)[:, :width])


def test_shortcuts_for_odd_numbers_of_filters():
    network = networks.build("resnet32:3", (1, 8, 8), 0)
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 1)


# -- dropout -----------------------------------------------------------------------------------------------------------


def test_dropout_of_maps_drops_whole_maps_and_a_slice_has_the_slice_of_the_noise():
    hidden, found = torch.ones(40, 10, 3, 3), []
    for used in (10, 4):
        torch.manual_seed(0)
        found.append(map_dropout(hidden[:, :used], 0.3, 10))
    assert torch.equal(found[0][:, :4], found[1])
    assert torch.equal(found[0], found[0][:, :, :1, :1].expand_as(hidden))
    assert found[0].unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert float((found[0] == 0).double().mean()) == pytest.approx(0.3, abs=0.06)
    torch.manual_seed(0)
    packed = vmap(lambda h: map_dropout(h, 0.3, 10), randomness="same")(torch.stack([hidden, 2 * hidden]))
    assert torch.equal(packed[1], 2 * found[0])


@pytest.mark.parametrize(
    ("spec", "shape", "early", "late"),
    [
        ("alexnet32", (3, 19, 19), ["units1", "units2"], ["units3", "units4", "units5"]),
        ("cnn6", (3, 8, 8), ["units2", "units4", "units6"], ["units7"]),
        ("omniglot", (1, 16, 16), ["units1", "units2", "units3"], ["units4"]),
        ("zenkenet", (3, 10, 10), ["units2", "units4"], ["units5"]),
        ("resnet18:2", (1, 8, 8), [], [f"blocks.{i}.units" for i in range(8)]),
    ],
)
def test_where_dropout_is(monkeypatch, spec, shape, early, late):
    """HAT: .2 after the first two convolutions, .5 after the rest; HNET's ZenkeNet: .25 and .5."""
    from clcore.networks import convolutional, residual

    for module, name in ((convolutional, "dropout"), (convolutional, "map_dropout"), (residual, "dropout")):
        monkeypatch.setattr(module, name, lambda hidden, probability, width: hidden * 0 + probability)
    network = networks.build(spec, shape, 0, NetworkOptions(dropout=0.5, input_dropout=0.25)).train()
    said = {}
    for units in network.units:
        network.get_submodule(units).register_forward_hook(lambda module, x, out, units=units: said.update({units: out}))
    network(torch.rand(2, *shape))
    constant = {u: h.flatten()[0].item() for u, h in said.items() if bool((h == h.flatten()[0]).all())}
    assert {u for u in constant if u in late} == set(late)
    assert all(constant[u] == 0.5 for u in late)
    assert all(constant[u] == 0.25 for u in early)
    assert not any(constant.get(u) in (0.25, 0.5) for u in network.units if u not in (*early, *late))


# -- sizes and arguments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "smallest"), [("alexnet32", 19), ("cnn6", 8), ("omniglot", 16), ("zenkenet", 10)])
def test_images_that_are_too_small_are_refused_with_the_smallest_size(spec, smallest):
    networks.build(spec, (2, smallest, smallest), 0)(torch.rand(2, 2, smallest, smallest))
    for shape in ((2, smallest - 1, smallest), (2, smallest, smallest - 1), (2, 1, 1)):
        with pytest.raises(BadValue, match=rf"network = '{spec}' .* {spec} needs .* at least {smallest} x {smallest} pixels"):
            networks.build(spec, shape, 0)


@pytest.mark.parametrize("spec", ["alexnet32", "cnn6", "omniglot", "zenkenet", "resnet18:2", "resnet32:2"])
@pytest.mark.parametrize("shape", [(784,), (28, 28), (1, 1, 28, 28)])
def test_inputs_that_are_no_images_are_refused(spec, shape):
    with pytest.raises(BadValue, match=r"fits inputs of shape \[.*needs images \[channels, height, width\]"):
        networks.build(spec, shape, 0)


@pytest.mark.parametrize("spec", ["resnet18:2", "resnet32:2"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 9), (1, 8, 8), (2, 28, 28), (3, 64, 64)])
def test_residual_networks_take_images_of_any_size(spec, shape):
    assert networks.build(spec, shape, 0)(torch.rand(2, *shape)).shape == (2, 1)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 28, 33), (3, 64, 64)])
@pytest.mark.parametrize("spec", ["cnn6", "omniglot", "zenkenet"])
def test_other_sizes_of_images(spec, shape):
    network = networks.build(spec, shape, 0)
    assert network(torch.rand(2, *shape)).shape == (2, 1)
    assert network.wires[-1].repeat == 1


@pytest.mark.parametrize("spec", ["alexnet32", "cnn6", "omniglot", "zenkenet", "lenet-300-100", "fc-1024"])
def test_networks_that_take_nothing_after_their_name(spec):
    with pytest.raises(BadValue, match=rf"network = '{spec}:100' .* it takes nothing after a colon"):
        networks.build(f"{spec}:100", CIFAR, 0)


@pytest.mark.parametrize("argument", ["0", "a", "-2", "1.5", "20-20", "²", " 20"])
@pytest.mark.parametrize("spec", ["resnet18", "resnet32"])
def test_filters_that_cannot_be(spec, argument):
    with pytest.raises(BadValue, match=rf"{spec}, or {spec}: and the number of filters"):
        networks.build(f"{spec}:{argument}", CIFAR, 0)
