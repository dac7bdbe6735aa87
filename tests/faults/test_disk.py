"""The disk fills up in the middle of a sweep: it stops in good order, says how much it wanted, and goes on when there is room."""

import contextlib
import re
import shlex
import subprocess

import pytest
from server_kit import INLINE, SWEEP, TRIALS, check, end_of, until
from sweep_kit import events, only_folder, reports, rows_are_unique

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.fixture
def disk(tmp_path):
    """A disk of 110 MB, a little more than what a home must have free at the start."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=110m", "clsweep", folder], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no small disk can be mounted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(disk) -> None:
    """Takes all the room there is."""
    with (disk / "ballast").open("wb", buffering=0) as ballast:
        for size in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while ballast.write(b"x" * size) == size:
                    pass


@pytest.mark.parametrize("words", [INLINE, [*SWEEP, "--workers", "2"]], ids=["inline", "ray"])
def test_it_is_full(words, disk, launch, tmp_path):
    home = disk / "home"
    process = launch(*words, "--home", home)
    until(lambda: reports(home) >= 3, process=process)
    fill(disk)
    said = end_of(process)
    assert said.code == 3, said
    assert "Traceback" not in said.out + said.err
    stopped, command = said.out.splitlines()[-2:]
    (wanted,) = re.findall(r"(\d+) bytes were wanted", stopped)
    assert int(wanted) > 0
    assert re.search(r"\(\d+ bytes are free\)", stopped)
    assert said.ledger["failed"] == 0
    (disk / "ballast").unlink()
    resumed = end_of(launch(*shlex.split(command)[2:]))
    assert resumed.code == 0, resumed
    assert resumed.ledger["done"] + resumed.ledger["skipped"] == TRIALS
    assert rows_are_unique(only_folder(home))
    check(only_folder(home), f"sqlite:///{home / 'mlflow.db'}")


def test_mlflows_own_is_full(disk, launch, tmp_path):
    """The home is elsewhere, so the training goes on."""
    home = tmp_path / "home"
    uri = f"sqlite:///{disk / 'mlflow.db'}"
    process = launch(*INLINE, "--home", home, "--tracking-uri", uri)
    until(lambda: reports(home) >= 3, process=process)
    fill(disk)
    until(lambda: reports(home) and events(only_folder(home), "end"), process=process)
    (disk / "ballast").unlink()
    said = end_of(process)
    assert said.code == 0, said
    assert "Traceback" not in said.out + said.err
    assert "not up to date" not in said.out
    check(only_folder(home), uri)
