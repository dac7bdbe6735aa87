"""Optimisers against torch.optim, clipping against torch's, the plateau schedule against HAT's published list of rates."""

import pytest
import torch

from clcore.optim import OPTIMIZERS, add_decay, clip_by_norm
from clcore.training import Plateau, Training

SHAPES = {"a": (3, 4), "b": (5,), "c": ()}


def tensors(seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return {n: scale * torch.randn(shape, generator=generator, dtype=torch.float64) for n, shape in SHAPES.items()}


def torchs(name, parameters, lr, decay):
    return {
        "sgd": lambda: torch.optim.SGD(parameters, lr=lr, weight_decay=decay),
        "momentum": lambda: torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=decay),
        "adam": lambda: torch.optim.Adam(parameters, lr=lr, weight_decay=decay),
        "rmsprop": lambda: torch.optim.RMSprop(parameters, lr=lr, weight_decay=decay),
    }[name]()


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_twenty_steps_are_torchs(name, decay):
    ours, lr = tensors(0), torch.tensor(0.03, dtype=torch.float64)
    theirs = {n: torch.nn.Parameter(t.clone()) for n, t in ours.items()}
    reference = torchs(name, list(theirs.values()), 0.03, decay)
    state = OPTIMIZERS[name].init(ours)
    for step in range(20):
        grads = tensors(100 + step, scale=10.0 ** (step % 4 - 2))
        for n, p in theirs.items():
            p.grad = grads[n].clone()
        reference.step()
        ours, state = OPTIMIZERS[name].update(add_decay(grads, ours, decay), state, ours, dict.fromkeys(ours, lr), 0.9)
        for n, p in theirs.items():
            assert torch.allclose(ours[n], p, rtol=0, atol=1e-13), (n, step)


def test_plain_sgd_is_torchs_in_float32_too():
    ours = {n: t.float() for n, t in tensors(0).items()}
    theirs = {n: torch.nn.Parameter(t.clone()) for n, t in ours.items()}
    reference = torch.optim.SGD(theirs.values(), lr=0.05, foreach=False)
    for step in range(10):
        grads = {n: t.float() for n, t in tensors(step).items()}
        for n, p in theirs.items():
            p.grad = grads[n].clone()
        reference.step()
        ours, _ = OPTIMIZERS["sgd"].update(grads, OPTIMIZERS["sgd"].init(ours), ours, dict.fromkeys(ours, torch.tensor(0.05)), 0.9)
    for n, p in theirs.items():
        assert torch.allclose(ours[n], p, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_direction_is_the_step_it_would_take_and_changes_nothing(name):
    params, grads = tensors(0), tensors(1)
    optimizer = OPTIMIZERS[name]
    _, state = optimizer.direction(tensors(2), optimizer.init(params), 0.9)
    before = {n: t.clone() for n, t in state.items()}
    moves, _ = optimizer.direction(grads, state, 0.9)
    after, _ = optimizer.update(grads, state, params, dict.fromkeys(params, torch.tensor(0.1, dtype=torch.float64)), 0.9)
    for n, move in moves.items():
        assert torch.allclose(params[n] - 0.1 * move, after[n], rtol=0, atol=1e-15)
    assert all(torch.equal(before[n], t) for n, t in state.items())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_parameter_without_gradient_stays(name):
    params = tensors(0)
    grads = {n: g for n, g in tensors(1).items() if n != "b"}
    after, _ = OPTIMIZERS[name].update(grads, OPTIMIZERS[name].init(params), params, dict.fromkeys(params, torch.tensor(0.1)), 0.9)
    assert torch.equal(after["b"], params["b"])
    assert not torch.equal(after["a"], params["a"])


@pytest.mark.parametrize("limit", [0.5, 3.0, 1e4])
def test_clipping_is_torchs(limit):
    grads = tensors(3)
    reference = [torch.nn.Parameter(torch.zeros_like(g)) for g in grads.values()]
    for p, g in zip(reference, grads.values(), strict=True):
        p.grad = g.clone()
    norm = torch.nn.utils.clip_grad_norm_(reference, limit)
    assert (norm > limit) == (limit < 1e4)
    for p, ours in zip(reference, clip_by_norm(grads, limit).values(), strict=True):
        assert torch.allclose(ours, p.grad, rtol=0, atol=1e-14)


def test_no_decay_leaves_gradients_as_they_are():
    grads = tensors(1)
    assert add_decay(grads, tensors(0), 0.0) is grads


# -- the plateau -------------------------------------------------------------------------------------------------------


def test_rates_of_the_hat_protocol_and_thirty_epochs_without_a_better_one_end_a_task():
    plateau, rates, epochs = Plateau(Training(), [0.05]), [], 0
    plateau.update([0], [1.0])  # the first loss is always better
    while not plateau.done[0] and epochs < 100:
        if not rates or rates[-1] != plateau.lr[0]:
            rates.append(plateau.lr[0])
        plateau.update([0], [1.0])  # equal is not better
        epochs += 1
    assert rates == pytest.approx([0.05, 0.016667, 0.005556, 0.001852, 0.000617, 0.000206], abs=5e-7)
    assert plateau.lr[0] == pytest.approx(6.86e-5, abs=1e-7)
    assert epochs == 30


def test_a_better_loss_gives_patience_back_and_no_rate():
    plateau = Plateau(Training(), [0.05])
    losses = [1.0, 1.1, 1.1, 1.1, 1.1, 0.9, 1.0, 1.0, 1.0, 1.0, 0.8]
    for loss in losses:
        assert plateau.update([0], [loss])[1] == []
    assert plateau.lr == [0.05]
    assert plateau.best == [0.8]
    dropped = [plateau.update([0], [0.85])[1] for _ in range(5)]
    assert dropped == [[], [], [], [], [0]]
    assert plateau.lr == pytest.approx([0.05 / 3])
    # The best stays that of all rates: what is only better than lately does not count.
    assert plateau.update([0], [0.81]) == ([], [])


def test_members_have_schedules_of_their_own():
    plateau = Plateau(Training(patience=1, lr_min=0.04), [0.05, 0.3])
    assert plateau.update([0, 1], [1.0, 1.0]) == ([0, 1], [])
    assert plateau.update([0, 1], [2.0, 0.5]) == ([1], [0])
    assert plateau.done == [True, False]
    assert plateau.update([1], [0.6]) == ([], [1])
    assert plateau.lr == pytest.approx([0.05 / 3, 0.1])
    assert plateau.best == [1.0, 0.5]


def test_a_rate_below_the_smallest_ends_and_one_at_it_does_not():
    plateau = Plateau(Training(patience=1, lr_factor=2.0, lr_min=0.25), [1.0])
    plateau.update([0], [1.0])
    ends = []
    for _ in range(3):
        plateau.update([0], [1.0])
        ends.append((plateau.lr[0], plateau.done[0]))
    assert ends == [(0.5, False), (0.25, False), (0.125, True)]
