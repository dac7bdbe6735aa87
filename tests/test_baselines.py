"""Fine-tuning, freezing, joint training and random guessing against plain torch loops and counts; B8, B12."""

import math

import pytest
import torch
from helpers import begin, benchmark, finish, learner
from torch.nn import functional as F

from clcore import metrics
from clcore.methods import At, Batch
from clcore.pool import Pool
from clcore.randomness import numpy_stream

OPTIONS = {"dtype": torch.float64, "lr": 1.0, "batch_size": 32, "epochs": 8, "patience": 1, "lr_min": 0.2}


def data(part, task, scenario="task-il", positions=None):
    split = getattr(benchmark(scenario=scenario).tasks[task], part)
    return split.batch(torch.arange(len(split)) if positions is None else positions, torch.float64)


def forward(p, x, head="head"):
    h = torch.relu(F.linear(x.flatten(1), p["layers.0.weight"], p["layers.0.bias"]))
    h = torch.relu(F.linear(h, p["layers.1.weight"], p["layers.1.bias"]))
    return F.linear(h, p[f"{head}.weight"], p[f"{head}.bias"])


def orders(task, size, epoch):
    """The batches the trial's seed gives; the stream's name is part of what resumed trials rely on."""
    return torch.from_numpy(numpy_stream(0, "batches", task, "train", "train", epoch).permutation(size))


def plain_plateau(p, loss_of, check, size, task, o, restore=False):
    """The HAT protocol (methods.md 0.2) as one writes it with torch.optim: returns the best parameters and the epochs."""
    lr, patience, best, kept = o["lr"], o["patience"], math.inf, None
    optimizer = torch.optim.SGD(p.values(), lr=lr)
    for epoch in range(o["epochs"]):
        for positions in orders(task, size, epoch).split(o["batch_size"]):
            optimizer.zero_grad()
            loss_of(p, positions).backward()
            torch.nn.utils.clip_grad_norm_(p.values(), 10000)
            optimizer.step()
        with torch.no_grad():
            value = float(check(p))
        if value < best:
            best, patience, kept = value, o["patience"], {n: t.detach().clone() for n, t in p.items()}
            continue
        patience -= 1
        if patience <= 0:
            lr /= 3
            if lr < o["lr_min"]:
                break
            patience = o["patience"]
            if restore:
                for n, t in p.items():
                    t.data.copy_(kept[n])
            optimizer = torch.optim.SGD(p.values(), lr=lr)
    return kept, epoch + 1


def leaves(params):
    return {n: t[0].clone().requires_grad_() for n, t in params.items()}


@pytest.mark.parametrize("restore", [False, True])
def test_finetune_is_a_plain_torch_loop_with_the_plateau_and_the_best_model(restore):
    made, rates = learner("finetune", restore_on_drop=restore, **OPTIONS), []
    run = made.run()
    next(run)
    for task in range(3):
        p = leaves(begin(made, task)[0])
        size = len(benchmark().tasks[task].train)

        def loss_of(q, positions, task=task):
            x, y = data("train", task, positions=positions)
            return F.cross_entropy(forward(q, x), y)

        def check(q, task=task):
            x, y = data("validation", task)
            return F.cross_entropy(forward(q, x), y)

        kept, epochs = plain_plateau(p, loss_of, check, size, task, OPTIONS, restore)
        report = next(said for said in run if getattr(said, "seen", 0))
        rates.append(epochs)
        assert report.members[0].epochs == epochs
        for n, value in kept.items():
            ours = made.memory[n.replace("head", f"heads.{task}")][0]
            assert torch.allclose(ours, value, rtol=0, atol=1e-10), (task, n)
        for old in range(task + 1):
            x, y = benchmark().test(old).batch(torch.arange(len(benchmark().test(old))), torch.float64)
            q = {**{n: t[0] for n, t in made.memory.items()}}
            share = float((forward(q, x, f"heads.{old}").argmax(1) == y).double().mean())
            assert report.members[0].test[old] == pytest.approx(share, abs=1e-12)
    assert min(rates) < 8  # some task ended by its schedule


def test_a_fixed_number_of_epochs_keeps_the_last_model_and_an_iteration_count_ends_within_an_epoch():
    size = len(benchmark().tasks[0].train)
    for limit in ({"epochs": 3}, {"epochs": 9, "iterations": 11}):
        made = learner(
            "finetune",
            dtype=torch.float64,
            lr=0.3,
            batch_size=32,
            tasks=1,
            protocol="fixed",
            optimizer="adam",
            weight_decay=0.01,
            **limit,
        )
        p, steps = leaves(begin(made)[0]), 0
        optimizer = torch.optim.Adam(p.values(), lr=0.3, weight_decay=0.01)
        for epoch in range(limit["epochs"]):
            for positions in orders(0, size, epoch).split(32):
                if steps == limit.get("iterations", math.inf):
                    break
                x, y = data("train", 0, positions=positions)
                optimizer.zero_grad()
                F.cross_entropy(forward(p, x), y).backward()
                optimizer.step()
                steps += 1
        report = finish(made)[-1]
        for n, value in p.items():
            assert torch.allclose(made.memory[n.replace("head", "heads.0")][0], value, rtol=0, atol=1e-8), n
        assert report.members[0].epochs == (3 if "iterations" not in limit else math.ceil(11 / math.ceil(size / 32)))


def test_the_last_loss_is_the_mean_over_the_steps_of_the_last_epoch():
    made = learner("finetune", dtype=torch.float64, lr=0.3, batch_size=32, tasks=1, protocol="fixed", epochs=1)
    p, losses = leaves(begin(made)[0]), []
    optimizer = torch.optim.SGD(p.values(), lr=0.3)
    for positions in orders(0, len(benchmark().tasks[0].train), 0).split(32):
        x, y = data("train", 0, positions=positions)
        loss = F.cross_entropy(forward(p, x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert finish(made)[-1].members[0].train_loss == pytest.approx(sum(losses) / len(losses), abs=1e-12)


@pytest.mark.parametrize("scenario", ["domain-il", "class-il"])
def test_one_head_for_all_tasks(scenario):
    """domain-il shares the two outputs; in class-il the classes seen so far compete, and later ones do not exist yet."""
    made = learner("finetune", scenario=scenario, dtype=torch.float64, lr=0.3, batch_size=32, protocol="fixed", epochs=1)
    p = leaves({n: t for n, t in made.memory.items()})
    assert p["head.weight"].shape == ({"domain-il": 2, "class-il": 6}[scenario], 16)
    for task in range(3):
        optimizer, seen = torch.optim.SGD(p.values(), lr=0.3), 2 * (task + 1)
        for positions in orders(task, len(benchmark(scenario=scenario).tasks[task].train), 0).split(32):
            x, y = data("train", task, scenario, positions)
            shift = 2 * task if scenario == "class-il" else 0
            optimizer.zero_grad()
            F.cross_entropy(forward(p, x)[:, : seen if shift or scenario == "class-il" else 2], y + shift).backward()
            optimizer.step()
    last = finish(made)[-1].members[0]
    for n, value in p.items():
        assert torch.allclose(made.memory[n][0], value, rtol=0, atol=1e-10), n
    for task in range(3):
        split = benchmark(scenario=scenario).test(task)
        x, y = split.batch(torch.arange(len(split)), torch.float64)
        wanted = y + (2 * task if scenario == "class-il" else 0)
        assert last.test[task] == pytest.approx(float((forward(p, x).argmax(1) == wanted).double().mean()))


# -- B8: freezing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", ["task-il", "domain-il", "class-il"])
def test_b8_the_body_is_bit_unchanged_after_the_first_task(scenario):
    made, bodies, heads = learner("freeze", scenario=scenario, lr=0.3, weight_decay=0.01, drop=0.2), [], []
    for said in made.run():
        if getattr(said, "seen", None) is not None:
            bodies.append({n: made.memory[n].clone() for n in made.method.body})
            head = f"heads.{said.seen - 1}.weight" if scenario == "task-il" else "head.weight"
            heads.append(made.memory.get(head, torch.zeros(0)).clone())
    for n in made.method.body:
        assert not torch.equal(bodies[0][n], bodies[1][n])
        assert torch.equal(bodies[1][n], bodies[2][n])
        assert torch.equal(bodies[1][n], bodies[3][n])
    assert not torch.equal(heads[2], heads[3])


def test_freeze_learns_the_first_task_as_finetune_does():
    ends = [learner(name, lr=0.3, tasks=1) for name in ("freeze", "finetune")]
    for made in ends:
        finish(made)
    assert all(torch.equal(t, ends[1].memory[n]) for n, t in ends[0].memory.items())


# -- joint -------------------------------------------------------------------------------------------------------------


def union(task, part, scenario, positions=None):
    """Inputs, labels and tasks of tasks 0..task as one set, in order."""
    parts = [data(part, t, scenario) for t in range(task + 1)]
    x, y = torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts])
    owner = torch.cat([torch.full((len(b),), t) for t, (_, b) in enumerate(parts)])
    return (x, y, owner) if positions is None else (x[positions], y[positions], owner[positions])


def joint_loss(p, x, y, owner, scenario, seen):
    """sum_t n_t CE_t / n, with each task's own head where there are heads (HAT's code)."""
    total = 0.0
    for t in range(seen):
        mine = owner == t
        if not bool(mine.any()):
            continue
        logits = forward(p, x[mine], f"heads.{t}" if scenario == "task-il" else "head")
        if scenario == "class-il":
            logits = logits[:, : 2 * seen]
        total = total + F.cross_entropy(logits, y[mine] + (2 * t if scenario == "class-il" else 0)) * int(mine.sum())
    return total / len(y)


@pytest.mark.parametrize("scenario", ["task-il", "domain-il", "class-il"])
def test_joint_is_a_plain_torch_loop_on_the_union_from_the_initial_weights_each_time(scenario):
    made = learner("joint", scenario=scenario, **{**OPTIONS, "epochs": 4})
    initial = {n: t.clone() for n, t in made.memory.items() if not n.startswith("initial.")}
    run = made.run()
    next(run)
    for task in range(3):
        started = begin(made, task)[0]
        for n in initial:
            assert torch.equal(started[n], initial[n])
        p, size = leaves(started), sum(len(benchmark(scenario=scenario).tasks[t].train) for t in range(task + 1))

        def loss_of(q, positions, task=task):
            return joint_loss(q, *union(task, "train", scenario, positions), scenario, task + 1)

        def check(q, task=task):
            return joint_loss(q, *union(task, "validation", scenario), scenario, task + 1)

        kept, epochs = plain_plateau(p, loss_of, check, size, task, {**OPTIONS, "epochs": 4})
        report = next(said for said in run if getattr(said, "seen", 0))
        assert report.members[0].epochs == epochs
        for n, value in kept.items():
            assert torch.allclose(made.memory[n][0], value, rtol=0, atol=1e-10), (task, n)


def test_joint_loss_of_a_mixed_batch_by_hand():
    made = learner("joint", dtype=torch.float64)
    params, memory, _ = begin(made, 2)
    x, y, owner = union(2, "train", "task-il", torch.tensor([0, 5, 300, 301, 302, 700]))
    assert owner.tolist() == [0, 0, 1, 1, 1, 2]
    p, m = ({n: t[0] for n, t in d.items()} for d in (params, memory))
    found = made.method.loss(p, m, {}, At(2, "eval", 3), Batch(x, y, owner))
    each = [-forward(p, x[i : i + 1], f"heads.{owner[i]}").log_softmax(1)[0, y[i]] for i in range(6)]
    assert float(found) == pytest.approx(float(sum(each)) / 6, abs=1e-12)


# -- random guessing, and the forgetting ratio -------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", ["task-il", "domain-il", "class-il"])
def test_guesses_come_as_often_as_the_classes_were_seen(scenario):
    made = learner("random", scenario=scenario)
    finish(made)
    bench = benchmark(scenario=scenario)
    counts = [torch.bincount(task.train.labels, minlength=2).double() for task in bench.tasks]
    wanted = {"task-il": counts[2], "domain-il": sum(counts), "class-il": torch.cat(counts)}[scenario]
    wanted = wanted / wanted.sum()
    memory = {n: t[0] for n, t in made.memory.items()}
    at = made.learned[2]
    for size in (100, 997):
        x = torch.rand(size, 1, 8, 8)
        logits = made.method.logits(made.method.effective_weights({}, memory, {}, at), x, at)
        torch.manual_seed(0)
        guesses = made.method.decide(logits)
        found = torch.bincount(guesses, minlength=len(wanted)).double()
        assert bool(((found - size * wanted).abs() <= 1).all())
        assert not torch.equal(guesses, guesses.sort().values)  # in random order
    shares = 4 * 2 * 3 if scenario != "domain-il" else 4 * 2  # float32, a class each
    counted = {"task-il": 0, "domain-il": 8 * 2, "class-il": 8 * 6}[scenario]
    assert made.method.learning_bytes(memory) == shares + counted


def test_random_guessing_is_chance_on_average():
    row = [m for seed in range(8) for m in finish(learner("random", seed=seed))[-1].members[0].test]
    assert sum(row) / len(row) == pytest.approx(0.5, abs=0.05)


def matrix(reports):
    return torch.tensor([report.members[0].test for report in reports], dtype=torch.float64)


def test_b12_the_forgetting_ratio_of_joint_is_0_and_of_random_is_minus_1():
    joint, random = (matrix(finish(learner(name, lr=0.3, epochs=4))) for name in ("joint", "random"))
    frozen = random.clone()
    frozen[1:] = random[1:].diagonal()  # each task guessed as it was when it was learned: the run's own reference
    for seen in (1, 2, 3):
        assert metrics.forgetting_ratio(joint, joint, random, seen) == pytest.approx(0.0, abs=1e-12)
        assert metrics.forgetting_ratio(frozen, joint, random, seen) == pytest.approx(-1.0, abs=1e-12)
    assert metrics.forgetting_ratio(random, joint, random, 1) == pytest.approx(-1.0, abs=1e-12)


@pytest.mark.parametrize("name", ["split-digits", "permuted-digits", "rotated-digits"])
def test_a_mixed_batch_holds_the_examples_it_was_asked_for(name):
    """Tasks that share their images are read as one set, each seen as its own task sees it."""
    tasks = benchmark(name).tasks
    pool = Pool({t: tasks[t].train for t in range(3)}, torch.float64)
    first = len(tasks[0].train)
    batch = pool.batch(torch.tensor([first + 3, 0, first + len(tasks[1].train) + 1, 5]))
    wanted = {(0, 0), (0, 5), (1, 3), (2, 1)}
    found = set()
    for x, y, task in zip(batch.inputs, batch.labels.tolist(), batch.tasks.tolist(), strict=True):
        [place] = [
            p for t, p in wanted if t == task and torch.equal(tasks[t].train.batch(torch.tensor([p]), torch.float64)[0][0], x)
        ]
        assert int(tasks[task].train.labels[place]) == y
        found.add((task, place))
    assert found == wanted
    assert len(pool) == sum(len(task.train) for task in tasks)
    assert sum(len(b.labels) for b in pool.batches(100)) == len(pool)
