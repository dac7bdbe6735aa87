"""AGS-CL: proximal steps against numerical minimisation, importance against plain activations, and nodes that are used again."""

import pytest
import torch
from helpers import SCENARIOS, begin, finish, learner, up_to
from penalties_kit import PLAIN, batches, data, forward, member, starts, weights_of
from scipy.optimize import minimize
from torch.nn import functional as F

from clcore.methods.base import Batch
from clcore.methods.penalties.agscl import drawn, shrinkage
from clcore.pool import Pool
from clcore.trainer import Trainer

SGD = {**PLAIN, "optimizer": "sgd", "epochs": 3}
#: Enough sparsity for some nodes of a small network to die, and few enough for it to learn.
SPARSE = {"mu": 0.6, "strength": 5.0, "eta": 0.9, "rho": 0.5}
HIDDEN = {"units1": "layers.0", "units2": "layers.1"}


def importance(made):
    return {units: made.memory[f"importance.{units}"][0] for units in HIDDEN}


# -- the proximal steps ------------------------------------------------------------------------------------------------


def test_a_proximal_step_is_the_minimum_it_is_named_for():
    """argmin_v 1/2 ||v - w||^2 + t ||v||, of a weight's row and its bias together."""
    torch.manual_seed(0)
    weight, bias = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    for by in (0.0, 0.4, 1.1, 50.0):
        factors = shrinkage([weight, bias], torch.tensor(by, dtype=torch.float64))
        for row in range(4):
            w = torch.cat([weight[row], bias[row, None]]).numpy()
            found = minimize(lambda v, w=w, by=by: 0.5 * ((v - w) ** 2).sum() + by * (v**2).sum() ** 0.5, w * 0.5, tol=1e-12)
            assert torch.allclose(factors[row] * torch.tensor(w), torch.tensor(found.x), atol=2e-4)
    assert shrinkage([torch.zeros(2, 3), torch.zeros(2)], torch.tensor(1.0)).isfinite().all()


def steps(made, params, memory, at, lr):
    loss = torch.tensor([0.0], dtype=torch.float64)
    hp = member(made.hp) | {"lr": torch.tensor(lr, dtype=torch.float64)}
    return made.method.end_epoch(member(params), member(memory), hp, at, loss[0])


def test_of_the_first_task_all_nodes_are_shrunk_and_heads_are_not():
    made = learner("ags-cl", [SPARSE], dtype=torch.float64)
    params, memory, at = begin(made)
    after = steps(made, params, memory, at, lr=0.3)
    p = member(params)
    for layer in HIDDEN.values():
        for row in range(16):
            group = torch.cat([p[f"{layer}.weight"][row], p[f"{layer}.bias"][row, None]])
            wanted = group * max(0.0, 1 - 0.3 * 0.6 / float(group.norm()))
            assert torch.allclose(after[f"{layer}.weight"][row], wanted[:-1], atol=1e-12)
            assert torch.allclose(after[f"{layer}.bias"][row], wanted[-1], atol=1e-12)
    assert torch.equal(after["head.weight"], p["head.weight"])


def test_later_important_nodes_are_pulled_back_and_the_others_shrunk():
    made = up_to(learner("ags-cl", [SPARSE], **SGD), 1)
    params, memory, at = begin(made, 1)
    torch.manual_seed(0)
    moved = {n: t + 0.3 * torch.randn_like(t) for n, t in params.items()}
    after, p, old = steps(made, moved, memory, at, lr=0.1), member(moved), member(made.memory)
    kinds = set()
    for units, layer in HIDDEN.items():
        for row, omega in enumerate(importance(made)[units].tolist()):
            now, then = (torch.cat([s[f"{layer}.weight"][row], s[f"{layer}.bias"][row, None]]) for s in (p, old))
            if omega > 0:
                wanted = then + (now - then) * max(0.0, 1 - 0.1 * 5.0 * omega / float((now - then).norm()))
            else:
                wanted = now * max(0.0, 1 - 0.1 * 0.6 / float(now.norm()))
            kinds.add(omega > 0)
            assert torch.allclose(after[f"{layer}.weight"][row], wanted[:-1], atol=1e-12)
            assert torch.allclose(after[f"{layer}.bias"][row], wanted[-1], atol=1e-12)
    assert kinds == {True, False}


def test_a_task_is_plain_training_with_the_steps_between_epochs():
    made = learner("ags-cl", [SPARSE], **SGD)
    p, size = starts(made, 0), 0.1 * 0.6
    optimizer = torch.optim.SGD(p.values(), lr=0.1)
    stream = list(batches(0, epochs=3))
    for index, (x, y) in enumerate(stream, start=1):
        optimizer.zero_grad()
        F.cross_entropy(forward(p, x), y).backward()
        optimizer.step()
        if index % (len(stream) // 3) == 0:
            with torch.no_grad():
                for layer in HIDDEN.values():
                    norm = (p[f"{layer}.weight"].square().sum(1) + p[f"{layer}.bias"].square()).sqrt()
                    keep = torch.relu(norm - size) / norm
                    p[f"{layer}.weight"] *= keep[:, None]
                    p[f"{layer}.bias"] *= keep
    trainer = Trainer(made.method, made.training, 0, (0, "train", "train"))
    params, memory, at = begin(made)
    pool = Pool({0: made.benchmark.tasks[0].train}, torch.float64)
    *_, outcome = trainer.run(params, memory, made.hp, [0.1], at, pool, None)
    for n, t in p.items():
        assert torch.allclose(outcome.params[n][0], t.detach(), rtol=0, atol=1e-10), n


# -- importance --------------------------------------------------------------------------------------------------------


def hidden(weights, x):
    first = torch.relu(F.linear(x.flatten(1), weights["layers.0.weight"], weights["layers.0.bias"]))
    return {"units1": first, "units2": torch.relu(F.linear(first, weights["layers.1.weight"], weights["layers.1.bias"]))}


def test_importance_is_the_mean_activation_and_fades():
    made, wanted = learner("ags-cl", [SPARSE | {"rho": 0.0}], **SGD), {}
    run = made.run()
    next(run)
    for task in range(3):
        next(said for said in run if getattr(said, "seen", 0) == task + 1)
        for units, h in hidden(weights_of(made, task), data(task)[0]).items():  # disconnecting leaves activations as they are
            wanted[units] = 0.9 * wanted.get(units, 0.0) + h.mean(0)
            assert torch.allclose(importance(made)[units], wanted[units], atol=1e-10)
    assert 0 < sum(int((t == 0).sum()) for t in wanted.values()) < 32


def test_importance_of_maps_is_their_mean_over_positions():
    made = up_to(learner("ags-cl", [{"mu": 0.0}], net="conv", **SGD), 1)
    w, x = weights_of(made, 0), data(0)[0]
    maps = torch.relu(F.conv2d(x, w["conv.weight"], w["conv.bias"]))
    wanted = F.max_pool2d(maps, 2).mean((0, 2, 3))
    assert torch.allclose(made.memory["importance.units1"][0], wanted, atol=1e-10)


def test_a_shared_head_has_the_mean_probability_of_its_classes():
    made = up_to(learner("ags-cl", [SPARSE | {"rho": 0.0}], scenario="class-il", **SGD), 1)
    p = forward(weights_of(made, 0), data(0, "class-il")[0]).softmax(1).mean(0)
    found = made.memory["importance.head"][0]
    assert torch.allclose(found[:2], p, atol=1e-10)
    assert found[2:].tolist() == [0.0] * 4
    params, memory, at = begin(made, 1)
    moved = {n: t + 0.3 for n, t in params.items()}
    after, p, old = steps(made, moved, memory, at, lr=0.1), member(moved), member(made.memory)
    assert torch.equal(after["head.weight"][2:], p["head.weight"][2:])  # classes to come are neither held nor shrunk
    for row in range(2):
        now, then = (torch.cat([s["head.weight"][row], s["head.bias"][row, None]]) for s in (p, old))
        wanted = then + (now - then) * max(0.0, 1 - 0.1 * 5.0 * float(found[row]) / float((now - then).norm()))
        assert torch.allclose(after["head.weight"][row], wanted[:-1], atol=1e-12)


# -- nodes that are used again -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_making_ready_for_the_next_task_changes_no_output_on_the_data_of_this_one(scenario):
    made = learner("ags-cl", [SPARSE | {"rho": 0.7}], scenario=scenario, **{**SGD, "epochs": 5})
    kept = made.method.end_task
    gaps, drawn_anew = [], []

    def watched(params, memory, hp, at, batches):
        after = kept(params, memory, hp, at, batches)
        x = data(at.task, scenario)[0]
        weights = [made.method.effective_weights(p, m, hp, at) for p, m in ((params, memory), ({}, after))]
        outputs = [made.method.logits(w, x, at) for w in weights]
        gaps.append(float((outputs[0] - outputs[1]).abs().max()))
        drawn_anew.append(any(not torch.equal(params[n], after[n]) for n in made.method.body if n.endswith("bias")))
        return after

    made.method.end_task = watched
    finish(made)
    assert max(gaps) < 1e-12
    assert any(drawn_anew)


def test_the_positions_of_an_unimportant_map_are_disconnected_and_no_others():
    """Channel 1 of 4 is off everywhere: of the flattened maps, channel-major with nine positions each, columns 9 to 17."""
    made = learner("ags-cl", [SPARSE | {"rho": 0.0}], net="conv", **SGD)
    params, memory, at = begin(made)
    p, m, hp = member(params), member(memory), member(made.hp)
    p["conv.weight"][1], p["conv.bias"] = 0.0, torch.tensor([0.5, -1.0, 0.5, 0.5], dtype=torch.float64)
    x, y = data(0)
    with torch.no_grad():
        after = made.method.end_task(p, m, hp, at, [Batch(x, y)])
        outputs = [made.method.logits(made.method.effective_weights(q, after, hp, at), x, at) for q in (p, {})]
    assert (after["importance.units1"] > 0).tolist() == [True, False, True, True]
    off = torch.zeros(36, dtype=torch.bool)
    off[9:18] = True
    assert float(after["fc.weight"][:, off].abs().max()) == 0
    assert torch.equal(after["fc.weight"][:, ~off], p["fc.weight"][:, ~off])
    assert torch.allclose(*outputs, atol=1e-12)


def test_no_weight_leads_out_of_an_unimportant_node_but_into_one_drawn_anew():
    made = up_to(learner("ags-cl", [SPARSE | {"rho": 0.0}], **SGD), 1)
    dead = {units: t == 0 for units, t in importance(made).items()}
    assert 0 < int(dead["units1"].sum()) < 16
    assert float(made.memory["layers.1.weight"][0][:, dead["units1"]].abs().max()) == 0
    assert float(made.memory["heads.0.weight"][0][:, dead["units2"]].abs().max()) == 0
    again = up_to(learner("ags-cl", [SPARSE | {"rho": 1.0}], **SGD), 1)
    into_dead = again.memory["layers.1.weight"][0][dead["units2"]]
    assert bool((into_dead != 0).all())
    assert float(into_dead.abs().max()) <= 16**-0.5
    into_used = again.memory["layers.1.weight"][0][~dead["units2"]]
    assert float(into_used[:, dead["units1"]].abs().max()) == 0


def test_closed_weights_stay_closed_while_the_next_task_is_learned():
    made = up_to(learner("ags-cl", [SPARSE | {"rho": 1.0}], weight_decay=0.01, **SGD), 1)
    dead = {units: t == 0 for units, t in importance(made).items()}
    params, memory, at = begin(made, 1)
    trainer = Trainer(made.method, made.training, 0, (0,))
    state, (x, y) = trainer.start(params), data(1)
    for _ in range(3):
        params, state, _ = trainer.packed_step(params, state, memory, made.hp, torch.tensor([0.1]).double(), Batch(x, y), at)
    weight = params["layers.1.weight"][0]
    assert float(weight[~dead["units2"]][:, dead["units1"]].abs().max()) == 0
    moved = weight != memory["layers.1.weight"][0]
    assert bool(moved[dead["units2"]][:, dead["units1"]].any())
    assert bool(moved[~dead["units2"]][:, ~dead["units1"]].any())


def test_held_hard_it_forgets_nothing():
    """What important nodes say cannot change once they are held and nothing new feeds them."""
    made = learner("ags-cl", [SPARSE | {"strength": 1e9}], **SGD)
    outputs = []
    for said in made.run():
        if getattr(said, "seen", 0):
            outputs.append([forward(weights_of(made, t), data(t)[0]) for t in range(said.seen)])
    for task in range(2):
        assert torch.allclose(outputs[2][task], outputs[task][task], atol=1e-12)


def test_the_share_drawn_anew_is_of_the_free_units_and_rounded_up():
    free = torch.arange(20) >= 9  # eleven of them
    for rho, count in ((0.0, 0), (0.3, 4), (0.5, 6), (1.0, 11)):
        torch.manual_seed(3)
        chosen = drawn(free, torch.tensor(rho))
        assert int(chosen.sum()) == count
        assert not bool((chosen & ~free).any())
    picks = []
    for seed in range(200):
        torch.manual_seed(seed)
        picks.append(drawn(free, torch.tensor(0.3)))
    often = torch.stack(picks).double().mean(0)[free]
    assert float(often.min()) > 0.2
    assert float(often.max()) < 0.55


def test_what_only_learning_needs_is_a_number_a_node():
    made, plain = (up_to(learner(n, epochs=1), 2) for n in ("ags-cl", "finetune"))
    assert sum(t[0].numel() for n, t in made.memory.items() if n.startswith("importance.")) == 32
    bytes_of = [m.method.stored_bytes(member(m.memory), member(m.hp)) for m in (made, plain)]
    assert bytes_of[0] == bytes_of[1]


@pytest.mark.parametrize("net", ["residual", "option-a"])
def test_it_learns_where_units_are_shared_and_normalised(net):
    made = learner("ags-cl", [SPARSE], net=net, tasks=2, epochs=2, lr=0.05)
    last = finish(made)[-1]
    assert last.failures == []
    known = {n.removeprefix("importance.") for n in made.memory if n.startswith("importance.")}
    assert known == set(made.method.network.hidden_units)
