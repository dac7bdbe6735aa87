"""``sweep.json``: what a sweep was asked, beside its journal; ``sweeps.manifest`` writes it."""

from pathlib import Path
from typing import Any

from clcore.errors import UserError
from trackers.record import FORMAT
from trackers.schema import check_format, read_json

MANIFEST = "sweep.json"


def read_manifest(path: Path) -> dict[str, Any]:
    """What ``sweep.json`` says.

    Raises:
        UserError: it is not there, cannot be read, or is of a newer format.
    """
    try:
        found = read_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"there is no sweep in {path.parent}.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} cannot be read: it is not a manifest.")
    check_format(str(path), found.get("format"), FORMAT)
    wrong = [key for key in ("question", "settings") if not isinstance(found.get(key), dict)]
    if wrong:
        raise UserError(f"{path} cannot be read: it has no or a wrong {wrong[0]!r}.")
    return found
