"""Faults of a record that are the same for each store: runs deleted meanwhile, a torn journal, a driver killed again and again."""

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlflow.tracking import MlflowClient
from server_kit import INLINE, TRIALS, Launcher, all_runs, check, end_of, publish, until
from sweep_kit import events, reports


@dataclass(frozen=True)
class Place:
    """Where a sweep of this name is recorded.

    ``words`` tell the sweep so; ``store`` is what is read to check it, ``uri`` what MLflow is asked through; ``held()`` says
    whether a process that writes holds the store at this moment: once stopped it would never let go of it.
    """

    name: str
    uri: str
    store: str
    held: Callable[[], bool]
    words: tuple[str, ...] = ()

    def launched(self, launch: Launcher, home: Path):
        return launch(*INLINE, "--name", self.name, "--home", home, *self.words)

    def runs(self) -> list:
        """The runs of the sweep that nobody deleted."""
        return all_runs(MlflowClient(self.store), f"tags.`cl.sweep` = '{self.name}'")

    def states(self) -> set[str]:
        try:
            return {run.info.status for run in self.runs()}
        except Exception:  # noqa: BLE001 - the database is only being made
            return set()

    def check(self, home: Path) -> None:
        check(home / self.name, self.store, self.uri)


def runs_are_deleted_meanwhile(launch: Launcher, home: Path, place: Place) -> None:
    """The sweep's, a finished trial's and the one that is running; later they are taken back out of the trash."""
    process = place.launched(launch, home)
    until(lambda: reports(home) >= 3 and {"FINISHED", "RUNNING"} <= place.states(), process=process)
    until(lambda: _stopped_between_writes(process, place))  # so that they are what they were when they are deleted
    client, found = MlflowClient(place.uri), place.runs()
    finished = next(run for run in found if run.info.status == "FINISHED")
    deleted = [run for run in found if run.info.status == "RUNNING"] + [finished]
    assert {run.data.tags["cl.role"] for run in deleted} == {"sweep", "trial"}
    for run in deleted:
        client.delete_run(run.info.run_id)
    process.send_signal(signal.SIGCONT)
    said = end_of(process)
    assert said.code == 0, said.err
    place.check(home)
    for run in deleted:  # now they are there twice
        client.restore_run(run.info.run_id)
    again = publish(home / place.name)
    assert again.code == 0, again.err
    place.check(home)
    assert sum("cl.orphan" in run.data.tags for run in place.runs()) == len(deleted)


def _stopped_between_writes(process, place: Place) -> bool:
    process.send_signal(signal.SIGSTOP)
    until(lambda: all(_is_stopped(thread) for thread in Path(f"/proc/{process.pid}/task").iterdir()))  # a signal takes its time
    if place.held():
        process.send_signal(signal.SIGCONT)
        return False
    return True


def _is_stopped(thread: Path) -> bool:
    return (thread / "stat").read_text().rpartition(")")[2].split()[0] in "Tt"


def the_journal_is_torn(launch: Launcher, home: Path, place: Place) -> None:
    """The driver is killed in the middle of a line."""
    process = place.launched(launch, home)
    until(lambda: reports(home) >= 6 and "RUNNING" in place.states(), process=process)
    process.kill()
    process.wait()
    sweep = home / place.name
    with (sweep / "journal.jsonl").open("ab") as journal:
        journal.write(b'{"n":77,"time":1763760000.0,"event":"task","pack":"')
    for _ in range(2):
        said = publish(sweep)
        assert said.code == 0, said.err
        assert "RUNNING" not in place.states()  # nobody runs it
    resumed = end_of(launch("--resume", sweep.name, "--home", home))
    assert resumed.code == 0, resumed.err
    place.check(home)


def the_driver_is_killed(launch: Launcher, home: Path, place: Place, times: int) -> None:
    """With SIGKILL, a few tasks after each start, and then let to the end."""
    draw = random.Random(times)
    for life in range(times):
        process = place.launched(launch, home)
        enough, later = reports(home) + draw.randrange(1, 3), draw.uniform(0, 0.15)
        until(lambda: reports(home) >= enough, process=process)  # noqa: B023 - called before the next life
        time.sleep(later)
        assert process.poll() is None
        process.kill()
        process.wait()
        assert len(events(home / place.name, "sweep")) == life + 1
    said = end_of(place.launched(launch, home))
    assert said.code == 0, said.err
    assert len(events(home / place.name, "done")) == TRIALS
    place.check(home)
