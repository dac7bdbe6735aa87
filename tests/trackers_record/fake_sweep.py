"""A journal of a sweep that never ran, for the tests of this folder."""

import random

from trackers.journal import Journal

TASKS = 5


def item(number, seed=0, role="trial", **hyperparameters):
    config = f"c{number:03d}"
    return {
        "trial": f"{number:02x}{seed}f{config}",
        "config": config,
        "seed": seed,
        "method": "tfm" if role == "trial" else "joint",
        "hyperparameters": hyperparameters or {"growth": 0.02 * (1 + number), "norm": number % 2 == 0, "p1": 0.4},
        "settings": {"epochs": 3, "lr": 0.05, "schedule": {"patience": 5}},
        "study": None,
        "role": role,
    }


class FakeSweep:
    """Writes the events that a driver would write, with made-up accuracies."""

    def __init__(self, folder, tasks=TASKS, name="tfm-grid-1234"):
        self.folder, self.tasks, self.name = folder, tasks, name
        self.journal = Journal(folder / "journal.jsonl")

    def sweep(self, **changes):
        fields = {
            "format": 1,
            "name": self.name,
            "settings": {"space": "grid", "seeds": [0], "home": "runs"},
            "command": "python sweeps/run.py --method tfm --space grid",
            "versions": {"torch": "2.13.0", "clsweep": "0.1.0"},
            "git": "0123abc",
            "method": "tfm",
            "benchmark": "split-digits",
            "network": "mlp:100-100",
            "scenario": "task-il",
            "tasks": self.tasks,
            "data_digest": "d1g35t",
        }
        return self.journal.append("sweep", **fields | changes)

    def pack(self, pack, items):
        plan = {"members": len(items), "threads": 1, "compiled": False, "drop": "never"}
        return self.journal.append("pack", pack=pack, plan=plan, trials=items)

    def start(self, pack, attempt=1):
        return self.journal.append("start", pack=pack, attempt=attempt)

    def member(self, name, seen, **changes):
        draw = random.Random(f"{name}{seen}")
        skill = random.Random(name).uniform(0.75, 0.98)
        test = [skill - 0.02 * (seen - u) * draw.random() if u <= seen else 0.5 for u in range(1, self.tasks + 1)]
        fields = {
            "trial": name,
            "validation": [value - 0.01 for value in test],
            "test": test,
            "train_loss": 0.1 * draw.random(),
            "epochs": 3,
            "seconds": 1.5,
            "bytes": 4096 + seen,
            "overhead_bytes": 1024 + seen,
            "learning_bytes": 8192 + seen,
            "capacity": {"units1": 0.1 * seen, "units2": 0.05 * seen},
            "reuse": None,
        }
        return fields | changes

    def task(self, pack, seen, members):
        checkpoint = f"checkpoints/{pack}/{seen}"
        return self.journal.append("task", pack=pack, seen=seen, checkpoint=checkpoint, members=members, sync=True)

    def run_tasks(self, pack, names, steps=None):
        for seen in range(self.tasks + 1) if steps is None else steps:
            self.task(pack, seen, [self.member(name, seen) for name in names])

    def done(self, name, pack, artifacts=None):
        artifacts = f"trials/{name}" if artifacts is None else artifacts
        return self.journal.append("done", trial=name, pack=pack, artifacts=artifacts, seconds=9.0)

    def failed(self, name, pack, reason="loss is NaN"):
        where = {"task": 2, "epoch": 0, "step": 17}
        return self.journal.append("failed", trial=name, pack=pack, reason=reason, where=where, traceback=None)

    def end(self, status="done", **ledger):
        counts = {"asked": 0, "done": 0, "skipped": 0, "failed": 0} | ledger
        return self.journal.append("end", status=status, ledger=counts, sync=True)

    def whole_pack(self, pack, items):
        self.pack(pack, items)
        self.start(pack)
        names = [one["trial"] for one in items]
        self.run_tasks(pack, names)
        for name in names:
            self.done(name, pack)
        return names
