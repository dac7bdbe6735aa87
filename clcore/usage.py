"""What a piece of work used of the machine: processor time and memory."""

import resource
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Usage:
    """What was used since the reading before.

    Attributes:
        cpu_seconds: processor time of this process, all its threads together.
        peak_bytes: most memory at a time: of the accelerator where one is used, of this whole process otherwise.
    """

    cpu_seconds: float
    peak_bytes: int


class Meter:
    """Reads what this process uses; each reading begins the next stretch.

    Args:
        device: where the work is done.
    """

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self._since = time.process_time()
        self._peak()

    def read(self) -> Usage:
        """What was used since the last reading."""
        before, self._since = self._since, time.process_time()
        return Usage(self._since - before, self._peak())

    def _peak(self) -> int:
        """The peak since it was last asked for, which forgets it."""
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            return peak
        peak = _resident_peak()
        with suppress(OSError):  # only Linux lets go of the peak; elsewhere it is that of the process's life
            _CLEAR.write_text("5")
        return peak


def _resident_peak() -> int:
    with suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes but on macOS
