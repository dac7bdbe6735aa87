"""The GAN as a replay model: LSGAN's losses from plain restatements, who learns from which, the two laws, and its images."""

from dataclasses import replace

import pytest
import torch
from helpers import begin, distance, facts, finish, learner, same, up_to
from test_hnet_replay import OWN, TIR, batch_of, decoder_of, other_weights, plain_mlp, single

from clcore.errors import BadValue
from clcore.methods import At
from clcore.methods.hnet.gan import MADE, REAL, WANTED
from clcore.trainer import Trainer

GAN = {"replay_model": "gan"}
STILL = {**GAN, "discriminator_dropout": 0.0}
EACH_METHOD = pytest.mark.parametrize(("name", "hyper"), [("hnet-r", GAN), ("hnet", {**GAN, **TIR})], ids=["hnet-r", "hnet"])


def parts_of(one, params, memory, inputs, latent, task=0):
    """What the discriminator says of real images and of those made from ``latent``, each as a leaf of its own where it matters."""
    decoder = decoder_of(one.method.replay, params, params["decoder.embedding"])
    raw = plain_mlp(decoder, "", torch.cat([latent, memory["decoder.conditions"][task].expand(len(latent), -1)], 1))
    made = torch.tanh(raw / 2)
    real = inputs.flatten(1) * 2 - 1  # the benchmark's inputs are in [0, 1]
    return plain_mlp(params, "discriminator.", real), plain_mlp(params, "discriminator.", made)


def drawn(one, count, seed=3):
    torch.manual_seed(seed)
    return torch.randn(count, one.method.replay.latent, dtype=torch.float64)


def test_its_loss_is_the_sum_of_the_two_of_lsgan():
    one = learner("hnet-r", [STILL], **OWN)
    params, memory, _, _ = other_weights(one, 0)
    inputs = batch_of(one, 0).inputs
    for phase, latent in (("train", drawn(one, 10)), ("eval", torch.zeros(10, 8, dtype=torch.float64))):
        real, made = parts_of(one, params, memory, inputs, latent)
        wanted = ((real - 1) ** 2).mean() / 2 + ((made + 1) ** 2).mean() / 2 + (made**2).mean() / 2
        torch.manual_seed(3)
        found = one.method.replay.loss(params, memory, At(0, phase, 1), inputs)
        assert float(found) == pytest.approx(float(wanted), rel=1e-12)


def test_each_network_learns_from_its_own_loss_alone():
    one = learner("hnet-r", [STILL], **OWN)
    params, memory, _, _ = other_weights(one, 0)
    inputs, leaves = batch_of(one, 0).inputs, {n: t.detach().requires_grad_() for n, t in params.items()}
    real, made = parts_of(one, leaves, memory, inputs, drawn(one, 10))
    losses = {
        "discriminator.": ((real - 1) ** 2).mean() / 2 + ((made + 1) ** 2).mean() / 2,
        "decoder.": (made**2).mean() / 2,
    }
    torch.manual_seed(3)
    said = one.method.replay.loss(leaves, memory, At(0, "train", 1), inputs)
    for prefix, loss in losses.items():
        names = [n for n in leaves if n.startswith(prefix)]
        ours = torch.autograd.grad(said, [leaves[n] for n in names], retain_graph=True)
        own = torch.autograd.grad(loss, [leaves[n] for n in names], retain_graph=True)
        assert max(float((a - b).abs().max()) for a, b in zip(ours, own, strict=True)) < 1e-13
        assert all(g.count_nonzero() for g in own)


def test_its_constants_minimise_pearsons_chi_squared():
    """Under the best discriminator of a discrete world the generator's loss is half of chi^2, 2 p_made against p_real + p_made."""
    real, made = torch.tensor([0.5, 0.3, 0.2, 0.0]).double(), torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    said = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    loss = (real * (said - REAL) ** 2 + made * (said - MADE) ** 2).sum() / 2
    [slope] = torch.autograd.grad(loss, said)
    best = -slope / (real + made)  # the loss is a parabola: from 0 one Newton step leads to its minimum
    both = real + made
    for_real = (real * (best - WANTED) ** 2).sum() / 2  # does not depend on the generator's images: LSGAN adds it in its proof
    chi = ((2 * made - both) ** 2 / both).sum()
    assert float(for_real + (made * (best - WANTED) ** 2).sum() / 2) == pytest.approx(float(chi) / 2, rel=1e-12)


def test_dropout_is_the_discriminators_and_for_training_alone():
    one = learner("hnet-r", [{**GAN, "discriminator_dropout": 0.5, "encoder": "1000"}], **OWN)
    params, memory, _, _ = single(one, 0)
    inputs, model = batch_of(one, 0, 40).inputs, one.method.replay
    torch.manual_seed(0)
    first, second = (model.loss(params, memory, At(0, "eval", 1), inputs) for _ in range(2))
    assert float(first) == float(second)
    still = learner("hnet-r", [{**STILL, "encoder": "1000"}], **OWN).method.replay
    noisy = torch.stack([_said(model, params, memory, inputs, seed) for seed in range(40)])
    calm = torch.stack([_said(still, params, memory, inputs, seed) for seed in range(40)])
    assert float(noisy.mean()) > float(calm.mean())  # the same outputs on average, and noise adds to their squares
    assert float(noisy.mean()) < 1.5 * float(calm.mean())
    assert not torch.equal(noisy, calm)


def _said(model, params, memory, inputs, seed):
    torch.manual_seed(seed)
    return model.loss(params, memory, At(0, "train", 1), inputs)


@pytest.mark.parametrize("replay_model", ["vae", "gan"])
@EACH_METHOD
def test_samples_of_the_tasks_learned(name, hyper, replay_model):
    options = {**OWN, "epochs": 1, "batch_size": 128, "scenario": "class-il"}
    one = up_to(learner(name, [{**hyper, "replay_model": replay_model}], **options), 2)
    memory, method = one.memory_of(0), one.method
    for seen, tasks in ((1, 1), (2, 2), (3, 2)):  # the last task of three is never replayed
        torch.manual_seed(0)
        found = method.samples(memory, seen, 5)
        assert found.shape == (tasks, 5, 1, 8, 8)
        assert 0 <= float(found.min()) < float(found.max()) <= 1
        model = method.replay if name == "hnet-r" else method.classifier.replay
        torch.manual_seed(0)
        assert torch.equal(found, model.replay(memory, range(tasks), 5))  # inputs are in [0, 1] here
    assert learner("hnet", scenario="class-il", **OWN).method.samples(memory, 1, 5) is None


@EACH_METHOD
def test_a_pack_ends_where_its_members_end_alone(name, hyper):
    members = [{**hyper, "replay_beta": beta, "embedding_rate": rate} for beta, rate in ((0.01, 1.0), (0.5, 0.3), (0.0, 2.0))]
    lrs, options = [0.002, 0.01, 0.005], {**OWN, "scenario": "class-il", "batch_size": 128}
    together = learner(name, members, lrs=lrs, **options)
    reports = finish(together)
    for place in (0, 2):
        alone = learner(name, members[place : place + 1], lrs=lrs[place : place + 1], **options)
        for mine, ours in zip(finish(alone), reports, strict=True):
            assert repr(mine.members[0].test) == repr(ours.members[place].test)
        assert distance(alone.memory_of(0), together.memory_of(place)) < 1e-9


@EACH_METHOD
def test_resumed_it_ends_where_it_ends_uninterrupted(name, hyper, tmp_path):
    options = {**OWN, "scenario": "class-il", "dtype": torch.float32, "batch_size": 128}
    whole = learner(name, [hyper, {**hyper, "replay_beta": 0.3}], **options)
    reports = finish(whole)
    half = up_to(learner(name, [hyper, {**hyper, "replay_beta": 0.3}], **options), 1)
    half.save(tmp_path)
    resumed = learner(name, [hyper, {**hyper, "replay_beta": 0.3}], **options)
    resumed.load(tmp_path)
    assert facts(finish(resumed)) == facts(reports)[2:]
    assert same(resumed.memory, whole.memory)


def test_the_generator_comes_to_make_the_image_that_is_real():
    """Of a world of one image: what is made is far from it at first, and near it in the end."""
    torch.manual_seed(0)
    one = learner("hnet-r", [{**GAN, "decoder": "10", "replay_chunk": 0, "layers": "none"}], **{**OWN, "options": ()})
    params, memory, _, at = single(one, 0)
    model, image = one.method.replay, batch_of(one, 0, 1).inputs
    params = {n: t.clone().requires_grad_() for n, t in params.items() if n.startswith(model.trains)}
    optimizer, gaps = torch.optim.Adam(params.values(), lr=1e-3, betas=(0.5, 0.999)), []
    for step in range(601):
        if step % 600 == 0:
            kept = {**memory, **model.end({n: p.detach() for n, p in params.items()}, 0)}
            gaps.append(float((model.samples(kept, 1, 50) - image).abs().mean()))
        optimizer.zero_grad()
        model.loss(params, memory, at, image.expand(16, -1, -1, -1)).backward()
        optimizer.step()
    assert gaps[1] < 0.5 * gaps[0], gaps


def test_what_it_keeps_is_no_part_of_a_deployment():
    one = learner("hnet-r", [GAN], **OWN)
    finish(one)
    assert {name: tensor[0].shape[0] for name, tensor in one.memory.items() if name.startswith("discriminator.")} == {
        "discriminator.0.weight": 20, "discriminator.0.bias": 20, "discriminator.1.weight": 1, "discriminator.1.bias": 1,
    }  # fmt: skip
    assert not any(name.startswith("encoder.") for name in one.memory)
    body = 64 * 16 + 16 + 16 * 17
    assert one.method.stored_bytes(one.memory_of(0), {}) == 4 * (body + 3 * 2 * 17)


def test_an_unknown_replay_model_is_refused():
    with pytest.raises(BadValue, match="replay_model"):
        learner("hnet-r", [{"replay_model": "flow"}], **OWN)


def test_the_generator_has_a_rate_and_first_weights_of_its_own():
    """What decoder_rate multiplies in the first step of SGD, and decoder_gain in the first weights; 1 changes nothing."""
    moves, starts = {}, {}
    for rate, gain in ((1.0, 1.0), (0.25, 1.0), (1.0, 8.0)):
        hyper = {**STILL, "decoder_rate": rate, "decoder_gain": gain, "embedding_rate": 0.5}
        one = learner("hnet-r", [hyper], **{**OWN, "optimizer": "sgd"})
        params, memory, at = begin(one)
        trainer = Trainer(one.method, one.training, 0, ("any",), one.method.replay.trains)
        at = replace(at, stage="replay")
        torch.manual_seed(3)
        after, *_ = trainer.packed_step(
            params, trainer.start(params), memory, one.hp, torch.tensor([0.1]).double(), batch_of(one, 0), at
        )  # fmt: skip
        moves[rate, gain] = {n: after[n] - params[n] for n in trainer.trained(params)}
        starts[rate, gain] = params
    plain, slow = moves[1.0, 1.0], moves[0.25, 1.0]
    for name in plain:
        factor = 0.25 if name.startswith("decoder.") else 1.0
        assert torch.allclose(slow[name], factor * plain[name], rtol=1e-9, atol=1e-15), name
        assert plain[name].count_nonzero()
    for name, tensor in starts[1.0, 1.0].items():
        factor = 8.0 if name == "decoder.theta.output.weight" else 1.0
        assert torch.equal(starts[1.0, 8.0][name], factor * tensor), name
