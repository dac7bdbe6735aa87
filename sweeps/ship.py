"""``--ship``: the working tree sent to the nodes of a cluster, where by default the package installed there is used."""

from pathlib import Path
from typing import Any

ROOMS = ("clcore", "trackers", "sweeps", "cluster")
#: What is never sent, besides what ``.gitignore`` names: results, data, environments, caches.
EXCLUDES = (
    ".git", ".venv", "venv", "env", "runs", "mlruns", "mlartifacts", "data", "node_modules", "__pycache__", ".*_cache", "build",
    "dist", "*.egg-info", "*.db", "*.db-*", "*.sqlite", "*.parquet", "*.safetensors", "*.pt", "*.log",
)  # fmt: skip


def runtime_env(here: Path, home: Path | None = None) -> dict[str, Any]:
    """Ray's runtime environment of a working tree: the folder, and our code where it is not in it.

    Args:
        here: the folder the command is typed in, which relative names of files are relative to.
        home: of the sweeps; left out where it is below ``here``.
    """
    code = Path(__file__).resolve().parent.parent
    here = here.resolve()
    own = [f"/{home.resolve().relative_to(here)}"] if home is not None and home.resolve().is_relative_to(here) else []
    made: dict[str, Any] = {"working_dir": str(here), "excludes": [*EXCLUDES, *own]}
    if code != here:
        made["py_modules"] = [str(code / room) for room in ROOMS]
    return made
