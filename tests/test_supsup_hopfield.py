"""Storkey's rule, the Hopfield energy and the recovery of a mask against the authors' numbers and the invariants P1-P5."""

import pytest
import torch
from supsup_kit import golden
from torch.nn import functional as F

from clcore.methods.supsup import hopfield, inference, masks

LAYERS = (0, 1)


@pytest.fixture(scope="module")
def described():
    return golden("supsup_hopfield")


@pytest.mark.parametrize("layer", LAYERS)
def test_connections_and_energies_are_the_authors(described, layer):
    _, trace = described
    psi = torch.zeros(24, 24, dtype=torch.float64)
    for count in range(4):
        assert torch.allclose(psi, trace[f"layer{layer}_Psi"][count], rtol=0, atol=1e-12)
        for probe, wanted in zip(trace[f"layer{layer}_probes"], trace[f"layer{layer}_energy"][count], strict=True):
            assert float(hopfield.energy(psi, probe.double())) == pytest.approx(float(wanted), abs=1e-9)
        if count < 3:
            psi = hopfield.store(psi, trace[f"layer{layer}_z"][count].double())


def swish_net(trace, flat, x):
    """The authors' net: the mask is the scale of a normalisation by the batch, before a Swish."""
    for layer, mask in zip(LAYERS, flat.split(24), strict=True):
        x = F.batch_norm(x @ trace[f"W{layer}"].T, None, None, training=True)
        x = F.silu(x * mask)
    return x @ trace["W2"].T


@pytest.mark.parametrize("tasks", [2, 3])
def test_recovery_is_the_authors_step_by_step(described, tasks):
    settings, trace = described[0]["settings"], described[1]
    psis = [trace[f"layer{layer}_Psi"][tasks] for layer in LAYERS]
    start = torch.cat([trace[f"layer{layer}_mu"][tasks - 1] for layer in LAYERS])
    assert torch.allclose(start, trace[f"recover{tasks}_score_init"].flatten(), rtol=0, atol=1e-12)

    def energy(scores):
        zs = (2 * masks.threshold(scores) - 1).split(24)
        return sum(hopfield.energy(psi, z) for psi, z in zip(psis, zs, strict=True))

    def entropy(scores, step):
        return inference.entropy(swish_net(trace, masks.threshold(scores), trace["recover_x"][step]))

    constants = hopfield.Recovery(settings["gamma"], settings["lr"], settings["momentum"], settings["weight_decay"])
    steps = len(trace["recover_x"])
    seen = []

    def spied(scores, step):
        seen.append(scores.detach().clone())
        return entropy(scores, step)

    last = hopfield.recover(start, steps, energy, spied, constants)
    wanted = trace[f"recover{tasks}_score_steps"].flatten(1)
    for step, scores in enumerate([*seen[1:], last]):
        assert torch.allclose(scores, wanted[step], rtol=0, atol=1e-9)


def test_constants_are_the_papers(described):
    settings, own = described[0]["settings"], hopfield.Recovery()
    assert (own.gamma, own.lr, own.momentum) == (settings["gamma"], settings["lr"], settings["momentum"])
    assert own.weight_decay == settings["weight_decay"]


# -- invariants --------------------------------------------------------------------------------------------------------


def patterns(count, d=64):
    draw = torch.Generator().manual_seed(count)
    return (torch.rand(count, d, generator=draw) > 0.5).double() * 2 - 1


def stored(zs):
    psi = torch.zeros(zs.shape[1], zs.shape[1], dtype=torch.float64)
    for z in zs:
        psi = hopfield.store(psi, z)
    return psi


def test_p1_a_pattern_is_an_eigenvector_and_a_fixed_point_once_stored():
    zs = patterns(4)
    for count in range(4):
        before = stored(zs[:count])
        z, after = zs[count], hopfield.store(before, zs[count])
        c = 1 - 1 / 64 - float(z @ before @ z) / 64
        assert torch.allclose(after @ z, c * z, atol=1e-12)
        assert c > 0
        assert torch.equal(torch.sign(after @ z), z)


def test_p2_connections_are_symmetric():
    psi = stored(patterns(5))
    assert torch.allclose(psi, psi.T, atol=1e-14)


def test_p3_energy_is_lower_at_stored_patterns_than_at_others():
    """Without the minus sign, as the paper prints it, it would be the other way round."""
    zs = patterns(3)
    psi, others = stored(zs), patterns(40)[3:]
    assert max(float(hopfield.energy(psi, z)) for z in zs) < min(float(hopfield.energy(psi, z)) for z in others)


def test_p4_a_pattern_stored_twice_is_forgotten():
    [z] = patterns(1)
    psi = stored(torch.stack([z, z]))
    assert torch.allclose(psi @ z, torch.zeros_like(z), atol=1e-12)


def test_p5_the_first_pattern_is_stored_as_hebb_would():
    [z] = patterns(1)
    assert torch.allclose(stored(z[None]), (torch.outer(z, z) - torch.eye(64)) / 64, atol=1e-14)


def test_recovery_without_entropy_falls_into_the_nearest_pattern():
    zs = patterns(2)
    psi = stored(zs)
    corrupt = zs[0].clone()
    corrupt[:8] *= -1
    start = 0.1 * corrupt
    found = hopfield.recover(
        start, 40, lambda s: hopfield.energy(psi, 2 * masks.threshold(s) - 1), lambda s, step: 0 * s.sum(),
        hopfield.Recovery(gamma=1.0, lr=0.05, momentum=0.0, weight_decay=0.0),
    )  # fmt: skip
    assert torch.equal(2 * masks.threshold(found) - 1, zs[0])
