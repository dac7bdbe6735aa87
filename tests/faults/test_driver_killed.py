"""Processes of a sweep are killed in the middle: nothing is lost, nothing is done twice, every number is the same."""

import os
import random
import shlex
import signal
import time

import pytest
from sweep_kit import TFM as WORDS
from sweep_kit import (
    TFM_CELLS,
    alive,
    descendants,
    events,
    folder_with,
    in_the_middle,
    nothing_stays,
    only_folder,
    outcome,
    record_of,
    reports,
    rows_are_unique,
    same_matrices,
    start,
    wait_for,
)  # fmt: skip

pytestmark = pytest.mark.faults

#: Packs of two that take some seconds each, so that there is a middle to be killed in.
TFM = [*WORDS, *shlex.split("--tasks 4 --set epochs=40")]
INLINE = [*TFM, "--executor", "inline"]
RAY = [*TFM, "--workers", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_with(tmp_path_factory, "killed", tfm=TFM_CELLS)


@pytest.fixture(scope="module")
def undisturbed(folder):
    """The sweep as it ends when nothing happens."""
    assert outcome(start(*INLINE, "--home", "undisturbed", cwd=folder)).code == 0
    return only_folder(folder / "undisturbed")


@pytest.fixture
def launch(folder):
    """Starts sweeps with a temporary folder of their own, and leaves no process and no file of them behind."""
    started = []
    with nothing_stays() as (below, temporary):

        def go(*words):
            started.append(start(*words, cwd=folder, TMPDIR=temporary))
            return started[-1]

        go.see = lambda process: below.update(descendants(process.pid))
        yield go
        for process in started:
            below.update(descendants(process.pid))
            if process.poll() is None:
                process.kill()
            process.communicate()


def check(home, undisturbed, said):
    """The end of a sweep that was disturbed."""
    assert said.code == 0, said.err
    assert said.ledger["trials"] == 6 == said.ledger["done"] + said.ledger["skipped"]
    record = record_of(home)
    assert {t.status for t in record.trials.values()} == {"done"}
    assert len(record.trials) == 8
    sweep = only_folder(home)
    assert rows_are_unique(sweep)
    assert len(events(sweep, "done")) == 8
    assert same_matrices(sweep, undisturbed)


def mlflow_runs(home):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    return client, client.search_runs([e.experiment_id for e in client.search_experiments()])


def test_the_driver_of_a_ray_sweep_is_killed(folder, launch, undisturbed):
    home = folder / "ray"
    process = launch(*RAY, "--home", home)
    wait_for(lambda: in_the_middle(home), process=process)
    launch.see(process)
    below = descendants(process.pid)
    assert any(name.startswith("ray::") for name in below.values())
    process.kill()
    process.wait()
    workers = [pid for pid, name in below.items() if "ImplicitFunc" in name]
    wait_for(lambda: not any(map(alive, workers)), 30)  # Ray ends by itself, its two agents within a minute
    said = outcome(launch("--resume", only_folder(home).name, "--home", home))
    check(home, undisturbed, said)
    assert any(e["attempt"] == 2 for e in events(only_folder(home), "start"))
    client, runs = mlflow_runs(home)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len(runs) == 1 + 8
    for run in runs:  # no point of a curve twice
        steps = [m.step for m in client.get_metric_history(run.info.run_id, "acc/avg")]
        assert len(steps) == len(set(steps))


@pytest.mark.parametrize("moment", range(3))
def test_the_driver_of_an_inline_sweep_is_killed(moment, folder, launch, undisturbed):
    home = folder / f"inline-{moment}"
    process = launch(*INLINE, "--home", home)
    draw = random.Random(moment)
    enough, later = draw.randrange(1, 16), draw.uniform(0, 0.3)
    wait_for(lambda: reports(home) >= enough, process=process)
    time.sleep(later)  # anywhere between two reports, in the middle of a file too
    assert process.poll() is None
    process.kill()
    process.wait()
    check(home, undisturbed, outcome(launch(*INLINE, "--home", home)))


def test_the_workers_of_a_ray_sweep_are_killed(folder, launch, undisturbed):
    home = folder / "worker"
    process = launch(*RAY, "--home", home)
    wait_for(lambda: in_the_middle(home), process=process)
    launch.see(process)
    workers = [pid for pid, name in descendants(process.pid).items() if name.startswith("ray::") and "ImplicitFunc" in name]
    assert workers, descendants(process.pid)
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    said = outcome(process, timeout=280)
    check(home, undisturbed, said)
    assert any(e["attempt"] == 2 for e in events(only_folder(home), "start")), "no worker was missed"
