"""The pilot of a GPU that the driver's machine lacks: measured where the packs will run, or for a dry run on the CPU."""

from dataclasses import replace

import pytest
import ray
import torch

from sweeps import pilot as module
from sweeps.asked import Asked
from sweeps.settings import validated
from sweeps.spaces import find_space
from sweeps.trials import Pack, base_configuration

LIKE = Pack((), 1, "cuda", None)


@pytest.fixture
def trial(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    settings = validated({"method": "hat", "space": "default", "network": "mlp:4", "tasks": 2})
    return Asked(settings, find_space(settings), base_configuration(settings), None, "cuda").kinds[0]


def test_a_dry_run_takes_the_cpu(trial, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(module, "measure", lambda trial, most, like: asked.append((most, like)))
    module.pilot(tmp_path, trial, 4, LIKE)
    assert asked == [(4, replace(LIKE, device="cpu"))]
    assert list(tmp_path.iterdir()) == []


def test_a_node_with_a_gpu_is_asked(trial, monkeypatch, tmp_path):
    """Ray is played: what it would be given, and that its answer is taken."""
    found, given = module.Pilot(2, {"2": 0.1}, 0.1, 3, 4), {}

    class Task:
        def __init__(self, function):
            self.function = function

        def remote(self, *arguments):
            given["call"] = (self.function, arguments)
            return found

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "remote", lambda **asked: given.update(asked) or Task)
    monkeypatch.setattr(ray, "get", lambda reference: reference)
    assert module.pilot(tmp_path, trial, 4, replace(LIKE, threads=3)) == found
    assert given["num_cpus"] == 3
    assert 0 < given["num_gpus"] <= 1
    assert given["call"][1] == (trial, 4, replace(LIKE, threads=3))
    assert list(tmp_path.iterdir()) == [], "another machine's figures are not kept as this one's"
