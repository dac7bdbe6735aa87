"""The runs of one sweep in MLflow: found again by their tags, made where missing, marked where there are too many."""

import logging
from dataclasses import dataclass, field
from typing import Self

from mlflow.entities import Run, RunTag
from mlflow.tracking import MlflowClient

from trackers.mlflow_store import all_runs

SEEN, CLOSINGS = "cl.seen", "cl.closings"  # tags: up to where the curves of a trial, and of the sweep, are there

log = logging.getLogger(__name__)


@dataclass
class Known:
    """What MLflow has of one run."""

    run_id: str
    name: str
    status: str
    params: set[str] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run) -> Self:
        """From the run as MLflow tells it."""
        return cls(run.info.run_id, run.info.run_name or "", run.info.status, set(run.data.params), dict(run.data.tags))

    def mark(self, tag: str) -> int:
        """A watermark kept in a tag; -1 when there is none."""
        return int(self.tags.get(tag, -1))


@dataclass
class SweepRuns:
    """The runs of a sweep that MLflow has.

    Attributes:
        parent: the sweep's own.
        children: trial -> its run.
        surplus: runs of what has a run already. They come of answers that were lost (the client asks once more, and the
            server makes a second run), and of runs taken out of MLflow's trash after others had been made in their place.
    """

    parent: Known | None = None
    children: dict[str, Known] = field(default_factory=dict)
    surplus: list[Known] = field(default_factory=list)


def find_runs(client: MlflowClient, experiment: str, sweep_id: str) -> SweepRuns:
    """Looks for all runs of a sweep; of two that should be one, the one that has more counts, then the older."""
    query = f"tags.`cl.sweep_id` = '{sweep_id}' and tags.`cl.role` != 'orphan'"
    found = SweepRuns()
    known = [Known.of(run) for run in all_runs(client, [experiment], query)]
    for one in sorted(known, key=lambda one: -max(one.mark(SEEN), one.mark(CLOSINGS))):
        if one.tags["cl.role"] != "sweep":
            if found.children.setdefault(one.tags["cl.trial"], one) is not one:
                found.surplus.append(one)
        elif found.parent is None:
            found.parent = one
        else:
            found.surplus.append(one)
    return found


def mark_orphan(client: MlflowClient, run: Known, when: int) -> None:
    """Says of a run that it stands for nothing: nothing looks for the role ``orphan``, and it does not seem to run.

    Args:
        client: of the store.
        run: which.
        when: milliseconds since 1970; when it ended.
    """
    log.warning("run %s (%s) in MLflow is one too many: marked with the tag cl.orphan", run.run_id, run.name)
    client.set_terminated(run.run_id, "KILLED", when)  # first: once the role is changed, the run is not found again
    client.log_batch(run.run_id, tags=[RunTag("cl.orphan", "true"), RunTag("cl.role", "orphan")])
