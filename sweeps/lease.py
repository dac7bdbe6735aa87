"""Who trains a pack: the process that began with it last. One that was cut off, given up and comes back writes nothing more."""

import logging
import secrets
from pathlib import Path

log = logging.getLogger(__name__)


class Superseded(Exception):  # noqa: N818 - it is nobody's fault
    """Another process trains this pack by now."""


class Lease:
    """A small file in the sweep's folder with the name of the process that began last.

    Where that folder cannot be seen from here nothing is known, and nothing is refused.

    Args:
        path: the file of the pack.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.own, self.taken = path, secrets.token_hex(8), False
        try:
            path.parent.mkdir(exist_ok=True)  # only where the sweep's folder is
            path.write_text(self.own)
            self.taken = True
        except OSError as error:
            log.debug("no lease: %s", error)

    def check(self) -> None:
        """Sees whether the pack is still ours; asked before anything is written.

        Raises:
            Superseded: it is not, or the sweep has ended.
        """
        if not self.taken:
            return
        try:
            found = self.path.read_text()
        except FileNotFoundError:
            raise Superseded("the sweep has ended") from None
        except OSError as error:
            log.debug("the lease cannot be read: %s", error)
            return
        if found != self.own:
            raise Superseded("another process trains this pack")
