"""What Ray Tune calls: the driver dressed as a search algorithm and as a callback.

Tune pickles both with its own state, which is never read again; so they give it nothing.
"""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from ray.tune import Callback
from ray.tune.search import Searcher

from sweeps.driver import HEARTBEATS, Sweep
from sweeps.storage import below
from sweeps.trainable import of_environment


class PackSearcher(Searcher):
    """Hands Tune the driver's next pack."""

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(metric="seen", mode="max")
        self.sweep = sweep

    def suggest(self, trial_id: str) -> dict[str, str] | str:
        """The next pack as a trial's configuration, or ``FINISHED`` when nothing is left."""
        pack, resume = None, None
        with _stopping_on_full_disk(self.sweep):
            pack, resume = self.sweep.next_pack()
        if pack is None:
            return str(Searcher.FINISHED)
        heartbeat = (self.sweep.folder / HEARTBEATS / f"{pack.identity}.json").absolute()
        return {
            "identity": pack.identity,
            "pack": pack.to_json(),
            "resume": str(resume.absolute() if isinstance(resume, Path) else resume or ""),
            "heartbeat": str(heartbeat),
        }

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The listener has heard already."""

    def save(self, checkpoint_path: str) -> None:
        """The journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """The journal is the state."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Listener(Callback):
    """Hands the driver what packs report.

    Args:
        sweep: the driver.
        storage: URI of the sweep's folder in a storage of its own; None: checkpoints are in its folder here.
    """

    def __init__(self, sweep: Sweep, storage: str | None = None) -> None:
        self.sweep, self.storage = sweep, storage

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A pack runs, for the first time or again."""
        with _stopping_on_full_disk(self.sweep):
            self.sweep.started(trial.config["identity"])

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """A pack has learned a task, or says what broke it."""
        name = result.get("checkpoint_dir_name")
        folder = self._place(trial.storage, name) if name else None
        with _stopping_on_full_disk(self.sweep):
            self.sweep.reported(trial.config["identity"], json.loads(result["payload"]), folder)

    def _place(self, storage: Any, name: str) -> Path | str:
        """Where Tune put a checkpoint: a path here, or a URI in the sweep's storage."""
        if self.storage is None:
            return Path(storage.trial_fs_path) / name
        return below(self.storage, PurePosixPath(storage.trial_fs_path).relative_to(storage.storage_fs_path).as_posix(), name)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A pack has ended."""
        with _stopping_on_full_disk(self.sweep):
            self.sweep.ended(trial.config["identity"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A pack's worker was lost too often."""
        reason = Path(trial.error_file).read_text() if trial.error_file else "the worker was lost"
        with _stopping_on_full_disk(self.sweep):
            self.sweep.ended(trial.config["identity"], reason)

    def __getstate__(self) -> dict[str, Any]:
        return {}


@contextmanager
def _stopping_on_full_disk(sweep: Sweep) -> Iterator[None]:
    """Ends Tune in good order when the disk is the trouble; an error in a hook would end it with a traceback of Tune's own."""
    try:
        yield
    except OSError as error:
        if not of_environment(error):
            raise
        sweep.environment = str(error)
    if sweep.environment:
        os.kill(os.getpid(), signal.SIGUSR1)  # Tune's own signal for a graceful end
