"""Recorded trials for the tests of ``--replay`` and ``--fork``: a finished sweep, and its runs in MLflow."""

import shutil

import pytest
from mlflow.tracking import MlflowClient
from sweep_kit import Silent, in_process, only_folder

from sweeps import report


def sweep_once(folder, migrated, words):
    """Runs a sweep in this process without its report, in a home that no test writes to; returns its folder."""
    home = folder / "home"
    home.mkdir()
    shutil.copy(migrated, home / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write_report", lambda *_: [])
        said = in_process([*words, "--home", home], patch, Silent())
    assert said.code == 0, said.err
    return only_folder(home)


def uri_of(home):
    return f"sqlite:///{home / 'mlflow.db'}"


def runs_of(uri):
    """Trial -> its run, and under ``""`` the sweep's own; the newest sweep's of each."""
    client = MlflowClient(uri)
    found = client.search_runs([e.experiment_id for e in client.search_experiments()], order_by=["attributes.start_time ASC"])
    return client, {run.data.tags.get("cl.trial", ""): run for run in found}
