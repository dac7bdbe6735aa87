import logging
import shutil

import pytest
from sweep_kit import CELLS, in_process

from trackers import pictures_kit


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
def cli(tmp_path, monkeypatch, capsys):
    """The command line in this process, started in an empty folder, with most pictures empty (they take seconds)."""
    monkeypatch.chdir(tmp_path)
    save = pictures_kit.save
    whole = ("samples", "fit")
    monkeypatch.setattr(pictures_kit, "save", lambda made, path: save(made, path) if path.stem in whole else path.touch())
    before = {name: list(logging.getLogger(name).handlers) for name in ("sweeps", "trackers", "clcore")}
    yield lambda *words: in_process(words, monkeypatch, capsys)
    for name, handlers in before.items():
        logging.getLogger(name).handlers = handlers
