"""The driver of a sweep as a process that is started again when it is lost: the same call goes on from the journal."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from cluster import children
from cluster.driven import BROKEN
from trackers.command import BAD_CALL, INTERRUPTED

#: Exit codes of ``sweeps/run.py`` that are its own word: done, failed trials, a full disk, interrupted; and a wrong call.
FINAL = (0, 1, 3, INTERRUPTED, 143)
#: Seconds before a driver is started again, and as many more each time: for a cluster of ours, and for one that others mend.
SOON, LATER = 1.0, 15.0
#: Seconds between two looks.
STEP = 0.1


class Stopped(Exception):  # noqa: N818 - it is no fault
    """A signal came while no driver was running that could have ended in good order."""

    def __init__(self, number: int) -> None:  # the signal's
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.code = 128 + number


class Signals:
    """Ctrl-C and SIGTERM: handed to the driver, which ends in good order; kept where there is none."""

    def __init__(self) -> None:
        self.caught: int | None = None
        self.driver: subprocess.Popen[bytes] | None = None

    def __call__(self, number: int, frame: object) -> None:
        """Hears a signal."""
        self.caught = self.caught or number
        if self.driver is not None and self.driver.poll() is None:
            self.driver.send_signal(number)

    def check(self) -> None:
        """Sees whether to go on.

        Raises:
            Stopped: a signal was caught.
        """
        if self.caught is not None:
            raise Stopped(self.caught)


@contextlib.contextmanager
def signals() -> Iterator[Signals]:
    """Catches Ctrl-C and SIGTERM as long as it lasts."""
    caught = Signals()
    before = {number: signal.signal(number, caught) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def driver_command(words: Sequence[str], command: str) -> list[str]:
    """The driver of a sweep as a process.

    Args:
        words: of ``sweeps/run.py``.
        command: what was typed, for the record.
    """
    return [sys.executable, "-m", "cluster.driven", command, *words]


def supervise(
    begin: Callable[[], tuple[list[str], Mapping[str, str]]],
    retries: int,
    caught: Signals,
    say: Callable[[str], None],
    fallen: Callable[[], bool] = lambda: False,
    pause: float = LATER,
) -> int:
    """Runs a driver until it has its say, starting it again when it is lost.

    Args:
        begin: called before each start: sees to it that there is a cluster; gives the driver's command and variables.
        retries: how often it is started again.
        caught: signals.
        say: shows a line.
        fallen: called now and then: mends what it can, and says whether the driver has lost its cluster.
        pause: seconds before it is started again, and as many more each time.

    Returns:
        The exit code.

    Raises:
        Stopped: by a signal, while no driver was running.
    """
    for attempt in range(retries + 1):
        _rest(pause * attempt, caught)
        command, environment = begin()
        caught.driver = children.start(command, environment)
        try:
            code = _watch(caught.driver, caught, fallen)
        finally:
            children.kill(caught.driver)
            caught.driver = None
        if code in FINAL or (code == BAD_CALL and not attempt):  # later it is the cluster that is not ready yet
            return code
        if caught.caught is not None:
            return 128 + caught.caught
        rest = f"it is started again ({attempt + 1} of {retries})" if attempt < retries else "it is not started again"
        say(f"the driver was lost ({_how(code)}): {rest}")
    say("the same call goes on from where it was")
    return BROKEN


def _watch(driver: "subprocess.Popen[bytes]", caught: Signals, fallen: Callable[[], bool]) -> int:
    """Its exit code; a driver whose cluster is gone is killed, since Ray would keep it waiting for a minute."""
    while (code := driver.poll()) is None:
        if caught.caught is None and fallen():
            return -signal.SIGKILL
        time.sleep(STEP)
    return code


def _rest(seconds: float, caught: Signals) -> None:
    end = time.monotonic() + seconds
    caught.check()
    while time.monotonic() < end:
        time.sleep(STEP)
        caught.check()


def _how(code: int) -> str:
    if code < 0:
        return signal.Signals(-code).name
    return "its own fault, see above" if code == BROKEN else f"exit code {code}"
