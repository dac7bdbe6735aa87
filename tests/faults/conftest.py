"""Servers, proxies and sweeps that are broken on purpose; faults of the record are made with the kits of its own tests, too."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "trackers_record"))
sys.path.append(str(Path(__file__).resolve().parent))

from server_kit import Launcher, Proxy, serving


@pytest.fixture
def launch(tmp_path):
    """Starts sweeps in the test's folder, and ends what is left of them."""
    made = Launcher(tmp_path)
    yield made
    made.end()


@pytest.fixture
def server(tmp_path):
    """An MLflow server of this test alone, to be killed and started again."""
    with serving(tmp_path / "server") as made:
        yield made


@pytest.fixture(scope="session")
def steady(tmp_path_factory):
    """An MLflow server that stays."""
    with serving(tmp_path_factory.mktemp("steady"), None, "--allowed-hosts", "127.0.0.1:*") as made:
        yield made


@pytest.fixture
def proxy(steady):
    """What stands before the steady server."""
    made = Proxy(steady.port)
    yield made
    made.close()
