"""What every method keeps for a deployment is what its export's file holds, and from the file it answers as it did."""

import json
from functools import cache

import pytest
import torch
from helpers import SCENARIOS, finish, learner, spread
from safetensors.torch import load_file

from clcore.errors import BadValue, UserError
from clcore.export import read_all, read_task, write_all, write_task
from clcore.methods import METHODS
from clcore.methods.base import Method
from clcore.predictor import Predictor, Recipe

NAMES = METHODS.names()
#: Each method in one scenario, neighbours in different ones; HopSupSup where its file says less than its memory, no task.
WHERE = {name: SCENARIOS[place % 3] for place, name in enumerate(NAMES)} | {"hopsupsup": "domain-il", "supsup": "class-il"}
#: Methods that keep more than weights and heads.
BESIDE = {"batche", "den", "hat", "hnet", "hopsupsup", "mbpa", "packnet", "pathnet", "psp", "rmn", "supsup", "tfm"}
TASKS, NET = 2, "mlp:12-12"


@cache
def trained(name, scenario, **values):
    """A finished trial as a predictor, its benchmark, and the bytes its last report says."""
    hyper = spread(METHODS.get(name).Hyper, 1, values)[0]
    own = learner(name, [hyper], scenario=scenario, net=NET, lr=0.3, epochs=1, tasks=TASKS)
    usual = {key: value for key, value in METHODS.get(name).defaults.items() if key in ("bias", "norm", "init")}
    said = finish(own)[-1].members[0]
    recipe = Recipe.of(name, vars(hyper), {"spec": NET, "dropout": 0.0, **usual}, own.benchmark, 0)
    return Predictor(recipe, own.memory_of(0)), own.benchmark, said


def inputs_of(benchmark, task):
    split = benchmark.test(task)
    return split.batch(torch.arange(len(split)))[0]


@pytest.mark.parametrize("name", NAMES)
def test_the_file_of_all_tasks_is_what_is_stored_and_a_header(name, tmp_path):
    predictor, benchmark, said = trained(name, WHERE[name])
    path = tmp_path / "all.safetensors"
    written = write_all(predictor, path)
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    assert len(data) - header == said.bytes == predictor.stored_bytes() == written.kept
    assert (written.bytes, written.header) == (len(data), header)
    tensors = {n: t for n, t in json.loads(data[8:header]).items() if n != "__metadata__"}
    assert {t["dtype"] for t in tensors.values()} <= {"F32", "U8", "I64"}
    loaded = read_all(path)
    for task in range(TASKS):
        inputs = inputs_of(benchmark, task)
        for given in [None] if name == "hopsupsup" else [task, None] if predictor.infers else [task]:
            (tasks, labels), (found, said_now) = predictor.predict(inputs, given), loaded.predict(inputs, given)
            assert torch.equal(labels, said_now)
            assert torch.equal(tasks, found) or (name == "hopsupsup" and set(found.tolist()) == {-1})
    if name == "hopsupsup":
        with pytest.raises(BadValue, match="absorbed"):
            loaded.predict(inputs, 0)


@pytest.mark.parametrize("name", NAMES)
def test_one_task_is_a_plain_network_that_says_the_same(name, tmp_path):
    scenario = "task-il" if name == "hopsupsup" else WHERE[name]
    predictor, benchmark, _ = trained(name, scenario)
    own = type(predictor.method)
    if own.predict is not Method.predict or own.decide is not Method.decide:
        with pytest.raises(UserError, match="no plain network"):
            write_task(predictor, 0, tmp_path / "0.safetensors")
        return
    for task in range(TASKS):
        path = tmp_path / f"{task}.safetensors"
        written = write_task(predictor, task, path)
        model, inputs = read_task(path), inputs_of(benchmark, task)
        at = predictor.learned[task]
        weights = predictor.method.effective_weights({}, predictor.memory, predictor.hp, at)
        logits = predictor.method.logits(weights, inputs, at)
        assert torch.allclose(model.logits(inputs), logits, rtol=1e-4, atol=1e-5)
        classes = predictor.classes(*predictor.predict(inputs, task))
        best, second = logits.topk(2, dim=1).values.unbind(1)
        decided = best - second > 1e-5  # equal but for rounding: another processor may choose the other class
        assert decided.float().mean() > 0.5
        assert torch.equal(model.classes(model.predict(inputs))[decided], classes[decided])
        assert written.kept == path.stat().st_size - written.header <= sum(4 * t.numel() for t in weights.values())
        assert written.weights <= written.full


@pytest.mark.parametrize("name", NAMES)
def test_overhead_is_what_the_file_holds_beside_weights_and_heads(name, tmp_path):
    predictor, _, said = trained(name, WHERE[name])
    path = tmp_path / "all.safetensors"
    write_all(predictor, path)
    tensors = load_file(path)
    network = sum(t.nbytes for n, t in tensors.items() if n.startswith(("layers.", "head.", "heads.")))
    assert said.overhead_bytes == said.bytes - network
    assert (said.overhead_bytes > 0) == (name in BESIDE)


@pytest.mark.parametrize("name", NAMES)
def test_learning_takes_no_less_than_answering(name):
    predictor, _, _ = trained(name, WHERE[name])
    assert predictor.learning_bytes() >= predictor.stored_bytes() - 8  # the seed
