"""Everything that can be wrong is found before anything starts or is written."""

import os
import shutil
import tempfile
from pathlib import Path

import torch

from clcore.benchmarks import Benchmark
from clcore.disk import innermost
from clcore.errors import BadValue, UserError
from sweeps.joining import check_joining
from sweeps.settings import Settings
from sweeps.storage import check_storage
from sweeps.trials import Configuration, build_benchmark, build_network
from trackers.check import ARTIFACTS, check_tracking

#: Less free space than this (bytes) in the home folder is refused.
LEAST_FREE = 100 * 1024**2


def resolve_device(settings: Settings) -> str:
    """The torch device: what was asked for, or a GPU where there is one and packs are given a share of it.

    Raises:
        BadValue: a device that torch does not have here.
    """
    if settings.device == "auto":
        return "cuda" if settings.gpus_per_trial > 0 and (settings.address or torch.cuda.is_available()) else "cpu"
    there = settings.address is not None and settings.device.startswith("cuda")  # a cluster's GPUs are not here
    if not there and not is_device(settings.device):
        raise BadValue("--device", settings.device, "auto, cpu, or a device that torch has here")
    return settings.device


def is_device(name: str) -> bool:
    """Whether torch has a device of this name here that holds values, which ``meta`` does not."""
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError):
        return False
    return True


def check_home(home: Path) -> None:
    """Sees whether the home folder can be written, without leaving anything behind.

    Raises:
        UserError: it cannot, or the disk is all but full.
    """
    existing = innermost(home)
    if not existing.is_dir():
        raise UserError(f"--home {home} cannot be written: {existing} is not a folder.")
    if (files := home / ARTIFACTS).exists() and not files.is_dir():
        raise UserError(f"--home {home}: {files}, where MLflow's files belong, is not a folder.")
    try:
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(b"x")
    except OSError as error:
        raise UserError(f"--home {home} cannot be written: {error.strerror}.") from None
    free = shutil.disk_usage(existing).free
    if free < LEAST_FREE:
        raise UserError(f"--home {home} has only {free >> 20} MB free; at least {LEAST_FREE >> 20} MB are needed.")


def check_problem(configuration: Configuration, seed: int, data_dir: Path | None) -> Benchmark:
    """Builds benchmark and network once, as every worker will.

    Raises:
        UserError: something about them cannot be.
    """
    benchmark = build_benchmark(configuration, seed, str(data_dir) if data_dir else None)
    build_network(configuration, benchmark, seed)
    return benchmark


def check_cluster(settings: Settings) -> None:
    """Sees whether the Ray cluster answers or, where none is named, whether a pack fits on this machine.

    Raises:
        UserError: it does not, a pack asks for more than there is, or what is meant for a cluster is said without one.
    """
    if settings.address is not None:
        if settings.executor == "inline":
            raise UserError("--address does not go with --executor inline, which runs everything in this process.")
        check_joining(settings.address)
        return
    if settings.ship:
        raise UserError("--ship goes with --address: without it nothing runs elsewhere.")
    cores, gpus = os.cpu_count() or 1, torch.cuda.device_count()
    if settings.cpus > cores:
        raise BadValue("--cpus", settings.cpus, f"at most {cores}, the cores of this machine")
    if settings.gpus_per_trial > gpus:
        raise BadValue("--gpus-per-trial", settings.gpus_per_trial, f"at most {gpus}, the GPUs here")


def check_all(settings: Settings, base: Configuration) -> Benchmark:
    """All checks; returns the benchmark of the first seed.

    Raises:
        UserError: the first thing that is wrong.
    """
    check_home(settings.home)
    if settings.storage is not None and settings.executor == "ray":  # in one process checkpoints are in the home
        check_storage(settings.storage)
    check_tracking(settings.tracking, settings.home)
    check_cluster(settings)
    return check_problem(base, settings.seeds[0], settings.data_dir)  # last: it reads data, which takes the longest
