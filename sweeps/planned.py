"""From a question to its plan: the size of packs, their threads, whether steps are compiled - and what that costs."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from rich.console import Console

from sweeps.asked import Asked
from sweeps.driver import Plan
from sweeps.kind_pilots import pilot_there
from sweeps.kinds import Group, Kind
from sweeps.pilot import GAIN, Pilot, pilot
from sweeps.progress import duration
from sweeps.search import ROUNDS
from sweeps.settings import Settings
from sweeps.sizes import disk_line, need
from sweeps.spaces import describe
from sweeps.trials import Pack, base_configuration
from trackers.command import say

#: Seconds that a sweep must be expected to take at most for compiling its steps to be tried: about ten times what that costs.
COMPILE_FROM = 300

#: The kinds of nodes of a cluster, and of none.
Kinds = Mapping[Kind, Group]
NO_CLUSTER: Kinds = MappingProxyType({})

#: Methods run once a seed for the forgetting ratio (HAT, eq. 6).
REFERENCES = ("joint", "random")


@dataclass(frozen=True)
class Planned:
    """A question with its plan.

    Attributes:
        asked: the question; the threads of a pack are those that the pilot chose.
        plan: how it is cut into packs.
        pilot: what the plan rests on.
        workers: packs that run at a time.
    """

    asked: Asked
    plan: Plan
    pilot: Pilot
    workers: int

    @property
    def packs(self) -> int:
        """How many there are at least, references aside."""
        return _packs(self.asked, self.plan.size)

    @property
    def seconds(self) -> float:
        """What it takes at most, references aside."""
        return _at_most(self.asked, self.pilot, self.plan.size, self.workers)


def planned(asked: Asked, workers: int | None = None, kinds: Kinds = NO_CLUSTER) -> Planned:
    """Plans a question.

    Args:
        asked: the question.
        workers: packs that would run at a time with the threads that were asked for; None: as this machine has cores.
        kinds: of the nodes of a cluster that is joined; none: packs run on this machine.
    """
    workers = local_workers(asked.settings) if workers is None else workers
    plan, found = make_plan(asked, workers, kinds)
    if (threads := plan.like.threads) == asked.settings.cpus:
        return Planned(asked, plan, found, workers)
    update = {"cpus": threads, "workers": max(local_workers(asked.settings) // threads, 1)}
    settled = asked.settings.model_copy(update=update)
    return Planned(replace(asked, settings=settled), plan, found, local_workers(settled))


def make_plan(asked: Asked, workers: int, kinds: Kinds = NO_CLUSTER) -> tuple[Plan, Pilot]:
    """Pack size and the rest, with the pilot it rests on.

    Args:
        asked: the question.
        workers: packs that would run at a time with the threads that were asked for.
        kinds: of the nodes of a cluster that is joined.
    """
    settings = asked.settings
    batch = asked.configurations if asked.space.search == "grid" else -(-asked.configurations // ROUNDS)
    share = -(-batch // max(workers // len(settings.seeds), 1))
    most = share if settings.pack == "auto" else min(int(settings.pack), batch)
    found = _compiled_or_not(asked, most, workers, kinds)
    like = replace(asked.like, compiled=found.compiled)
    found, like = _widened(asked, found, like, batch, workers)
    size = found.size if settings.pack == "auto" else int(settings.pack)
    compared = Path(settings.method).stem not in REFERENCES
    references = tuple(base_configuration(settings, method) for method in REFERENCES) if compared else ()
    trials = asked.configurations * len(settings.seeds)
    many = (size, batch, trials, workers, like, settings.retention)
    return Plan(asked.base, settings.seeds, references, settings.references, *many), found


def _compiled_or_not(asked: Asked, most: int, workers: int, kinds: Kinds) -> Pilot:
    """The pilot of what is faster. Compiling is tried when asked for, or when a sweep is long enough to pay for it many times."""
    said = asked.settings.compiled
    there = partial(pilot_there, kinds=kinds) if kinds else pilot
    measure = partial(there, asked.settings.home, asked.kinds[0], most)
    if said == "on" and (compiled := measure(replace(asked.like, compiled=True))).compiled:
        return compiled
    plain = measure(asked.like)
    if said != "auto" or _at_most(asked, plain, plain.size, workers) < COMPILE_FROM:
        return plain
    compiled = measure(replace(asked.like, compiled=True))
    return compiled if compiled.compiled and compiled.step_of_one * GAIN <= plain.step_of_one else plain


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


def _packs(asked: Asked, size: int) -> int:
    return -(-asked.configurations // size) * len(asked.settings.seeds)


def _at_most(asked: Asked, found: Pilot, size: int, workers: int) -> float:
    """Seconds a sweep takes if every task needs all its epochs, references aside."""
    packs = _packs(asked, size)
    each = found.seconds(min(size, asked.configurations), asked.base.training["epochs"], len(asked.benchmark.tasks))
    return packs / min(workers, packs) * each


def dry_run(asked: Asked, console: Console) -> None:
    """Says what would be run and what it would cost; trains nothing and keeps only the pilot's figures."""
    found = planned(asked)
    asked, workers = found.asked, found.workers
    count = asked.configurations * len(asked.settings.seeds)
    epochs = asked.base.training["epochs"]
    put = partial(say, console)
    put(f"sweep          {asked.folder.name}")
    put(f"varies         {describe(asked.space)} ({asked.space.search})")
    put(f"trials         {asked.configurations} configurations x {len(asked.settings.seeds)} seeds = {count}")
    how = f"{asked.settings.cpus} thread(s) each ({found.pilot.reason})"
    put(f"packs          {found.packs} of at most {found.plan.size}, {workers} at a time, {how}")
    put(f"time           at most about {duration(found.seconds)} ({epochs} epochs a task), references aside")
    put(f"disk           {disk_line(need(asked, found.plan, workers), asked)}")
    put("nothing was trained")


def local_workers(settings: Settings) -> int:
    """Packs that run at the same time on this machine."""
    if settings.executor == "inline":
        return 1
    return settings.workers or max((os.cpu_count() or 1) // settings.cpus, 1)
