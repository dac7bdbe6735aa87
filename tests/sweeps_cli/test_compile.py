"""Whether steps are compiled: what was asked for, what pays, and what a sweep that goes on does."""

import pytest
import torch
from sweep_kit import HAT, events, matrices, only_folder

from clcore import compiled
from sweeps import planned as module
from sweeps.asked import ask
from sweeps.pilot import Pilot
from sweeps.settings import validated

PLAIN, FAST, SLOW = (Pilot(4, {"1": step}, 0.01, 10, 1000, kind) for step, kind in ((0.003, False), (0.001, True), (0.0028, True)))


@pytest.fixture
def recorded(monkeypatch):
    """Steps recorded but not compiled, which would take seconds."""
    monkeypatch.setattr(compiled, "_compiled", lambda recording, inputs: recording.function())


def test_a_compiled_sweep_says_so_and_learns_alike(cli, home, tmp_path, cells, recorded):
    words = [*HAT, "--space", str(cells), "--executor", "inline"]
    assert cli(*words, "--compile", "on", "--home", str(home)).code == 0
    sweep = only_folder(home)
    assert {event["plan"]["compiled"] for event in events(sweep, "pack")} == {True}
    assert cli(*words, "--compile", "off", "--home", str(tmp_path / "plain")).code == 0
    plain = only_folder(tmp_path / "plain")
    assert {event["plan"]["compiled"] for event in events(plain, "pack")} == {False}
    before = matrices(plain)
    for trial, found in matrices(sweep).items():
        torch.testing.assert_close(found["test"], before[trial]["test"], atol=0.05, rtol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("said", "most", "probed", "wanted"),
    [
        ("auto", 1e6, FAST, FAST), ("auto", 1e6, SLOW, PLAIN), ("auto", 10, FAST, PLAIN), ("off", 1e6, FAST, PLAIN),
        ("on", 10, SLOW, SLOW), ("on", 1e6, Pilot(4, {"1": 0.001}, 0.01, 10, 1000, compiled=False), PLAIN),
    ],
)  # fmt: skip
def test_compiling_is_tried_where_asked_or_long_and_kept_where_it_pays(monkeypatch, tmp_path, said, most, probed, wanted):
    asked = ask(validated({"method": "hat", "space": "default", "compiled": said, "home": tmp_path}))
    monkeypatch.setattr(module, "pilot", lambda home, trial, most, like: probed if like.compiled else PLAIN)
    monkeypatch.setattr(module, "_at_most", lambda *_: most)
    assert module._compiled_or_not(asked, 4, 1, module.NO_CLUSTER) == wanted


def test_another_word_is_refused(cli, home):
    said = cli(*HAT, "--compile", "yes", "--home", str(home))
    assert said.code == 2
    assert "auto, off, on" in said.err
