"""HAT on convolutional and residual networks with batch normalisation: H1, H2, H10, and what a task has for itself."""

import pytest
import torch
from helpers import GATED_NETS, begin, finish, learner, up_to

NETS = {**GATED_NETS, "resnet18": ("resnet18:2", {})}
BINARY = {"binarize": True, "c": 0.0}
TRAINING = {"tasks": 2, "epochs": 3, "lr": 0.1, "batch_size": 64, "protocol": "fixed"}


def made_for(net, values, **options):
    spec, kind = NETS[net]
    return learner("hat", [values], net=spec, network_settings=kind, **{**TRAINING, **options})


def logits(made, task=0):
    """Logits of all test images of a task, from memory."""
    split = made.benchmark.test(task)
    inputs, _ = split.batch(torch.arange(len(split)), made.dtype)
    memory, hp, at = made.memory_of(0), {n: t[0] for n, t in made.hp.items()}, made.learned[task]
    return made.method.logits(made.method.effective_weights({}, memory, hp, at), inputs, at)


@pytest.mark.parametrize("net", NETS)
def test_h1_with_binary_masks_old_logits_stay_bit_for_bit(net):
    """And every weight of the body may move: the second task has changed each layer."""
    made = up_to(made_for(net, BINARY, drop=0.1, weight_decay=0.01, optimizer="momentum"), 1)
    masks = made.method.masks(made.memory_of(0), 0)
    assert all(bool(mask.values.any()) for mask in masks.values())
    before, body = logits(made), {n: made.memory[n].clone() for n in made.method.body}
    assert float(before.std(0).min()) > 0  # not the head's bias alone
    finish(made)
    assert torch.equal(logits(made), before)
    changed = [not torch.equal(t, made.memory[n]) for n, t in body.items()]
    assert sum(changed) > len(changed) / 2


def test_h1_soft_masks_do_forget():
    made = up_to(made_for("residual", {"smax": 1.0}, lr=0.5), 1)
    before = logits(made)
    finish(made)
    assert float((logits(made) - before).abs().max()) > 1e-3


#: Weight -> the units it writes to and those it reads, as the drawing of the network has them.
JOINED = {
    "stem": ("streams.0", None),
    "blocks.0.conv1": ("blocks.0.units", "streams.0"),
    "blocks.0.conv2": ("streams.0", "blocks.0.units"),
    "blocks.1.conv1": ("blocks.1.units", "streams.0"),
    "blocks.1.conv2": ("streams.1", "blocks.1.units"),
    "blocks.1.shortcut": ("streams.1", "streams.0"),
}


def split(flat):
    """The flat embedding by units, in the order of the network."""
    widths = {"streams.0": 4, "blocks.0.units": 4, "streams.1": 6, "blocks.1.units": 6}
    return dict(zip(widths, flat.split(list(widths.values())), strict=True))


def test_h2_held_weights_of_residual_streams_stay_bit_for_bit_and_free_ones_have_mask_1():
    made = up_to(made_for("residual", BINARY), 1)
    assert list(made.method.gated) == ["streams.0", "blocks.0.units", "streams.1", "blocks.1.units"]
    before, (_, derived, _) = made.memory_of(0), begin(made, 1)
    gates = split(before["cumulative"])
    list(made.run())
    for layer, (outputs, inputs) in JOINED.items():
        held = gates[outputs][:, None] * (torch.ones(1, 1) if inputs is None else gates[inputs][None, :])
        mask = derived[f"derived.protect.{layer}.weight"][0].expand_as(before[f"{layer}.weight"])
        assert torch.equal(mask, (1 - held)[:, :, None, None].expand_as(mask)), layer
        moved = made.memory[f"{layer}.weight"][0] != before[f"{layer}.weight"]
        assert not bool(moved[mask == 0].any())
        assert bool(moved[mask == 1].any())


def test_h10_a_free_channel_of_a_stream_moves_only_what_writes_to_it_and_what_reads_it():
    made = up_to(made_for("residual", {}), 1)
    cumulative = torch.ones(1, 20)
    cumulative[0, 2] = 0  # channel 2 of the first stream is free; all else is held
    made.memory["cumulative"] = cumulative
    before = made.memory_of(0)
    list(made.run())
    moved = {layer: made.memory[f"{layer}.weight"][0] != before[f"{layer}.weight"] for layer in JOINED}
    for layer in ("stem", "blocks.0.conv2"):
        assert bool(moved[layer][2].any()), layer
        assert not bool(moved[layer][[0, 1, 3]].any()), layer
    for layer in ("blocks.0.conv1", "blocks.1.conv1", "blocks.1.shortcut"):
        assert bool(moved[layer][:, 2].any()), layer
        assert not bool(moved[layer][:, [0, 1, 3]].any()), layer
    assert not bool(moved["blocks.1.conv2"].any())


def test_each_task_has_its_own_normalisations():
    """Statistics, scales and shifts; those of an old task never move, those of a new one start afresh."""
    made, kept = made_for("residual", {}, tasks=3), {}
    for said in made.run():
        seen = getattr(said, "seen", 0)
        if seen:
            assert not any(n.startswith(("stem_norm", "blocks.0.norm")) for n in made.memory)
            for n, t in made.memory.items():
                if n.startswith("norms."):
                    assert torch.equal(kept.setdefault(n, t.clone()), t), n
            for part, fresh in (("weight", 1), ("bias", 0), ("mean", 0), ("var", 1)):
                assert float((made.memory[f"norms.{seen - 1}.blocks.1.shortcut_norm.{part}"] - fresh).abs().min()) > 0
        if seen in (1, 2):
            params, _, _ = begin(made, seen)
            assert torch.equal(params["stem_norm.weight"], torch.ones(1, 4))
            assert not bool(params["stem_norm.bias"].any() | params["state.stem_norm.mean"].any())
            assert torch.equal(params["state.stem_norm.var"], torch.ones(1, 4))
    assert len(kept) == 3 * 6 * 4


def test_bytes_of_a_residual_network_by_hand():
    """Weights 4*9 + 2*4*4*9 + 6*4*9 + 6*6*9 + 6*4; a task: 20 embeddings, 30 normalised features of 4 floats, a head of 14.

    All units are in use where embeddings start at 2; three bytes of bits say so.
    """
    [_, first, second] = finish(made_for("residual", {"embedding_shift": 2.0, "smax": 5.0}, epochs=1))
    body, task = 36 + 288 + 216 + 324 + 24, 20 + 30 * 4 + 14
    assert first.members[0].bytes == 4 * (body + task) + 3
    assert second.members[0].bytes == 4 * (body + 2 * task) + 3


def test_gates_come_after_the_sum_and_its_relu():
    """What a stream hands on is zero where its gate is, however the block before came to it."""
    made = up_to(made_for("residual", BINARY), 1)
    network, memory = made.method.network, made.memory_of(0)
    seen = {}
    hooks = [
        network.get_submodule(u).register_forward_hook(lambda module, x, out, u=u: seen.setdefault(u, []).append((x[0], out)))
        for u in network.hidden_units
    ]
    logits(made)
    for hook in hooks:
        hook.remove()
    gates = split((memory["embedding.0"] > 0).float())
    assert [len(calls) for calls in seen.values()] == [2, 1, 1, 1]  # after the stem and after the first block
    for units, calls in seen.items():
        for before, after in calls:
            assert float(before.min()) >= 0
            assert torch.equal(after, before * gates[units][:, None, None])
