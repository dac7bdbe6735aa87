"""The replay model, HNET+TIR and HNET+R against plain restatements: losses, stages, what is held, kept and inferred."""

import math
from dataclasses import replace

import pytest
import torch
from helpers import SCENARIOS, begin, distance, finish, learner, same, up_to
from penalties_kit import SMALL
from torch.nn import functional as F

from clcore.errors import BadValue
from clcore.methods import At, Batch
from clcore.methods.hnet.replay import distillation
from clcore.methods.hnet.replay_model import share_of
from clcore.pack import member

OWN = {"own": True, "epochs": 2, "batch_size": 32, "dtype": torch.float64, "options": SMALL}
TIR = {"inference": "classifier"}
MODELS = pytest.mark.parametrize(("replay_model", "teacher"), [("vae", "encoder."), ("gan", "discriminator.")])


def single(learner, task):
    params, memory, at = begin(learner, task)
    return member(params, 0), member(memory, 0), member(learner.hp, 0), at


def batch_of(learner, task, size=10):
    return Batch(*learner.benchmark.tasks[task].train.batch(torch.arange(size), learner.dtype))


def plain_mlp(tensors, prefix, hidden):
    layers = 1 + max(int(n.removeprefix(prefix).split(".")[0]) for n in tensors if n.startswith(prefix))
    for i in range(layers):
        hidden = hidden @ tensors[f"{prefix}{i}.weight"].T + tensors[f"{prefix}{i}.bias"]
        hidden = hidden.clamp(min=0) if i < layers - 1 else hidden
    return hidden


def decoder_of(model, memory, embedding):
    theta = {n.removeprefix("decoder."): t for n, t in memory.items() if n.startswith("decoder.theta.")}
    return model.decoder.split(model.hypernetwork.generator.generate(theta, embedding))


def other_weights(learner, task=1, factor=1.02):
    """A task's params, moved a little from what memory holds."""
    params, memory, hp, at = single(learner, task)
    return {n: t * factor for n, t in params.items()}, memory, hp, at


# -- the autoencoder ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["train", "eval"])
def test_the_replay_models_loss_is_the_papers(phase):
    """Bernoulli cross-entropy and KL divergence from torch.distributions, a pixel; the benchmark's inputs run from low to high."""
    one = learner("hnet-r", **OWN)
    params, memory, _, _ = other_weights(one, 0)
    layout, inputs = one.method.layout, batch_of(one, 0).inputs
    images = (inputs.flatten(1) - layout.low) / (layout.high - layout.low)
    assert images.min() == 0
    assert images.max() == 1
    encoded = plain_mlp(params, "encoder.", images)
    mean, deviation = encoded[:, :8], (encoded[:, 8:] / 2).exp()
    torch.manual_seed(3)
    found = one.method.replay.loss(params, memory, At(0, phase, 1), inputs)
    torch.manual_seed(3)
    latent = mean + (deviation * torch.randn_like(mean) if phase == "train" else 0)
    decoder = decoder_of(one.method.replay, params, params["decoder.embedding"])
    made = plain_mlp(decoder, "", torch.cat([latent, memory["decoder.conditions"][0].expand(10, -1)], 1))
    pixels = -torch.distributions.Bernoulli(logits=made, validate_args=False).log_prob(images).mean()
    prior = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, deviation), torch.distributions.Normal(torch.zeros(()).double(), torch.ones(()).double())
    )
    assert float(found) == pytest.approx(float(pixels + prior.sum(1).mean() / 64), rel=1e-12)


def test_images_are_made_and_compared_between_black_and_white():
    one = up_to(learner("hnet-r", **OWN), 1)
    params, memory, _, at = other_weights(one)
    inputs, model = batch_of(one, 1).inputs, one.method.replay
    assert (model.low, model.high) == (0, 1)
    wide, said, made = replace(model, low=-1.0, high=3.0), [], []
    for chosen, images in ((model, inputs), (wide, inputs * 4 - 1)):
        torch.manual_seed(0)
        said.append(float(chosen.loss(params, memory, at, images)))
        made.append(chosen.replay(memory, (0,), 5))
    assert said[0] == pytest.approx(said[1], rel=1e-12)
    assert torch.allclose(made[0] * 4 - 1, made[1], atol=1e-12)


@MODELS
def test_replayed_images_come_from_the_decoders_in_memory(replay_model, teacher):
    hyper = {"replay_model": replay_model, "encoder": "9", "decoder": "7", "latent": 5, "condition_size": 4}
    one = up_to(learner("hnet-r", [hyper], **OWN), 2)
    memory = one.memory_of(0)
    torch.manual_seed(1)
    found = one.method.replay.replay(memory, range(2), 6)
    torch.manual_seed(1)
    assert found.shape == (2, 6, 1, 8, 8)
    low, high = one.method.layout.low, one.method.layout.high
    assert low <= found.min() < found.max() <= high
    for task in range(2):
        inputs = torch.cat([torch.randn(6, 5, dtype=torch.float64), memory["decoder.conditions"][task].expand(6, -1)], 1)
        made = torch.sigmoid(plain_mlp(decoder_of(one.method.replay, memory, memory[f"decoder.embedding.{task}"]), "", inputs))
        assert torch.allclose(found[task].flatten(1), low + (high - low) * made, atol=1e-12)


def test_replayed_images_are_as_many_as_new_ones():
    assert [share_of(128, tasks) for tasks in (1, 2, 3, 9)] == [128, 64, 43, 15]


def test_the_replay_model_learns_to_make_the_digits():
    """Images of a task are nearer to its own mean image than to the other's, and stay so after the other is learned."""
    options = {"own": True, "epochs": 25, "batch_size": 32, "lr": 5e-3}
    one = learner("hnet-r", [{"encoder": "50", "decoder": "50"}], tasks=3, **options)
    up_to(one, 2)
    torch.manual_seed(0)
    made = one.method.replay.replay(one.memory_of(0), range(2), 200).flatten(2).mean(1)
    means = torch.stack([batch_of(one, task, 150).inputs.flatten(1).mean(0) for task in range(2)])
    gaps = torch.cdist(made, means)
    assert gaps[0, 0] < 0.5 * gaps[0, 1]
    assert gaps[1, 1] < 0.5 * gaps[1, 0]


@MODELS
@pytest.mark.parametrize(("name", "hyper"), [("hnet-r", {}), ("hnet", TIR)])
def test_the_decoders_of_old_tasks_are_held(name, hyper, replay_model, teacher):
    """The gradient is the loss's and that of replay_beta times the squared change of all old decoders' weights, mean over tasks."""
    hyper = {**hyper, "replay_model": replay_model, "replay_beta": 0.7}
    one = up_to(learner(name, [hyper], scenario="class-il", tasks=4, **OWN), 2)
    params, memory, hp, at = other_weights(one, 2)
    names = [n for n in params if n.startswith((teacher, "decoder."))]
    grads = {n: torch.full_like(params[n], 0.3) for n in names}
    step = {n: torch.full_like(params[n], -0.02) for n in names}
    found = one.method.condition(grads, params, memory, hp, at, lambda g: {n: step[n] for n in g})
    theta = {n: (params[n] + step[n]).detach().requires_grad_() for n in names if n.startswith("decoder.theta.")}
    model = one.method.replay if name == "hnet-r" else one.method.classifier.replay
    total = 0
    for task in (0, 1):
        e = memory[f"decoder.embedding.{task}"]
        now, then = decoder_of(model, theta, e), decoder_of(model, memory, e)
        total = total + sum((now[n] - then[n]).square().sum() for n in now)
    extra = dict(zip(theta, torch.autograd.grad(0.7 * total / 2, list(theta.values())), strict=True))
    assert distance({n: grads[n] + extra.get(n, 0) for n in names}, found) < 1e-11


# -- HNET+TIR ----------------------------------------------------------------------------------------------------------


def test_stages_of_task_inference():
    one = learner("hnet", [TIR], scenario="class-il", **OWN)
    said = [[stage.name for stage in one.method.stages(At(task, "train", task + 1))] for task in range(3)]
    assert said == [["train", "replay"], ["train", "tasks", "replay"], ["train", "tasks"]]
    given = learner("hnet", [TIR], **OWN)  # task-il: nothing to infer
    assert [stage.name for stage in given.method.stages(At(1, "train", 2))] == ["train"]
    assert not any(name.startswith(("tasks.", "encoder.", "decoder.")) for name in given.memory)


@MODELS
def test_each_stage_trains_its_own_part(replay_model, teacher):
    one = up_to(learner("hnet", [{**TIR, "replay_model": replay_model}], scenario="class-il", **OWN), 1)
    parts = {"train": ("theta.", "embedding"), "tasks": ("tasks.",), "replay": (teacher, "decoder.")}
    params, memory, hp, at = other_weights(one)
    for stage in one.method.stages(at):
        assert stage.trains == parts[stage.name]
        leaves = {n: t.detach().requires_grad_() for n, t in params.items()}
        loss = one.method.loss(leaves, memory, hp, At(1, "train", 2, stage=stage.name), batch_of(one, 1))
        grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True), strict=True))
        assert {n for n, g in grads.items() if g.count_nonzero()} == {n for n in leaves if n.startswith(parts[stage.name])}


def task_logits(tensors, prefix, inputs, outputs):
    hidden = inputs.flatten(1)
    for layer in (0, 1):
        hidden = torch.relu(hidden @ tensors[f"{prefix}layers.{layer}.weight"].T + tensors[f"{prefix}layers.{layer}.bias"])
    return (hidden @ tensors[f"{prefix}head.weight"].T + tensors[f"{prefix}head.bias"])[:, :outputs]


def test_the_task_classifiers_loss_is_half_new_and_half_replayed():
    one = up_to(learner("hnet", [TIR], scenario="class-il", **OWN), 2)
    params, memory, hp, _ = other_weights(one, 2)
    at, batch = At(2, "train", 3, stage="tasks"), batch_of(one, 2, 9)
    torch.manual_seed(2)
    found = one.method.loss(params, memory, hp, at, batch)
    torch.manual_seed(2)
    images = one.method.classifier.replay.replay(memory, (0, 1), 5)
    real = F.cross_entropy(task_logits(params, "tasks.", batch.inputs, 3), torch.full((9,), 2))
    replayed = [F.cross_entropy(task_logits(params, "tasks.", images[t], 3), torch.full((5,), t)) for t in (0, 1)]
    assert float(found) == pytest.approx(float(real / 2 + (replayed[0] + replayed[1]) / 4), rel=1e-12)
    still = one.method.loss(params, memory, hp, At(2, "eval", 3, stage="tasks"), batch)
    assert float(still) == pytest.approx(float(real), rel=1e-12)


@pytest.mark.parametrize("scenario", SCENARIOS[1:])
def test_the_task_classifier_says_the_task(scenario):
    one = learner("hnet", [TIR], scenario=scenario, **OWN)
    finish(one)
    memory, inputs = one.memory_of(0), torch.cat([batch_of(one, task, 8).inputs for task in range(3)])
    tasks, classes = one.method.answers(memory, member(one.hp, 0), inputs, one.learned[:2])
    assert torch.equal(tasks, task_logits(memory, "tasks.", inputs, 2).argmax(1))
    for i in range(len(inputs)):
        weights = one.method.effective_weights({}, memory, {}, one.learned[int(tasks[i])])
        assert classes[i] == task_logits(weights, "", inputs[i : i + 1], 2).argmax()


def test_replayed_images_help_to_tell_tasks_apart():
    """Without them the classifier knows only the last task; with them the first is not forgotten."""
    right = {}
    for share in (0.0, 0.5):
        hyper = {**TIR, "replay_share": share, "encoder": "50", "decoder": "50"}
        options = {"own": True, "epochs": 15, "batch_size": 32, "tasks": 2, "lr": 5e-3}
        one = learner("hnet", [hyper], scenario="class-il", **options)
        right[share] = finish(one)[-1].members[0].test
    assert right[0.0][0] < 0.1
    assert right[0.5][0] > 0.8


def test_the_task_classifier_is_deployed_and_the_replay_model_is_not():
    one = learner("hnet", [TIR], scenario="class-il", **OWN)
    reports = finish(one)
    classifier = 64 * 16 + 16 + 16 * 17 + 3 * 17
    assert reports[-1].members[0].bytes == 4 * (one.method.generator.size + 3 * 24 + classifier)
    assert {"decoder.embedding.0", "decoder.embedding.1"} <= one.memory.keys()
    assert "decoder.embedding.2" not in one.memory  # the last task is never replayed


def test_a_task_classifier_and_normalisation_do_not_go_together():
    with pytest.raises(BadValue, match="inference"):
        learner("hnet", [TIR], scenario="class-il", network_settings={"norm": "batch"})


# -- HNET+R ------------------------------------------------------------------------------------------------------------


def test_distillation_is_the_cross_entropy_with_soft_targets():
    old, new = torch.tensor([[2.0, -1.0], [0.5, 0.5]]).double(), torch.tensor([[1.0, 0.0, 3.0], [0.2, 0.1, -0.3]]).double()
    total = 0.0
    for row, other in zip(old.tolist(), new.tolist(), strict=True):
        soft = [math.exp(v / 2) / sum(math.exp(u / 2) for u in row) for v in row]
        logs = [v / 2 - math.log(sum(math.exp(u / 2) for u in other)) for v in other]
        total -= 4 * sum(p * log for p, log in zip(soft, logs, strict=False)) / 2
    assert float(distillation(new, old, torch.tensor(2.0))) == pytest.approx(total, rel=1e-12)
    leaf = old.clone().requires_grad_()
    distillation(leaf, old, torch.tensor(3.0)).backward()
    assert leaf.grad.abs().max() < 1e-15  # nothing to learn from oneself


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_old_answers_are_rehearsed(scenario):
    one = up_to(learner("hnet-r", [{"replay_share": 0.3}], scenario=scenario, **OWN), 2)
    params, memory, hp, at = other_weights(one, 2)
    batch = batch_of(one, 2, 9)
    torch.manual_seed(2)
    found = one.method.loss(params, memory, hp, at, batch)
    torch.manual_seed(2)
    images = one.method.replay.replay(memory, (0, 1), 5)
    seen, offset = {"task-il": (2, 0), "domain-il": (2, 0), "class-il": (6, 4)}[scenario]
    real = F.cross_entropy(task_logits(params, "", batch.inputs, seen), batch.labels + offset)
    rehearsed = []
    for task in (0, 1):
        new, old = dict(params), dict(memory)
        if scenario == "task-il":
            for part in ("weight", "bias"):
                new[f"head.{part}"], old[f"head.{part}"] = params[f"heads.{task}.{part}"], memory[f"heads.{task}.{part}"]
        before = task_logits(old, "", images[task], min(seen, 4))
        rehearsed.append(distillation(task_logits(new, "", images[task], seen), before, torch.tensor(2.0)))
    assert float(found) == pytest.approx(float(0.7 * real + 0.3 * (rehearsed[0] + rehearsed[1]) / 2), rel=1e-12)


def test_it_trains_every_head_and_keeps_them():
    one = learner("hnet-r", **OWN)
    first = up_to(one, 1).memory["heads.0.weight"].clone()
    finish(one)
    assert {f"heads.{task}.weight" for task in range(3)} <= one.memory.keys()
    assert not torch.equal(one.memory["heads.0.weight"], first)
    body = 64 * 16 + 16 + 16 * 17
    assert one.method.stored_bytes(one.memory_of(0), {}) == 4 * (body + 3 * 2 * 17)


@MODELS
def test_nothing_but_the_last_stage_is_trained_after_the_classifier(replay_model, teacher):
    """The replay model's stage leaves the classifier as the first stage left it."""
    one = learner("hnet-r", tasks=1, **OWN)
    assert [stage.name for stage in one.method.stages(At(0, "train", 1))] == ["train"]
    two = learner("hnet-r", [{"replay_model": replay_model}], tasks=2, **OWN)
    assert [stage.name for stage in two.method.stages(At(0, "train", 1))] == ["train", "replay"]
    fine = learner("finetune", tasks=2, own=False, epochs=2, batch_size=32, dtype=torch.float64, protocol="fixed",
                   optimizer="adam", lr=1e-3, options=SMALL)  # fmt: skip
    up_to(two, 1)
    up_to(fine, 1)
    body = [n for n in fine.memory if n.startswith("layers.")]
    assert body
    assert same({n: two.memory[n] for n in body}, {n: fine.memory[n] for n in body})
