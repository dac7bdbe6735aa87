"""The checkpoints that running packs may go on from; older ones are let go of.

Tune could do it, but told how many to keep it writes down all its trials after every other checkpoint.
"""

from pathlib import Path

from sweeps.storage import discard, found_at

#: Checkpoints of a running pack that are kept: the newest reported, and the one before, until the executor knows the newest.
STATES = 2


class States:
    """Which checkpoints each running pack has, oldest first.

    Args:
        folder: the sweep's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[str, list[str]] = {}

    def put(self, pack: str, newest: str) -> None:
        """A pack has reported a checkpoint, by the journal's name for it; what is older than the one before it goes."""
        names = [name for name in self._names.get(pack, []) if name != newest] + [newest]
        self._names[pack] = names[-STATES:]
        self._discard(names[:-STATES])

    def drop(self, pack: str) -> None:
        """A pack has ended, and nobody goes on from any of its checkpoints."""
        self._discard(self._names.pop(pack, []))

    def _discard(self, names: list[str]) -> None:
        for name in names:
            discard(found_at(name, self.folder))
