"""One call of the command: from settings to an exit code."""

import contextlib
import json
import logging
import os
import platform
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from clcore.benchmarks import Benchmark
from clcore.errors import UserError
from sweeps import preflight, report
from sweeps.driver import HEARTBEATS, PACKS, Plan, Sweep
from sweeps.inline import run_inline
from sweeps.on_ray import cluster_workers, ray_session, run_on_ray
from sweeps.pilot import Pilot, pilot
from sweeps.progress import Display, duration
from sweeps.search import ROUNDS, Grid, Search, Study
from sweeps.settings import Settings
from sweeps.spaces import DEFAULT_TRIALS, Space, describe, find_space
from sweeps.trainable import of_environment
from sweeps.trials import Configuration, Pack, Trial, base_configuration, with_values
from trackers.check import deep_link
from trackers.journal import Journal, read
from trackers.record import FORMAT, JOURNAL, SweepRecord

MANIFEST, STUDY, LOG = "sweep.json", "study.log", "log.txt"
REFERENCES = ("joint", "random")
#: Seconds the closing waits for the tracking store.
CLOSING = 60.0

DONE, FAILED, BAD_CALL, ENVIRONMENT = 0, 1, 2, 3


@dataclass(frozen=True)
class Asked:
    """A question in full: what is run, over what, on what.

    Attributes:
        settings: what was said.
        space: what varies.
        base: the configuration around it.
        benchmark: of the first seed.
        device: torch device.
    """

    settings: Settings
    space: Space
    base: Configuration
    benchmark: Benchmark
    device: str

    @property
    def folder(self) -> Path:
        """The sweep's folder."""
        return self.settings.home / self.settings.sweep_name()

    @property
    def configurations(self) -> int:
        """How many configurations are asked for."""
        return len(self.space.cells()) if self.space.search == "grid" else self.settings.trials or DEFAULT_TRIALS


def ask(settings: Settings) -> Asked:
    """Checks everything; nothing is written.

    Raises:
        UserError: the first thing that is wrong.
    """
    space = find_space(settings)
    base = base_configuration(settings)
    if settings.trials is not None and space.search == "grid":
        raise UserError(f"--trials {settings.trials} goes with random and tpe; this grid has {len(space.cells())} configurations.")
    device = preflight.resolve_device(settings)
    benchmark = preflight.check_all(settings, base)
    if space.search == "tpe" and benchmark.tasks[0].validation is None:
        raise UserError("--space tpe chooses on validation data, and --set validation=none leaves none.")
    asked = Asked(settings, space, base, benchmark, device)
    check_manifest(asked.folder, settings)
    _first_trial(asked).configuration  # noqa: B018 - a grid value that cannot be is found here
    return asked


def dry_run(asked: Asked, console: Console) -> int:
    """Says what would be run and what it would cost; trains nothing and keeps only the pilot's figures."""
    workers = _workers(asked.settings)
    plan, found = make_plan(asked, workers)
    count = asked.configurations * len(asked.settings.seeds)
    packs = -(-asked.configurations // plan.size) * len(asked.settings.seeds)
    epochs, tasks = asked.base.training["epochs"], len(asked.benchmark.tasks)
    seconds = packs / min(workers, packs) * found.seconds(min(plan.size, asked.configurations), epochs, tasks)
    say = partial(console.print, highlight=False, soft_wrap=True)
    say(f"sweep          {asked.folder.name}")
    say(f"varies         {describe(asked.space)} ({asked.space.search})")
    say(f"trials         {asked.configurations} configurations x {len(asked.settings.seeds)} seeds = {count}")
    say(f"packs          {packs} of at most {plan.size}, {workers} at a time, {asked.settings.cpus} thread(s) each")
    say(f"time           at most about {duration(seconds)} ({epochs} epochs a task), references aside")
    say(f"disk           about {2 * count * found.bytes / 1e6:.1f} MB (home and MLflow)")
    say("nothing was trained")
    return DONE


def run(asked: Asked, console: Console, command: str) -> int:
    """Runs the sweep and returns the exit code.

    Raises:
        UserError: another process runs this sweep, or the cluster or the store cannot be reached; nothing was started.
    """
    settings, folder = asked.settings, asked.folder
    with preflight.only_one(folder), _executor(asked) as workers:
        plan, found = make_plan(asked, workers)
        publisher = _publisher(asked)
        write_manifest(folder, settings, command)
        _log_to(folder / LOG)
        journal = Journal(folder / JOURNAL)
        journal.append("sweep", sync=True, **_sweep_event(asked, command))
        sweep = Sweep(folder, journal, plan, _search(asked, folder, journal), settings.time_budget)
        console.print(
            f"[bold]{folder.name}[/]: {describe(asked.space)}; packs of {plan.size}, {workers} at a time "
            f"({found.step[str(found.size)] / found.size * 1e3:.2f} ms a step and member)",
            highlight=False,
            soft_wrap=True,
        )
        from trackers.mlflow_thread import PublisherThread

        thread = PublisherThread(publisher)
        thread.start()
        stopped = _train(sweep, asked, workers, console)
        return _close(sweep, asked, console, stopped, lambda: thread.finish(CLOSING), publisher.experiment_id)


def make_plan(asked: Asked, workers: int) -> tuple[Plan, Pilot]:
    """Pack size and the rest, with the pilot it rests on."""
    settings = asked.settings
    data_dir = str(settings.data_dir.absolute()) if settings.data_dir else None
    like = Pack((), settings.cpus, asked.device, data_dir)
    batch = asked.configurations if asked.space.search == "grid" else -(-asked.configurations // ROUNDS)
    share = -(-batch // max(workers // len(settings.seeds), 1))
    most = share if settings.pack == "auto" else min(int(settings.pack), batch)
    found = pilot(settings.home, _first_trial(asked), most, like)
    size = found.size if settings.pack == "auto" else int(settings.pack)
    wanted = settings.references and Path(settings.method).stem not in REFERENCES
    references = tuple(base_configuration(settings, method) for method in REFERENCES) if wanted else ()
    trials = asked.configurations * len(settings.seeds)
    return Plan(asked.base, settings.seeds, references, size, batch, trials, workers, like), found


def check_manifest(folder: Path, settings: Settings) -> None:
    """Sees that a sweep of this name asks the same question.

    Raises:
        UserError: it asks another; the differences are shown.
    """
    path = folder / MANIFEST
    if not path.exists():
        return
    before, now = read_manifest(path)["question"], settings.question()
    differing = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    if differing:
        shown = "; ".join(f"{key}: {before.get(key)!r} then, {now.get(key)!r} now" for key in differing)
        raise UserError(f"sweep {folder.name} was made with other settings ({shown}). Give this one another --name.")


def read_manifest(path: Path) -> dict[str, Any]:
    """What ``sweep.json`` says.

    Raises:
        UserError: it is not there or cannot be read.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        found["question"], found["settings"]
    except FileNotFoundError:
        raise UserError(f"there is no sweep in {path.parent}.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    return found


def write_manifest(folder: Path, settings: Settings, command: str) -> None:
    """Keeps settings and question, so that ``--resume`` needs no more than the name."""
    facts = {"format": FORMAT, "question": settings.question(), "settings": settings.model_dump(mode="json"), "command": command}
    temporary = folder / f"{MANIFEST}.new"
    temporary.write_text(json.dumps(facts, indent=1))
    os.replace(temporary, folder / MANIFEST)


# -- parts of a run ----------------------------------------------------------------------------------------------------


def _first_trial(asked: Asked) -> Trial:
    values = asked.space.cells()[0] if asked.space.search == "grid" else {}
    return Trial(with_values(asked.base, values), asked.settings.seeds[0])


def _workers(settings: Settings) -> int:
    if settings.executor == "inline":
        return 1
    return settings.workers or max((os.cpu_count() or 1) // settings.cpus, 1)


@contextlib.contextmanager
def _executor(asked: Asked) -> Iterator[int]:
    """Ray up where it is used; yields how many packs run at a time."""
    settings = asked.settings
    if settings.executor == "inline":
        yield 1
        return
    with ray_session(settings, _workers(settings), asked.folder / LOG):
        yield settings.workers or cluster_workers(settings)


def _publisher(asked: Asked) -> Any:
    from trackers.mlflow_tracker import Publisher

    publisher = Publisher(asked.folder, asked.settings.tracking, asked.settings.home.absolute() / "mlflow-artifacts")
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


def _sweep_event(asked: Asked, command: str) -> dict[str, Any]:
    settings = asked.settings
    packages = ("clsweep", "torch", "ray", "optuna", "mlflow")
    return {
        "format": FORMAT,
        "name": asked.folder.name,
        "settings": settings.model_dump(mode="json"),
        "command": command,
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in packages}},
        "git": _commit(),
        "method": Path(settings.method).stem,
        "benchmark": Path(settings.benchmark).stem,
        "network": settings.network,
        "scenario": asked.benchmark.scenario,
        "tasks": len(asked.benchmark.tasks),
        "data_digest": asked.benchmark.digest,
    }


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


def _close(sweep: Sweep, asked: Asked, console: Console, stopped: str | None, finish: Any, experiment: str | None) -> int:
    """Writes the report, ends the journal, waits for MLflow, and says what came out."""
    ledger = sweep.ledger
    record = report.with_links(sweep)
    rows: list[dict[str, Any]] = []
    try:
        rows = _write_end(sweep, record, stopped)
    except OSError as error:
        if not of_environment(error):
            raise
        stopped = sweep.environment = sweep.environment or str(error)
    if not stopped:
        for scratch in (PACKS, HEARTBEATS):
            shutil.rmtree(sweep.folder / scratch, ignore_errors=True)
    published = finish()
    sweep.journal.close()
    if rows:
        report.print_table(console, record, rows)
    references = sum(t.role == "reference" for t in sweep.record.trials.values())
    lines = [report.ledger_line(ledger, references)]
    if not published:
        lines.append(f"MLflow at {asked.settings.tracking} could not be brought up to date; the journal has everything.")
    lines += _next_steps(sweep, asked, rows, experiment)
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    return _exit_code(sweep, console, stopped, ledger)


def _write_end(sweep: Sweep, record: SweepRecord, stopped: str | None) -> list[dict[str, Any]]:
    """The report and the journal's last line; returns the leaderboard's rows."""
    ledger = sweep.ledger
    reason = "environment" if sweep.environment else sweep.stopping or "interrupted"
    status = "failed" if ledger["failed"] else "done"
    last: dict[str, Any] = {"reason": reason, "detail": stopped} if stopped else {"status": status, "ledger": ledger}
    final: dict[str, Any] = {"stop" if stopped else "end": last}
    rows = report.write_report(sweep.folder, replace(record, **final))
    sweep.journal.append("stop" if stopped else "end", sync=True, **last)
    return rows


def _next_steps(sweep: Sweep, asked: Asked, rows: list[dict[str, Any]], experiment: str | None) -> list[str]:
    settings = asked.settings
    lines = [f"files          {sweep.folder}"]
    lines.append(f"open the UI    {report.ui_command(settings)}")
    base = settings.tracking if settings.tracking.startswith("http") else "http://127.0.0.1:5000"
    if experiment:
        lines.append(f"  then         {deep_link(base, experiment)}")
    if rows:
        record = report.with_links(sweep)
        best = record.trials[rows[0]["trials"].split()[0]]
        varied = [*asked.space.values, *asked.space.ranges]
        lines.append(f"repeat best    {report.repeat_command(settings, best, varied)}")
    return lines


def _exit_code(sweep: Sweep, console: Console, stopped: str | None, ledger: dict[str, int]) -> int:
    if stopped:
        words = ["python", "sweeps/run.py", "--resume", sweep.folder.name, "--home", str(sweep.folder.parent)]
        for line in (f"stopped: {stopped}. Go on with:", f"  {shlex.join(words)}"):
            console.print(line, highlight=False, soft_wrap=True, markup=False)
        if sweep.environment:
            return ENVIRONMENT
        return {"SIGINT": 130, "SIGTERM": 143}.get(stopped, DONE)
    failed = report.first_failure(sweep.record)
    if failed is None:
        return DONE
    console.print(f"trial {failed.trial} failed: {failed.reason}", style="red", highlight=False, markup=False)
    if failed.traceback:
        console.print(failed.traceback, highlight=False, markup=False)
    last = f"all failures: {sweep.folder / LOG}; the same call tries them again"
    console.print(last, highlight=False, soft_wrap=True, markup=False)
    return FAILED if ledger["failed"] else DONE


def _log_to(path: Path) -> None:
    """Our own loggers, warnings included, go to the sweep's log file."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("sweeps", "trackers", "clcore"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:
        return "unknown"


def _commit() -> str | None:
    """The commit of the code that runs, where it runs from a checkout."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return None
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
