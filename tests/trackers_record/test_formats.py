"""What is of a newer format, damaged or made up is refused in one line, wherever it is read."""

import json

import pytest
from command_kit import MANIFEST, NAME, begun, byte_edits, call, finished, item, value_edits
from sweep_kit import in_process

from clcore.errors import UserError
from sweeps.run import _settings
from trackers import archive, sweeps
from trackers.describe import describe
from trackers.journal import Journal, read
from trackers.leader import Leader
from trackers.lock import is_held, only_one
from trackers.manifest import read_manifest
from trackers.record import JOURNAL, load, replay
from trackers.rows import rho_points, sweep_params, sweep_points, sweep_tags, trial_params, trial_points, trial_tags
from trackers.schema import is_place


def derive(record):
    """All that is made of a record before it goes to MLflow."""
    if not record.first:
        return
    leader = Leader()
    for trial in record.trials.values():
        leader.add(trial)
    describe(record, leader.finals), sweep_params(record), sweep_tags(record, record.identity)
    sweep_points(record, 1.0, leader.best)
    for trial in record.trials.values():
        trial_params(record, trial), trial_tags(record, record.identity, trial, "parent"), rho_points(trial)
        for row in trial.rows.values():
            trial_points(trial, row)


@pytest.mark.parametrize(
    ("found", "message"), [(2, "newer one wrote it"), (99, "up to format 1"), (0, "none"), ("1", "none"), (True, "none")]
)
def test_formats_of_a_journal(sweep, found, message):
    sweep.sweep(format=found)
    with pytest.raises(UserError, match=message):
        load(sweep.folder)


@pytest.mark.parametrize("found", [2, 0, "1", None, True, 1.5])
def test_formats_of_a_manifest(tmp_path, found):
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps({**MANIFEST, "format": found}))
    with pytest.raises(UserError, match="newer one wrote it" if found == 2 else "is none") as error:
        read_manifest(path)
    assert "\n" not in str(error.value)


def test_a_sweep_of_a_newer_format_is_not_resumed(tmp_path, monkeypatch, capsys):
    folder = finished(tmp_path / "home")
    (folder / "sweep.json").write_text(json.dumps({**MANIFEST, "format": 2}))
    result = in_process(["--resume", NAME, "--home", tmp_path / "home"], monkeypatch, capsys)
    assert result.code == 2
    assert "has format 2" in result.err
    assert result.err.count("\n") == 1


def test_keys_that_are_newer_than_a_record_may_be_missing_and_unknown_ones_are_left_alone(sweep):
    one = item(0)
    sweep.pack("p0", [{**one, "colour": "blue"}])
    sweep.task("p0", 1, [{**sweep.member(one["trial"], 1), "taste": [1]}])
    sweep.journal.append("start", pack="p0", attempt=1, weather="fine")
    row = load(sweep.folder).trials[one["trial"]].rows[1]
    assert (row.use, row.compressed, row.inferred, row.fitted) == ({}, {}, [], [])


def test_settings_of_an_older_manifest_get_the_defaults_of_newer_options(tmp_path):
    folder = finished(tmp_path / "home")
    settings = _settings({"home": tmp_path / "home"}, folder.name)
    assert (settings.method, settings.compiled, settings.name) == ("tfm", "auto", NAME)


def test_an_odd_value_names_event_and_field(sweep):
    one = item(0)
    sweep.pack("p0", [one])
    sweep.journal.append("done", trial=one["trial"], pack="p0", artifacts="../../etc", seconds=1.0)
    with pytest.raises(UserError, match=r"event 2 of the journal \(done\) has no or a wrong 'artifacts'"):
        load(sweep.folder)


@pytest.mark.parametrize("place", ["/etc/passwd", "../x", "a/../b", "a//b", "", ".hidden", "a/.x", "a\\b", "a\nb", "a\0b", 7, None])
def test_places_outside_of_a_folder(place):
    assert not is_place(place)


@pytest.mark.parametrize("fields", [{"seen": 7}, {"seen": -1}, {"members": [{"trial": "nobody"}]}, {"checkpoint": "/"}])
def test_reports_that_do_not_fit(sweep, fields):
    one = item(0)
    sweep.pack("p0", [one])
    sweep.journal.append("task", **{"pack": "p0", "seen": 1, "checkpoint": None, "members": []} | fields)
    with pytest.raises(UserError):
        load(sweep.folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"bytes": 10**30},
        {"bytes": "many"},
        {"epochs": True},
        {"capacity": {"units1": "half"}},
        {"test": [0.5, 0.5]},
        {"validation": [0.5, 0.5, 0.5, 0.5, 1e300]},
        {"test": [0.5, 0.5, 0.5, 0.5, "x"]},
        {"fitted": [[[0.0], [1.0]]]},
        {"fitted": [[[], [], []]]},
        {"fitted": [[[0.0, 1.0], [1.0, 2.0], [1.0]]]},
        {"inferred": [[None]]},
    ],
)
def test_members_that_make_no_sense(sweep, changes):
    one = item(0)
    sweep.pack("p0", [one])
    sweep.task("p0", 1, [sweep.member(one["trial"], 1)])
    load(sweep.folder)
    sweep.task("p0", 2, [sweep.member(one["trial"], 2, **changes)])
    with pytest.raises(UserError, match="event 3 of the journal"):
        load(sweep.folder)


def test_inferred_tasks_that_do_not_fit(sweep):
    one = item(0)
    sweep.pack("p0", [one])
    sweep.task("p0", 2, [sweep.member(one["trial"], 2, inferred=[[1.0], [1.0]])])
    with pytest.raises(UserError, match="does not fit"):
        load(sweep.folder)


def test_outputs_that_are_no_numbers_are_not_known(sweep):
    one = item(0)
    sweep.pack("p0", [one])
    sweep.task("p0", 1, [sweep.member(one["trial"], 1, fitted=[[[0.0, 1.0], [1.0, 2.0], [float("nan"), 2.0]]])])
    trial = load(sweep.folder).trials[one["trial"]]
    assert "fit/mse" not in {point.key for point in trial_points(trial, trial.rows[1])}


def test_a_line_as_deep_as_a_well(sweep):
    with (sweep.folder / JOURNAL).open("ab") as file:
        file.write(b"[" * 200_000 + b"]" * 200_000 + b"\n")
    with pytest.raises(UserError, match="line 2 is damaged"):
        load(sweep.folder)


def test_a_folder_in_the_journals_place(tmp_path):
    (tmp_path / JOURNAL).mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize("edits", [byte_edits, value_edits])
def test_damaged_journals_are_read_as_they_are_or_refused(tmp_path, edits, capsys):
    folder = finished(tmp_path / "home")
    path = folder / JOURNAL
    before = path.read_bytes() if edits is byte_edits else read(path)[0]
    refused = 0
    for number, damaged in enumerate(edits(before, 400, seed=1)):
        path.write_bytes(damaged)
        try:
            derive(replay(read(path)[0]))
            Journal(path).close()
        except UserError:
            refused += 1
        if number % 8 == 0:
            result = call(sweeps.main, ["show", NAME, "--home", tmp_path / "home"], capsys)
            assert result.code == 0 or result.is_refusal, (result, damaged)
            assert call(sweeps.main, ["list", "--home", tmp_path / "home"], capsys).code == 0
    assert refused > 50


def test_damaged_manifests_are_read_as_they_are_or_refused(tmp_path, capsys):
    folder = finished(tmp_path / "home")
    path, box = folder / "sweep.json", tmp_path / "box.zip"
    before, refused = path.read_bytes(), 0
    for number, damaged in enumerate(byte_edits(before, 400, seed=2)):
        path.write_bytes(damaged)
        try:
            _settings({"home": tmp_path / "home"}, NAME)
        except UserError:
            refused += 1
        if number % 8 == 0:
            result = call(archive.main, ["pack", NAME, "--home", tmp_path / "home", "--to", box], capsys)
            assert result.code == 0 or result.is_refusal, (result, damaged)
    assert refused > 50


def test_the_lock_is_one_processs(tmp_path):
    folder = begun(tmp_path / "home").folder
    assert not is_held(folder)
    with only_one(folder):
        assert is_held(folder)
        with pytest.raises(UserError, match="another process"), only_one(folder):
            pytest.fail("it was not refused")
    assert not is_held(folder)
    with only_one(tmp_path / "new" / "sweep"):
        pass
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"), only_one(tmp_path / "file" / "sweep"):
        pytest.fail("it was not refused")
