"""SupSup as a method: the authors' training, invariants S1 and S4, inference in a pack, transfer, what is stored."""

import math

import pytest
import torch
from helpers import begin, benchmark, finish, learner, same, up_to
from supsup_kit import golden

from clcore import hyper, networks
from clcore.errors import BadValue
from clcore.methods import At, Batch, Layout
from clcore.methods.supsup import SupSup, SupSupHyper, masks
from clcore.networks.base import NetworkOptions
from clcore.pack import packed
from clcore.pool import stage_pool
from clcore.trainer import Trainer
from clcore.training import Training

PLAIN = NetworkOptions(bias=False)
#: Without a task identity, with superfluous neurons, and few enough examples a group that there are several and a rest.
INFERS = {"mask": "threshold", "outputs": 20, "infer_batch": 16, "images": 4}


def method(net="mlp:32-32", shape=(16,), classes=(5,), scenario="task-il", options=PLAIN, **values):
    network = networks.build(net, shape, 0, options)
    return SupSup(hyper.build(SupSupHyper, values), network, Layout(scenario, tuple(classes)))


def alone(made, member=0):
    """Memory and hyperparameters of one member."""
    return {n: t[member] for n, t in made.memory.items()}, {n: t[member] for n, t in made.hp.items()}


# -- the authors' training ---------------------------------------------------------------------------------------------

RUNS = {
    "thr_rms": ({"mask": "threshold"}, {"optimizer": "rmsprop", "lr": 1e-4}),
    "thr_rms_fastlr": ({"mask": "threshold"}, {"optimizer": "rmsprop", "lr": 1e-2}),
    "pop_adam": ({}, {"optimizer": "adam", "lr": 1e-3, "weight_decay": 1e-4}),
    "pop_adam_nowd": ({}, {"optimizer": "adam", "lr": 1e-3}),
    "pop_adam_er": ({"density": 2}, {"optimizer": "adam", "lr": 1e-2, "weight_decay": 1e-4}),
}


@pytest.mark.parametrize("run", RUNS)
def test_fifteen_steps_are_the_authors(run, monkeypatch):
    values, training = RUNS[run]
    described, trace = golden("supsup_train")
    if described["settings"]["runs"][run]["sparsity"] == 0.3:  # one share for all layers, which only their code has
        monkeypatch.setattr(masks, "kept_share", lambda shape, density: torch.tensor(0.3, dtype=torch.float64))
    made = method(outputs=20, **values)
    names = list(made.shapes)
    weights = {n: trace[f"{run}_W{i}"] for i, n in enumerate(names)}
    memory = made.start(weights)
    memory = {**memory, **{f"fixed.{n}": t for n, t in weights.items()}}
    assert all(torch.equal(made.start(weights)[f"fixed.{n}"].sign(), t.sign()) for n, t in list(weights.items())[:2])
    params = {f"scores.{n}": trace[f"{run}_init{i}"] for i, n in enumerate(names)}
    trainer = Trainer(made, hyper.build(Training, {"protocol": "fixed", **training}), 0, (0,))
    params, memory = ({n: t[None] for n, t in tensors.items()} for tensors in (params, memory))
    hp = {"density": torch.tensor([float(values.get("density", 8))]), "superfluous": torch.zeros(1)}
    state, lr, at = trainer.start(params), torch.tensor([training["lr"]], dtype=torch.float64), At(0, "train", 1)
    for step in range(15):
        batch = Batch(trace["x"][step], trace["y"][step])
        params, state, loss = trainer.packed_step(params, state, memory, hp, lr, batch, at)
        assert float(loss[0]) == pytest.approx(float(trace[f"{run}_loss"][step]), abs=1e-9)
        for i, name in enumerate(names):
            assert torch.allclose(params[f"scores.{name}"][0], trace[f"{run}_scores{i}_steps"][step], rtol=0, atol=1e-9)
    kept = packed(lambda p, m, h: made.end_task(p, m, h, at, ()))(params, memory, hp)
    learned = made.masks({n: t[0] for n, t in kept.items()}, 0)
    for i, name in enumerate(names):
        assert torch.equal(learned[name].values, trace[f"{run}_mask{i}_final"].bool())


# -- invariants --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", ["topk", "threshold"])
def test_s1_s3_weights_never_change_and_have_one_size(mask):
    made = learner("supsup", [{"mask": mask}], own=True, epochs=1, tasks=2)
    before = {n: t.clone() for n, t in made.memory.items() if n.startswith("fixed.")}
    finish(made)
    assert same(before, {n: t for n, t in made.memory.items() if n.startswith("fixed.")})
    for name, tensor in before.items():
        assert tensor.abs().unique().tolist() == pytest.approx([math.sqrt(2 / tensor.shape[2])])
        assert name == "fixed.head.weight" or 0.3 < float((tensor > 0).double().mean()) < 0.7
    assert set(before) == {"fixed.layers.0.weight", "fixed.layers.1.weight", "fixed.head.weight"}


def test_s1_a_tasks_mask_is_the_same_whatever_was_learned_before():
    made = learner("supsup", own=True, epochs=1, tasks=2, dtype=torch.float64)
    first = {n: t.clone() for n, t in made.memory.items()}
    finish(made)
    at, memory, params = made.begin(At(1, "train", 2), first, made.hp, "train")
    [stage] = made.method.stages(at)
    trainer = Trainer(made.method, made.training, 0, (1, "train", stage.name))
    pool = stage_pool(stage, {1: made.benchmark.tasks[1].train}, torch.float64)
    *_, outcome = trainer.run(params, memory, made.hp, [made.training.lr], at, pool, None)
    end = packed(lambda p, m, h: made.method.end_task(p, m, h, at, ()))(outcome.params, memory, made.hp)
    assert torch.equal(end["masks"][0, 0], made.memory["masks"][0, 1])


@pytest.mark.parametrize("norm", ["none", "batch-plain", "batch"])
def test_s4_old_tasks_outputs_do_not_move_by_a_bit(norm):
    made = learner("supsup", [{}], own=True, lr=0.01, epochs=2, network_settings={"norm": norm})
    x = benchmark().test(0).batch(torch.arange(20), torch.float32)[0]

    def outputs():
        at = made.learned[0]
        return made.method.logits(made.method.effective_weights({}, *alone(made), at), x, at)

    before = outputs() if up_to(made, 1) else None
    finish(made)
    assert made.seen == 3
    assert torch.equal(outputs(), before)


def test_s2_every_layer_keeps_its_budget():
    made = learner("supsup", [{"density": 1}, {"density": 4}], own=True, epochs=1, tasks=1)
    finish(made)
    for member, density in enumerate((1, 4)):
        for name, mask in made.method.masks(alone(made, member)[0], 0).items():
            rows, columns = made.method.shapes[name]
            share = min(0.5, density * (rows + columns) / (rows * columns))
            assert int(mask.values.sum()) == rows * columns - math.floor((1 - share) * rows * columns)


def test_biases_that_a_network_has_stay_as_drawn_and_cost_nothing():
    made = learner("supsup", [{}], own=True, epochs=1, tasks=1, network_settings={"bias": True})
    drawn = dict(made.method.network.named_parameters())
    finish(made)
    weights = made.method.effective_weights({}, *alone(made), made.learned[0])
    assert torch.equal(weights["layers.0.bias"], drawn["layers.0.bias"])
    assert not made.method.masks(alone(made)[0], 0).keys() - made.method.shapes.keys()


# -- inference ---------------------------------------------------------------------------------------------------------


def learned_without_ids(hypers, tasks=5, norm="default"):
    """A learner with masks of random scores, which tell inputs apart more than a short training would."""
    made = learner("supsup", hypers, dtype=torch.float64, scenario="class-il", tasks=5, network_settings={"norm": norm})
    for task in range(tasks):
        params, memory, at = begin(made, task)
        draw = torch.Generator().manual_seed(task)
        params = {
            n: t + torch.rand(t.shape, generator=draw, dtype=t.dtype) for n, t in params.items() if n.startswith("state.")
        } | {
            n: torch.randn(t.shape[1:], generator=draw, dtype=t.dtype).expand(t.shape) for n, t in params.items() if "scores." in n
        }
        made.memory = packed(lambda p, m, h, at=at: made.method.end_task(p, m, h, at, ()))(params, memory, made.hp)
        made.learned.append(At(task, "eval", task + 1))
    return made


def noisy(x):
    """Weights of one size and pixels of few levels add up to 0 now and then, where rounding opens a ReLU or closes it."""
    return x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(9), dtype=x.dtype)


def plain_answers(made, member, x, use):
    """One-Shot or Binary written down with k copies of the weights and autograd; ``use`` holds the member's values."""
    (memory, hp), k = alone(made, member), made.seen
    weights = [made.method.effective_weights({}, memory, hp, at) for at in made.learned]
    tasks, classes = [], []
    for group in x.split(use["infer_batch"]):
        alive = list(range(k))
        while len(alive) > 1:
            alpha = torch.full((len(alive),), 1 / len(alive), dtype=torch.float64, requires_grad=True)
            mixed = {n: sum(a * weights[t][n] for a, t in zip(alpha, alive, strict=True)) for n in weights[0]}
            mixed |= {n: t.detach() for n, t in mixed.items() if n in made.method.network.statistics}
            y = made.method.logits(mixed, group[: use["images"]], made.learned[0])
            if use.get("superfluous"):
                value = torch.cat([y[:, :2].detach(), y[:, 2:]], 1).logsumexp(1).mean()
            else:
                value = (y.logsumexp(1) - (y.softmax(1) * y).sum(1)).mean()
            (gradient,) = torch.autograd.grad(value, alpha)
            keep = 1 if use.get("inference", "one-shot") == "one-shot" else math.ceil(len(alive) / 2)
            if use.get("halving") == "paper":
                keep = max(1, len(alive) // 2)
            alive = sorted(alive[i] for i in gradient.argsort(stable=True)[:keep].tolist())
        tasks += alive * len(group)
        classes += made.method.logits(weights[alive[0]], group, made.learned[0]).argmax(1).tolist()
    return tasks, classes


WAYS = [
    {},
    {"inference": "binary"},
    {"inference": "binary", "halving": "paper"},
    {"images": 1},
    {"infer_batch": 1},
    {"infer_batch": 500},
]


@pytest.mark.parametrize("way", WAYS, ids=lambda w: "-".join(map(str, w.values())) or "plain")
@pytest.mark.parametrize("chunk", [2**24, 2000])
def test_answers_are_those_of_the_algorithms_written_down(way, chunk, monkeypatch):
    monkeypatch.setattr("clcore.bits.CHUNK", chunk)
    values = [{**INFERS, **way, "superfluous": flag} for flag in (False, True)]
    made = learned_without_ids(values)
    x = noisy(torch.cat([made.benchmark.test(t).batch(torch.arange(25), torch.float64)[0] for t in range(5)])[:-7])
    tasks, classes = packed(lambda m, h, i: made.method.answers(m, h, i, made.learned), shared=1)(made.memory, made.hp, x)
    for member in range(2):
        assert (tasks[member].tolist(), classes[member].tolist()) == plain_answers(made, member, x, values[member])
    assert len(set(tasks.flatten().tolist())) > 1


def test_answers_of_a_normalised_network_mix_its_statistics_too():
    use = {**INFERS, "images": 1, "infer_batch": 8}
    made = learned_without_ids([use], norm="batch-plain")
    x = 20 * noisy(
        torch.cat([made.benchmark.test(t).batch(torch.arange(30), torch.float64)[0] for t in range(5)])
    )  # more than the statistics
    tasks, classes = made.method.answers(*alone(made), x, made.learned)
    assert (tasks.tolist(), classes.tolist()) == plain_answers(made, 0, x, use)
    assert len(set(tasks.tolist())) > 1


def test_the_number_of_forward_passes_does_not_grow_with_the_tasks(monkeypatch):
    counts = []
    for tasks in (2, 5):
        made = learned_without_ids([INFERS], tasks=tasks)
        x = made.benchmark.test(0).batch(torch.arange(32), torch.float64)[0]
        calls, true = [], made.method.logits
        monkeypatch.setattr(made.method, "logits", lambda *a, true=true, calls=calls: calls.append(1) or true(*a))
        made.method.answers(*alone(made), x, made.learned)
        counts.append(len(calls))
    assert counts == [2, 2]


def test_by_entropy_each_mask_is_asked_by_itself():
    made = learned_without_ids([{**INFERS, "inference": "entropy"}], tasks=3)
    x = made.benchmark.test(0).batch(torch.arange(20), torch.float64)[0]
    tasks, _ = made.method.answers(*alone(made), x, made.learned)
    weights = [made.method.effective_weights({}, *alone(made), at) for at in made.learned]
    logits = torch.stack([made.method.logits(w, x, made.learned[0]) for w in weights])
    entropy = (logits.logsumexp(2) - (logits.softmax(2) * logits).sum(2)).argmin(0)
    assert tasks.tolist() == entropy.tolist()


def test_g_without_superfluous_neurons_is_h():
    made = learned_without_ids([{"mask": "threshold", "superfluous": flag} for flag in (False, True)], tasks=3)
    x = made.benchmark.test(1).batch(torch.arange(30), torch.float64)[0]
    tasks, _ = packed(lambda m, h, i: made.method.answers(m, h, i, made.learned), shared=1)(made.memory, made.hp, x)
    assert torch.equal(tasks[0], tasks[1])


@pytest.mark.parametrize("scenario", ["domain-il", "class-il"])
def test_permutations_are_told_apart_and_learned(scenario):
    """A floor: permuted digits, learned for a short while."""
    values = {"mask": "threshold", "outputs": 50, "infer_batch": 64, "images": 16}
    training = {"own": True, "lr": 3e-3, "batch_size": 32, "epochs": 3}
    made = learner("supsup", [values], data="permuted-digits", scenario=scenario, net="mlp:100-50", **training)
    last = finish(made)[-1].members[0]
    assert min(last.test) > 0.8


# -- scores carried over -----------------------------------------------------------------------------------------------


def first_scores(**values):
    made = learner("supsup", [values], own=True, lr=0.01, epochs=1, tasks=3, dtype=torch.float64)
    up_to(made, 2)
    params, _, _ = begin(made, task=2)
    return made, {n.removeprefix("scores."): t[0] for n, t in params.items()}


def test_scores_start_from_the_mean_of_the_masks():
    made, found = first_scores(score_init="mask-mean")
    _, drawn = first_scores()
    for name, values in found.items():
        learned = [made.method.masks(alone(made)[0], task)[name].values.double() for task in range(2)]
        mean = sum(learned) / 2
        assert torch.allclose(values, mean * drawn[name].norm() / mean.norm(), atol=1e-12)


def test_scores_start_from_the_mean_of_the_scores():
    _, found = first_scores(score_init="score-mean")
    kept = []
    made = learner("supsup", [{"score_init": "score-mean"}], own=True, lr=0.01, epochs=1, tasks=3, dtype=torch.float64)
    true, made.method.end_task = made.method.end_task, lambda p, *rest: kept.append(p) or true(p, *rest)
    up_to(made, 2)
    for name, values in found.items():
        assert torch.allclose(values, sum(params[f"scores.{name}"] for params in kept) / 2, atol=1e-12)


def test_scores_may_start_from_zero_and_are_otherwise_drawn_anew_for_each_task():
    _, found = first_scores(score_init="zeros")
    assert all(bool((values == 0).all()) for values in found.values())
    made, second = first_scores()
    first = {n.removeprefix("scores."): t[0] for n, t in begin(made, task=1)[0].items()}
    for name, values in second.items():
        assert float(values.abs().max()) <= 1 / math.sqrt(values.shape[1])
        assert not torch.equal(values, first[name])


# -- what is stored ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("net", "outputs", "weights"), [("mlp:300-100", 100, 275_200), ("mlp:1024-1024", 200, 2_056_192)])
def test_a_task_costs_one_bit_a_weight(net, outputs, weights):
    made = method(net, (1, 28, 28), (10,) * 5, "class-il", outputs=outputs)
    assert made.count == weights
    memory = {"masks": torch.zeros(250, -(-weights // 8), dtype=torch.uint8), "mask-sum": torch.zeros(weights)}
    assert made.stored_bytes(memory, {}) == 8 + 250 * weights // 8


def test_a_task_costs_its_statistics_too():
    made = learner("supsup", [{"score_init": "score-mean"}], own=True, epochs=1, network_settings={"norm": "batch-plain"})
    reports = finish(made)
    weights = 64 * 16 + 16 * 16 + 16 * 2
    assert [r.members[0].bytes for r in reports] == [8 + k * (weights // 8 + 4 * (2 * 16 + 2 * 16)) for k in range(4)]


def test_an_output_layer_too_small_for_the_classes_is_refused():
    with pytest.raises(BadValue, match="outputs"):
        method(classes=(2, 10), outputs=4)
