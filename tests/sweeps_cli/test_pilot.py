"""How large packs get: what a step costs, of a task that has one before it, and how much room there is."""

from dataclasses import replace

import pytest

from clcore.methods import METHODS
from clcore.probe import BRIEF, SEEN, Probe, probe, remembering
from sweeps import pilot as module
from sweeps.asked import ask
from sweeps.pilot import GAIN, measure, measure_compiled
from sweeps.settings import validated

MIB = 1024**2


def asked(tmp_path, **given):
    found = ask(validated({"home": tmp_path, "space": "default", "tasks": 3, "network": "mlp:20", "pack": "4", **given}))
    return found.kinds[0], found.like


@pytest.fixture
def times(monkeypatch):
    """Lets a step of each pack size take so many seconds, and a member's state so many bytes."""

    def put(steps, state=1000):
        monkeypatch.setattr(module, "_probed", lambda learner, earlier: Probe(steps[len(learner.members)], 0.1, 5, state))

    return put


def room(monkeypatch, total):
    monkeypatch.setattr(module, "machine_bytes", lambda: total)
    monkeypatch.setattr(module.os, "cpu_count", lambda: 2)


def test_the_cheapest_size_a_member_is_taken(times, tmp_path):
    times({1: 1.0, 16: 8.0, 64: 16.0, 100: 40.0})
    trial, like = asked(tmp_path, method="hat")
    found = measure(trial, 100, like)
    assert (found.size, found.step_of_one) == (64, 0.25)


def test_packing_that_gains_too_little_is_not_done(times, tmp_path):
    trial, like = asked(tmp_path, method="hat")
    times({1: 1.0, 12: 12 / GAIN * 1.01})
    assert measure(trial, 12, like).size == 1
    times({1: 1.0, 12: 12 / GAIN * 0.99})
    assert measure(trial, 12, like).size == 12


@pytest.mark.parametrize(
    ("total", "size"), [(10 * 100 * MIB * 64, 64), (10 * 100 * MIB * 63, 16), (10 * 100 * MIB * 15, 1), (1, 1)]
)
def test_packs_leave_four_fifths_of_the_memory_to_what_steps_and_checkpoints_need(times, monkeypatch, tmp_path, total, size):
    """Two packs at a time, so each has a tenth."""
    times({1: 1.0, 16: 2.0, 64: 4.0}, state=100 * MIB)
    room(monkeypatch, total)
    trial, like = asked(tmp_path, method="hat")
    assert measure(trial, 64, like).size == size
    assert measure_compiled(trial, 64, replace(like, compiled=True)).size <= max(1, total // (10 * 100 * MIB))


def test_examples_that_are_kept_count_in_full(tmp_path):
    """Replay keeps all images of a task as bytes; of permuted digits a task has more than the probe looks at."""
    trial, like = asked(tmp_path, method="replay", benchmark="permuted-digits")
    learner = replace(like, trials=(trial,)).learner()
    images = learner.benchmark.tasks[0].train
    assert len(images) > SEEN
    found = probe(learner, remembering(replace(like, trials=(trial,)).learner()), 0, 0)
    wanted = 2 * len(images) * (images.images[0].numel() + 1)
    assert wanted < found.bytes < 2 * wanted


@pytest.mark.parametrize("method", ["hat", "ewc", "hnet", "gem", "lwf", "packnet"])
def test_a_step_is_of_a_task_that_has_one_before_it(method, tmp_path):
    """What it is measured with is what a task leaves behind that was learned in full: same names, same shapes."""
    trial, like = asked(tmp_path, method=method)
    short, whole = (replace(like, trials=(trial,)).learner() for _ in range(2))
    before = short.benchmark, short.training
    assert remembering(short) is short
    assert (short.benchmark, short.training) == before
    assert short.seen == 1
    whole.training = replace(whole.training, **BRIEF)
    whole.skim(0)
    assert {n: t.shape for n, t in short.memory.items()} == {n: t.shape for n, t in whole.memory.items()}


@pytest.mark.parametrize("method", [name for name in METHODS.names() if METHODS.get(name).packable])
def test_every_method_can_be_probed(method, tmp_path):
    """Two members, the second of three tasks."""
    trial, like = asked(tmp_path, method=method)
    found = probe(replace(like, trials=(trial,) * 2).learner(), remembering(replace(like, trials=(trial,)).learner()), 0, 0)
    assert (found.steps > 0) == (found.step > 0)
    assert found.bytes > 0


def test_one_task_alone_is_probed_as_it_is(tmp_path):
    trial, like = asked(tmp_path, method="hat", tasks=1)
    learner = remembering(replace(like, trials=(trial,)).learner())
    assert learner.seen == 0
    assert probe(replace(like, trials=(trial,)).learner(), learner, 0, 0).steps > 0
