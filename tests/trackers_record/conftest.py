import shutil

import pytest
from command_kit import finished
from fake_sweep import FakeSweep


@pytest.fixture
def sweep(tmp_path):
    """A fake sweep with its first event written."""
    made = FakeSweep(tmp_path / "home" / "tfm-grid-1234")
    made.sweep()
    yield made
    made.journal.close()


@pytest.fixture
def home(uri, tmp_path):
    """A home with a finished sweep that is not published."""
    finished(tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def uri(migrated, tmp_path):
    (tmp_path / "home").mkdir(exist_ok=True)
    shutil.copy(migrated, tmp_path / "home" / "mlflow.db")
    return f"sqlite:///{tmp_path}/home/mlflow.db"
