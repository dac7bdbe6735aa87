"""``sweeps/run.py`` as the process of a supervisor: an exit code of its own where it breaks, which a failed trial is not.

``python -m cluster.driven COMMAND WORDS...``: COMMAND is what was typed, for the record.
"""

import shlex
import sys
import traceback

from sweeps.run import app
from trackers.command import run

#: Exit code of a driver that broke by a fault of its own (``EX_SOFTWARE`` of sysexits.h).
BROKEN = 70


def main() -> int:
    """Runs the sweep; returns the exit code."""
    _, command, *words = sys.argv
    sys.argv = shlex.split(command)
    try:
        return run(app, words)
    except Exception:  # noqa: BLE001 - whatever it is, the supervisor has to know it from the end of a sweep
        traceback.print_exc()
        return BROKEN


if __name__ == "__main__":
    sys.exit(main())
