"""A question in full, checked; the plan that answers it; and what that would cost."""

import os
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from rich.console import Console

from clcore.benchmarks import Benchmark
from clcore.errors import BadValue, UserError
from sweeps import preflight
from sweeps.driver import Plan
from sweeps.keeping import check_retention
from sweeps.manifest import check_manifest
from sweeps.pilot import GAIN, Pilot, pilot
from sweeps.progress import duration
from sweeps.search import ROUNDS
from sweeps.settings import Settings
from sweeps.sizes import disk_line, need
from sweeps.spaces import DEFAULT_TRIALS, Space, describe, find_space
from sweeps.trials import Configuration, Pack, Trial, base_configuration, with_values

#: Seconds that a sweep must be expected to take at most for compiling its steps to be tried; it costs half a minute a worker.
COMPILE_FROM = 1800

#: Methods run once a seed for the forgetting ratio (HAT, eq. 6).
REFERENCES = ("joint", "random")


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
    def like(self) -> Pack:
        """A pack without members: threads, device and data folder of all of them."""
        data_dir = str(self.settings.data_dir.absolute()) if self.settings.data_dir else None
        return Pack((), self.settings.cpus, self.device, data_dir)

    @cached_property
    def kinds(self) -> list[Trial]:
        """One trial of each structure in the space: the last of its cells."""
        cells = self.space.cells() if self.space.search == "grid" else [{}]
        trials = [Trial(with_values(self.base, cell), self.settings.seeds[0]) for cell in cells]
        return list({trial.configuration.structure: trial for trial in trials}.values())

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
        count = len(space.cells())
        raise UserError(f"--trials {settings.trials} goes with random, tpe and nsga2; this grid has {count} configurations.")
    device = preflight.resolve_device(settings)
    benchmark = preflight.check_all(settings, base)
    if space.search in ("tpe", "nsga2") and benchmark.tasks[0].validation is None:
        raise UserError(f"--space {space.search} chooses on validation data, and --set validation=none leaves none.")
    if not base.packable and settings.pack not in ("auto", "1"):
        raise BadValue("--pack", settings.pack, f"auto or 1: {settings.method} in {settings.scenario} runs a trial at a time")
    check_retention(settings.retention, settings.scenario, benchmark.tasks[0].validation is not None)
    asked = Asked(settings, space, base, benchmark, device)
    check_manifest(asked.folder, settings)
    for trial in asked.kinds:  # what cannot be learned is refused here, before anything is written; a cluster's GPUs are not here
        replace(asked.like, trials=(trial,), device="cpu").learner()
    return asked


def make_plan(asked: Asked, workers: int) -> tuple[Plan, Pilot]:
    """Pack size and the rest, with the pilot it rests on."""
    settings = asked.settings
    batch = asked.configurations if asked.space.search == "grid" else -(-asked.configurations // ROUNDS)
    share = -(-batch // max(workers // len(settings.seeds), 1))
    most = share if settings.pack == "auto" else min(int(settings.pack), batch)
    found = _compiled_or_not(asked, most, workers)
    like = replace(asked.like, compiled=found.compiled)
    found, like = _widened(asked, found, like, batch, workers)
    size = found.size if settings.pack == "auto" else int(settings.pack)
    compared = Path(settings.method).stem not in REFERENCES
    references = tuple(base_configuration(settings, method) for method in REFERENCES) if compared else ()
    trials = asked.configurations * len(settings.seeds)
    many = (size, batch, trials, workers, like, settings.retention)
    return Plan(asked.base, settings.seeds, references, settings.references, *many), found


def _compiled_or_not(asked: Asked, most: int, workers: int) -> Pilot:
    """The pilot of what is faster. Compiling is tried when asked for, or when a sweep is long enough to pay for it many times."""
    said, home, kind = asked.settings.compiled, asked.settings.home, asked.kinds[0]
    plain = pilot(home, kind, most, asked.like)
    if said == "off" or (said == "auto" and _at_most(asked, plain, plain.size, workers) < COMPILE_FROM):
        return plain
    compiled = pilot(home, kind, most, replace(asked.like, compiled=True))
    faster = compiled.step_of_one * GAIN <= plain.step_of_one
    return compiled if compiled.compiled and (faster or said == "on") else plain


def _widened(asked: Asked, found: Pilot, like: Pack, batch: int, workers: int) -> tuple[Pilot, Pack]:
    """Where packs are fewer than cores, each gets several threads if its steps gain by it.

    As many packs as cores with a thread each are left so: a step on two threads never took less than half the time.
    """
    settings = asked.settings
    cores = (os.cpu_count() or 1) if settings.executor == "inline" else workers
    packs = -(-batch // found.size) * len(settings.seeds)
    threads = cores if settings.executor == "inline" else cores // packs
    if threads < 2 or settings.pack != "auto" or settings.address or like.device != "cpu" or "cpus" in settings.model_fields_set:
        return found, like
    wide = replace(like, threads=threads)
    gained = pilot(settings.home, asked.kinds[0], found.size, wide)
    if gained.step_of_one * GAIN > found.step_of_one:
        return found, like
    return replace(gained, beside=f"{found.step_of_one * 1e3:.2f} on one thread"), wide


def settled(asked: Asked, plan: Plan) -> Asked:
    """The question with the threads of a pack that the pilot chose, and as many packs at a time as there are cores for them."""
    if (threads := plan.like.threads) == asked.settings.cpus:
        return asked
    update = {"cpus": threads, "workers": max(local_workers(asked.settings) // threads, 1)}
    return replace(asked, settings=asked.settings.model_copy(update=update))


def _at_most(asked: Asked, found: Pilot, size: int, workers: int) -> float:
    """Seconds a sweep takes if every task needs all its epochs, references aside."""
    packs = -(-asked.configurations // size) * len(asked.settings.seeds)
    each = found.seconds(min(size, asked.configurations), asked.base.training["epochs"], len(asked.benchmark.tasks))
    return packs / min(workers, packs) * each


def most_seconds(asked: Asked) -> float:
    """Seconds a sweep takes at most on this machine, references aside, by a pilot."""
    workers = local_workers(asked.settings)
    plan, found = make_plan(asked, workers)
    return _at_most(asked, found, plan.size, workers)


def dry_run(asked: Asked, console: Console) -> None:
    """Says what would be run and what it would cost; trains nothing and keeps only the pilot's figures."""
    workers = local_workers(asked.settings)
    plan, found = make_plan(asked, workers)
    asked = settled(asked, plan)
    workers = local_workers(asked.settings)
    count = asked.configurations * len(asked.settings.seeds)
    packs = -(-asked.configurations // plan.size) * len(asked.settings.seeds)
    epochs, seconds = asked.base.training["epochs"], _at_most(asked, found, plan.size, workers)
    say = partial(console.print, highlight=False, soft_wrap=True)
    say(f"sweep          {asked.folder.name}")
    say(f"varies         {describe(asked.space)} ({asked.space.search})")
    say(f"trials         {asked.configurations} configurations x {len(asked.settings.seeds)} seeds = {count}")
    how = f"{asked.settings.cpus} thread(s) each ({found.reason})"
    say(f"packs          {packs} of at most {plan.size}, {workers} at a time, {how}")
    say(f"time           at most about {duration(seconds)} ({epochs} epochs a task), references aside")
    say(f"disk           {disk_line(need(asked, plan, workers), asked)}")
    say("nothing was trained")


def local_workers(settings: Settings) -> int:
    """Packs that run at the same time on this machine."""
    if settings.executor == "inline":
        return 1
    return settings.workers or max((os.cpu_count() or 1) // settings.cpus, 1)
