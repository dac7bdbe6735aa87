import logging
import shutil

import pytest
from sweep_kit import CELLS, in_process


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
    before = {name: list(logging.getLogger(name).handlers) for name in ("sweeps", "trackers", "clcore")}
    yield lambda *words: in_process(words, monkeypatch, capsys)
    for name, handlers in before.items():
        logging.getLogger(name).handlers = handlers
