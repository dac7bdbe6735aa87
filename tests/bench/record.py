"""What a record costs: bytes and reading time of masks; events and publishing a second while packs report.

``python tests/bench/record.py [--packs 1,4,8] [--json FILE]``
"""

import argparse
import json
import logging
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "trackers_record"))
from fake_sweep import FakeSweep, item

from clcore.masks import Mask
from trackers.artifacts import read_masks, write_masks
from trackers.mlflow_tracker import Publisher

MEMBERS, TASKS = 12, 10


def masks(name: str, found: dict[tuple[int, str], Mask], folder: Path) -> dict[str, object]:
    """Bytes on disk against packed bits, float32 and the information in them; time to write all and to read one task's."""
    path = folder / "masks.parquet"
    begun = time.perf_counter()
    write_masks(path, found)
    written = time.perf_counter() - begun
    task = max(task for task, _ in found) // 2
    read_masks(path, task)
    begun = time.perf_counter()
    one = read_masks(path, task)
    read = time.perf_counter() - begun
    assert all(torch.equal(one[key].values, found[key].values) for key in one)
    values = torch.cat([mask.values.flatten() for mask in found.values()])
    shares = values.unique(return_counts=True)[1].double() / len(values)
    information = -float((shares * shares.log2()).sum()) * len(values) / 8
    bits, size = 2 if values.dtype == torch.uint8 else 1, path.stat().st_size
    return {
        "masks": name, "MB": size / 1e6, "of a bit (ternary: two) an entry": size / (bits * len(values) / 8),
        "of float32": size / (4 * len(values)),
        "of the information": size / information, "write s": written, "one task ms": 1e3 * read,
    }  # fmt: skip


def units(share: float) -> dict[tuple[int, str], Mask]:
    """250 tasks x 2 layers of 2048 units."""
    return {(t, f"units{i}"): Mask("unit", torch.rand(2048) < share) for t in range(250) for i in (1, 2)}


def weights(share: float) -> dict[tuple[int, str], Mask]:
    """20 tasks x 4 million weights."""
    return {(t, "layers.0.weight"): Mask("weight", torch.rand(2000, 2000) < share) for t in range(20)}


def ternary(share: float) -> dict[tuple[int, str], Mask]:
    """TFM's: 250 tasks x 2 layers of 2048 features, half of those in use trained."""
    states = torch.multinomial(torch.tensor([1 - share, share / 2, share / 2]), 250 * 2 * 2048, replacement=True)
    found = states.to(torch.uint8).view(250, 2, 2048)
    return {(t, f"units{i}"): Mask("ternary", found[t, i - 1]) for t in range(250) for i in (1, 2)}


def journal(packs: int, folder: Path) -> dict[str, object]:
    """Events a second with a sync to disk each, and metrics a second into SQLite, of packs that report at once."""
    fake = FakeSweep(folder, tasks=TASKS)
    fake.sweep()
    groups = [[item(MEMBERS * pack + number) for number in range(MEMBERS)] for pack in range(packs)]
    for pack, items in enumerate(groups):
        fake.pack(f"p{pack}", items)
        fake.start(f"p{pack}")
    lock, begun = threading.Lock(), time.perf_counter()

    def report(pack: int) -> None:
        names = [one["trial"] for one in groups[pack]]
        for seen in range(TASKS + 1):
            with lock:  # the driver writes for all of them
                fake.task(f"p{pack}", seen, [fake.member(name, seen) for name in names])

    threads = [threading.Thread(target=report, args=(pack,)) for pack in range(packs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = packs * (TASKS + 1)
    journaled = time.perf_counter() - begun
    for items in groups:
        for one in items:
            (folder / "trials" / one["trial"]).mkdir(parents=True)
    publisher = Publisher(folder, f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts")
    publisher.prepare("bench")
    begun = time.perf_counter()
    publisher.publish()
    published = time.perf_counter() - begun
    trials = packs * MEMBERS
    return {
        "packs": packs, "trials": trials, "journal events/s": events / journaled, "publish s": published,
        "trial reports/s": trials * (TASKS + 1) / published,
    }  # fmt: skip


def show(rows: list[dict[str, object]]) -> None:
    """A Markdown table."""
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()) + " |")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=lambda text: [int(word) for word in text.split(",")], default=[1, 4, 8])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.getLogger("alembic").setLevel(logging.WARNING)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        stored = [
            masks(f"{name}, {share:.0%} in use", make(share), Path(folder))
            for name, make in (("units 250 x 2 x 2048", units), ("ternary 250 x 2 x 2048", ternary), ("weights 20 x 4 M", weights))
            for share in (0.5, 0.05)
        ]
    show(stored)
    reported = []
    for packs in options.packs:
        with tempfile.TemporaryDirectory() as folder:
            reported.append(journal(packs, Path(folder)))
    show(reported)
    if options.json:
        options.json.write_text(json.dumps({"masks": stored, "journal": reported}, indent=1))


if __name__ == "__main__":
    main()
