"""One call of the command: from a checked question to an exit code."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

from sweeps.asked import Asked
from sweeps.closing import LOG, close
from sweeps.driver import Sweep
from sweeps.fork import beginning
from sweeps.inline import run_inline
from sweeps.kinds import kinds_of
from sweeps.log_file import LogFile
from sweeps.manifest import sweep_event, write_manifest
from sweeps.on_ray import cluster_workers, ray_session, run_on_ray
from sweeps.planned import NO_CLUSTER, Kinds, local_workers, planned
from sweeps.progress import Display
from sweeps.ray_variables import prepare_environment
from sweeps.search import Grid, Search, Study
from sweeps.sizes import check_room
from sweeps.spaces import describe
from sweeps.trainable import of_environment
from trackers.journal import Journal, read
from trackers.lock import only_one
from trackers.record import JOURNAL

STUDY = "study.log"


def run(asked: Asked, console: Console, command: str) -> int:
    """Runs the sweep and returns the exit code.

    Raises:
        UserError: another process runs this sweep, or the cluster or the store cannot be reached; nothing was started.
    """
    folder = asked.folder
    with only_one(folder), _tracking(asked) as ready, _executor(asked) as place, contextlib.ExitStack() as until_the_end:
        found = planned(asked, *place)
        asked, plan, workers, settings = found.asked, found.plan, found.workers, found.asked.settings
        check_room(asked, plan, found.pilot, workers)
        publisher = ready()
        write_manifest(folder, settings, command)
        until_the_end.enter_context(_log_to(folder / LOG))
        plan = replace(plan, start=beginning(settings, plan, folder))
        journal = Journal(folder / JOURNAL)
        journal.append("sweep", sync=True, **sweep_event(asked, command))
        sweep = Sweep(folder, journal, plan, _search(asked, folder, journal), settings.time_budget)
        console.print(
            f"[bold]{folder.name}[/]: {describe(asked.space)}; packs of {plan.size}, {workers} at a time, "
            f"{settings.cpus} thread(s) each ({found.pilot.reason})",
            highlight=False,
            soft_wrap=True,
        )
        from trackers.mlflow_thread import PublisherThread

        thread = PublisherThread(publisher)
        thread.start()
        stopped = _train(sweep, asked, workers, console)
        return close(sweep, asked, console, stopped, thread)


@contextlib.contextmanager
def _executor(asked: Asked) -> Iterator[tuple[int, Kinds]]:
    """Ray up where it is used; yields how many packs run at a time, and on what kinds of nodes of a cluster."""
    settings = asked.settings
    if settings.executor == "inline":
        yield 1, NO_CLUSTER
        return
    with ray_session(settings, local_workers(settings), asked.folder / LOG):
        room = cluster_workers(settings)
        yield settings.workers or room, kinds_of(settings, asked.device) if settings.address else NO_CLUSTER


@contextlib.contextmanager
def _tracking(asked: Asked) -> Iterator[Callable[[], Any]]:
    """Yields what gives the publisher. Importing MLflow and opening its store take seconds: they pass while Ray starts.

    A cluster of the user's is joined first: where it cannot be, no store is made.
    """
    if asked.settings.address is not None:
        yield lambda: _publisher(asked)
        return
    with ThreadPoolExecutor(max_workers=1) as aside:
        ready = aside.submit(_publisher, asked)
        if asked.settings.executor == "ray":
            prepare_environment(None)
            aside.submit(import_module, "sweeps.tune_hooks")  # Tune's import takes a second too
        yield ready.result


def _publisher(asked: Asked) -> Any:
    from trackers.check import ARTIFACTS
    from trackers.mlflow_tracker import Publisher

    publisher = Publisher(asked.folder, asked.settings.tracking, asked.settings.home.absolute() / ARTIFACTS)
    publisher.prepare(Path(asked.settings.benchmark).stem)
    return publisher


def _search(asked: Asked, folder: Path, journal: Journal) -> Search:
    if asked.space.search == "grid":
        return Grid(asked.space)
    study = Study(asked.space, folder / STUDY, asked.settings.seeds[0], asked.configurations)
    events, _ = read(journal.path)
    planned = [t["study"] for e in events if e["event"] == "pack" for t in e["trials"] if t["study"] is not None]
    study.continue_from(planned)
    return study


def _train(sweep: Sweep, asked: Asked, workers: int, console: Console) -> str | None:
    """Runs the packs; returns why it stopped early, or None."""
    with _signals(sweep, asked.settings.executor == "ray") as caught, Display(sweep, console):
        try:
            sweep.begin()
            if asked.settings.executor == "inline":
                run_inline(sweep)
            else:
                run_on_ray(sweep, asked.settings, workers)
        except Exception as error:
            if not sweep.environment and not of_environment(error):
                raise  # where the disk is known to be full, Tune's end breaks on it once more
            sweep.environment = sweep.environment or str(error)
    return caught[0] if caught else sweep.environment or sweep.stopping


@contextlib.contextmanager
def _signals(sweep: Sweep, on_ray: bool) -> Iterator[list[str]]:
    """Ctrl-C and SIGTERM end the sweep in good order; a second one ends it at once. Yields the names that were caught."""
    caught: list[str] = []

    def stop(number: int, frame: object) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(signal.Signals(number).name)
        sweep.stopping = "interrupted"
        if on_ray:
            os.kill(os.getpid(), signal.SIGUSR1)  # Tune's own signal for a graceful end

    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    # Until Tune listens to its own signal, that signal would kill us; then the driver just hands out no packs.
    before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Our own loggers, warnings included, go to the sweep's log file; a study runs several sweeps in one process."""
    handler = LogFile(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in ("sweeps", "trackers", "clcore")]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()
