"""BatchE against the vectorised form of its paper, and ABatchE against SupSup's equations 13 to 15 written out."""

import math

import pytest
import torch
from helpers import begin, benchmark, finish, learner
from torch.nn import functional as F

from clcore.methods.batche import surest
from clcore.randomness import numpy_stream

LAYERS = ("layers.0", "layers.1", "head")


def vectors(memory, layer, task):
    """s and r of a layer at a task; 1 for a head of the task's own."""
    name = f"{layer}.weight"
    if f"fast.inputs.{name}" not in memory:
        return 1.0, 1.0
    return memory[f"fast.outputs.{name}"][task], memory[f"fast.inputs.{name}"][task]


def vectorised(memory, x, task, multi_head):
    """((X o R) W) o S, layer by layer (SupSup, eq. 12)."""
    x = x.flatten(1)
    for layer in LAYERS:
        own = multi_head and layer == "head"
        weight = memory[f"heads.{task}.weight" if own else f"{layer}.weight"]
        s, r = vectors(memory, layer, task)
        x = ((x * r) @ weight.T) * s
        x = torch.relu(x) if layer != "head" else x
    return x


def trained(scenario="task-il", **hypers):
    made = learner("batche", [hypers], scenario=scenario, dtype=torch.float64, lr=0.3, batch_size=32, epochs=3)
    return made, finish(made)[-1].members[0]


@pytest.mark.parametrize("multi_head", [True, False])
@pytest.mark.parametrize("weights", ["first-task", "random"])
def test_a_tasks_network_is_the_vectorised_form(multi_head, weights):
    made, report = trained(multi_head=multi_head, weights=weights)
    memory = made.memory_of(0)
    for at in made.learned:
        split = benchmark().test(at.task)
        x, y = split.batch(torch.arange(len(split)), torch.float64)
        expected = vectorised(memory, x, at.task, multi_head)
        ours = made.method.logits(made.method.effective_weights({}, memory, {}, at), x, at)
        assert torch.allclose(ours, expected, rtol=0, atol=1e-10)
        assert report.test[at.task] == pytest.approx(float((expected.argmax(1) == y).double().mean()))


@pytest.mark.parametrize("multi_head", [True, False])
@pytest.mark.parametrize("weights", ["first-task", "random"])
def test_weights_move_on_the_first_task_or_never_and_old_vectors_stay(multi_head, weights):
    made = learner("batche", [{"multi_head": multi_head, "weights": weights}], lr=0.3, weight_decay=0.01)
    kept = [{n: t.clone() for n, t in made.memory_of(0).items()} for said in made.run() if getattr(said, "seen", None) is not None]
    for name in ("layers.0.weight", "layers.1.weight", *(() if multi_head else ("head.weight",))):
        assert torch.equal(kept[0][name], kept[1][name]) == (weights == "random")
        assert torch.equal(kept[1][name], kept[3][name])
        for kind in ("inputs", "outputs"):
            fast = [memory[f"fast.{kind}.{name}"] for memory in kept]
            assert [len(t) for t in fast] == [0, 1, 2, 3]
            assert torch.equal(fast[3][:2], fast[2])
            assert not torch.equal(fast[3][0], fast[3][1])


def test_first_vectors_are_signs_and_first_weights_kaiming_normal():
    made = learner("batche", net="mlp:400-300")
    params, _, _ = begin(made)
    for name in ("layers.0.weight", "layers.1.weight"):
        for kind, dim in (("outputs", 0), ("inputs", 1)):
            signs = params[f"fast.{kind}.{name}"][0]
            assert len(signs) == made.memory[name].shape[1 + dim]
            assert set(signs.tolist()) == {-1.0, 1.0}
        weight = made.memory[name][0]
        assert float(weight.std()) == pytest.approx(math.sqrt(2 / weight.shape[1]), rel=0.02)
        assert float((weight / weight.std()).pow(4).mean()) == pytest.approx(3, abs=0.15)  # of a normal; 1.8 of a uniform
    plain = learner("batche", [{"first_weights": "network"}], net="mlp:400-300")
    assert torch.equal(plain.memory["layers.0.weight"][0], plain.method.network.body_weights()["layers.0.weight"])


def test_the_first_task_is_a_plain_loop_with_two_rates():
    training = {"protocol": "fixed", "optimizer": "adam", "epochs": 2, "batch_size": 32, "tasks": 1, "own": True, "lr": 0.02}
    made = learner("batche", [{"weight_rate": 0.1}], dtype=torch.float64, **training)
    p = {n: t[0].clone().requires_grad_() for n, t in begin(made)[0].items()}
    slow = [t for n, t in p.items() if n in ("layers.0.weight", "layers.1.weight")]
    fast = [t for n, t in p.items() if n.startswith("fast.") or n == "head.weight"]
    assert len(slow) + len(fast) == len(p) == 7
    optimizer = torch.optim.Adam([{"params": slow, "lr": 0.002}, {"params": fast, "lr": 0.02}])
    split = benchmark(tasks=1).tasks[0].train
    for epoch in range(2):
        order = numpy_stream(0, "batches", 0, "train", "train", epoch).permutation(len(split))
        for positions in torch.from_numpy(order).split(32):
            x, y = split.batch(positions, torch.float64)
            hidden = x.flatten(1)
            for layer in ("layers.0.weight", "layers.1.weight"):
                s, r = p[f"fast.outputs.{layer}"], p[f"fast.inputs.{layer}"]
                hidden = torch.relu(((hidden * r) @ p[layer].T) * s)
            optimizer.zero_grad()
            F.cross_entropy(hidden @ p["head.weight"].T, y).backward()
            optimizer.step()
    finish(made)
    memory = made.memory_of(0)
    for name, value in p.items():
        kept = memory[name][0] if name.startswith("fast.") else memory[name.replace("head", "heads.0")]
        assert torch.allclose(kept, value, rtol=0, atol=1e-9), name


@pytest.mark.parametrize("bias", [True, False])
def test_biases_are_shared_and_no_factor_applies_to_them(bias):
    made = learner("batche", net="conv", lr=0.3, network_settings={"bias": bias})
    finish(made)
    memory, at = made.memory_of(0), made.learned[2]
    weights = made.method.effective_weights({}, memory, {}, at)
    s, r = vectors(memory, "conv", 2)
    expected = torch.einsum("o,i,oikl->oikl", s, r, memory["conv.weight"])
    assert torch.allclose(weights["conv.weight"], expected, atol=1e-7)
    assert len(memory["fast.inputs.fc.weight"][2]) == 36  # one for each position of the flattened convolution
    assert ("conv.bias" in weights) == bias
    assert not bias or torch.equal(weights["conv.bias"], memory["conv.bias"])


# -- ABatchE -----------------------------------------------------------------------------------------------------------


def repeated(memory, x, tasks, multi_head):
    """Outputs of the data repeated once a task under the stacked vectors of all tasks (SupSup, eq. 13 and 14)."""
    stacked = x.flatten(1).repeat(tasks, 1)
    for layer in LAYERS[: 2 if multi_head else 3]:
        each = [vectors(memory, layer, t) for t in range(tasks)]
        s, r = (torch.cat([pair[i].expand(len(x), -1) for pair in each]) for i in (0, 1))
        stacked = ((stacked * r) @ memory[f"{layer}.weight"].T) * s
        stacked = torch.relu(stacked) if layer != "head" else stacked
    if multi_head:
        parts = stacked.split(len(x))
        stacked = torch.cat([part @ memory[f"heads.{t}.weight"].T for t, part in enumerate(parts)])
    return stacked.softmax(1)


@pytest.mark.parametrize("objective", ["entropy", "confidence"])
@pytest.mark.parametrize("multi_head", [True, False])
@pytest.mark.parametrize(("images", "together"), [(1, 1), (4, 7), (16, 16)])
def test_the_task_is_inferred_as_supsups_appendix_says(objective, multi_head, images, together):
    hypers = {"objective": objective, "multi_head": multi_head, "images": images, "infer_batch": together}
    made, report = trained("class-il", **hypers)
    memory, right_of_all = made.memory_of(0), []
    for task in range(3):
        split = benchmark(scenario="class-il").test(task)
        x, y = split.batch(torch.arange(len(split)), torch.float64)
        taken, right = [0] * 3, 0
        for begins in range(0, len(x), together):
            group, labels = x[begins : begins + together], y[begins : begins + together]
            seen = group[:images]
            p = repeated(memory, seen, 3, multi_head)
            score = -(p * p.log()).sum(1) if objective == "entropy" else -p.amax(1)
            sums = [float(part.sum()) for part in score.split(len(seen))]
            chosen = sums.index(min(sums))
            taken[chosen] += len(group)
            own = repeated(memory, group, 3, multi_head).split(len(group))[chosen]
            right += int((own.argmax(1) == labels).sum()) if chosen == task else 0
        assert report.inferred[task] == pytest.approx([count / len(x) for count in taken], abs=1e-12)
        assert report.test[task] == pytest.approx(right / len(x), abs=1e-12)
        right_of_all.append(taken[task] == len(x))
    assert images > 1 or not all(right_of_all)  # otherwise nothing was inferred here


def test_groups_by_hand():
    doubt = torch.tensor([[1.0, 9.0, 1.0, 3.0, 0.0], [2.0, 0.0, 2.0, 1.0, 5.0]])
    assert surest(doubt, 1, 1).tolist() == [0, 1, 0, 1, 0]
    assert surest(doubt, 1, 2).tolist() == [0, 0, 0, 0, 0]
    assert surest(doubt, 2, 2).tolist() == [1, 1, 1, 1, 0]
    assert surest(doubt, 3, 10).tolist() == [1] * 5


@pytest.mark.parametrize("multi_head", [True, False])
@pytest.mark.parametrize("weights", ["first-task", "random"])
def test_bytes_by_hand(multi_head, weights):
    _, report = trained(multi_head=multi_head, weights=weights)
    shared = 64 * 16 + 16 * 16 + (0 if multi_head else 2 * 16)
    each = (64 + 16) + (16 + 16) + (2 * 16 if multi_head else 16 + 2)
    assert report.bytes == (4 * shared if weights == "first-task" else 8) + 3 * 4 * each


@pytest.mark.parametrize("name", ["batche", "psp"])
@pytest.mark.parametrize("scenario", ["task-il", "class-il"])
def test_of_a_shared_head_a_task_has_as_many_outputs_as_classes(name, scenario):
    options = (("larger_first_task", 4), ("classes_per_task", 3))
    made = learner(name, [{"multi_head": False}], scenario=scenario, options=options, epochs=1)
    reports = finish(made)
    memory, x = made.memory_of(0), torch.rand(7, 1, 8, 8)
    assert len(memory["head.weight"]) == 4
    for at, classes in zip(made.learned, (4, 3, 3), strict=True):
        assert made.method.logits(made.method.effective_weights({}, memory, {}, at), x, at).shape == (7, classes)
    assert all(value >= 0 for value in reports[-1].members[0].test)
