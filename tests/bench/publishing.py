"""What publishing costs: runs and metrics a second into SQLite and PostgreSQL, directly and through ``mlflow server --workers 1``.

``python tests/bench/publishing.py [--trials 100] [--tasks 10] [--repeat 3] [--json FILE]``; PostgreSQL needs Debian's package and
the extra ``postgres``. Each figure is the best of its repetitions, each of them into an experiment of its own.
"""

import argparse
import contextlib
import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
sys.path.insert(0, str(Path(__file__).parents[1] / "trackers_record"))
from fake_sweep import FakeSweep, item
from server_kit import Postgres, Server

from trackers.mlflow_tracker import Publisher
from trackers.record import load
from trackers.rows import trial_points

SMALL = (9, 3)  # trials, tasks
MEMBERS = 12


@contextlib.contextmanager
def stores(folder: Path) -> Iterator[dict[str, str]]:
    """What is measured, by name: tracking URIs."""
    postgres = Postgres().start()
    servers = {
        "server, SQLite": Server(folder / "sqlite"),
        "server, PostgreSQL": Server(folder / "postgres", postgres.database("behind")),
    }
    try:
        direct = {"SQLite": f"sqlite:///{folder / 'mlflow.db'}", "PostgreSQL": postgres.database("direct")}
        yield {**direct, **{name: server.start().uri for name, server in servers.items()}}
    finally:
        for server in servers.values():
            server.kill()
        postgres.remove()


def sweep(folder: Path, trials: int, tasks: int, benchmark: str) -> int:
    """A finished sweep in packs of twelve; returns how many metrics its trials have."""
    fake = FakeSweep(folder, tasks=tasks)
    fake.sweep(benchmark=benchmark)
    items = [item(number) for number in range(trials)]
    for first in range(0, trials, MEMBERS):
        fake.whole_pack(f"p{first}", items[first : first + MEMBERS])
    for one in items:
        files = folder / "trials" / one["trial"]
        files.mkdir(parents=True)
        for name in ("accuracy.parquet", "checkpoint.safetensors", "config.json", "masks.parquet"):
            (files / name).write_bytes(b"x" * 4096)
    fake.end(asked=trials, done=trials)
    fake.journal.close()
    return sum(len(trial_points(trial, row)) for trial in load(folder).trials.values() for row in trial.rows.values())


def seconds(folder: Path, uri: str, benchmark: str) -> float:
    """How long a sweep takes to be published into a store that is open."""
    publisher = Publisher(folder, uri, folder / "artifacts")
    publisher.prepare(benchmark)
    begun = time.perf_counter()
    publisher.publish()
    return time.perf_counter() - begun


def measure(name: str, uri: str, options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """The figures of one store."""
    best: dict[str, float] = {}
    for turn in range(options.repeat):
        for size, (trials, tasks) in {"large": (options.trials, options.tasks), "small": SMALL}.items():
            benchmark = f"{size}-{turn}"
            place = folder / name / benchmark
            metrics = sweep(place, trials, tasks, benchmark)
            best[size] = min(best.get(size, float("inf")), seconds(place, uri, benchmark))
            if size == "large":
                total = metrics
    return {
        "store": name, "runs/s": options.trials / best["large"], "metrics/s": total / best["large"],
        f"s for {options.trials} trials, {options.tasks} tasks": best["large"],
        f"s for {SMALL[0]} trials, {SMALL[1]} tasks": best["small"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as made, stores(Path(made)) as found:
        rows = [measure(name, uri, options, Path(made)) for name, uri in found.items()]
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()) + " |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
