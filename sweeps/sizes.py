"""How many bytes a sweep is going to write: a trial of each structure learns a few tasks, briefly, and is taken to grow on."""

import json
import math
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from clcore import checkpoint
from clcore.disk import bytes_in, bytes_text, innermost
from clcore.errors import UserError
from clcore.learner import Learner
from clcore.masks import Mask
from clcore.methods.keeping import size_of
from clcore.probe import BRIEF
from clcore.quick import TASK_FREE
from clcore.report import monitoring
from sweeps.asked import Asked
from sweeps.driver import TRIALS, Plan
from sweeps.keeping import Retention
from sweeps.pilot import Pilot
from sweeps.preflight import is_device
from sweeps.settings import Settings
from sweeps.states import STATES
from sweeps.storage import shared_path
from sweeps.trials import Configuration, Trial, with_values
from trackers.artifacts import write_masks

#: Tasks that are learned to see what a further one adds; the first may differ from those after it.
TASKS = 3


@dataclass(frozen=True)
class Sizes:
    """Bytes of one trial after 1, 2 .. learned tasks; what comes after the last one known is taken to grow by the last difference.

    Attributes:
        payload: of the tensors of its state.
        header: of what a file of them has besides.
        masks: of the file of its masks; 0 where the method has none.
        row: of a report as JSON.
    """

    payload: list[int]
    header: list[int]
    masks: list[int]
    row: int

    def state(self, seen: int, members: int = 1) -> int:
        """Of a checkpoint's tensors after so many tasks."""
        return members * _at(self.payload, seen) + _at(self.header, seen)

    def kept_masks(self, seen: int) -> int:
        """Of the masks after so many tasks."""
        return _at(self.masks, seen)

    def boundaries(self, tasks: int) -> int:
        """Of the states at all boundaries before the last task, with the reports that each holds."""
        return sum(self.state(seen) + (seen + 1) * self.row for seen in range(1, tasks))


@dataclass(frozen=True)
class Need:
    """Bytes that a sweep is going to write, besides its numbers.

    Attributes:
        kept: weights, masks and states at boundaries that are there at the end.
        checkpoints: the most that running packs hold at a time: what they may go on from, and the one that is being written.
    """

    kept: int
    checkpoints: int


def measure(trial: Trial, asked: Asked) -> Sizes:
    """Learns the first tasks of a trial's kind, briefly: what is kept does not depend on how well they were learned."""
    told = with_values(trial.configuration, BRIEF)
    device = asked.device if is_device(asked.device) else "cpu"  # a cluster's GPUs are not here
    learner = replace(asked.like, trials=(replace(trial, configuration=_with_tasks(told)),), device=device).learner()
    assert isinstance(learner, Learner), "a stream is measured as the tasks it is made of"
    payload, header, masks, row = [], [], [], 0
    for task in range(min(TASKS, len(learner.benchmark.tasks))):
        learner.skim(task)
        memory = learner.memory_of(0)
        payload.append(size_of(memory))
        header.append(checkpoint.size_of(memory) - payload[-1])
        masks.append(_masks_size({(t, name): m for t in range(task + 1) for name, m in learner.method.masks(memory, t).items()}))
        accuracies = {split: [1 / 3] * len(learner.benchmark.tasks) for split in ("validation", "test")}
        row = len(json.dumps({**accuracies, **monitoring(learner.method, memory, task + 1)}))
    return Sizes(payload, header, masks, row)


def need(asked: Asked, plan: Plan, workers: int) -> Need:
    """What the trials of a sweep are going to write, references aside.

    Args:
        asked: the question.
        plan: how it is cut into packs.
        workers: packs that run at a time.
    """
    tasks, seeds = len(asked.benchmark.tasks), len(asked.settings.seeds)
    counts = _counts(asked)
    kinds = {trial.configuration.structure: measure(trial, asked) for trial in asked.kinds}
    packs = []
    for structure, sizes in kinds.items():
        members = min(plan.size, counts[structure])
        own = members * (sizes.state(tasks) + sizes.kept_masks(tasks))  # kept members, beside the whole
        running = min(workers, -(-counts[structure] // members) * seeds)
        last = range(max(tasks - STATES, 1), tasks + 1)
        packs.append(running * (own + sum(sizes.state(seen, members) for seen in last)))
    return Need(_kept(kinds, counts, asked, tasks), max(packs) + _transient(kinds, counts, plan, seeds, tasks))


def check_room(asked: Asked, plan: Plan, found: Pilot, workers: int) -> None:
    """Sees that the disk has room for what a sweep is going to write; what it wrote before counts as there.

    Args:
        asked: the question.
        plan: how it is cut into packs.
        found: the pilot of the plan: where it shows that there is room in any case, nothing is measured.
        workers: packs that run at a time.

    Raises:
        UserError: the disk has less.
    """
    settings = asked.settings
    free = shutil.disk_usage(innermost(settings.home)).free
    there = _free_in_storage(settings)
    if _at_most(asked, plan, found, workers) < min(free, there):
        return
    wanted, written = need(asked, plan, workers), bytes_in(asked.folder / TRIALS)
    copies = 1 if settings.tracking.startswith("http") else 2
    meanwhile = 0 if settings.own_storage is not None else wanted.checkpoints
    total = copies * max(wanted.kept - written, 0) + meanwhile
    if total > free:
        parts = f"{bytes_text(copies * wanted.kept)} to keep, {bytes_text(meanwhile)} of checkpoints meanwhile"
        less = "keep less (--keep best, --keep-bytes), or name another --home"
        raise UserError(
            f"--home {settings.home} has {bytes_text(free)} free, and this sweep needs about {bytes_text(total)} ({parts}): {less}."
        )
    if wanted.checkpoints > there:
        room = (
            f"{bytes_text(int(there))} free, and this sweep needs about {bytes_text(wanted.checkpoints)} of checkpoints meanwhile"
        )
        raise UserError(f"--storage {settings.storage} has {room}: name another, or smaller packs (--pack).")


def _free_in_storage(settings: Settings) -> float:
    """Bytes free on the shared path that checkpoints go to; object stores do not tell, and without a storage the home has them."""
    path = shared_path(settings.storage) if settings.storage else None
    return math.inf if path is None else shutil.disk_usage(innermost(path)).free


def disk_line(wanted: Need, asked: Asked) -> str:
    """What the dry run says of bytes."""
    what = {"every-task": "weights, masks and states at boundaries"}.get(asked.settings.keep, "weights and masks")
    copy = "" if asked.settings.tracking.startswith("http") else ", as much in MLflow"
    return f"about {bytes_text(wanted.kept)} of {what}{copy}; meanwhile at most {bytes_text(wanted.checkpoints)} of checkpoints"


def _at_most(asked: Asked, plan: Plan, found: Pilot, workers: int) -> int:
    """More than a sweep can need: each task adds a whole state, and all its examples."""
    tasks = len(asked.benchmark.tasks)
    examples = max(len(task.train) for task in asked.benchmark.tasks) * prod(asked.benchmark.input_shape) * 4
    states = 2 * plan.trials * (tasks if plan.keep.every_task else 1) + (STATES + 3) * workers * plan.size + plan.trials
    return states * tasks * (found.bytes + examples)


def _kept(kinds: dict[str, Sizes], counts: Counter[str], asked: Asked, tasks: int) -> int:
    retention, seeds = asked.settings.retention, len(asked.settings.seeds)
    if retention.policy == "best":
        counts = Counter({max(kinds, key=lambda kind: kinds[kind].state(tasks)): 1})
    masks = sum(seeds * counts[kind] * sizes.kept_masks(tasks) for kind, sizes in kinds.items())
    states = sum(seeds * counts[kind] * _states(sizes, retention, tasks) for kind, sizes in kinds.items())
    return masks + (states if retention.budget is None else min(states, retention.budget))


def _states(sizes: Sizes, retention: Retention, tasks: int) -> int:
    return sizes.state(tasks) + (sizes.boundaries(tasks) if retention.every_task else 0)


def _transient(kinds: dict[str, Sizes], counts: Counter[str], plan: Plan, seeds: int, tasks: int) -> int:
    """Of finished trials, until it is known that they are not to be kept: of a pack, with several seeds of all but the last."""
    if plan.keep.policy != "best" and plan.keep.budget is None:
        return 0
    if plan.keep.policy == "best" and seeds > 1:
        return sum(seeds * counts[kind] * (sizes.state(tasks) + sizes.kept_masks(tasks)) for kind, sizes in kinds.items())
    return max(min(plan.size, counts[kind]) * _states(sizes, plan.keep, tasks) for kind, sizes in kinds.items())


def _counts(asked: Asked) -> Counter[str]:
    """Structure -> configurations of it; of a sampled space all are taken to be alike."""
    if asked.space.search != "grid":
        return Counter({asked.kinds[0].configuration.structure: asked.configurations})
    return Counter(with_values(asked.base, cell).structure for cell in asked.space.cells())


def _with_tasks(configuration: Configuration) -> Configuration:
    """A stream's configuration with the tasks that it is made of."""
    options = configuration.benchmark["options"]
    if options["scenario"] != TASK_FREE:
        return replace(configuration, fork=None)
    cut = {**configuration.benchmark, "options": {**options, "scenario": "domain-il"}}
    return replace(configuration, benchmark=cut, training={**configuration.training, "transition": 0})


def _masks_size(masks: dict[tuple[int, str], Mask]) -> int:
    if not masks:
        return 0
    with tempfile.TemporaryDirectory(prefix="clsweep-") as folder:
        write_masks(Path(folder) / "masks", masks)
        return (Path(folder) / "masks").stat().st_size


def _at(values: list[int], seen: int) -> int:
    """The value after so many tasks, at least 1."""
    if seen <= len(values):
        return values[seen - 1]
    return values[-1] + (seen - len(values)) * (values[-1] - values[-2])
