"""The bytes that the dry run predicts, against what a sweep then writes; and the disk that has not got them."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from sweep_kit import HAT, listing

from clcore.errors import UserError
from sweeps import sizes
from sweeps.asked import ask
from sweeps.driver import PACKS, Sweep
from sweeps.inline import run_inline
from sweeps.manifest import sweep_event
from sweeps.planned import make_plan
from sweeps.search import Grid
from sweeps.settings import validated
from trackers.journal import Journal
from trackers.kept import BOUNDARIES_PART, MASKS_PART, PARTS, WEIGHTS_PART, size_of

#: Of these, memory is constant (hat), grows by each task (the others), and is the task's examples (replay: all of them).
METHODS = ("hat", "tfm", pytest.param("gem", marks=pytest.mark.faults), "replay", "hnet", "supsup")  # gem takes its time


def question(home, method, **said):
    """Two members of a pack, five tasks: more than are measured."""
    (home.parent / "two.toml").write_text("[values]\nlr = [0.05, 0.02]\n")
    about = {"space": str(home.parent / "two.toml"), "network": "mlp:64", "pack": "2", "executor": "inline", "cpus": 1}
    return ask(validated({"method": method, "home": home, "assign": {"epochs": "1", "iterations": "4"}, **about, **said}))


def run(asked):
    """The sweep without MLflow, and the most bytes that its packs held."""
    plan, _ = make_plan(asked, 1)
    journal = Journal(asked.folder / "journal.jsonl")
    journal.append("sweep", **sweep_event(asked, ""))
    sweep = Sweep(asked.folder, journal, plan, Grid(asked.space), None)
    most, real = [], sweep.reported

    def reported(pack, said, checkpoint):
        most.append(sum(path.stat().st_size for path in (sweep.folder / PACKS).rglob("*") if path.is_file()))
        real(pack, said, checkpoint)

    sweep.reported = reported
    sweep.begin()
    run_inline(sweep)
    assert {t.status for t in sweep.record.trials.values()} == {"done"}
    return sweep, max(most)


def written(sweep, *parts):
    return sum(size_of(folder, part) for folder in (sweep.folder / "trials").iterdir() for part in parts)


@pytest.mark.parametrize("method", METHODS)
def test_the_bytes_of_a_sweep_are_those_that_were_predicted(method, tmp_path):
    asked = question(tmp_path / "home", method, keep="every-task")
    plan, found = make_plan(asked, 1)
    said = sizes.need(asked, plan, 1)
    assert sizes._at_most(asked, plan, found, 1) > 2 * said.kept + said.checkpoints
    final = sizes.need(question(tmp_path / "home", method), plan, 1)
    sweep, most = run(asked)
    assert said.kept == pytest.approx(written(sweep, *PARTS), rel=0.1)
    assert final.kept == pytest.approx(written(sweep, WEIGHTS_PART, MASKS_PART), rel=0.1)
    assert said.checkpoints == pytest.approx(most, rel=0.1)
    assert written(sweep, BOUNDARIES_PART) > written(sweep, WEIGHTS_PART)


def test_what_best_and_a_budget_keep(tmp_path):
    home = tmp_path / "home"
    plan, _ = make_plan(question(home, "gem"), 1)
    whole = sizes.need(question(home, "gem"), plan, 1)
    best = sizes.need(question(home, "gem", keep="best"), plan, 1)
    assert 2 * best.kept == pytest.approx(whole.kept)
    assert sizes.need(question(home, "gem", keep_bytes="20k"), plan, 1).kept == 20_000  # gem has no masks
    assert sizes.need(question(home, "gem", keep="best", seeds=(0, 1, 2)), plan, 1).kept == 3 * best.kept


def test_growth_by_hand():
    made = sizes.Sizes([100, 130, 150], [10, 10, 12], [0, 4, 6], 7)
    assert [made.state(seen) for seen in (1, 2, 3, 4, 6)] == [110, 140, 162, 184, 228]
    assert made.state(5, members=3) == 3 * 190 + 16
    assert made.kept_masks(5) == 10
    assert made.boundaries(4) == 110 + 140 + 162 + (2 + 3 + 4) * 7
    assert sizes.Sizes([100], [10], [0], 7).boundaries(1) == 0


def test_the_dry_run_says_the_bytes(cli, tmp_path):
    words = [*HAT, "--space", "default", "--home", "new", "--dry-run", "--pack", "1"]
    every, final = cli(*words, "--keep", "every-task"), cli(*words)
    shown = [re.search(r"disk +about ([\d.]+) kB of (.*), as much in MLflow; meanwhile", said.out) for said in (every, final)]
    assert [match[2] for match in shown] == ["weights, masks and states at boundaries", "weights and masks"]
    assert float(shown[0][1]) > float(shown[1][1]) > 0
    assert set(listing(tmp_path / "new")) == {"pilots.json"}


def test_a_shared_path_without_room_is_refused(tmp_path, monkeypatch):
    """Checkpoints go there, what is kept stays in the home; an object store is not asked."""
    shared = tmp_path / "a shared path"
    asked = question(tmp_path / "home", "hat", storage=str(shared))
    plan, found = make_plan(asked, 1)
    wanted = sizes.need(asked, plan, 1).checkpoints
    monkeypatch.setattr(sizes, "innermost", lambda place: place)

    def put(free):
        monkeypatch.setattr(sizes.shutil, "disk_usage", lambda place: SimpleNamespace(free=free if place == shared else 10**9))

    put(wanted)
    sizes.check_room(asked, plan, found, 1)
    put(wanted - 1)
    with pytest.raises(UserError, match=r"--storage file:///.* has [0-9.]+ kB free, and this sweep needs about [0-9.]+ kB of"):
        sizes.check_room(asked, plan, found, 1)
    away = question(tmp_path / "home", "hat", storage="s3://bucket/x")
    sizes.check_room(away, plan, found, 1)


def test_a_disk_without_room_is_refused(tmp_path, monkeypatch):
    asked = question(tmp_path / "home", "hat")
    plan, found = make_plan(asked, 1)
    sizes.check_room(asked, plan, found, 1)
    monkeypatch.setattr(sizes.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"has 1.0 kB free, and this sweep needs about [0-9.]+ kB \([0-9.]+ kB to keep, "):
        sizes.check_room(asked, plan, found, 1)
    wanted = sizes.need(asked, plan, 1)
    enough = 2 * wanted.kept + wanted.checkpoints  # the home, and MLflow in it
    monkeypatch.setattr(sizes.shutil, "disk_usage", lambda _: SimpleNamespace(free=enough))
    sizes.check_room(asked, plan, found, 1)
    monkeypatch.setattr(sizes.shutil, "disk_usage", lambda _: SimpleNamespace(free=enough - 1))
    with pytest.raises(UserError):
        sizes.check_room(asked, plan, found, 1)
    (there := asked.folder / "trials" / "one").mkdir(parents=True)
    (there / "checkpoint.safetensors").write_bytes(b"x")  # what it wrote before is there already
    sizes.check_room(asked, plan, found, 1)


def test_sizes_of_a_sweep_on_gpus_that_are_elsewhere_are_measured_here(tmp_path, monkeypatch):
    """The driver of a cluster may have no GPU."""
    monkeypatch.setattr(sizes, "is_device", lambda name: name == "cpu")
    asked = question(tmp_path / "home", "hat")
    assert sizes.measure(asked.kinds[0], replace(asked, device="cuda")) == sizes.measure(asked.kinds[0], asked)
