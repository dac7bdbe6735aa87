"""Its folder is put on the path by pytest, which lets every test file import ``helpers``."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory):
    """An MLflow database with its schema; making one takes over a second, copying it nothing."""
    from trackers.mlflow_store import open_store

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    open_store(f"sqlite:///{path}", path.parent)
    return path
