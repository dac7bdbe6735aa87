"""What every registered network must keep: names, wiring, units that can be gated, weights from the seed, dropout."""

import pytest
import torch
from helpers import TinyConv
from torch.func import functional_call, vmap
from torch.nn import functional as F

from clcore import networks
from clcore.errors import BadValue, UnknownName
from clcore.networks import NETWORKS, Network, NetworkOptions, Units
from clcore.networks.base import dropout

#: A small instance of every network; one that is registered without a line here is tried with nothing after its name.
SPECS = {"mlp": "mlp:6-5"}
SHAPE = (1, 8, 8)
EACH = pytest.mark.parametrize("make", [*NETWORKS.names(), "conv of the tests"])


def built(make, seed=0, drop=0.0, input_drop=0.0) -> Network:
    if make == "conv of the tests":
        torch.manual_seed(seed)
        return TinyConv(NetworkOptions(dropout=drop)).double()
    options = NetworkOptions(dropout=drop, input_dropout=input_drop)
    return networks.build(SPECS.get(make, make), SHAPE, seed, options).double()


def inputs(batch=3):
    return torch.rand(batch, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def weights(network, outputs=2):
    head = {"head.weight": torch.randn(outputs, network.features).double(), "head.bias": torch.randn(outputs).double()}
    return {**network.body_weights(), **head}


@EACH
def test_wires_name_all_parameters_once_and_fit_their_shapes(make):
    network = built(make)
    shapes = {n: tuple(p.shape) for n, p in network.named_parameters()}
    named = [name for wire in network.wires for name in (wire.weight, wire.bias) if name]
    assert sorted(named) == sorted(shapes)
    for wire in network.body_wires():
        assert shapes[wire.weight][0] == network.units[wire.outputs]
        assert shapes[wire.weight][1] == network.units[wire.inputs] * wire.repeat
        assert wire.bias is None or shapes[wire.bias] == (network.units[wire.outputs],)
    head = network.wires[-1]
    assert (head.weight, head.outputs, network.features) == ("head.weight", None, network.units[head.inputs])
    assert next(iter(network.units)) == "units0"
    assert all(
        isinstance(network.get_submodule(n), Units) and network.get_submodule(n).width == w for n, w in network.units.items()
    )


@EACH
@pytest.mark.parametrize("outputs", [1, 2, 7])
def test_the_head_has_as_many_outputs_as_are_supplied(make, outputs):
    network = built(make).eval()
    assert functional_call(network, weights(network, outputs), (inputs(),)).shape == (3, outputs)


@EACH
def test_body_weights_are_copies_from_the_seed(make):
    network, again, other = built(make), built(make), built(make, seed=1)
    assert all(torch.equal(t, again.body_weights()[n]) for n, t in network.body_weights().items())
    assert not all(torch.equal(t, other.body_weights()[n]) for n, t in network.body_weights().items())
    for tensor in network.body_weights().values():
        tensor.zero_()
    assert all(torch.equal(t, again.body_weights()[n]) for n, t in network.body_weights().items())


@EACH
def test_building_leaves_torchs_generator_as_it_was(make):
    if make == "conv of the tests":
        return
    torch.manual_seed(3)
    before = torch.get_rng_state()
    built(make)
    assert torch.equal(torch.get_rng_state(), before)


@EACH
def test_a_unit_that_is_gated_off_is_not_felt_by_what_follows(make):
    """The wiring is true: with a unit off, weights that leave it may be anything, and those into it too."""
    network = built(make).eval()
    plain = weights(network)
    for units, width in network.hidden_units.items():
        gain = torch.ones(width, dtype=torch.float64)
        gain[1] = 0
        expected = functional_call(network, {**plain, f"{units}.gain": gain}, (inputs(),))
        changed = {n: t.clone() for n, t in plain.items()}
        for wire in network.wires:
            if wire.inputs == units:
                changed[wire.weight][:, wire.repeat : 2 * wire.repeat] = 100.0
            if wire.outputs == units:
                changed[wire.weight][1] = 100.0
        assert torch.equal(functional_call(network, {**changed, f"{units}.gain": gain}, (inputs(),)), expected)
        assert not torch.allclose(functional_call(network, changed, (inputs(),)), expected)


@EACH
def test_gain_and_shift_are_what_they_say(make):
    network = built(make).eval()
    plain = weights(network)
    expected = functional_call(network, plain, (inputs(),))
    nothing = {
        f"{u}.{p}": torch.full((w,), v).double() for u, w in network.units.items() for p, v in (("gain", 1.0), ("shift", 0.0))
    }
    assert torch.equal(functional_call(network, {**plain, **nothing}, (inputs(),)), expected)
    last = network.wires[-1].inputs  # h * 2 + 3 before a linear head
    moved = {
        f"{last}.gain": torch.full((network.features,), 2.0).double(),
        f"{last}.shift": torch.full((network.features,), 3.0).double(),
    }
    bias, share = plain["head.bias"], plain["head.weight"].sum(1)
    found = functional_call(network, {**plain, **moved}, (inputs(),))
    assert torch.allclose(found, 2 * (expected - bias) + 3 * share + bias, atol=1e-12)
    assert torch.equal(functional_call(network, plain, (inputs(),)), expected)  # nothing sticks to the module


@EACH
def test_all_units_can_be_cut_to_a_slice(make):
    """A method that grows supplies only the features in use; the result is that of the others gated off."""
    network = built(make).eval()
    plain = weights(network)
    keep = {u: w if u == "units0" else max(1, w - 2) for u, w in network.units.items()}
    cut, gates = {}, {}
    for wire in network.wires:
        rows = keep[wire.outputs] if wire.outputs else len(plain[wire.weight])
        cut[wire.weight] = plain[wire.weight][:rows, : keep[wire.inputs] * wire.repeat]
        cut[wire.bias] = plain[wire.bias][:rows]
    for u, w in network.hidden_units.items():
        gates[f"{u}.gain"] = (torch.arange(w) < keep[u]).double()
    found, expected = functional_call(network, cut, (inputs(),)), functional_call(network, {**plain, **gates}, (inputs(),))
    assert torch.allclose(found, expected, atol=1e-12)


@EACH
def test_dropout_only_while_training(make):
    network = built(make, drop=0.5)
    plain = weights(network)
    outputs = [functional_call(network.train(mode), plain, (inputs(),)) for mode in (True, True, False, False)]
    assert not torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[2], outputs[3])
    assert torch.equal(functional_call(built(make).train(), plain, (inputs(),)), outputs[2])


@EACH
def test_a_registered_network_takes_what_build_gives(make):
    if make in NETWORKS.names():
        assert not torch.equal(
            *(functional_call(built(make, input_drop=0.5).train(), p, (inputs(),)) for p in [weights(built(make))] * 2)
        )


# -- the multi-layer perceptron ----------------------------------------------------------------------------------------


def test_the_mlp_by_hand_with_gates_after_the_activation():
    network = networks.build("mlp:6-5", SHAPE, 0).double().eval()
    plain = weights(network)
    gains = {"units0.gain": torch.rand(64).double(), "units1.gain": torch.rand(6).double(), "units2.shift": torch.rand(5).double()}
    x = inputs().flatten(1) * gains["units0.gain"]
    h = torch.relu(x @ plain["layers.0.weight"].T + plain["layers.0.bias"]) * gains["units1.gain"]
    h = torch.relu(h @ plain["layers.1.weight"].T + plain["layers.1.bias"]) + gains["units2.shift"]
    expected = h @ plain["head.weight"].T + plain["head.bias"]
    assert torch.allclose(functional_call(network, {**plain, **gains}, (inputs(),)), expected, atol=1e-12)


@pytest.mark.parametrize(("h", "count"), [(100, 98_700), (500, 693_100), (2000, 5_772_100)])
def test_the_mlps_of_permuted_mnist_have_the_papers_numbers_of_parameters(h, count):
    """methods.md 1.8: 784-h-h with ten heads of ten."""
    network = networks.build(f"mlp:{h}-{h}", (1, 28, 28), 0)
    assert sum(t.numel() for t in network.body_weights().values()) + 10 * 10 * (h + 1) == count


def test_initial_weights_are_torchs_default():
    """Uniform within 1/sqrt(fan_in), weights and biases alike (methods.md 0.5)."""
    body = networks.build("mlp:400-300", SHAPE, 0).body_weights()
    for name, fan_in in (("layers.0", 64), ("layers.1", 400)):
        for part in ("weight", "bias"):
            values = body[f"{name}.{part}"] * fan_in**0.5
            assert float(values.abs().max()) <= 1
            assert float(values.double().var()) == pytest.approx(1 / 3, abs=0.05)
            assert float(values.abs().max()) > 0.95


@pytest.mark.parametrize(
    "spec", ["mlp", "mlp:", "mlp:0", "mlp:10-", "mlp:10--5", "mlp:a", "mlp:-3", "mlp:1.5", "mlp:10,5", "mlp:²"]
)
def test_widths_that_cannot_be(spec):
    with pytest.raises(BadValue, match="the hidden widths joined by hyphens"):
        networks.build(spec, SHAPE, 0)


@pytest.mark.parametrize("key", ["dropout", "input_dropout"])
@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5, float("nan")])
def test_probabilities_that_cannot_be(key, value):
    with pytest.raises(BadValue, match=f"{key} = .* at least 0 and below 1"):
        networks.build("mlp:3", SHAPE, 0, NetworkOptions(**{key: value}))


def test_an_unknown_network():
    with pytest.raises(UnknownName, match=r"unknown network 'mpl'\. Did you mean 'mlp'\?"):
        networks.build("mpl:3", SHAPE, 0)


# -- dropout -----------------------------------------------------------------------------------------------------------


def test_dropout_keeps_the_mean_and_drops_the_share():
    torch.manual_seed(0)
    dropped = dropout(torch.ones(2000, 50), 0.3, 50)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert float((dropped == 0).double().mean()) == pytest.approx(0.3, abs=0.01)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("trailing", [(), (4, 4)])
def test_noise_of_a_slice_is_the_slice_of_the_noise_and_members_share_it(trailing):
    hidden = torch.ones(7, 10, *trailing)
    found = []
    for used in (10, 4):
        torch.manual_seed(0)
        found.append(dropout(hidden[:, :used], 0.5, 10))
    assert torch.equal(found[0][:, :4], found[1])
    torch.manual_seed(0)
    packed = vmap(lambda h: dropout(h, 0.5, 10), randomness="same")(torch.stack([hidden, 2 * hidden]))
    assert torch.equal(packed[0], found[0])
    assert torch.equal(packed[1], 2 * found[0])


def test_dropout_is_torchs_in_all_but_the_draws():
    """The same gradient, too: what is kept passes it on, scaled."""
    torch.manual_seed(0)
    hidden = torch.rand(5, 8, requires_grad=True)
    out = dropout(hidden, 0.25, 8)
    (grad,) = torch.autograd.grad(out.sum(), hidden)
    assert torch.allclose(grad, (out != 0) / 0.75)
    assert torch.equal(F.dropout(hidden, 0.25, training=False), hidden)
