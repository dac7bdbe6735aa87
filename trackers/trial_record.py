"""A trial and a pack as far as a journal knows them."""

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

Status = Literal["open", "running", "done", "failed"]


@dataclass(frozen=True)
class TaskRow:
    """What one trial reported after a task; ``time`` is unix seconds, ``seconds`` are of this task alone.

    ``cpu_seconds`` are its share of its pack's, ``memory`` is the peak of the whole worker in bytes.
    """

    seen: int
    time: float
    train_loss: float | None
    epochs: int | None
    seconds: float | None
    bytes: int | None
    capacity: dict[str, float | None]
    reuse: list[Any] | None
    use: dict[str, float | None]
    compressed: dict[str, float | None]
    inferred: list[list[float]]
    fitted: list[list[list[float]]]
    cpu_seconds: float | None
    memory: int | None
    overhead_bytes: int | None
    learning_bytes: int | None


@dataclass
class TrialRecord:
    """A trial as far as the journal knows it.

    Attributes:
        validation: accuracies in [0, 1], shape [T + 1, T]: row t is after t tasks, NaN where not known.
        test: the same on test data.
        rows: the reports by ``seen``, in the order they came.
        status: ``open`` (to be run), ``running``, ``done`` or ``failed``.
        since: unix seconds since when it has this status.
        place: how many were planned before it.
        begun: unix seconds of its first start.
        pack: the last pack that holds it.
        artifacts: folder of its files, relative to the sweep's; None until it is done.
        rho: forgetting ratios after 1..T tasks, once the references are known.
        fork: what it was forked from, if it was.
        calls: the ``sweep`` events of the calls that trained it, each with its commit and versions.
        dropped: what of its files was taken away (``schema.PARTS``), and why.
    """

    trial: str
    config: str
    seed: int
    method: str
    hyperparameters: dict[str, Any]
    settings: dict[str, Any]
    study: int | None
    role: Literal["trial", "reference"]
    pack: str
    validation: Tensor
    test: Tensor
    since: float
    place: int
    begun: float = 0.0
    rows: dict[int, TaskRow] = field(default_factory=dict)
    status: Status = "open"
    reason: str | None = None
    where: dict[str, Any] | None = None
    traceback: str | None = None
    artifacts: str | None = None
    rho: list[float | None] | None = None
    rho_time: float = 0.0
    joint: str | None = None
    random: str | None = None
    fork: dict[str, Any] | None = None
    calls: list[dict[str, Any]] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)

    @property
    def seen(self) -> int:
        """Tasks learned so far; -1 before the first report."""
        return max(self.rows, default=-1)

    @property
    def latest(self) -> TaskRow | None:
        """The newest report."""
        return self.rows[self.seen] if self.rows else None

    @property
    def bytes(self) -> int | None:
        """Bytes a deployment must keep, as last reported."""
        return self.latest.bytes if self.latest else None

    @property
    def seconds(self) -> float:
        """Training seconds, summed over the tasks."""
        return self.seconds_until(self.seen)

    @property
    def capacity(self) -> dict[str, float | None]:
        """Fraction of each layer in use, as last reported."""
        return self.latest.capacity if self.latest else {}

    def seconds_until(self, seen: int) -> float:
        """Training seconds of the tasks 1..seen."""
        return sum(row.seconds or 0.0 for row in self.rows.values() if row.seen <= seen)

    def cpu_seconds_until(self, seen: int) -> float | None:
        """Processor seconds of the tasks 1..seen; None where they were not measured."""
        known = [row.cpu_seconds for row in self.rows.values() if row.seen <= seen and row.cpu_seconds is not None]
        return sum(known) if known else None


@dataclass
class PackRecord:
    """A pack: its plan, its trials, and where it can be picked up (``checkpoint`` after ``seen`` tasks).

    ``heard`` is when it last started or reported, in unix seconds.
    """

    pack: str
    plan: dict[str, Any]
    trials: list[str]
    attempt: int = 0
    seen: int = -1
    checkpoint: str | None = None
    checkpoint_seen: int = -1
    heard: float = 0.0


@dataclass(frozen=True)
class LinkedTrial:
    """A trial of this sweep's question that another sweep of the same home has already answered."""

    trial: str
    config: str
    seed: int
    sweep: str
    method: str
    hyperparameters: dict[str, Any]
