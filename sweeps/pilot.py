"""The pilot: a few measured steps that say how many members a pack should have, and how long the sweep may take."""

import json
import logging
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from clcore.learner import Learner
from clcore.probe import Probe, probe, remembering
from clcore.streams import StreamRun, probe_stream
from clcore.trainer import EVAL_BATCH
from sweeps.resources import machine_bytes, processor
from sweeps.settings import digest
from sweeps.trials import Pack, Trial

log = logging.getLogger(__name__)

SIZES = (1, 16, 64)
#: Steps before the clock starts, and seconds that each size is measured for.
WARM_UP, SECONDS = 3, 0.3
#: Packing must be this much cheaper per member than running alone.
GAIN = 1.2
#: The states of all packs' members may take this part of the memory: the step holds them again, a checkpoint's writing twice more.
MEMORY_SHARE = 0.2
FILE = "pilots.json"
#: Changes whenever other steps are measured, so that what is kept of earlier ones is not taken for theirs.
VERSION = 3


@dataclass(frozen=True)
class Pilot:
    """What was measured.

    Attributes:
        size: members of a pack.
        step: pack size -> seconds of one step.
        validation: seconds of one pass over the validation data of a task, a member.
        steps: steps of one epoch of a task.
        bytes: bytes of one member's state while it learns its last task, about.
        compiled: whether steps are compiled.
        beside: what it was chosen over, in words.
    """

    size: int
    step: dict[str, float]
    validation: float
    steps: int
    bytes: int
    compiled: bool = False
    beside: str = ""

    @property
    def step_of_one(self) -> float:
        """Seconds of one step, a member, in a pack of the chosen size."""
        known = min((int(k) for k in self.step), key=lambda k: abs(k - self.size))
        return self.step[str(known)] / known

    @property
    def reason(self) -> str:
        """Why this size: what a step costs, and what it costs alone."""
        alone = self.step.get("1")
        text = f"{self.step_of_one * 1e3:.2f} ms a step and member{', compiled' if self.compiled else ''}"
        than_alone = "" if alone is None or self.size == 1 or self.compiled else f"{alone * 1e3:.2f} alone"
        return ", ".join(filter(None, (text, than_alone, self.beside)))

    def seconds(self, members: int, epochs: int, tasks: int) -> float:
        """Seconds a pack takes at most."""
        known = min((int(k) for k in self.step), key=lambda k: abs(k - members))
        step = self.step[str(known)] * members / known if members > known else self.step[str(known)]
        return tasks * epochs * (self.steps * step + members * self.validation)


def pilot(home: Path, trial: Trial, most: int, like: Pack) -> Pilot:
    """The pilot of this machine for a trial's structure: from the home folder, or measured now and kept there.

    The CPU stands in for a GPU that is not here (the dry run of a sweep on a cluster).

    Args:
        home: the home folder.
        trial: a trial like those to come.
        most: members that a pack can have at most.
        like: threads, device, data folder and whether steps are compiled.
    """
    most = most if trial.configuration.packable else 1
    if like.device.startswith("cuda") and not torch.cuda.is_available():
        return measured(trial, most, replace(like, device="cpu"))
    key = digest([_machine(like), trial.configuration.structure, most, like.compiled])
    if (known := kept(home).get(key)) is not None:
        return known
    found = measured(trial, most, like)
    keep(home, {key: found})
    return found


def kept(home: Path) -> dict[str, Pilot]:
    """What was measured before, by what it depends on."""
    return {key: Pilot(**figures) for key, figures in _read(home / FILE).items()}


def keep(home: Path, found: Mapping[str, Pilot]) -> None:
    """Adds what was measured to what is kept in a home folder."""
    if not found:
        return
    path = home / FILE
    home.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps({**_read(path), **{key: asdict(pilot) for key, pilot in found.items()}}, indent=1))
    os.replace(temporary, path)


def measured(trial: Trial, most: int, like: Pack, sharing: int | None = None) -> Pilot:
    """The pilot of this machine, measured now.

    Args:
        trial: a trial like those to come.
        most: members that a pack can have at most.
        like: threads, device, data folder and whether steps are compiled.
        sharing: packs at a time that share the memory of this machine, or of its GPU; None: as many as it has cores for.
    """
    how = partial(measure_compiled if like.compiled else measure, trial, most, like, sharing=sharing)
    try:
        return how()
    except Exception:  # a method's own fault belongs to its trials, which are recorded
        log.info("the pilot measures the first task, since the second breaks", exc_info=True)
        return how(behind=lambda learner: learner)


def measure(
    trial: Trial, most: int, like: Pack, behind: Callable[[Learner], Learner] = remembering, sharing: int | None = None
) -> Pilot:
    """Times steps of packs of growing size and takes the size that costs least per member; 1 where packing pays too little.

    Args:
        trial: like those to come.
        most: members that a pack can have at most.
        like: threads, device, data folder and whether steps are compiled.
        behind: brings a learner to where steps are measured.
        sharing: packs at a time that share the memory; None: as many as there are cores for.
    """
    torch.set_num_threads(like.threads)
    found: dict[int, Probe] = {}
    earlier = _earlier(trial, like, behind)
    for size in sorted({*(s for s in SIZES if s < most), most}):
        if found and size > _room(found[min(found)].bytes, like, sharing):
            break
        found[size] = _probed(replace(like, trials=(trial,) * size).learner(), earlier)
    size = chosen({size: probed.step / size for size, probed in found.items()})
    times = {str(size): probed.step for size, probed in found.items()}
    return Pilot(size, times, found[size].validation / size, found[size].steps, found[size].bytes)


def chosen(costs: Mapping[int, float]) -> int:
    """The pack size that costs least; the smallest where packing pays too little.

    Args:
        costs: pack size -> what a step costs a member, in any unit.
    """
    cheapest = min(costs, key=lambda size: (costs[size], -size))  # all alike where nothing is trained
    return cheapest if costs[cheapest] * GAIN <= costs[min(costs)] else min(costs)


def measure_compiled(
    trial: Trial, most: int, like: Pack, behind: Callable[[Learner], Learner] = remembering, sharing: int | None = None
) -> Pilot:
    """Times compiled steps, after compiling them, which takes seconds; ``compiled`` is false where that cannot be done.

    On a CPU members are stepped one after the other, so one tells of all. Arguments as for :func:`measure`.
    """
    torch.set_num_threads(like.threads)
    earlier = _earlier(trial, like, behind)
    if isinstance(earlier, StreamRun):
        return measure(trial, most, like, sharing=sharing)
    if like.device == "cpu":
        size = 1
    else:
        plain = _probed(replace(like, trials=(trial,), compiled=False).learner(), earlier)
        size = most = min(most, _room(plain.bytes, like, sharing))
    learner = replace(like, trials=(trial,) * size).learner()
    found = _probed(learner, earlier)
    works = isinstance(learner, Learner) and learner.compiler is not None and not learner.compiler.failed
    most = min(most, _room(found.bytes, like, sharing))
    return Pilot(most, {str(size): found.step}, found.validation / size, found.steps, found.bytes, works)


def _earlier(trial: Trial, like: Pack, behind: Callable[[Learner], Learner]) -> Learner | StreamRun:
    """A learner of one member with a task behind it, or a run over a stream, which has none."""
    learner = replace(like, trials=(trial,), compiled=False).learner()
    return learner if isinstance(learner, StreamRun) else behind(learner)


def _probed(learner: Learner | StreamRun, earlier: Learner | StreamRun) -> Probe:
    if isinstance(learner, StreamRun) or isinstance(earlier, StreamRun):
        assert isinstance(learner, StreamRun), "both are of the same trial"
        return probe_stream(learner, WARM_UP, SECONDS)
    return probe(learner, earlier, WARM_UP, SECONDS)


def _room(state: int, like: Pack, sharing: int | None) -> int:
    """Members of so many bytes each that a pack may have, at least one."""
    if like.device.startswith("cuda"):
        room, packs = torch.cuda.mem_get_info()[0], sharing or 1
    else:
        room, packs = machine_bytes(), sharing or max((os.cpu_count() or 1) // like.threads, 1)
    return max(1, int(room * MEMORY_SHARE / packs / max(state, 1)))


def _machine(like: Pack) -> list[object]:
    device = torch.cuda.get_device_name() if like.device.startswith("cuda") else processor()
    return [VERSION, platform.node(), os.cpu_count(), device, like.threads, torch.__version__, EVAL_BATCH]


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
