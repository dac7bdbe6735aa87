"""The Ray that a sweep starts for itself is nobody else's: it listens on loopback, and obeys who knows its token."""

import os
import subprocess
import sys

import pytest
from launch_kit import open_to_others
from server_kit import SWEEP, end_of, until
from sweep_kit import descendants, reports

from sweeps.on_ray import LOOPBACK

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

JOIN = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False); print(len(ray.nodes()), 'joined')"


def test_a_ray_of_our_own_is_closed_to_others(launch, tmp_path):
    home = tmp_path / "home"
    process = launch(*SWEEP, "--set", "epochs=9999", "--set", "patience=9999", "--home", home)  # it lasts until it is ended
    until(lambda: reports(home) >= 1, process=process)  # of the untrained network
    below = descendants(process.pid)
    assert any("raylet" in name for name in below.values())
    assert open_to_others([process.pid, *below]) == set()
    place = next(word for name in below.values() for word in name.split("\0") if word.startswith("--gcs-address="))
    address = place.removeprefix("--gcs-address=")
    assert address.startswith("127.0.0.1:")
    stranger = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    stranger |= LOOPBACK | {"RAY_AUTH_MODE": "disabled"}
    words = [sys.executable, "-c", JOIN, address]
    said = subprocess.run(words, env=stranger, capture_output=True, text=True, timeout=120, check=False)
    assert said.returncode != 0
    assert "joined" not in said.stdout
    assert process.poll() is None, "it was there to be joined"
    process.terminate()
    assert end_of(process).code == 143
