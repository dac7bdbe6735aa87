"""DEN against a plain version that makes arrays larger, as its authors' code does, with loops over units."""

from math import ceil

import pytest
import torch
from helpers import begin, finish, learner, up_to
from penalties_kit import PLAIN, data, forward, member
from torch.nn import functional as F

from clcore.errors import BadValue
from clcore.methods import At
from clcore.methods.den.method import EXPAND, LEARNS, LOSS, NEW, ON, shrunk
from clcore.methods.den.splitting import plan
from clcore.randomness import numpy_stream

#: With these a head is sparse, some new units die and some live, some old units are split and others not.
HYPER = {"first": 0.5, "grow": 2, "tau": 0.01, "sigma": 0.3, "l1": 0.6, "l2": 1e-3, "group": 1.2, "hold": 0.02}
TRAINING = {**PLAIN, "optimizer": "adam", "lr": 0.02, "epochs": 4, "tasks": 3, "net": "mlp:12-10"}
WEIGHTS, BIASES = ("layers.0.weight", "layers.1.weight"), ("layers.0.bias", "layers.1.bias")
HEADS = ("head.weight", "head.bias")


def tensors(made):
    return {n: t.clone() for n, t in member(made.memory).items()}


# -- the plain version -------------------------------------------------------------------------------------------------


class Plain:
    """Arrays of the units in use only; ``places`` says where each unit is in the network that is as large as it may become."""

    def __init__(self, memory):
        self.places = [list(range(ceil(HYPER["first"] * width))) for width in (12, 10)]
        self.p = self.cut(memory)
        self.sizes, self.heads, self.events = [], [], []

    def cut(self, full):
        first, second = (torch.tensor(place) for place in self.places)
        cut = {"layers.0.weight": full["layers.0.weight"][first], "layers.1.weight": full["layers.1.weight"][second][:, first]}
        cut |= {"layers.0.bias": full["layers.0.bias"][first], "layers.1.bias": full["layers.1.bias"][second]}
        return {n: t.clone() for n, t in cut.items()}

    def free(self):
        return [[place for place in range(width) if place not in used] for width, used in zip((12, 10), self.places, strict=True)]

    def stage(self, task, stage, names, masks, was=None, new=((), ())):
        """One run; ``masks``: what of each tensor is trained, all where it is not there. Returns the last epoch's mean loss."""
        count = len(data(task)[1])
        optimizer = torch.optim.Adam([self.p[n] for n in names], lr=TRAINING["lr"])
        for epoch in range(TRAINING["epochs"]):
            order = torch.from_numpy(numpy_stream(0, "batches", task, "train", stage, epoch).permutation(count))
            losses = [self.step(optimizer, names, masks, was or {}, new, *data(task, positions=b)) for b in order.split(16)]
        return sum(losses) / len(losses)

    def step(self, optimizer, names, masks, was, new, x, y):
        leaves = {n: t.clone().requires_grad_() for n, t in self.p.items()}
        loss = F.cross_entropy(forward(leaves, x), y)
        grads = dict(zip(names, torch.autograd.grad(loss, [leaves[n] for n in names]), strict=True))
        for n, grad in grads.items():
            grad += HYPER["l2"] * self.p[n]
            if n in was:
                block = tuple(slice(0, size) for size in was[n].shape)
                grad[block] += HYPER["hold"] * (self.p[n][block] - was[n])
            self.p[n].grad = grad * masks.get(n, 1)
        optimizer.step()
        lr = TRAINING["lr"]
        for n in names:
            on = torch.as_tensor(masks.get(n, 1)).expand_as(self.p[n]) > 0
            self.p[n][on & (self.p[n].abs() <= lr * HYPER["l1"])] = 0
            self.p[n][on] -= lr * HYPER["l1"] * self.p[n][on].sign()
        for name, units in zip(WEIGHTS, new, strict=True):
            for unit in units:
                norm = float(self.p[name][unit].norm())
                self.p[name][unit] *= max(0.0, 1 - lr * HYPER["group"] / norm) if norm else 0.0
        return float(loss.detach())

    def learn(self, task, head, memory):
        self.p |= {n: t.clone() for n, t in zip(HEADS, head, strict=True)}
        self.p["head.weight"] = self.p["head.weight"][:, self.places[1]]
        if not task:
            self.stage(task, "train", [*WEIGHTS, *BIASES, *HEADS], {})
        else:
            self.later(task, head, memory)
        self.sizes.append([len(place) for place in self.places])
        self.heads.append({n: self.p[n] for n in HEADS})

    def later(self, task, head, memory):
        was = {n: self.p[n].clone() for n in (*WEIGHTS, *BIASES)}
        names = [*WEIGHTS, *BIASES, *HEADS]
        self.stage(task, "select", HEADS, {})
        second = (self.p["head.weight"] != 0).any(0)
        leads = [
            [bool(second[j]) and float(self.p[WEIGHTS[1]][j, i]) != 0 for j in range(len(second))]
            for i in range(len(self.places[0]))
        ]
        first = torch.tensor(leads).any(1)
        masks = {WEIGHTS[0]: first[:, None], WEIGHTS[1]: second[:, None] & first, BIASES[0]: first, BIASES[1]: second}
        masks = {n: m.double() for n, m in {**masks, HEADS[0]: second[None]}.items()}
        loss = self.stage(task, "retrain", names, masks, was)
        self.events.append(("selected", int(first.sum()), int(second.sum()), self.sizes[-1]))
        if loss > HYPER["tau"]:
            self.expand(task, names, was, head, memory)
        self.split(task, names, was)

    def expand(self, task, names, was, head, memory):
        old, trained = [len(place) for place in self.places], self.p
        self.places = [place + free[: HYPER["grow"]] for place, free in zip(self.places, self.free(), strict=True)]
        self.p = {**self.cut(memory), "head.weight": head[0][:, self.places[1]].clone(), "head.bias": trained["head.bias"]}
        masks = {}
        for n in (*WEIGHTS, *BIASES, "head.weight"):
            block = tuple(slice(0, size) for size in trained[n].shape)
            if n != "head.weight" and n != WEIGHTS[0]:
                masks[n] = torch.ones_like(self.p[n])
                masks[n][block] = 0
            self.p[n][block] = trained[n]
        masks[WEIGHTS[0]] = (torch.arange(len(self.places[0])) >= old[0]).double()[:, None]
        new = [range(before, len(place)) for before, place in zip(old, self.places, strict=True)]
        self.stage(task, "expand", names, masks, was, new)
        alive = [[i for i in range(len(place)) if i < before or bool((self.p[n][i] != 0).any())]
                 for n, place, before in zip(WEIGHTS, self.places, old, strict=True)]  # fmt: skip
        self.events.append(("grown", [len(a) - o for a, o in zip(alive, old, strict=True)], [len(n) for n in new]))
        self.p[WEIGHTS[0]], self.p[BIASES[0]] = self.p[WEIGHTS[0]][alive[0]], self.p[BIASES[0]][alive[0]]
        self.p[WEIGHTS[1]], self.p[BIASES[1]] = self.p[WEIGHTS[1]][alive[1]][:, alive[0]], self.p[BIASES[1]][alive[1]]
        self.p["head.weight"] = self.p["head.weight"][:, alive[1]]
        self.places = [[place[i] for i in kept] for place, kept in zip(self.places, alive, strict=True)]

    def split(self, task, names, was):
        """Units of a layer after it: (kind, what it was, where); the inputs are all old."""
        layers = [[("old", i) for i in range(64)]]
        for n, place, free in zip(WEIGHTS, self.places, self.free(), strict=True):
            old, columns = was[n].shape
            drift = {i: float((self.p[n][i, :columns] - was[n][i]).norm()) for i in range(old)}
            moved = sorted((i for i in drift if drift[i] > HYPER["sigma"]), key=lambda i: -drift[i])[
                : min(HYPER["grow"], len(free))
            ]
            units = [("restored" if i in moved else "old" if i < old else "own", i) for i in range(len(place))]
            layers.append(units + [("copy", i) for i in moved])
            place += free[: len(moved)]
            self.events.append(("split", len(moved), old))
        now = {n: t.clone() for n, t in self.p.items()}
        for level, (n, b) in enumerate(zip(WEIGHTS, BIASES, strict=True)):
            values = [[one(now[n], was[n], row, column) for column in layers[level]] for row in layers[level + 1]]
            self.p[n] = torch.tensor(values, dtype=torch.float64)
            self.p[b] = torch.stack([(was if kind == "restored" else now)[b][i] for kind, i in layers[level + 1]])
        zero = torch.zeros(len(now["head.bias"]), dtype=torch.float64)
        self.p["head.weight"] = torch.stack([zero if k == "restored" else now["head.weight"][:, i] for k, i in layers[-1]], 1)
        self.stage(task, "split", names, {}, was)

    def logits(self, task, x):
        first, second = self.sizes[task]
        used = {"layers.0.weight": self.p[WEIGHTS[0]][:first], "layers.1.weight": self.p[WEIGHTS[1]][:second, :first]}
        used |= {"layers.0.bias": self.p[BIASES[0]][:first], "layers.1.bias": self.p[BIASES[1]][:second]}
        return forward({**used, **self.heads[task]}, x)


def one(now, was, row, column):
    """A weight after a split."""
    (kind, i), (source, j) = row, column
    if kind in ("own", "copy"):
        return 0.0 if source == "restored" else float(now[i, j])
    if kind == "restored":
        return float(was[i, j]) if source in ("old", "restored") else 0.0
    return 0.0 if source == "copy" else float(now[i, j])


def test_three_tasks_are_those_of_the_plain_version():
    made = learner("den", [HYPER], **TRAINING)
    plain = Plain(tensors(made))
    for task in range(3):
        params = member(begin(made, task)[0])
        plain.learn(task, [params[n] for n in HEADS], tensors(made))
        up_to(made, task + 1)
        for seen in range(task + 1):
            at = At(seen, "eval", task + 1)
            x = data(seen)[0]
            weights = made.method.effective_weights({}, member(made.memory), member(made.hp), at)
            torch.testing.assert_close(made.method.logits(weights, x, at), plain.logits(seen, x), rtol=0, atol=1e-8)
    happened = {kind: [event[1:] for event in plain.events if event[0] == kind] for kind in ("selected", "grown", "split")}
    assert any(sum(kept) < sum(before) for *kept, before in happened["selected"])
    assert any(0 < sum(alive) < sum(tried) for alive, tried in happened["grown"])
    assert any(0 < moved < old for moved, old in happened["split"])


# -- parts -------------------------------------------------------------------------------------------------------------


def test_shrunk_is_the_proximal_step_of_the_absolute_value():
    """argmin_x (x - v)^2 / 2 + by |x|, on a grid."""
    values, by = torch.linspace(-1, 1, 21, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    grid = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    cost = (grid - values[:, None]).square() / 2 + by * grid.abs()
    torch.testing.assert_close(shrunk(values, by), grid[cost.argmin(1)], rtol=0, atol=1e-9)
    assert float(shrunk(torch.tensor([0.2]), by.float())) == 0.0


def planned(drift, old, on, sigma=0.5, most=10):
    flags = [torch.tensor(t, dtype=torch.bool) for t in (old, on)]
    return plan(torch.tensor(drift), *flags, torch.tensor(sigma), torch.tensor(float(most)))


def test_a_plan_by_hand():
    """Units 0 to 3 are old, 4 is the task's own, 5 to 7 are free."""
    drift, old, on = [0.6, 0.1, 0.9, 0.7, 5.0, 9.0, 9.0, 9.0], [1] * 4 + [0] * 4, [1] * 5 + [0] * 3
    split = planned(drift, old, on)
    assert split.restored.nonzero()[:, 0].tolist() == [0, 2, 3]
    assert split.copies.nonzero()[:, 0].tolist() == [5, 6, 7]
    assert split.source.tolist() == [0, 1, 2, 3, 4, 2, 3, 0]
    assert split.own.tolist() == [False] * 4 + [True] * 4
    few = planned(drift, old, on, most=1)
    assert (few.restored.nonzero()[:, 0].tolist(), few.source.tolist()) == ([2], [0, 1, 2, 3, 4, 2, 6, 7])
    none = planned(drift, old, on, sigma=1.0)
    assert not bool(none.restored.any() | none.copies.any())
    assert none.on.tolist() == [bool(x) for x in on]
    full = planned(drift, old, [1] * 7 + [0])
    assert (full.restored.nonzero()[:, 0].tolist(), full.copies.nonzero()[:, 0].tolist()) == ([2], [7])


def used(made, task=None):
    """Units that a task has, of each layer; of the last by default."""
    masks = made.method.masks(made.memory_of(0), made.seen - 1 if task is None else task)
    return [int(mask.values.sum()) for mask in masks.values()]


@pytest.mark.parametrize(
    ("change", "grown"),
    [
        ({"tau": 1e6, "sigma": 1e6}, 0),  # neither is needed
        ({"grow": 0, "sigma": 0.0}, 0),  # neither is allowed
        ({"group": 100.0, "sigma": 1e6}, 0),  # what is added comes to nothing
        ({"group": 0.0, "l1": 0.0, "sigma": 1e6}, 2),
        ({"tau": 1e6, "sigma": 0.0}, 2),  # splits alone
    ],
)
def test_how_much_the_network_grows(change, grown):
    made = up_to(learner("den", [{**HYPER, **change}], **TRAINING), 2)
    assert used(made, 0) == [6, 5]
    assert used(made) == [6 + grown, 5 + grown]


def test_where_the_loss_is_low_enough_nothing_is_added_and_nothing_trained():
    made = up_to(learner("den", [HYPER], **TRAINING), 1)
    params, memory, _ = (member(t) if isinstance(t, dict) else t for t in begin(made, 1))
    at = At(1, "train", 2, stage=EXPAND)
    for loss, grows in ((HYPER["tau"], False), (HYPER["tau"] + 0.001, True)):
        params[LOSS] = torch.tensor(loss, dtype=torch.float64)
        after = made.method.begin_stage(params, memory, member(made.hp), at)
        assert any(bool(t.any()) for n, t in after.items() if n.startswith((LEARNS, NEW))) == grows
        assert any(not torch.equal(after[n], params[n]) for n in params if n.startswith(ON)) == grows


@pytest.mark.parametrize("stage", ["select", "retrain", "expand"])
def test_the_loss_that_decides_is_that_of_retraining(stage):
    made = learner("den", [HYPER], **TRAINING)
    params, memory, _ = (member(t) if isinstance(t, dict) else t for t in begin(made, 1))
    after = made.method.end_epoch(params, memory, member(made.hp), At(1, "train", 2, stage=stage), torch.tensor(2.5))
    assert float(after[LOSS]) == (2.5 if stage == "retrain" else 0.0)


def test_it_never_outgrows_its_layers():
    made = learner("den", [{**HYPER, "first": 0.9, "grow": 20, "group": 0.0, "sigma": 0.0}], **TRAINING)
    finish(made)
    assert used(made) == [12, 10]


def test_a_task_does_not_see_units_that_came_later():
    made = learner("den", [HYPER], **TRAINING)
    finish(made)
    memory, x = tensors(made), data(0)[0]
    at = At(0, "eval", 3)
    answers = made.method.logits(made.method.effective_weights({}, memory, {}, at), x, at)
    late = memory["stamp.units1"] > 0
    assert bool(late.any())
    for name in ("layers.0.weight", "layers.0.bias"):
        memory[name][late] = 100.0
    memory["layers.1.weight"][:, late] = -100.0
    memory["layers.1.weight"][memory["stamp.units2"] > 0] = 100.0
    torch.testing.assert_close(made.method.logits(made.method.effective_weights({}, memory, {}, at), x, at), answers)


def test_only_what_leads_to_the_head_is_retrained():
    """A path by hand: head - unit 1 - unit 0 and, over a weight of 0, unit 2; unit 3 is not in use."""
    made = learner("den", [{"first": 0.75}], dtype=torch.float64, net="mlp:4-4")
    params = member(begin(made)[0])
    params["head.weight"][:, [0, 2]] = 0
    params["layers.1.weight"][1] = torch.tensor([1.0, 0.0, 0.0, 5.0])
    found = made.method.reached(params)
    assert [found[u].tolist() for u in ("units1", "units2")] == [[True, False, False, False], [False, True, False, False]]
    assert bool(found["units0"].all())


def test_units_of_a_convolution_that_is_flattened():
    """A filter is reached over any of its nine positions, split with all of them, and its columns move with it."""
    hypers = [{**HYPER, "sigma": 0.05, "first": 0.5}]
    made = learner("den", hypers, net="conv", tasks=2, epochs=2, optimizer="adam", lr=0.02, network_settings={"norm": "batch"})
    finish(made)
    assert used(made, 0) == [2, 6]
    assert used(made)[0] > 2
    memory = made.memory_of(0)
    assert all(bool(t.isfinite().all()) for t in memory.values())


@pytest.mark.parametrize("scenario", ["task-il", "class-il"])
def test_stored_bytes_are_those_of_the_units_in_use(scenario):
    made = learner("den", [HYPER], **{**TRAINING, "scenario": scenario})
    reports = finish(made)
    widths = [used(made, task) for task in range(3)]
    first, second = widths[-1]
    body = 65 * first + (first + 1) * second
    heads = sum(2 * (width + 1) for _, width in widths)
    assert reports[-1].members[0].bytes == 4 * (body + heads) + 12 + 10  # a byte for the stamp of each unit there is


@pytest.mark.parametrize("net", ["residual", "option-a"])
def test_networks_with_shortcuts_are_refused(net):
    with pytest.raises(BadValue, match="one layer of incoming weights"):
        learner("den", net=net)
