"""A question in full, checked."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from clcore.benchmarks import Benchmark
from clcore.errors import BadValue, UserError
from sweeps import preflight
from sweeps.keeping import check_retention
from sweeps.manifest import check_manifest
from sweeps.settings import Settings
from sweeps.spaces import Space, find_space
from sweeps.trials import Configuration, Pack, Trial, base_configuration, with_values


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
        """A pack without members, with the threads, device and data folder that were asked for."""
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
        return self.space.configurations(self.settings.trials)


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
