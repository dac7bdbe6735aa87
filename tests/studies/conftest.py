import shutil
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "faults"))

from studies_kit import Studies


@pytest.fixture
def studies(tmp_path, migrated, monkeypatch, capsys):
    """The command, started in an empty folder with a home that is ready to be recorded in."""
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(migrated, home / "mlflow.db")
    monkeypatch.setattr("sys.argv", ["sweeps/study.py", "compare"])
    return Studies(home, capsys)
