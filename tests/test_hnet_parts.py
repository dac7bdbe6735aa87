"""HNET's formulas against traces of the authors' code, the paper's sizes, and plain restatements (N2-N5, N9, N11)."""

import json
import math
from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import learner
from torch.func import functional_call, vmap
from torch.nn import functional as F

from clcore import networks
from clcore.errors import BadValue
from clcore.methods.base import DERIVED
from clcore.methods.hnet import hypernetwork, regulariser
from clcore.methods.hnet.generator import ACTIVATIONS, Generator, Target, fitted, widths
from clcore.methods.hnet.hypernetwork import Hypernetwork
from clcore.methods.hnet.regulariser import Held, own_outputs
from clcore.methods.uncertainty import entropy, log_entropy
from clcore.optim import OPTIMIZERS

GOLDEN = Path(__file__).parent / "golden"
#: The authors' names in their order, and ours.
NAMES = {
    "theta_0_chunk_embs": "theta.chunks",
    "theta_1_W_h1": "theta.hidden.0.weight",
    "theta_2_b_h1": "theta.hidden.0.bias",
    "theta_3_W_h2": "theta.hidden.1.weight",
    "theta_4_b_h2": "theta.hidden.1.bias",
    "theta_5_W_out": "theta.output.weight",
    "theta_6_b_out": "theta.output.bias",
}
SMALL = Generator(438, 8, (10, 10), 50, 4, "elu")
SHAPES = {"layers.0.weight": (12, 16), "layers.0.bias": (12,), "layers.1.weight": (12, 12), "layers.1.bias": (12,)}
TARGET = Target({**SHAPES, "head.weight": (6, 12), "head.bias": (6,)})
ALL = Held(438, 438)


def trace(name):
    with np.load(GOLDEN / f"hnet_{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def theta_of(arrays, prefix=""):
    return {ours: arrays[prefix + theirs] for theirs, ours in NAMES.items()}


def near(found, wanted, tolerance=1e-9):
    return float((found - wanted).detach().abs().max()) < tolerance


def random_theta(generator, seed=0, scale=1.0):
    """Theta without zeros, so that every bias counts."""
    draw = torch.Generator().manual_seed(seed)
    return {n: scale * torch.randn(shape, generator=draw, dtype=torch.float64) for n, shape in generator.shapes.items()}


def randn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- the generator -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [0, 1])
def test_generated_weights_and_logits_are_the_authors(task):
    g = trace("generate")
    flat = SMALL.generate(theta_of(g), g[f"temb_{task}"])
    assert near(flat, g[f"flat_weights_task{task}"])
    tensors = TARGET.split(flat)
    assert all(near(tensor, g[f"weight_task{task}_{i}"]) for i, tensor in enumerate(tensors.values()))
    network = networks.build("mlp:12-12", (1, 4, 4), 0).double()
    assert near(functional_call(network, tensors, (g["mnet_x"].reshape(4, 1, 4, 4),)), g[f"mnet_logits_task{task}"])
    layer, hidden = SMALL.factors(theta_of(g), torch.stack([g["temb_0"], g["temb_1"]]))
    assert near(hidden[task] @ layer.T, g[f"chunk_output_task{task}"])


def test_a_chunk_that_divides_the_weights_needs_no_spare_chunk():
    g = trace("generate")
    even = Generator(438, 8, (10, 10), 73, 4, "elu")
    assert even.chunks == 6
    assert near(even.generate(theta_of(g, "even73_"), g["even73_temb_0"]), g["even73_flat_weights"])


def test_tensors_start_where_the_authors_cut_them():
    g = trace("generate")
    assert [TARGET.start(name) for name in TARGET.shapes] == g["target_offsets"].tolist()
    assert TARGET.size == 438


def test_a_full_hypernetwork_is_an_mlp_of_the_embedding():
    full = Generator(141, 2, (10, 10), activation="sigmoid")
    theta = random_theta(full)
    e = randn(2)
    h = torch.sigmoid(theta["theta.hidden.0.weight"] @ e + theta["theta.hidden.0.bias"])
    h = torch.sigmoid(theta["theta.hidden.1.weight"] @ h + theta["theta.hidden.1.bias"])
    assert near(full.generate(theta, e), theta["theta.output.weight"] @ h + theta["theta.output.bias"], 1e-12)


def test_activations():
    x = torch.tensor([-2.0, 3.0], dtype=torch.float64)
    wanted = {
        "relu": [0, 3], "elu": [np.exp(-2) - 1, 3], "sigmoid": [1 / (1 + np.exp(2)), 1 / (1 + np.exp(-3))],
        "leaky": [-0.02, 3], "linear": [-2, 3],
    }  # fmt: skip
    assert {name: f(x).tolist() for name, f in ACTIVATIONS.items()} == {n: pytest.approx(v) for n, v in wanted.items()}


def test_n5_what_is_cut_off_gets_no_gradient():
    theta = {n: t.requires_grad_() for n, t in random_theta(SMALL).items()}
    SMALL.generate(theta, randn(8)).square().sum().backward()
    factors = SMALL.factors(theta, randn(1, 8))
    (spare,) = torch.autograd.grad((factors.hidden[0, -1] @ factors.layer.T)[38:].sum(), theta["theta.output.bias"])
    assert spare.tolist() == [0.0] * 38 + [1.0] * 12  # the last chunk's rows from 38 on exist ...
    one = Generator(38, 8, (10, 10), 50, 4, "elu")  # ... and where there is no other chunk they are never moved
    theta = {n: t.requires_grad_() for n, t in random_theta(one).items()}
    one.generate(theta, randn(8)).square().sum().backward()
    assert theta["theta.output.weight"].grad[38:].count_nonzero() == 0
    assert theta["theta.output.bias"].grad[:38].count_nonzero() == 38


# setup: target size, theta, task embeddings, and the hypernetwork (HNET, appendix C; its figure 2 and appendix D)
PAPERS = {
    "permuted-10, CL1 and CL3": (2_126_100, 2_029_699, 240, Generator(2_126_100, 24, (25, 25), 78_000, 8)),
    "permuted-10, CL2": (2_036_010, 2_029_691, 240, Generator(2_036_010, 24, (25, 25), 78_000, 8)),
    "permuted-10, decoder TIR": (2_227_024, 2_211_691, 216, Generator(2_227_024, 24, (25, 25), 85_000, 8)),
    "permuted-10, decoder R": (651_424, 2_211_539, 216, Generator(651_424, 24, (25, 25), 85_000, 8)),
    "permuted-100": (3_027_000, 2_803_648, 12_800, Generator(3_027_000, 128, (200, 250, 350), 7_500, 12)),
    "permuted-250": (4_528_500, 4_382_836, 32_000, Generator(4_528_500, 128, (200, 250, 350), 12_000, 12)),
    "permuted-10, small": (122_700, 121_819, 640, Generator(122_700, 64, (100, 75, 50), 2_000, 12)),
    "permuted-50, small": (163_100, 220_784, 3_200, Generator(163_100, 64, (100, 100), 2_000, 12)),
    "split MNIST": (478_410, 465_192, 480, Generator(478_410, 96, (10, 10), 42_000, 96)),
    "split MNIST, decoder": (555_184, 553_192, 384, Generator(555_184, 96, (10, 10), 50_000, 96)),
    "ResNet-32": (468_540, 457_144, 192, Generator(468_540, 32, (), 7_000, 32)),
    "ZenkeNet": (1_276_508, 1_182_390, 288, Generator(1_276_508, 48, (100, 150, 200), 5_500, 80)),
    "toy": (141, 1_691, 6, Generator(141, 2, (10, 10))),
}


@pytest.mark.parametrize("setup", PAPERS)
def test_n9_sizes_are_the_papers(setup):
    target, theta, embeddings, generator = PAPERS[setup]
    assert generator.outputs == target
    assert generator.size == theta
    tasks = embeddings // generator.embedding
    assert tasks * generator.embedding == embeddings


@pytest.mark.parametrize(
    ("widths", "inputs", "outputs", "wanted"),
    [("1000-1000", (1, 32, 32), 100, 2_126_100), ("400-400", (1, 28, 28), 10, 478_410), ("100-100", (1, 32, 32), 100, 122_700)],
)
def test_n9_target_networks_are_the_papers(widths, inputs, outputs, wanted):
    network = networks.build(f"mlp:{widths}", inputs, 0)
    shapes = {n: tuple(p.shape) for n, p in network.named_parameters() if not n.startswith("head.")}
    head = {"head.weight": (outputs, network.features), "head.bias": (outputs,)}
    assert Target({**shapes, **head}).size == wanted


def test_draws_are_the_authors_distributions():
    generator = Generator(300_000, 24, (25, 25), 10_000, 96)
    torch.manual_seed(0)
    theta = generator.draw(torch.zeros(0, dtype=torch.float64))
    assert {n: tuple(t.shape) for n, t in theta.items()} == generator.shapes
    assert all(t.count_nonzero() == 0 for n, t in theta.items() if n.endswith("bias"))
    bound = np.sqrt(6 / (10_000 + 25))
    weight = theta["theta.output.weight"]
    assert bound * 0.999 < weight.abs().max() <= bound
    assert float(weight.std()) == pytest.approx(bound / np.sqrt(3), rel=0.01)
    assert float(theta["theta.chunks"].std()) == pytest.approx(1, abs=0.05)
    embedding = generator.draw_embedding(weight)
    assert embedding.shape == (24,)
    assert embedding.dtype == torch.float64


def test_layers_from_text():
    assert widths("25-25") == (25, 25)
    assert widths("none") == ()
    for wrong in ("25,25", "", "0", "-", "2.5"):
        with pytest.raises(BadValue):
            widths(wrong)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("outputs", [17_610, 89_610, 478_410])
def test_a_fitted_chunk_is_the_largest_that_fits(ratio, outputs):
    shape = Generator(outputs, 24, (25, 25), 1, 8)

    def stored(chunk):
        return Generator(outputs, 24, (25, 25), chunk, 8).size + 10 * 24

    found = fitted(shape, ratio, 10)
    least = min(map(stored, range(1, 2000)))
    if least > ratio * outputs:
        assert stored(found.chunk) < least * 1.02
    else:
        assert stored(found.chunk) <= ratio * outputs < stored(found.chunk + 30) + 8 * 40


# -- the regulariser ---------------------------------------------------------------------------------------------------


def heads_of(tasks):
    """Own outputs 2t and 2t+1 in the golden trace's head of six."""
    return [(int(first), int(last) + 1) for first, last in tasks]


def penalty(form, theta, embeddings, star, held):
    now, then = SMALL.factors(theta, embeddings), SMALL.factors(star, embeddings)
    return getattr(regulariser, form.replace("-", "_"))(now, then, held)


CASES = {"a": None, "b": None, "c_nolook": "c_task_ids", "c_look": "c_task_ids", "c1_look": "c1_task_ids", "d_heads_look": None}


@pytest.mark.parametrize("form", regulariser.FORMS)
@pytest.mark.parametrize("case", CASES)
def test_regulariser_and_gradients_are_the_authors(form, case):
    g = trace("regulariser")
    chosen = g[CASES[case]] if CASES[case] else torch.arange(3)
    held = ALL
    if case == "d_heads_look":
        start = TARGET.start("head.weight")
        rows = own_outputs((start, TARGET.start("head.bias")), (12, 1), heads_of(g["d_out_heads"]))
        held = Held(438, start, rows).of(chosen)
    theta = {n: t.requires_grad_() for n, t in theta_of(g, "cur_").items()}
    ahead = theta_of(g, "dTheta_") if case == "b" or case.endswith("_look") else {}
    embeddings = torch.stack([g[f"temb_{t}"] for t in chosen.tolist()])
    found = penalty(form, {n: t + ahead.get(n, 0) for n, t in theta.items()}, embeddings, theta_of(g, "star_"), held)
    assert near(found, g[f"{case}_reg"])
    (0.01 * found).backward()
    for theirs, ours in NAMES.items():
        assert near(theta[ours].grad, g[f"{case}_grad_{theirs}"]), ours


def test_the_rows_of_unequal_heads_are_filled_up():
    assert own_outputs((100, 130), (3, 1), [(0, 1), (1, 3)]).tolist() == [
        [100, 101, 102, 130, -1, -1, -1, -1],
        [103, 104, 105, 106, 107, 108, 131, 132],
    ]


def plain(theta, embeddings, star, kept):
    """The mean over tasks of the squared change of the weights ``kept`` of each."""
    changes = [SMALL.generate(theta, e) - SMALL.generate(star, e) for e in embeddings]
    return sum((change[torch.tensor(rows)] ** 2).sum() for change, rows in zip(changes, kept, strict=True)) / len(changes)


@pytest.mark.parametrize("tasks", [1, 2, 7])
@pytest.mark.parametrize("prefix", [438, 400, 348, 30])
@pytest.mark.parametrize("own", [False, True])
def test_n4_both_forms_are_the_plain_sum(tasks, prefix, own):
    star, embeddings = random_theta(SMALL), randn(tasks, 8)
    theta = {n: t + 0.1 * randn(*t.shape, seed=len(n)) for n, t in star.items()}
    rows = [list(range(prefix)) + ([430 - t, 437, 432 - t] if own and prefix < 430 else []) for t in range(tasks)]
    extra = [row[prefix:] + [-1] * 2 for row in rows]
    held = Held(438, prefix, torch.tensor(extra) if own and prefix < 430 else None)
    wanted = plain(theta, embeddings, star, rows)
    for form in regulariser.FORMS:
        assert float(penalty(form, theta, embeddings, star, held)) == pytest.approx(float(wanted), rel=1e-12)
    layer = SMALL.factors(star, embeddings).layer
    now, then = SMALL.factors(theta, embeddings), SMALL.factors(star, embeddings)
    assert float(regulariser.delta_gram(now, then, held, layer.T @ layer)) == pytest.approx(float(wanted), rel=1e-12)


def test_n4_the_delta_form_is_exact_enough_in_float32():
    star, embeddings = random_theta(SMALL), randn(7, 8)
    theta = {n: t + 1e-4 * randn(*t.shape, seed=len(n)) for n, t in star.items()}
    wanted = float(plain(theta, embeddings, star, [range(438)] * 7))
    single = [{n: t.float() for n, t in tensors.items()} for tensors in (theta, star)]
    found = penalty("delta-gram", single[0], embeddings.float(), single[1], ALL)
    assert float(found) == pytest.approx(wanted, rel=2e-3)


def held_gradient(monkeypatch, at_a_time, form, continued):
    """The regulariser's gradient as it is added to a task's, which is zero here; seven old tasks."""
    monkeypatch.setattr(hypernetwork, "AT_A_TIME", at_a_time)
    star, positions = random_theta(SMALL), torch.stack([torch.tensor([430 - t, 437, 432 - t]) for t in range(7)])
    memory = star | {f"embedding.{task}": e for task, e in enumerate(randn(7, 8))}
    kept = Hypernetwork(SMALL, Held(438, 400, positions), form=form, lookahead=False, continued=continued)
    moved = {n: t + 0.1 * randn(*t.shape, seed=len(n)) for n, t in kept.begin(memory).items()}
    memory |= (prepared := kept.prepare(memory))
    none = {name: torch.zeros_like(tensor) for name, tensor in moved.items()}
    return kept.hold(none, moved, memory, torch.tensor(1.0, dtype=torch.float64), dict), prepared


@pytest.mark.parametrize("continued", [False, True])
@pytest.mark.parametrize("form", regulariser.FORMS)
def test_many_old_tasks_are_held_a_part_at_a_time(monkeypatch, form, continued):
    """Nothing that is kept of them or held at once grows with their number; the gradient is the same."""
    whole, kept = held_gradient(monkeypatch, 2**22, form, continued)
    few = 3 * SMALL.chunks * (SMALL.width + 1)
    parts, less = held_gradient(monkeypatch, few, form, continued)
    assert all(near(parts[name], whole[name]) for name in whole)
    assert any(float(value.abs().max()) > 0.01 for value in parts.values())
    assert any(name.startswith("embedding.") for name in whole) == continued
    assert set(kept) - set(less) == {f"{DERIVED}hidden"}


@pytest.mark.parametrize("form", regulariser.FORMS)
def test_n2_without_a_step_there_is_nothing_to_hold(form):
    star, embeddings = random_theta(SMALL), randn(3, 8)
    theta = {n: t.clone().requires_grad_() for n, t in star.items()}
    value = penalty(form, theta, embeddings, star, ALL)
    value.backward()
    assert float(value.detach()) == 0
    assert all(t.grad is None or t.grad.count_nonzero() == 0 for t in theta.values())


@pytest.mark.parametrize("form", regulariser.FORMS)
def test_parts_run_under_vmap(form):
    star, embeddings = [random_theta(SMALL, seed) for seed in (0, 1)], randn(2, 3, 8)
    theta = [{n: t + 0.1 * randn(*t.shape, seed=len(n)) for n, t in one.items()} for one in star]
    held = Held(438, 360, torch.arange(9).reshape(3, 3) + 400)
    packs = [{n: torch.stack([one[n], two[n]]) for n in one} for one, two in (theta, star)]
    together = vmap(lambda p, e, s: penalty(form, p, e, s, held))(packs[0], embeddings, packs[1])
    alone = [penalty(form, t, e, s, held) for t, e, s in zip(theta, embeddings, star, strict=True)]
    assert near(together, torch.stack(alone), 1e-9 * float(together.max()))


# -- the lookahead -----------------------------------------------------------------------------------------------------


def authors_adam_ahead(first, second, steps, lr=1e-3, eps=1e-8):
    """HNET's code: eps is added to the uncorrected root; moments are those after the step."""
    return {n: -lr * np.sqrt(1 - 0.999**steps) / (1 - 0.9**steps) * first[n] / (second[n].sqrt() + eps) for n in first}


def moments(state, slot):
    return {n.removeprefix(f"{slot}."): t for n, t in state.items() if n.startswith(f"{slot}.")}


def test_n3_the_lookahead_is_the_optimisers_own_step():
    """Ours is the step that torch takes; HNET's code differs from it where gradients are tiny, by its place of eps."""
    g, adam = trace("delta"), OPTIMIZERS["adam"]
    state = adam.init({str(i): g[f"params_before_{i}"][0] for i in range(3)})
    for k in range(6):
        before = {n: t.clone() for n, t in state.items()}
        moves, after = adam.direction({str(i): g[f"grads_{i}"][k] for i in range(3)}, state, 0.9)
        assert all(torch.equal(t, before[n]) for n, t in state.items())
        theirs = authors_adam_ahead(moments(after, "first"), moments(after, "second"), k + 1)
        for i in range(3):
            assert near(-1e-3 * moves[str(i)], g[f"actual_change_from_zero_{i}"][k], 1e-15)
            assert near(theirs[str(i)], g[f"dTheta_authors_{i}"][k], 1e-15)
            large = g[f"grads_{i}"][: k + 1].abs().amin(0) > 1e-3
            assert near(-1e-3 * moves[str(i)][large], theirs[str(i)][large], 1e-6)
        state = after


# -- a whole training --------------------------------------------------------------------------------------------------


def step_gradient(theta, embedding, batch, task, star, old, beta, ahead):
    """Losses and gradients of one step of the hand loop; ``ahead`` makes the lookahead of the task's gradients."""
    leaves = {n: t.clone().requires_grad_() for n, t in theta.items()} | {"embedding": embedding.clone().requires_grad_()}
    network = networks.build("mlp:12-12", (1, 4, 4), 0).double()
    tensors = TARGET.split(SMALL.generate(leaves, leaves["embedding"]))
    logits = functional_call(network, tensors, (batch[0],))[:, 3 * task : 3 * task + 3]
    loss = F.cross_entropy(logits, batch[1])
    grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    if old is None:
        return loss, torch.zeros(()), grads
    step = ahead(grads)
    moved = {n: (t + step[n]).detach().requires_grad_() for n, t in theta.items()}
    value = penalty("delta-gram", moved, old, star, ALL)
    extra = dict(zip(moved, torch.autograd.grad(beta * value, list(moved.values())), strict=True))
    return loss, value, {n: grad + extra.get(n, 0) for n, grad in grads.items()}


def replay(g, tag, lookahead):
    """Two tasks, 20 steps each, with our parts; the largest distance from the trace: of losses, and of what is learned."""
    adam, settings = OPTIMIZERS["adam"], json.loads((GOLDEN / "hnet_train.json").read_text())["settings"]
    theta, embeddings = theta_of(g, "init_"), [g["init_temb_0"], g["init_temb_1"]]
    gaps = []
    for task in range(2):
        star, old = theta, (embeddings[0][None] if task else None)
        state = adam.init(theta | {"embedding": embeddings[task]})
        for k in range(20):
            rows = g["batch_indices"][task, k]
            batch = g[f"x_task{task}"][rows].reshape(-1, 1, 4, 4), g[f"y_task{task}"][rows]

            def ahead(grads, state=state):
                return lookahead(adam, grads, state)

            found = step_gradient(theta, embeddings[task], batch, task, star, old, settings["beta"], ahead)
            params = theta | {"embedding": embeddings[task]}
            moves, state = adam.direction(found[2], state, 0.9)
            params = {n: p - 1e-3 * moves[n] for n, p in params.items()}
            embeddings[task] = params.pop("embedding")
            theta = params
            gaps += [found[0] - g[f"{tag}_task_loss"][task, k], found[1] - g[f"{tag}_reg"][task, k]]
            gaps += [(theta[ours] - g[f"{tag}_traj_{theirs}"][task, k]).abs().max() for theirs, ours in NAMES.items()]
            gaps += [(e - w).abs().max() for e, w in zip(embeddings, g[f"{tag}_traj_tembs"][task, k], strict=True)]
    return max(float(gap.detach().abs()) for gap in gaps)


def none(adam, grads, state):
    return {n: torch.zeros_like(grad) for n, grad in grads.items()}


def ours(adam, grads, state):
    moves, _ = adam.direction(grads, state, 0.9)
    return {n: -1e-3 * move for n, move in moves.items()}


def theirs(adam, grads, state):
    _, after = adam.direction(grads, state, 0.9)
    return authors_adam_ahead(moments(after, "first"), moments(after, "second"), float(after["steps"]))


def test_training_is_the_authors():
    g = trace("train")
    assert replay(g, "nolook", none) < 1e-9
    assert replay(g, "look", theirs) < 1e-9
    assert replay(g, "look", ours) < 2e-5  # the place of eps, see regulariser.py


# -- the task of an input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tag", "temperature"), [("temp1", 1.0), ("temp2p5", 2.5)])
@pytest.mark.parametrize("heads", ["cl2", "cl3"])
def test_n11_entropies_and_tasks_are_the_authors(tag, temperature, heads):
    g = trace("entropy")
    logits = g["logits"] if heads == "cl2" else torch.stack([g["logits"][0, :, :3], g["logits"][1, :, 3:]])
    found = entropy(logits, temperature)
    assert near(found.T, g[f"{heads}_{tag}_entropies"])
    assert found.argmin(0).tolist() == g[f"{heads}_{tag}_inferred_task"].tolist()
    alone = [entropy(logits[:, i : i + 1], temperature).argmin(0).item() for i in range(5)]
    assert alone == found.argmin(0).tolist()
    assert near(entropy(logits + 7.0, temperature), found)


def test_n11_probabilities_that_underflow_are_no_trouble():
    g = trace("entropy")
    found = entropy(g["stress_logits"]).T
    wanted = g["stress_cl2_entropies"]
    assert torch.isfinite(found).all()
    assert bool(wanted.isnan().any())
    assert near(found[~wanted.isnan()], wanted[~wanted.isnan()])


def decimal_log_entropy(logits, temperature):
    """With 800 digits: ln(-sum p ln p)."""
    with localcontext() as context:
        context.prec = 800
        powers = [(Decimal(value) / Decimal(temperature)).exp() for value in logits]
        shares = [power / sum(powers) for power in powers]
        return float((-sum(p * p.ln() for p in shares)).ln())


@pytest.mark.parametrize(
    "logits", [(0, 0), (1, -1), (30, -9), (39, -1.5), (500, -400), (2, 1, -3), (90, 90, -90), (0, -600, -601), (5,) * 7]
)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_n11_the_logarithm_of_the_entropy_has_no_least_value(logits, temperature):
    wanted = decimal_log_entropy(logits, temperature)
    for dtype, exact in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        found = float(log_entropy(torch.tensor(logits, dtype=dtype), temperature))
        assert found == pytest.approx(wanted, rel=exact, abs=exact)
    assert float(log_entropy(torch.tensor([3.0]))) == -math.inf  # one class is no question


def test_n11_the_logarithm_orders_as_the_authors_entropies():
    g = trace("entropy")
    found = log_entropy(g["logits"])
    assert near(found.exp().T, g["cl2_temp1_entropies"])
    assert near(vmap(log_entropy, in_dims=1, out_dims=1)(g["logits"]), found)


def test_n11_of_networks_whose_entropy_underflows_the_surest_is_taken():
    """In float32 all three entropies are 0, and the least of them would be the first."""
    outputs = [torch.tensor([[gap, 0.0]]) for gap in (200.0, 150.0, 400.0, 300.0)]
    assert [float(entropy(logits)) for logits in outputs] == [0.0] * 4
    one = learner("hnet", scenario="class-il")
    assert one.method.infer_task({}, {"temperature": torch.tensor(1.0)}, torch.zeros(1), (), outputs).tolist() == [2]
