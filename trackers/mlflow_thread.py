"""The one thread that writes to MLflow, beside the training."""

import logging
import math
import threading
import time

from clcore.errors import UserError
from trackers.mlflow_store import TRACKING_ERRORS, first_line, is_refusal, reason
from trackers.mlflow_tracker import Publisher

#: Most seconds between two attempts while somebody waits for the end.
HASTE = 5.0

log = logging.getLogger(__name__)


class PublisherThread(threading.Thread):
    """Publishes about once a second; the training never waits for it and never dies with it."""

    def __init__(self, publisher: Publisher, interval: float = 1.0, longest_pause: float = 30.0) -> None:
        """Not started yet.

        Args:
            publisher: used by this thread alone from ``start`` on.
            interval: seconds between two publications.
            longest_pause: seconds between two attempts, at most, while the store does not answer.
        """
        super().__init__(name="mlflow-publisher", daemon=True)
        self.publisher = publisher
        self._interval = interval
        self._longest = longest_pause
        self._finishing = threading.Event()
        self._deadline = math.inf
        self._complete = False
        self._failures = 0
        self._refused = False
        self.error: str | None = None  # why the last attempt failed, in a line

    def run(self) -> None:
        """Publishes until ``finish`` is called and everything is out, or time is up."""
        while True:
            last = self._finishing.is_set()  # asked before publishing, so that all written until then is included
            self._complete = self._attempt() and last
            pause = min(self._interval * 2**self._failures, min(self._longest, HASTE) if last else self._longest)
            if self._complete or (last and (self._refused or time.monotonic() + pause > self._deadline)):
                return
            if last:
                time.sleep(pause)
            else:
                self._finishing.wait(pause)

    def finish(self, timeout: float = 30.0) -> bool:
        """Publishes the rest and ends the thread.

        Args:
            timeout: seconds to wait without a run being brought up to date; then the thread is left behind (it holds up no exit).

        Returns:
            Whether everything is in MLflow. If not, publishing the journal again brings it there.
        """
        self._deadline = time.monotonic() + timeout
        self._finishing.set()
        written = -1
        while self.is_alive() and self.publisher.written > written:
            written = self.publisher.written
            self.join(timeout)
        return self._complete

    def _attempt(self) -> bool:
        try:
            self.publisher.publish()
        except (*TRACKING_ERRORS, UserError) as error:
            self._refused, self.error = is_refusal(error), reason(error, self.publisher.tracking_uri)
            if not self._failures:
                log.warning("MLflow cannot be written (%s); the journal keeps everything, trying again", first_line(error))
            self._failures = min(self._failures + 1, 10)
            return False
        self._failures, self._refused, self.error = 0, False, None
        return True
