"""The MLflow server is away for a whole minute, in the middle of a sweep that takes longer."""

import time

import pytest
from server_kit import check, interrupted
from sweep_kit import events

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

AWAY = 60.0


def test_a_minute(launch, tmp_path, server):
    gone: list[float] = []

    def stop():
        gone.append(time.monotonic())
        server.kill()

    def back():
        time.sleep(max(0.0, gone[0] + AWAY - time.monotonic()))
        server.start()

    longer = ["--set", "epochs=1200", "--set", "protocol=fixed"]
    sweep = interrupted(launch, tmp_path / "home", server.uri, stop, back, *longer)
    check(sweep, server.store, server.uri)
    (begun,), (*_, ended) = (events(sweep, name) for name in ("sweep", "end"))
    assert ended["time"] - begun["time"] > AWAY
    assert (sweep / "log.txt").read_text().count("MLflow cannot be written") >= 1
