"""Exports: what one task's network is left with, files that are damaged, and values and networks of every kind."""

import json
import struct
from math import prod

import pytest
import torch
from helpers import benchmark, light, network
from torch import nn

from clcore import hyper as knobs
from clcore.benchmarks import BenchmarkOptions, build
from clcore.checkpoint import DamagedCheckpoint
from clcore.errors import BadValue, UserError
from clcore.export import read_all, read_task, task_accuracy, write_all, write_task
from clcore.export.encoding import decoded, encoded
from clcore.masks import compressed_size
from clcore.methods import METHODS, At, Layout
from clcore.predictor import Predictor, Recipe, first_memory
from clcore.report import monitoring

SHAPE = (1, 8, 8)
CLASSES = ((0, 1), (2, 3), (4, 5))
#: Residual streams with and without projections, flattened convolutions (of ``helpers``), and a perceptron.
NETS = ("residual", "option-a", "conv", "mlp:12-12")


@pytest.fixture(scope="module", params=NETS)
def spec(request, tmp_path_factory):
    """What a network is built from: a name, or a file of one's own."""
    if request.param.startswith("mlp"):
        return request.param
    path = tmp_path_factory.mktemp("net") / f"{request.param.replace('-', '_')}.py"
    path.write_text(
        f"from helpers import TINY\n\n\ndef NETWORK(_, shape, options):\n    return TINY[{request.param!r}](shape, options)\n"
    )
    return str(path)


def drawn(name, values=(), spec="mlp:12-12", scenario="task-il", tasks=3, **settings):
    """A trial that went through its tasks without a step: what tasks differ in is what they drew, statistics too."""
    method = METHODS.get(name)
    own = knobs.build(method.Hyper, {**light(method.Hyper), **dict(values)})
    usual = {key: value for key, value in method.defaults.items() if key in ("bias", "norm", "init")}
    layout = Layout(scenario, tuple(len(c) for c in CLASSES[:tasks]), shape=SHAPE)
    recipe = Recipe(name, vars(own), {"spec": spec, **usual, **settings}, SHAPE, layout, CLASSES[:tasks], 0)
    made, hp = recipe.build(), {n: t[0] for n, t in recipe.hp(torch.float32, torch.device("cpu")).items()}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        memory = first_memory(made, 0)
        for task in range(tasks):
            at = At(task, "train", task + 1)
            stacked = [{n: t[None] for n, t in tensors.items()} for tensors in (memory, hp)]
            at = At(task, "train", task + 1, sizes=made.sizes(*stacked, at))
            memory |= made.prepare(memory, hp, at)
            params = made.begin_task(memory, hp, at)
            params |= {n: torch.rand_like(t) + 0.5 for n, t in params.items() if n.endswith((".mean", ".var"))}
            memory = made.end_task(params, memory, hp, at, [])
            memory = {n: t for n, t in memory.items() if not n.startswith("derived.")}
    return Predictor(recipe, memory)


def said_by(predictor, task, inputs):
    at = predictor.learned[task]
    weights = predictor.method.effective_weights({}, predictor.memory, predictor.hp, at)
    return predictor.method.logits(weights, inputs, at)


def images(count=20, shape=SHAPE):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))


# -- HAT, section 4.4 ----------------------------------------------------------------------------------------------------

DECIDED = [{"binarize": True}, {"s_eval_factor": 1e4}, {"schedule": "tan"}]


@pytest.mark.parametrize("values", DECIDED, ids=str)
def test_one_task_of_hat_has_as_many_weights_as_the_report_says(values, spec, tmp_path):
    predictor = drawn("hat", values, spec, norm="batch")
    reported = monitoring(predictor.method, predictor.memory, 3)["compressed"]
    for cut in ("negligible", "masked"):
        written = write_task(predictor, 2, tmp_path / "2.safetensors", cut)
        module = read_task(tmp_path / "2.safetensors", run_files=True).network
        weights = {wire.weight: module.get_parameter(wire.weight) for wire in predictor.method.network.wires}
        head = weights.pop("head.weight").numel()
        left = sum(t.numel() for t in weights.values())
        full = sum(prod(dict(predictor.method.network.named_parameters())[name].shape) for name in weights)
        assert 0.05 < left / full < 0.6
        assert left / full == pytest.approx(reported["hidden"], abs=1e-12)
        assert (left + head) / (full + 2 * predictor.method.network.features) == pytest.approx(reported["with_head"], abs=1e-12)
        assert (written.weights, written.full, written.weights_with_head) == (left, full, left + head)
        assert written.gate == 0
        inputs = images()
        assert torch.allclose(
            read_task(tmp_path / "2.safetensors", run_files=True).logits(inputs), said_by(predictor, 2, inputs), atol=1e-5
        )
        gates = [n for n, _ in module.named_buffers() if n.endswith("gain")]
        assert not gates  # all that are left are 1


def test_undecided_gates_stay_unless_the_mask_is_asked_for(tmp_path):
    """At smax 5 a gate of e = -.1 is .38: without it answers are others."""
    predictor, inputs = drawn("hat", {"smax": 5.0}), images()
    whole, masked = tmp_path / "whole.safetensors", tmp_path / "masked.safetensors"
    kept, cut = write_task(predictor, 1, whole), write_task(predictor, 1, masked, "masked")
    assert torch.allclose(read_task(whole).logits(inputs), said_by(predictor, 1, inputs), atol=1e-6)
    assert not torch.allclose(read_task(masked).logits(inputs), said_by(predictor, 1, inputs), atol=1e-2)
    assert kept.weights > cut.weights
    assert kept.gate == 0
    embedding = predictor.memory["embedding.1"]
    assert cut.gate == pytest.approx(float(torch.sigmoid(5 * embedding[embedding <= 0]).max()))
    masks = {units: mask.values for units, mask in predictor.method.masks(predictor.memory, 1).items()}
    shapes = {n: p.shape for n, p in predictor.method.network.named_parameters()}
    assert cut.share == pytest.approx(
        compressed_size(predictor.method.network.wires, masks, {**shapes, "head.weight": (2, 12)}).hidden
    )


# -- networks and methods ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hat", "tfm", "packnet", "rmn", "supsup", "separate-heads"])
def test_networks_of_every_kind_say_the_same_from_both_files(name, spec, tmp_path):
    predictor = drawn(name, {"p1": 0.5, "growth": 0.2} if name == "tfm" else {}, spec)
    all_tasks, inputs = tmp_path / "all.safetensors", images()
    assert write_all(predictor, all_tasks).kept == predictor.stored_bytes()
    loaded = read_all(all_tasks, run_files=True)
    for task in range(3):
        before = said_by(predictor, task, inputs)
        assert torch.allclose(said_by(loaded, task, inputs), before, atol=1e-5, rtol=1e-4)
        write_task(predictor, task, tmp_path / "one.safetensors")
        assert torch.allclose(read_task(tmp_path / "one.safetensors", run_files=True).logits(inputs), before, atol=1e-5, rtol=1e-4)


def test_masks_of_constants_take_a_bit_a_weight_and_a_sign(tmp_path):
    predictor = drawn("supsup", {"outputs": 40}, "mlp:40-40", norm="none")
    written = write_task(predictor, 0, tmp_path / "0.safetensors")
    tensors = predictor.method.effective_weights({}, predictor.memory, predictor.hp, predictor.learned[0])
    ones = {name: int((t != 0).sum()) for name, t in tensors.items()}
    sizes = {n: -(-t.numel() // 8) + -(-ones[n] // 8) + 4 for n, t in tensors.items()}
    assert written.weights == written.full  # each unit is read
    assert written.kept == sum(sizes.values())


@pytest.mark.parametrize(("name", "values"), [("separate-heads", {"features": "random"}), ("batche", {"weights": "random"})])
def test_weights_that_come_from_the_seed_are_not_written(name, values, tmp_path):
    predictor = seeded(name, values)
    path, inputs = tmp_path / "all.safetensors", images()
    written = write_all(predictor, path)
    assert written.kept < 4 * 64 * 12  # the first layer's weights alone are more
    assert torch.equal(said_by(read_all(path), 1, inputs), said_by(predictor, 1, inputs))
    predictor.memory["layers.0.weight"] += 1  # a view of the trial's memory
    with pytest.raises(UserError, match="do not come from its seed"):
        write_all(predictor, path)


def seeded(name, values):
    """A trial whose first memory is that of the learner."""
    from helpers import learner

    made = learner(name, [values], net="mlp:12-12", epochs=1, tasks=2)
    for said in made.run():
        if getattr(said, "seen", 0) == 2:
            break
    usual = {key: value for key, value in METHODS.get(name).defaults.items() if key in ("bias", "norm", "init")}
    own = knobs.build(METHODS.get(name).Hyper, values)
    return Predictor(Recipe.of(name, vars(own), {"spec": "mlp:12-12", **usual}, made.benchmark, 0), made.memory_of(0))


@pytest.mark.parametrize(
    ("values", "fn"), [({}, 1), ({"fn": False}, 1), ({"growth_unit": "weights"}, 1), ({"fn_position": "post"}, 1)]
)
def test_tfm_finds_its_widths_again(values, fn, tmp_path):
    predictor, inputs = drawn("tfm", {"p1": 0.3, "growth": 0.13, **values}, "mlp:30-7"), images()
    write_all(predictor, tmp_path / "all.safetensors")
    loaded = read_all(tmp_path / "all.safetensors")
    for task in range(3):
        assert loaded.learned[task].sizes == predictor.learned[task].sizes
        assert torch.equal(said_by(loaded, task, inputs), said_by(predictor, task, inputs))


def test_a_unit_that_is_nothing_but_a_shift_stays(tmp_path):
    predictor, inputs = drawn("tfm", {"fn_position": "post"}), images()
    predictor.memory["fn.1.units2.gamma"][0], predictor.memory["fn.1.units2.beta"][0] = 0.0, 5.0
    write_task(predictor, 1, tmp_path / "1.safetensors")
    assert torch.allclose(read_task(tmp_path / "1.safetensors").logits(inputs), said_by(predictor, 1, inputs), atol=1e-5)


def test_units_that_nothing_reads_are_cut_as_far_back_as_they_go(tmp_path):
    predictor, inputs = drawn("finetune"), images()
    predictor.memory["heads.0.weight"][:, 3:] = 0
    predictor.memory["layers.1.weight"][:3, 5:] = 0
    before = said_by(predictor, 0, inputs)
    written = write_task(predictor, 0, tmp_path / "0.safetensors")
    assert written.weights == 64 * 5 + 5 * 3
    model = read_task(tmp_path / "0.safetensors")
    assert [tuple(p.shape) for p in model.network.parameters()] == [(5, 64), (5,), (3, 5), (3,), (2, 3), (2,)]
    assert isinstance(model.network, nn.Module)
    assert torch.allclose(model.logits(inputs), before, atol=1e-6)


def test_one_head_for_all_classes(tmp_path):
    predictor, inputs = drawn("finetune", scenario="class-il"), images(200)
    write_task(predictor, 1, tmp_path / "1.safetensors")
    model = read_task(tmp_path / "1.safetensors")
    assert model.outputs == (0, 1, 2, 3, 4, 5)
    assert torch.equal(model.classes(model.predict(inputs)), predictor.classes(*predictor.predict(inputs)))


def test_accuracy_of_one_task_is_that_of_the_trial(tmp_path):
    for scenario in ("task-il", "class-il"):
        bench = benchmark(scenario=scenario)
        predictor = drawn("finetune", scenario=scenario)
        if scenario == "class-il":
            predictor.memory["head.bias"][2] += 9  # the first class of the second task
        write_task(predictor, 1, tmp_path / "1.safetensors")
        assert predictor.accuracy(bench.test(1), 1) > 0.3
        assert task_accuracy(read_task(tmp_path / "1.safetensors"), bench.test(1)) == predictor.accuracy(bench.test(1), 1)


def test_a_network_of_values(tmp_path):
    bench = build("toy-regression", BenchmarkOptions(), 0)
    net = {"spec": "mlp:10-10-sigmoid"}
    own = METHODS.get("finetune").Hyper()
    recipe = Recipe.of("finetune", vars(own), net, bench, 0)
    made = recipe.build()
    memory = {**made.start(network("mlp:10-10-sigmoid", bench.input_shape).body_weights())}
    for task in range(len(bench.tasks)):
        memory |= {f"heads.{task}.weight": torch.full((1, 10), 0.1), f"heads.{task}.bias": torch.zeros(1)}
    predictor, inputs = Predictor(recipe, memory), images(shape=bench.input_shape)
    write_task(predictor, 0, tmp_path / "0.safetensors")
    model = read_task(tmp_path / "0.safetensors")
    assert torch.equal(model.predict(inputs), predictor.predict(inputs, 0)[1])
    assert task_accuracy(model, bench.test(0)) == predictor.accuracy(bench.test(0), 0)


def test_what_learning_takes_is_all_of_memory():
    """HAT: the whole body, heads, an embedding a unit and task, the cumulative attention. Bits stay bits (RMN), bytes bytes."""
    body, heads = 64 * 12 + 12 + 12 * 12 + 12, 3 * (12 * 2 + 2)
    predictor = drawn("hat", {"binarize": True})
    assert predictor.learning_bytes() == 4 * (body + heads + 3 * 24 + 24)
    doubled = {name: tensor.double() for name, tensor in predictor.memory.items()}
    assert predictor.method.learning_bytes(doubled) == predictor.learning_bytes()
    weights = 64 * 12 + 12 * 12 + 12 * 2
    assert drawn("rmn", spec="mlp:12-12", norm="none").learning_bytes() == 4 * weights + 4 * weights // 8  # three tasks, the union


# -- forms and files -----------------------------------------------------------------------------------------------------


def test_forms_by_hand_and_back():
    dense, few = torch.arange(1.0, 25.0).reshape(4, 6), torch.zeros(4, 6)
    few[1, 2], few[3, 5] = 2.5, -7.0
    signs = torch.where(torch.arange(24).reshape(4, 6) % 2 > 0, 0.5, -0.5) * (torch.arange(24).reshape(4, 6) > 7)
    tensors = {"dense": dense, "few": few, "signs": signs, "none": torch.zeros(9), "whole": torch.ones(3, dtype=torch.int32)}
    written, forms = encoded(tensors)
    assert {name: said["form"] for name, said in forms.items()} == {"few": "sparse", "signs": "signed", "none": "sparse"}
    sizes = {name: t.numel() * t.element_size() for name, t in written.items()}
    assert sizes["few:bits"] + sizes["few:values"] == 3 + 2 * 4
    assert sizes["signs:bits"] + sizes["signs:signs"] + sizes["signs:size"] == 3 + 2 + 4
    assert sizes["none:bits"] + sizes["none:values"] == 2
    back = decoded(written, forms)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


def changed(data, **facts):
    """A file with another header."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    said = {**json.loads(header["__metadata__"]["clsweep"]), **facts}
    header["__metadata__"]["clsweep"] = json.dumps(said)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def test_damaged_files_and_files_of_something_else_are_refused(tmp_path):
    predictor = drawn("hat", {"binarize": True})
    all_tasks, one = tmp_path / "all.safetensors", tmp_path / "one.safetensors"
    write_all(predictor, all_tasks)
    write_task(predictor, 0, one)
    for path, read in ((all_tasks, read_all), (one, read_task)):
        data = path.read_bytes()
        read(path)
        wrong = [b"", data[:6], data[: len(data) // 2], data[:-1] + bytes([data[-1] ^ 1]), b"\xff" * 40, bytes(100)]
        wrong += [changed(data, format=2), changed(data, kind="none"), changed(data, digest="0")]
        wrong += [changed(data, recipe={}) if read is read_all else changed(data, shape=None)]
        for content in wrong:
            path.write_bytes(content)
            with pytest.raises(DamagedCheckpoint):
                read(path)
        path.write_bytes(data)
    with pytest.raises(DamagedCheckpoint, match="not of one task"):
        read_task(all_tasks)
    with pytest.raises(DamagedCheckpoint, match="cannot be read"):
        read_all(tmp_path / "none.safetensors")


def test_what_cannot_be_written_is_said(tmp_path):
    predictor = drawn("finetune")
    for task in (-1, 3):
        with pytest.raises(BadValue, match="0 to 2"):
            write_task(predictor, task, tmp_path / "x.safetensors")
    with pytest.raises(BadValue, match="negligible, masked"):
        write_task(predictor, 0, tmp_path / "x.safetensors", "all")
    with pytest.raises(BadValue, match="ends in"):
        write_all(predictor, tmp_path / "x.bin")
    write_task(predictor, 0, tmp_path / "x.safetensors")
    with pytest.raises(BadValue, match="8, 8"):
        read_task(tmp_path / "x.safetensors").logits(torch.zeros(1, 1, 4, 4))
