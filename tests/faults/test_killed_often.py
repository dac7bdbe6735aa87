"""The driver is killed twenty times, at any moment of its life, and started again each time."""

import contextlib
import multiprocessing
import os
import random
import sys
import time

import pytest
from server_kit import CELLS, INLINE, SECONDS, SWEEP, TRIALS, check, end_of, until
from sweep_kit import (
    descendants,
    events,
    folder_with,
    matrices,
    nothing_stays,
    only_folder,
    reports,
    rows_are_unique,
    same_matrices,
    start,
)

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

KILLS = 20
#: Imported once, by the process that all lives are forked from: imports take most of a short life.
PRELOADED = ["sweeps.run", "sweeps.session", "trackers.mlflow_tracker", "trackers.mlflow_thread", "sklearn.datasets"]


def life(words, folder):
    """One call of the command line, its words going to a file."""
    from sweeps import run

    os.chdir(folder)
    with open("said.txt", "a") as said, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        sys.argv = ["run.py", *words]
        code = run.main()
    sys.exit(code)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_with(tmp_path_factory, "often", cells=CELLS)


@pytest.fixture(scope="module")
def born(folder):
    """Begins a life: a process that runs the command line."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)

    def begin(*words):
        process = context.Process(target=life, args=([str(word) for word in words], folder))
        process.start()
        return process

    return begin


@pytest.fixture(scope="module")
def undisturbed(folder, born):
    process = born(*INLINE, "--home", "undisturbed")
    process.join()
    assert process.exitcode == 0, (folder / "said.txt").read_text()
    return only_folder(folder / "undisturbed")


def moment(draw, home):
    """What to wait for, and for how many seconds then: in the start, somewhere in the training, or while it closes."""
    kind = draw.choices(("start", "training", "closing"), (5, 12, 3))[0]
    if kind == "start":
        return (lambda: True), draw.uniform(0, 2.0)
    if kind == "closing":
        return (lambda: home.exists() and len(list(home.glob("*/trials/*/config.json"))) == TRIALS), draw.uniform(0, 1.5)
    enough = reports(home) + draw.randrange(1, 4)
    return (lambda: reports(home) >= enough), draw.uniform(0, 0.2)


def test_inline(folder, born, undisturbed):
    draw = random.Random(20)
    homes, killed = [folder / "home-0"], 0
    while killed < KILLS:
        happened, later = moment(draw, homes[-1])
        process = born(*INLINE, "--home", homes[-1])
        while process.is_alive() and not happened():
            time.sleep(0.005)
        process.join(later)
        if process.is_alive():
            killed += 1
            process.kill()
            process.join()
        else:
            assert process.exitcode == 0, (folder / "said.txt").read_text()
            homes.append(folder / f"home-{len(homes)}")
    process = born(*INLINE, "--home", homes[-1])
    process.join()
    assert process.exitcode == 0, (folder / "said.txt").read_text()
    for home in homes:
        end(home, undisturbed)


def end(home, undisturbed):
    sweep = only_folder(home)
    assert rows_are_unique(sweep)
    assert same_matrices(sweep, undisturbed)
    assert len(matrices(sweep)) == TRIALS
    check(sweep, f"sqlite:///{home / 'mlflow.db'}")


@pytest.fixture
def below():
    with nothing_stays(SECONDS) as made:
        yield made


def test_on_ray(folder, undisturbed, below):
    home, draw = folder / "ray", random.Random(3)
    found, temporary = below
    words = [*SWEEP, "--workers", "2", "--home", home]
    for life_number in range(3):
        enough, later = reports(home) + draw.randrange(1, 6), draw.uniform(0, 0.5)
        process = start(*words, cwd=folder, TMPDIR=temporary)
        until(lambda: reports(home) >= enough, process=process)  # noqa: B023 - called before the next life
        time.sleep(later)
        found.update(descendants(process.pid))
        assert process.poll() is None
        process.kill()
        process.communicate()
        assert len(events(only_folder(home), "sweep")) == life_number + 1
    said = end_of(start(*words, cwd=folder, TMPDIR=temporary))
    assert said.code == 0, said.err
    end(home, undisturbed)
