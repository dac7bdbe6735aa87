"""Its folder is put on the path by pytest, which lets every test file import ``helpers``."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def _pilots():
    return {}


@pytest.fixture(scope="module")
def timed_once(_pilots):
    """Steps of one structure are timed once, not in every new home: timing takes as long as a tiny sweep."""
    from sweeps import pilot

    measured = pilot.measured

    def known(trial, most, like, sharing=None):
        key = (trial.configuration.structure, most, like.threads, like.device, like.data_dir, like.compiled)
        if key not in _pilots:
            _pilots[key] = measured(trial, most, like, sharing)
        return _pilots[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pilot, "measured", known)
        yield


@pytest.fixture
def few_pictures(monkeypatch):
    """Most pictures of a sweep are empty files: drawing them takes longer than a tiny sweep."""
    from trackers import pictures_all

    draw, whole = pictures_all._try, ("fit", "inference")
    monkeypatch.setattr(pictures_all, "_try", lambda how, to, *what: draw(how, to, *what) if to.stem in whole else to.touch())


@pytest.fixture(scope="session")
def migrated(tmp_path_factory):
    """An MLflow database with its schema; making one takes over a second, copying it nothing."""
    from trackers.mlflow_store import open_store

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    open_store(f"sqlite:///{path}", path.parent)
    return path
