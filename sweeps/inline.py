"""The packs of a sweep in this process, one after another, without Ray: for debugging and for tests."""

from contextlib import nullcontext
from pathlib import Path

from sweeps.driver import HEARTBEATS, PACKS, Sweep
from sweeps.storage import opened
from sweeps.trainable import Heartbeat, fault, run_pack
from sweeps.trials import Pack


class Stopped(Exception):  # noqa: N818 - not an error
    """The sweep is to stop; raised between two epochs."""


def run_inline(sweep: Sweep) -> None:
    """Runs until nothing is left or the sweep is stopped."""
    while True:
        pack, resume = sweep.next_pack()
        if pack is None:
            return
        sweep.started(pack.identity)
        error = None
        try:
            _run(sweep, pack, resume)
        except Stopped:
            pass
        except Exception as broken:  # noqa: BLE001 - a pack's own fault must not end the sweep
            sweep.reported(pack.identity, fault(broken), None)
            error = str(broken)
        sweep.ended(pack.identity, error)


def _run(sweep: Sweep, pack: Pack, resume: Path | str | None) -> None:
    beat = Heartbeat(sweep.folder / HEARTBEATS / f"{pack.identity}.json")

    def check(task: int, epoch: int) -> None:
        beat(task, epoch)
        if sweep.stopping:
            raise Stopped

    with opened(resume) if resume else nullcontext() as start:
        for said, save in run_pack(pack, start, check):
            folder = sweep.folder / PACKS / pack.identity / f"seen-{said['seen']:03d}"
            save(folder)
            sweep.reported(pack.identity, said, folder)
