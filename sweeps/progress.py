"""What a person sees while a sweep runs: one bar and a line a running pack, or plain lines without a terminal."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweeps.driver import HEARTBEATS, Sweep, score
from sweeps.trials import Pack

#: Seconds between two plain lines.
QUIET = 10.0


class Display:
    """Shows a sweep until it is closed; a thread of its own reads the driver's state.

    Args:
        sweep: what is shown.
        console: where.
    """

    def __init__(self, sweep: Sweep, console: Console) -> None:
        self.sweep, self.console = sweep, console
        self.begun = time.monotonic()
        self.live = Live(get_renderable=self._render, console=console, refresh_per_second=2, transient=True)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._plain, daemon=True)

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self.live.start()
        else:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self.live.stop()
        else:
            self._closed.set()
            self._thread.join()

    def _plain(self) -> None:
        while not self._closed.wait(QUIET):
            self.console.print(summary(self.sweep, self.begun), highlight=False, soft_wrap=True)

    def _render(self) -> Group:
        share = completed(self.sweep)
        bar = Table.grid(padding=(0, 1), expand=False)
        bar.add_row(ProgressBar(total=1.0, completed=share, width=30), Text(summary(self.sweep, self.begun)))
        return Group(bar, *(Text(f"  {line}", style="dim") for line in _safe(lambda: pack_lines(self.sweep))))


def summary(sweep: Sweep, begun: float) -> str:
    """For instance ``12/24 done, 1 failed, best 0.913, about 20 s left``."""
    ledger = sweep.ledger
    parts = [f"{ledger['done'] + ledger['skipped']}/{ledger['asked']} done"]
    parts += [f"{ledger['failed']} failed"] if ledger["failed"] else []
    scores = _safe(lambda: [score(t) for t in list(sweep.record.trials.values()) if t.status == "done" and t.role == "trial"])
    parts += [f"best {max(scores):.3f}"] if scores else []
    share, elapsed = completed(sweep), time.monotonic() - begun
    if 0.02 < share < 1:
        parts.append(f"about {duration(elapsed * (1 - share) / share)} left")
    return ", ".join([*parts, f"{duration(elapsed)} so far"])


def completed(sweep: Sweep) -> float:
    """The part of the sweep's work that is done, in [0, 1]: tasks learned, of references too and of what is not proposed yet."""
    tasks, later = sweep.record.tasks, sweep.ledger["asked"] - len(sweep.wanted)
    planned = [t for t in list(sweep.record.trials.values()) if t.trial not in sweep.done_before]
    learned = sum(tasks if t.status in ("done", "failed") else max(t.seen, 0) for t in planned)
    return learned / (tasks * (len(planned) + later)) if planned else 0.0


def pack_lines(sweep: Sweep) -> list[str]:
    """One line a running pack: where it is, and the best of its members so far."""
    return [_pack_line(sweep, pack) for pack in list(sweep.running.values())]


def duration(seconds: float) -> str:
    """For instance ``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _pack_line(sweep: Sweep, pack: Pack) -> str:
    method = Path(pack.trials[0].configuration.method).stem
    head = f"{method} x {len(pack.trials)}, seed {pack.trials[0].seed}"
    records = [sweep.record.trials[t.identity] for t in pack.trials]
    seen = max(record.seen for record in records)
    beat = _beat(sweep.folder / HEARTBEATS / f"{pack.identity}.json")
    task, epoch = beat if beat and beat[0] >= seen else (max(seen, 0), None)
    where = f"task {min(task + 1, sweep.record.tasks)}/{sweep.record.tasks}" + (f", epoch {epoch + 1}" if epoch is not None else "")
    best = max((score(r) for r in records if r.seen > 0), default=None)
    return f"{head}: {where}" + (f", best so far {best:.3f}" if best is not None else "")


def _beat(path: Path) -> tuple[int, int] | None:
    try:
        said = json.loads(path.read_text())
        return said["task"], said["epoch"]
    except (OSError, ValueError, KeyError):
        return None


def _safe(read: Callable[[], list[str]] | Callable[[], list[float]]) -> list:  # type: ignore[type-arg]
    """A look at state that the driver's thread may be changing; what cannot be read now is shown next time."""
    try:
        return list(read())
    except (RuntimeError, KeyError):
        return []
