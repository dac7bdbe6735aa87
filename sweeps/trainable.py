"""One pack from start to end: the same loop for Ray and for this process."""

import errno
import json
import logging
import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from clcore import checkpoint
from clcore.disk import FULL, bytes_in, wanting
from clcore.learner import Learner, Progress
from clcore.randomness import torch_stream
from clcore.report import MemberReport, Report
from clcore.streams import StreamRun
from clcore.usage import Meter, Usage
from sweeps.lease import Lease, Superseded
from sweeps.storage import StorageFailed, failing, opened, place
from sweeps.trials import Pack, Trial
from trackers.artifacts import MASKS, SAMPLES, WEIGHTS, write_masks
from trackers.pictures import draw_samples

log = logging.getLogger(__name__)

#: Where a checkpoint holds what is kept of each finished member.
MEMBERS = "members"
#: Why a member failed, filled with where.
NOT_A_NUMBER = "the loss is not a number (task {task}, epoch {epoch}, step {step}; all from 0)"
#: Images of each task in the picture of what a replay model makes.
SHOWN = 12
#: Seconds between two signs of life of a pack.
HEARTBEAT = 0.5

Payload = dict[str, Any]
Save = Callable[[Path], None]


def run_pack(pack: Pack, resume: Path | None, beat: Callable[[int, int], None]) -> Iterator[tuple[Payload, Save]]:
    """Trains a pack.

    Args:
        pack: what to run.
        resume: a checkpoint of this pack to go on from, or None.
        beat: called with task and epoch (both from 0) as epochs end.

    Yields:
        After each task what the journal's ``task`` event holds (with ``failed`` members), and a function that writes the
        checkpoint to a folder.
    """
    torch.set_num_threads(pack.threads)
    meter = Meter(pack.device)
    learner = pack.learner()
    if resume is not None:
        learner.load(resume)
    for said in learner.run():
        if isinstance(said, Progress):
            beat(said.task, said.epoch)
        else:
            yield payload(pack, said, meter.read()), _saver(pack, learner)
            meter.read()  # what the driver did meanwhile, where it is in this process, is not the pack's


def payload(pack: Pack, report: Report, used: Usage) -> Payload:
    """A report as plain data, with trial identities in place of members' places."""
    cost = {
        "seconds": report.seconds * report.share,
        "cpu_seconds": used.cpu_seconds * report.share,
        "memory": used.peak_bytes,
    }
    failed = [{"task": f.task, "epoch": f.epoch, "step": f.step} for f in report.failures]
    return {
        "seen": report.seen,
        "members": [_row(pack.trials[m.member], m, cost) for m in report.members],
        "failed": [
            {"trial": pack.trials[f.member].identity, "where": where, "seconds": cost["seconds"]}
            for f, where in zip(report.failures, failed, strict=True)
        ],
    }


def _row(trial: Trial, report: MemberReport, cost: Payload) -> Payload:
    return {
        **cost,
        "trial": trial.identity,
        "validation": report.validation,
        "test": report.test,
        "train_loss": report.train_loss,
        "epochs": report.epochs,
        "bytes": report.bytes,
        "overhead_bytes": report.overhead_bytes,
        "learning_bytes": report.learning_bytes,
        "capacity": report.capacity,
        "use": report.use,
        "reuse": report.reuse,
        "compressed": report.compressed,
        "inferred": report.inferred,
        "fitted": report.fitted,
    }


def _saver(pack: Pack, learner: Learner | StreamRun) -> Save:
    def save(folder: Path) -> None:
        if learner.seen == len(learner.benchmark.tasks):
            for index in learner.alive:
                _keep(pack.trials[index], learner, index, folder / MEMBERS)
        learner.save(folder)

    return save


def _keep(trial: Trial, learner: Learner | StreamRun, index: int, folder: Path) -> None:
    """What is kept of a finished member: its weights and its masks."""
    own = folder / trial.identity
    own.mkdir(parents=True, exist_ok=True)
    memory = learner.memory_of(index)
    checkpoint.write_tensors(own / WEIGHTS, memory)
    masks = {(t, layer): mask for t in range(learner.mappings) for layer, mask in learner.method.masks(memory, t).items()}
    if masks:
        write_masks(own / MASKS, masks)
    with torch.no_grad(), torch_stream(trial.seed, "samples"):
        samples = learner.method.samples(memory, learner.seen, SHOWN)
    if samples is not None and len(samples):
        draw_samples(own / SAMPLES, samples)


class Heartbeat:
    """A small file in which a pack says how far it is; the driver reads it for the progress lines.

    Args:
        path: the file, replaced at most twice a second.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.last = path, 0.0

    def __call__(self, task: int, epoch: int) -> None:
        """Says that an epoch has ended."""
        if time.monotonic() - self.last < HEARTBEAT:
            return
        self.last = time.monotonic()
        try:
            self.path.parent.mkdir(exist_ok=True)  # only where the sweep's folder is: other nodes may not share it
            temporary = self.path.with_suffix(".new")
            temporary.write_text(json.dumps({"task": task, "epoch": epoch}))
            os.replace(temporary, self.path)
        except OSError as error:  # a missing sign of life must not end a training
            log.debug("no heartbeat: %s", error)


def fault(error: BaseException) -> Payload:
    """What is reported of a pack that broke: the disk's fault is the sweep's matter, any other is the pack's own."""
    text = "".join(traceback.format_exception(error))
    reason = f"{type(error).__name__}: {error}"
    return {"seen": -1, "environment" if of_environment(error) else "error": reason, "traceback": text}


def of_environment(error: BaseException) -> bool:
    """Whether an error is the disk's (full, over quota, or it cannot be written any more) or the storage's."""
    full = isinstance(error, OSError) and error.errno in (*FULL, errno.EROFS)
    return full or isinstance(error, StorageFailed)


def tune_pack(config: dict[str, str]) -> None:
    """A pack as a Ray Tune function trainable: one report with a checkpoint a task.

    Args:
        config: ``pack`` (JSON), ``resume`` (a checkpoint of an earlier run: a path, a URI, or empty), ``heartbeat`` (a file),
            ``identity`` (the pack's name).
    """
    from ray import tune

    def report(said: Payload, save: Save) -> None:
        with TemporaryDirectory() as folder:
            save(Path(folder))
            lease.check()
            with (
                failing("the checkpoint"),
                wanting(bytes_in(Path(folder)), Path(folder)),
            ):  # Tune copies it to the sweep's folder or its storage
                tune.report({"seen": said["seen"], "payload": json.dumps(said)}, checkpoint=tune.Checkpoint.from_directory(folder))

    lease = Lease(Path(config["heartbeat"]).with_suffix(".owner"))
    earlier = tune.get_checkpoint()  # after the loss of a worker Tune starts the pack again with this
    try:
        if earlier is not None:
            with earlier.as_directory() as folder:
                _train(config, Path(folder), report)
        else:
            with opened(place(config["resume"])) if config["resume"] else nullcontext() as start:
                _train(config, start, report)
    except Superseded as error:
        log.warning("pack %s is left alone: %s", config["identity"], error)
    except Exception as error:  # noqa: BLE001 - a pack's own fault, whatever it is, is reported and not tried again
        tune.report({"seen": -1, "payload": json.dumps(fault(error))})


def _train(config: dict[str, str], resume: Path | None, report: Callable[[Payload, Save], None]) -> None:
    pack = Pack.from_json(config["pack"])
    for said, save in run_pack(pack, resume, Heartbeat(Path(config["heartbeat"]))):
        report(said, save)
