"""What a sweep cost, added up from its journal: every second that a worker trained is counted once."""

from dataclasses import dataclass

from trackers.record import SweepRecord


@dataclass(frozen=True)
class Cost:
    """Training seconds of a sweep (of a device, all packs together; a pack's are shared among its members), by what came of them.

    Attributes:
        done: of finished trials, references included.
        references: of these, for the references of the forgetting ratio.
        open: of trials that are not finished yet.
        failed: of trials that failed.
        repeated: learned once more after a loss, or lost with a worker since its last report, as far as is known.
        cpu: processor seconds of all that was reported; 0 where it was not measured.
        peak: most bytes that a worker used at a time; 0 where it was not measured.
    """

    done: float
    references: float
    open: float
    failed: float
    repeated: float
    cpu: float
    peak: int

    @property
    def total(self) -> float:
        """All of it."""
        return self.done + self.open + self.failed + self.repeated

    @property
    def wasted(self) -> float:
        """The share of failed and repeated work, in [0, 1]."""
        return (self.failed + self.repeated) / self.total if self.total else 0.0


def cost(record: SweepRecord) -> Cost:
    """What the trials that a sweep ran itself cost."""
    totals = record.totals
    return Cost(
        done=totals.spent("done"),
        references=totals.spent("done", roles=("reference",)),
        open=totals.spent("open", "running"),
        failed=totals.spent("failed") + float(totals.failing),
        repeated=record.repeated,
        cpu=float(totals.cpu),
        peak=totals.peak,
    )


def cost_line(found: Cost) -> str:
    """The cost in a line, e.g. ``52.1 s of training, 4.0 % of it failed or repeated; 49.3 s of processor time``."""
    wasted = f", {100 * found.wasted:.1f} % of it failed or repeated" if found.wasted else ""
    parts = [f"{found.total:,.1f} s of training{wasted}"]
    if found.cpu:
        parts.append(f"{found.cpu:,.1f} s of processor time")
    if found.peak:
        parts.append(f"at most {found.peak / 1e6:,.0f} MB a worker")
    return "; ".join(parts)
