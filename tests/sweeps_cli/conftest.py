import shutil

import pytest
from again_kit import uri_of
from sweep_kit import CELLS, in_process, own_logs

from trackers.publish import publish_sweep


@pytest.fixture(autouse=True, scope="module")
def _timed_once(timed_once):
    pass


@pytest.fixture
def home(tmp_path, migrated):
    """A home folder that is ready to be recorded in."""
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copy(migrated, folder / "mlflow.db")
    return folder


@pytest.fixture
def cells(tmp_path):
    """A grid of four HAT cells."""
    path = tmp_path / "cells.toml"
    path.write_text(CELLS)
    return path


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys, few_pictures):
    """The command line in this process, started in an empty folder, with most pictures empty."""
    monkeypatch.chdir(tmp_path)
    with own_logs():
        yield lambda *words: in_process(words, monkeypatch, capsys)


@pytest.fixture
def mine(recorded, migrated, tmp_path):
    """A module's recorded sweep once more, published in a home of its own that a test may change: its folder."""
    again = tmp_path / "mine" / recorded.name
    shutil.copytree(recorded, again)
    shutil.copy(migrated, again.parent / "mlflow.db")
    publish_sweep(again, uri_of(again.parent))
    return again
