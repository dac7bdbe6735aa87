"""What is kept of a trial besides its numbers - weights, masks, states at task boundaries - and how it is told where it was not."""

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clcore.errors import UserError
from trackers.artifacts import CONFIG, MASKS, WEIGHTS, write_text
from trackers.schema import PARTS, read_json

WEIGHTS_PART, MASKS_PART, BOUNDARIES_PART = PARTS
#: Value of a run's tag ``cl.artifacts`` while its weights are not sent: it is not known yet whether they are kept.
WAITING = "done, weights wait"

#: Bytes of a ``config.json``: larger ones are not ours; a pack of hundreds of members takes a tenth of this.
MOST_BYTES = 4 * 1024**2

log = logging.getLogger(__name__)

_FILES = {WEIGHTS_PART: WEIGHTS, MASKS_PART: MASKS}
_BOUNDARY = re.compile(r"after-([0-9]{2,})")


def boundary(seen: int) -> str:
    """The folder of a trial's state after so many tasks, in the folder of its files."""
    return f"after-{seen:02d}"


def boundaries(folder: Path) -> dict[int, Path]:
    """Tasks learned -> folder of the state then, of a trial's kept boundaries."""
    found = {path: _BOUNDARY.fullmatch(path.name) for path in folder.glob("after-*") if path.is_dir()}
    return dict(sorted((int(match[1]), path) for path, match in found.items() if match))


def files_of(folder: Path, part: str) -> list[Path]:
    """The files of a part that are there.

    Args:
        folder: of a trial's files.
        part: one of ``PARTS``.
    """
    if part == BOUNDARIES_PART:
        return [file for own in boundaries(folder).values() for file in sorted(own.iterdir())]
    return [path for path in [folder / _FILES[part]] if path.is_file()]


def size_of(folder: Path, part: str) -> int:
    """Bytes of a part of what is kept of a trial."""
    return sum(file.stat().st_size for file in files_of(folder, part))


def write_config(folder: Path, config: Mapping[str, Any], dropped: Mapping[str, str]) -> None:
    """Writes a trial's ``config.json``: all that decides its result, and under ``kept`` what there is of it.

    Args:
        folder: of the trial's files, the others of which are there.
        config: all but ``kept``.
        dropped: part -> why it was taken away.

    Raises:
        OSError: the disk is full or gone.
    """
    kept = {part: part not in dropped and bool(files_of(folder, part)) for part in (WEIGHTS_PART, MASKS_PART)}
    states = [] if BOUNDARIES_PART in dropped else [*boundaries(folder)]
    told = {**kept, BOUNDARIES_PART: states, "dropped": dict(dropped)}
    write_text(folder / CONFIG, json.dumps({**config, "kept": told}, indent=1, sort_keys=True))


def read_config(path: Path) -> dict[str, Any]:
    """What a ``config.json`` says.

    Raises:
        OSError: it is not there, or cannot be read.
        ValueError: it is damaged, or too large to be ours.
    """
    if path.stat().st_size > MOST_BYTES:
        raise ValueError("it is too large")
    found = read_json(path.read_bytes())
    if not isinstance(found, dict):
        raise ValueError("it is not a table")
    return found


def tell_dropped(folder: Path, dropped: Mapping[str, str]) -> None:
    """Says in a trial's ``config.json`` what is taken away, and why; a file that is lost or damaged stays so.

    Raises:
        OSError: the disk is full or gone.
    """
    try:
        config = read_config(folder / CONFIG)
    except (FileNotFoundError, ValueError) as error:
        log.warning("%s cannot say what was taken away: %s", folder / CONFIG, error)
        return
    write_config(folder, config, dropped)


def waits(settings: Mapping[str, Any]) -> bool:
    """Whether a sweep's weights and masks go to MLflow at its end: only then it is known whose are kept."""
    return settings.get("keep") == "best" or settings.get("keep_bytes") is not None


def is_light(path: Path) -> bool:
    """Whether a file of a trial's is no weights, masks or state, which ``--keep`` may take away, and not half written."""
    return not path.name.startswith(".") and path.name not in _FILES.values() and not _BOUNDARY.fullmatch(path.parent.name)


def why_missing(name: str, config: Mapping[str, Any]) -> str | None:
    """Why a file of a trial is not there, by its ``config.json``; None where that does not say.

    Args:
        name: of the file.
        config: what ``config.json`` holds.
    """
    part = next((part for part, file in _FILES.items() if file == name), None)
    told = config.get("kept")
    if part is None or not isinstance(told, dict):
        return None
    dropped = told.get("dropped")
    why = dropped.get(part) if isinstance(dropped, dict) else None
    if isinstance(why, str):
        return f"the {part} of this trial were not kept ({why})"
    return "its method has no masks" if part == MASKS_PART and told.get(part) is False else None


def there(path: Path) -> Path:
    """A file in a trial's folder, for who reads it.

    Raises:
        UserError: it is not there, because it was not kept.
    """
    if path.name in _FILES.values() and not path.exists():
        try:
            why = why_missing(path.name, read_config(path.parent / CONFIG))
        except (OSError, ValueError):
            why = None
        if why is not None:
            raise UserError(f"there is no file {path}: {why}.")
    return path
