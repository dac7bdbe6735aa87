"""The Ray that a sweep starts for itself is nobody else's: it listens on loopback, and obeys who knows its token."""

import os
import signal
from pathlib import Path

import pytest
from launch_kit import open_to_others
from server_kit import SWEEP, end_of, until
from sweep_kit import alive, descendants, events, only_folder, reports

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


def environment_of(pid):
    return dict(word.split("=", 1) for word in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in word)


def test_a_ray_of_our_own_is_closed_to_others(launch, tmp_path):
    home = tmp_path / "home"
    process = launch(*SWEEP, "--set", "epochs=9999", "--set", "patience=9999", "--home", home)  # it lasts until it is ended
    until(lambda: reports(home) >= 1, process=process)  # of the untrained network
    below = descendants(process.pid)
    assert open_to_others([process.pid, *below]) == set()
    servers = [pid for pid, name in below.items() if "gcs_server" in name or "/raylet\0" in name]
    assert len(servers) >= 2
    found = [environment_of(pid) for pid in servers]
    assert {one["RAY_AUTH_MODE"] for one in found} == {"token"}
    (token,) = {one["RAY_AUTH_TOKEN"] for one in found}
    assert len(token) == 64
    assert not any(token in name for name in below.values()), "the token is in no command line"
    for file in home.rglob("*"):
        assert not file.is_file() or token.encode() not in file.read_bytes(), f"the token is in {file}"
    os.killpg(process.pid, signal.SIGTERM)  # as timeout, systemd and Slurm do: the driver ends what it started itself
    ended = end_of(process)
    assert ended.code == 143
    assert "--resume" in ended.out
    assert [event["reason"] for event in events(only_folder(home), "stop")] == ["interrupted"]
    until(lambda: not any(map(alive, below)))
