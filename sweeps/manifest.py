"""What a sweep was asked, kept beside its journal: so that it can go on by its name alone, and only as the same question."""

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clcore.errors import UserError
from sweeps.settings import Settings
from trackers.manifest import MANIFEST, read_manifest
from trackers.record import FORMAT

if TYPE_CHECKING:
    from sweeps.asked import Asked


def check_manifest(folder: Path, settings: Settings) -> None:
    """Sees that a sweep of this name asks the same question.

    Raises:
        UserError: it asks another; the differences are shown.
    """
    path = folder / MANIFEST
    if not path.exists():
        return
    before, now = read_manifest(path)["question"], settings.question()
    if "space_file" in before:  # sweeps of before 2026-11-22 have the file's whole path
        before = {**before, "space": Path(before["space"]).name}
    differing = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    if differing:
        shown = "; ".join(f"{key}: {before.get(key)!r} then, {now.get(key)!r} now" for key in differing)
        raise UserError(f"sweep {folder.name} was made with other settings ({shown}). Give this one another --name.")


def write_manifest(folder: Path, settings: Settings, command: str) -> None:
    """Keeps settings and question, so that ``--resume`` needs no more than the name."""
    facts = {"format": FORMAT, "question": settings.question(), "settings": settings.model_dump(mode="json"), "command": command}
    temporary = folder / f"{MANIFEST}.new"
    temporary.write_text(json.dumps(facts, indent=1))
    os.replace(temporary, folder / MANIFEST)


def sweep_event(asked: "Asked", command: str) -> dict[str, Any]:
    """The journal's ``sweep`` event: what is asked, by which code, of which data."""
    settings, benchmark = asked.settings, asked.benchmark
    packages = ("clsweep", "torch", "ray", "optuna", "mlflow")
    return {
        "format": FORMAT,
        "name": settings.sweep_name(),
        "settings": settings.model_dump(mode="json"),
        "command": command,
        "versions": {"python": platform.python_version(), **{p: package_version(p) for p in packages}},
        "git": current_commit(),
        "method": Path(settings.method).stem,
        "benchmark": Path(settings.benchmark).stem,
        "network": settings.network,
        "scenario": benchmark.scenario,
        "tasks": len(benchmark.tasks),
        "data_digest": benchmark.digest,
        "varied": [*asked.space.values, *asked.space.ranges],
    }


def package_version(package: str) -> str:
    """The version of an installed package, or ``unknown``."""
    try:
        return version(package)
    except ModuleNotFoundError:
        return "unknown"


def current_commit() -> str | None:
    """The commit of the code that runs, where it runs from a checkout."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return None
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
