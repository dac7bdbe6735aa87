"""A finished trial that answers: what the learner counted as right is right, from files and with nothing else."""

import json
import subprocess
import sys

import pytest
import torch
from helpers import SCENARIOS, finish, learner, same, spread

from clcore.checkpoint import FACTS, DamagedCheckpoint
from clcore.errors import BadValue, UserError
from clcore.methods import METHODS
from clcore.predictor import Predictor, Recipe


def made(name, scenario):
    """A finished learner of one member, its reports, and what predicts in its place."""
    hyper = spread(METHODS.get(name).Hyper, 1)[0]
    own = learner(name, [hyper], scenario=scenario, net="mlp:16-16", lr=0.3, epochs=2)
    reports = finish(own)
    usual = {key: value for key, value in METHODS.get(name).defaults.items() if key in ("bias", "norm", "init")}
    network = {"spec": "mlp:16-16", "dropout": 0.0, **usual}
    recipe = Recipe.of(name, vars(hyper), network, own.benchmark, 0)
    return own, reports[-1].members[0], Predictor(recipe, own.memory_of(0))


def inputs_of(own, task):
    split = own.benchmark.test(task)
    return split.batch(torch.arange(len(split)))


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", ["finetune", "hat", "tfm", "rmn", "supsup", "hnet", "packnet", "joint", "psp"])
def test_it_answers_as_the_learner_did(name, scenario, tmp_path):
    own, said, predictor = made(name, scenario)
    predictor.save(tmp_path)
    loaded = Predictor.load(tmp_path)
    for task in range(3):
        inputs, labels = inputs_of(own, task)
        given = None if scenario != "task-il" and own.method.task_specific else task
        tasks, found = loaded.predict(inputs, given)
        right = found == labels
        if scenario == "class-il":
            right &= tasks == task
            wanted = torch.tensor(own.benchmark.tasks[task].classes)[labels]
            assert torch.equal(loaded.classes(tasks, found) == wanted, right)
        assert right.double().mean().item() == pytest.approx(said.test[task], abs=1e-9)
        if given is not None and scenario != "class-il":
            assert set(tasks.tolist()) == {task}


def test_a_shared_head_in_domain_il_needs_no_task_and_says_none():
    own, said, predictor = made("finetune", "domain-il")
    inputs, labels = inputs_of(own, 1)
    tasks, found = predictor.predict(inputs)
    assert set(tasks.tolist()) == set(predictor.classes(tasks, found).tolist()) == {-1}
    assert (found == labels).double().mean().item() == pytest.approx(said.test[1], abs=1e-9)


def test_a_fresh_process_that_has_the_files_alone_says_the_same(tmp_path):
    own, _, predictor = made("hat", "task-il")
    predictor.save(tmp_path)
    inputs, _ = inputs_of(own, 2)
    code = f"""
import json, sys, torch
from pathlib import Path
from clcore.predictor import Predictor
tasks, labels = Predictor.load(Path({str(tmp_path)!r})).predict(torch.tensor(json.load(sys.stdin)), 2)
print(json.dumps(labels.tolist()), "sklearn" in sys.modules)
"""
    text = json.dumps(inputs.tolist())
    done = subprocess.run([sys.executable, "-c", code], input=text, capture_output=True, text=True, timeout=120)
    assert done.stdout.split("]")[0] + "]" == json.dumps(predictor.predict(inputs, 2)[1].tolist()), done.stderr
    assert done.stdout.strip().endswith("False")


def test_what_cannot_be_answered_is_said():
    own, _, predictor = made("finetune", "task-il")
    inputs, _ = inputs_of(own, 0)
    wrong = [(inputs, 3, "0 to 2"), (inputs, -1, "0 to 2"), (inputs, None, "cannot tell"), (inputs[:, :, :4], 0, "8, 8")]
    for images, task, text in wrong:
        with pytest.raises(BadValue, match=text):
            predictor.predict(images, task)


def test_files_of_something_else_are_refused(tmp_path):
    own, _, predictor = made("finetune", "task-il")
    predictor.save(tmp_path)
    facts = json.loads((tmp_path / FACTS).read_text())
    assert same(Predictor.load(tmp_path)._memory, own.memory)
    for change in ({"layout": 3}, {"classes": None}, {"layout": {**facts["layout"], "more": 1}}):
        (tmp_path / FACTS).write_text(json.dumps({**facts, **change}))
        with pytest.raises(DamagedCheckpoint, match="not a trial's model"):
            Predictor.load(tmp_path)
    (tmp_path / FACTS).unlink()
    with pytest.raises(DamagedCheckpoint):
        Predictor.load(tmp_path)


@pytest.mark.parametrize("where", ["method", "network"])
def test_a_file_that_the_facts_name_is_run_only_where_that_is_allowed(where, tmp_path):
    own, _, predictor = made("finetune", "task-il")
    predictor.save(tmp_path)
    source = {
        "method": "from clcore.methods import METHODS\nMETHOD = METHODS.get('finetune')",
        "network": "from clcore.networks import NETWORKS\nNETWORK = NETWORKS.get('mlp')",
    }[where]
    (tmp_path / "mine.py").write_text(f"from pathlib import Path\nPath(__file__).with_name('was_run').touch()\n{source}\n")
    facts = json.loads((tmp_path / FACTS).read_text())
    if where == "method":
        facts["method"] = str(tmp_path / "mine.py")
    else:
        facts["network"]["spec"] = facts["network"]["spec"].replace("mlp", str(tmp_path / "mine.py"))
    (tmp_path / FACTS).write_text(json.dumps(facts))
    with pytest.raises(UserError, match=r"mine.py.*, which would be run"):
        Predictor.load(tmp_path)
    assert not (tmp_path / "was_run").exists()
    loaded = Predictor.load(tmp_path, run_files=True)
    assert (tmp_path / "was_run").exists()
    inputs, _ = inputs_of(own, 1)
    assert torch.equal(loaded.predict(inputs, 1)[1], predictor.predict(inputs, 1)[1])
