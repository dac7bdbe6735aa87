"""The sweep's log file, which a full disk must not turn into tracebacks on the screen."""

import contextlib
import logging
import sys


class LogFile(logging.FileHandler):
    """Lines that find no room are lost; that the disk is full is said by whoever needs it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Passes over what the disk did not take."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        """Closes the file; what waited to be written is lost where there is still no room."""
        with contextlib.suppress(OSError):
            super().close()
