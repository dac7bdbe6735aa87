"""What a sweep on a cluster costs that is not training: a method that does nothing, on one to four nodes of this machine.

``python tests/bench/cluster.py [--nodes 1,2,4] [--trials 10,100,1000] [--pack 1] [--json FILE]``

Seconds are those between the journal's first and last line, so the start of the nodes and the imports are not in them; the
driver's own seconds of processor have its imports in them, and depend less on what else the machine does. With
``--pack 1`` every trial is a pack of its own, which is the most a cluster can be asked to do; with ``auto`` packs are large.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MIB = 1024**2


def sweep(nodes: int, trials: int, pack: str) -> dict[str, float]:
    """Figures of one sweep: seconds, MiB of the driver, and what it leaves behind."""
    with tempfile.TemporaryDirectory() as folder:
        home, space = Path(folder) / "home", Path(folder) / "space.toml"
        space.write_text(f"[values]\nnumber = {[float(number) for number in range(trials)]}\n")
        sweep_words = ["--method", str(HERE / "nothing.py"), "--space", str(space), "--home", str(home), "--pack", pack]
        words = [str(ROOT / "cluster" / "launch.py"), "local", "--nodes", str(nodes), "--", *sweep_words]
        process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        most, busy = 0, 0
        while process.poll() is None:
            memory, processor = driver(process.pid)
            most, busy = max(most, memory), max(busy, processor)
            time.sleep(0.5)
        if process.returncode:
            raise SystemExit(process.stdout.read() if process.stdout else "")
        (journal,) = home.glob("*/journal.jsonl")
        lines = journal.read_bytes().splitlines()
        seconds = json.loads(lines[-1])["time"] - json.loads(lines[0])["time"]
        files = sum(path.stat().st_size for path in journal.parent.rglob("*") if path.is_file())
        return {
            "nodes": nodes, "trials": trials, "seconds": seconds, "each_ms": seconds / trials * 1e3,
            "driver_s": busy, "driver_mib": most / MIB, "journal_kib": journal.stat().st_size / trials / 1024,
            "folder_kib": files / trials / 1024, "mlflow_kib": (home / "mlflow.db").stat().st_size / trials / 1024,
        }  # fmt: skip


def driver(launcher: int) -> tuple[int, int]:
    """Resident bytes of the driver below a launcher, and seconds of processor it has used; 0 where there is none (yet)."""
    listed = subprocess.run(["ps", "-A", "-o", "ppid=,rss=,cputimes=,args="], capture_output=True, text=True, check=True).stdout
    rows = (row.split(maxsplit=3) for row in listed.splitlines())
    own = [row for row in rows if int(row[0]) == launcher and "cluster.driven" in row[3]]
    return max((int(row[1]) * 1024 for row in own), default=0), max((int(row[2]) for row in own), default=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = {"type": lambda text: [int(word) for word in text.split(",")]}
    parser.add_argument("--nodes", default=[1, 2, 4], **numbers)
    parser.add_argument("--trials", default=[10, 100, 1000], **numbers)
    parser.add_argument("--pack", default="1")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print("| nodes | trials | seconds | ms a trial | driver, s | driver, MiB | journal, KiB a trial | folder | MLflow |")
    print("|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    rows = []
    for trials in options.trials:
        for nodes in options.nodes:
            rows.append(found := sweep(nodes, trials, options.pack))
            cells = [f"{found[name]:.0f}" for name in ("nodes", "trials", "seconds", "each_ms", "driver_s", "driver_mib")]
            cells += [f"{found[name]:.1f}" for name in ("journal_kib", "folder_kib", "mlflow_kib")]
            print("| " + " | ".join(cells) + " |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
