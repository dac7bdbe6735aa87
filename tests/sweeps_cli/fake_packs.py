"""A driver whose packs report made-up accuracies: everything of a sweep but the training."""

import math
import random

from sweeps.driver import PACKS, Plan, Sweep
from sweeps.keeping import Retention
from sweeps.search import Grid
from sweeps.settings import validated
from sweeps.spaces import Space
from sweeps.trials import Pack, base_configuration
from trackers.journal import Journal

TASKS = 3
SIX = Space("grid", values={"c": (0.1, 0.2, 0.3), "smax": (10.0, 20.0)})


def accuracy(trial, split, seen, task):
    """A number that anybody can look up again."""
    return random.Random(f"{trial} {split} {seen} {task}").uniform(0.3, 0.9)


class Rig:
    """A home with sweeps of HAT in it, each played by hand."""

    def __init__(self, home):
        self.home = home

    def sweep(self, name="mine", search=None, seeds=(0,), references=False, size=4, batch=99, budget=None, workers=1, keep=None):
        """Opens a sweep, as each call of the command does, and lets it plan."""
        settings = validated({"method": "hat", "network": "mlp:4", "tasks": TASKS, "seeds": seeds})
        base = base_configuration(settings)
        others = tuple(base_configuration(settings, method) for method in ("joint", "random")) if references else ()
        search = search or Grid(SIX)
        trials = (search.trials if hasattr(search, "trials") else 6) * len(seeds)
        like = Pack((), 1, "cpu", None)
        plan = Plan(base, tuple(seeds), others, references, size, batch, trials, workers, like, keep or Retention())
        journal = Journal(self.home / name / "journal.jsonl")
        facts = {"settings": {}, "command": "", "versions": {}, "git": None, "method": "hat", "benchmark": "split-digits"}
        more = {"network": "mlp:4", "scenario": "task-il", "tasks": TASKS, "data_digest": "d"}
        journal.append("sweep", format=1, name=name, **facts, **more)
        made = Sweep(self.home / name, journal, plan, search, budget)
        made.begin()
        return made


def report(sweep, pack, seen, failing=(), values=accuracy):
    """One report of a pack with its checkpoint, as a worker makes it."""
    folder = sweep.folder / PACKS / pack.identity / f"seen-{seen:03d}"
    for trial in pack.trials:
        own = folder / "members" / trial.identity
        own.mkdir(parents=True, exist_ok=True)
        (own / "checkpoint.safetensors").write_text(trial.identity)
        (own / "masks.parquet").write_text("masks")
    sound = [t for t in pack.trials if t.identity not in failing]
    members = [
        {
            "trial": t.identity,
            "validation": [values(t.identity, "validation", seen, u) if u < seen else math.nan for u in range(TASKS)],
            "test": [values(t.identity, "test", seen, u) for u in range(TASKS)],
            "train_loss": 0.5, "epochs": 2, "seconds": 1.0, "bytes": 100, "capacity": {}, "use": {}, "reuse": [], "compressed": {},
        }
        for t in sound
    ]  # fmt: skip
    gone = [t for t in pack.trials if t.identity in failing] if seen == 1 else []
    where = {"task": 0, "epoch": 1, "step": 7}
    failed = [{"trial": t.identity, "where": where, "seconds": 0.5} for t in gone]
    sweep.reported(pack.identity, {"seen": seen, "members": members, "failed": failed}, folder)


def play(sweep, packs=None, failing=(), last=TASKS, values=accuracy):
    """Runs packs one by one: all that come, or so many; ``last`` is the task after which the driver dies."""
    played = []
    while packs is None or len(played) < packs:
        pack, resume = sweep.next_pack()
        if pack is None:
            break
        played.append((pack, resume))
        sweep.started(pack.identity)
        begun = int(resume.name.removeprefix("seen-")) + 1 if resume else 0
        for seen in range(begun, last + 1):
            report(sweep, pack, seen, failing, values)
        if last < TASKS:
            break
        sweep.ended(pack.identity)
    return played


def die(sweep):
    """The driver's process is gone: nothing more is said."""
    sweep.journal.close()
